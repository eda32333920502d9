/* SPDX-License-Identifier: Apache-2.0 */
/* What lies on a disk: partitions, filesystems, where they are mounted. */
#ifndef AGENT_CONTENT_H
#define AGENT_CONTENT_H

#include "agent/disk.h"

/* Fills d->content and the UUIDs of d->ident; leaves them empty where nothing is recognised or the disk cannot be read. */
void content_read(struct disk_info *d);

/* A mounted filesystem on one of the devices. */
struct content_mount {
	char target[1024];
	char type[64];
	dev_t dev; /* of the block device below */
	bool read_only;
};

/* Mounts on these devices, in the order of mounting, one per filesystem. malloc'ed. */
int content_mounts(const dev_t *devs, size_t ndevs, struct content_mount **list, size_t *n,
	struct tm_err *err);

#endif
