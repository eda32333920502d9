/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool's file: without a name, so that nobody can move, cut or share it, and it ends with the agent. Its writes must not be
 * tracked, else the spool would feed itself: the kernel module is told where it lies.
 */
#ifndef AGENT_SPOOLFILE_H
#define AGENT_SPOOLFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/tidemark_abi.h"

struct spoolfile {
	int fd;
	dev_t disk;                 /* on which it lies, as a whole disk */
	struct tmk_extent *extents; /* ascending, never touching */
	uint32_t nextents;
};

/* A new file of `size` bytes in dir, with all its space. -EOPNOTSUPP: it could not be kept from being tracked there. */
int spoolfile_open(const char *dir, uint64_t size, struct spoolfile *file, struct tm_err *err);
void spoolfile_free(struct spoolfile *file); /* leaves fd alone */

/* The disk major:minor is attached as number `disk`: its writes to the file are not followed while kmod stays open. */
int spoolfile_exclude(const struct spoolfile *file, int kmod, uint32_t disk, unsigned major,
	unsigned minor, struct tm_err *err);

/* Does some of these blocks of disk major:minor belong to the file? The server does not have what is in it. */
bool spoolfile_at(const struct spoolfile *file, unsigned major, unsigned minor, uint64_t block,
	uint64_t count);

#endif
