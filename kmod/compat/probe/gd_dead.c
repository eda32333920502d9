// SPDX-License-Identifier: GPL-2.0-only
/* 5.14: a bit says that a disk is gone. */
#include <linux/blkdev.h>
int probe(struct gendisk *gd);
int probe(struct gendisk *gd)
{
	return test_bit(GD_DEAD, &gd->state);
}
