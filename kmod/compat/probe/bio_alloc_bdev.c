// SPDX-License-Identifier: GPL-2.0-only
/* 5.18: bios are allocated with device and operation. */
#include <linux/bio.h>
struct bio *probe(struct block_device *bdev, struct bio_set *bs);
struct bio *probe(struct block_device *bdev, struct bio_set *bs)
{
	return bio_alloc_bioset(bdev, 1, REQ_OP_READ, GFP_NOIO, bs);
}
