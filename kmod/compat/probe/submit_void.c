// SPDX-License-Identifier: GPL-2.0-only
/* 5.16: submit_bio_noacct() returns nothing. */
#include <linux/blkdev.h>
void (*probe(void))(struct bio *);
void (*probe(void))(struct bio *)
{
	return submit_bio_noacct;
}
