// SPDX-License-Identifier: GPL-2.0-only
/* 5.12: a bio names a block device, not a disk and a partition number. */
#include <linux/bio.h>
void *probe(struct bio *bio);
void *probe(struct bio *bio)
{
	return bio->bi_bdev->bd_disk;
}
