// SPDX-License-Identifier: GPL-2.0-only
/* 6.5: opening takes holder operations. */
#include <linux/blkdev.h>
void *probe(dev_t dev);
void *probe(dev_t dev)
{
	return blkdev_get_by_dev(dev, BLK_OPEN_READ, NULL, NULL);
}
