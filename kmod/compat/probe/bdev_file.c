// SPDX-License-Identifier: GPL-2.0-only
/* 6.9: an open block device is a file. */
#include <linux/blkdev.h>
void *probe(dev_t dev);
void *probe(dev_t dev)
{
	struct file *f = bdev_file_open_by_dev(dev, BLK_OPEN_READ, NULL, NULL);

	bdev_fput(f);
	return file_bdev(f);
}
