// SPDX-License-Identifier: Apache-2.0
/*
 * A file of a quarter of the reserve, there only to be given up. Others may fill the disk to its last byte: then not even the dropping of a
 * point could be written, and nothing would ever be freed. While it is gone the store is far below its reserve, so that what it gave is used
 * for getting space back alone.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/store/internal.h"
#include "server/store/space.h"

#define BALLAST "ballast"

static uint64_t size_of(const struct store *st)
{
	return st->o.reserve_bytes == UINT64_MAX ? 0 : st->o.reserve_bytes / 4;
}

void ballast_give(struct store *st)
{
	uint64_t size = size_of(st);

	if (size && free_bytes(st->rootfd) < size / 2)
		unlinkat(st->rootfd, BALLAST, 0); /* that it is not there is fine */
}

/* Blocks of its own, not only a length. Without them it is no use: then there is none. */
static void make(struct store *st, uint64_t size)
{
	int fd = openat(st->rootfd, BALLAST, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return;
	if (fallocate(fd, 0, 0, (off_t)size) || fsync(fd))
		unlinkat(st->rootfd, BALLAST, 0);
	close(fd);
}

void store_ballast(struct store *st)
{
	uint64_t size = size_of(st);
	struct stat sb;

	ballast_give(st);
	if (!size || free_bytes(st->rootfd) < st->o.reserve_bytes + size)
		return;
	if (fstatat(st->rootfd, BALLAST, &sb, AT_SYMLINK_NOFOLLOW) ||
		(uint64_t)sb.st_blocks * 512 < size)
		make(st, size);
}
