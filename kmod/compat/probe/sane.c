// SPDX-License-Identifier: GPL-2.0-only
/* Must compile: else the probes say nothing. */
#include <linux/blkdev.h>
void probe(struct bio *bio);
void probe(struct bio *bio)
{
	submit_bio_noacct(bio);
}
