// SPDX-License-Identifier: GPL-2.0-only
/* 5.16: REQ_POLLED, and a function to clear it with what hangs on it. */
#include <linux/bio.h>
void probe(struct bio *bio);
void probe(struct bio *bio)
{
	bio_clear_polled(bio);
}
