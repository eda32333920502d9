// SPDX-License-Identifier: GPL-2.0-only
/* Before 5.16 a flag says that a disk is there. */
#include <linux/blkdev.h>
#include <linux/genhd.h>
int probe(struct gendisk *gd);
int probe(struct gendisk *gd)
{
	return gd->flags & GENHD_FL_UP;
}
