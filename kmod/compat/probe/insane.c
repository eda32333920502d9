// SPDX-License-Identifier: GPL-2.0-only
/* Must not compile: else the probes say nothing. */
#include <linux/bio.h>
void probe(struct bio *bio);
void probe(struct bio *bio)
{
	bio->there_is_no_such_field = 1;
}
