// SPDX-License-Identifier: Apache-2.0
/*
 * persist COMMAND DISK...: the maps across reboots, for shell tests.
 *
 *  blank DISK FIRST COUNT     makes these blocks an empty file for maps
 *  register DISK FIRST COUNT  the saved maps go to these blocks of the (attached) disk
 *  witness DISK FIRST COUNT   these blocks are sampled, whatever was written
 *  save DISK                  saves now, as at shutdown; prints "saved=ERRNO"
 *  use DISK FIRST COUNT       as early at boot: reads what is saved, uses it up, attaches, restores; prints
 *                             "reason=N dirty=N"
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/crash/tmk.h"

static struct tmk tmk;

static uint32_t number_of(const struct disk *d)
{
	struct tmk_info info;

	for (uint32_t n = 0; !tmk_info_next(&tmk, n, &info); n = info.disk + 1)
		if (info.major == d->major && info.minor == d->minor)
			return info.disk;
	fail("%s is not attached", d->path);
}

static void save_or_register(const struct disk *d, uint32_t flags, uint64_t first, uint64_t count)
{
	const bool save = flags & TMK_PERSIST_SAVE;

	struct tmk_extent x = {first, count};
	struct tmk_persist a = {.disk = number_of(d),
		.flags = flags,
		.extents = (uintptr_t)&x,
		.count = count ? 1 : 0};
	int r = ioctl(tmk.fd, TMK_PERSIST, &a) < 0 ? errno : 0;

	if (save)
		printf("saved=%d\n", r);
	else if (r)
		fail("registering: %s", strerror(r));
}

static int open_disk(const struct disk *d)
{
	int fd = open(d->path, O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC);

	if (fd < 0)
		fail("%s: %s", d->path, strerror(errno));
	return fd;
}

static void blank(int fd, const void *id, uint64_t first, uint64_t count)
{
	struct tmk_map_block *b = alloc_pages(TMK_BLOCK);

	b->magic = TMK_MAP_EMPTY;
	memcpy(b->file, id, sizeof(b->file));
	for (; b->index < count; b->index++)
		if (pwrite(fd, b, TMK_BLOCK, (off_t)((first + b->index) * TMK_BLOCK)) != TMK_BLOCK)
			fail("blank: %s", strerror(errno));
}

static void use(struct disk *d, uint64_t first, uint64_t count)
{
	size_t len = (size_t)count * TMK_BLOCK;
	struct tmk_map_head *data = alloc_pages(len);
	struct tmk_attach at = {.major = d->major, .minor = d->minor};
	struct tmk_restore a = {.data = (uintptr_t)data, .len = len};
	int fd = open_disk(d);

	if (pread(fd, data, len, (off_t)(first * TMK_BLOCK)) != (ssize_t)len)
		fail("%s: %s", d->path, strerror(errno));
	blank(fd, data->file, first, count);
	close(fd);
	if (ioctl(tmk.fd, TMK_ATTACH, &at) < 0)
		fail("attach: %s", strerror(errno));
	a.disk = at.disk;
	if (ioctl(tmk.fd, TMK_RESTORE, &a) < 0 && !a.reason)
		fail("restore: %s", strerror(errno));
	printf("reason=%u dirty=%llu\n", a.reason, (unsigned long long)a.dirty);
}

int main(int argc, char **argv)
{
	struct disk d;

	if (argc != 3 && argc != 5)
		fail("usage: persist blank|register|witness|save|use DISK [FIRST COUNT]");
	if (tmk_open(&tmk) || disk_open(&d, argv[2]))
		fail("cannot open the module or %s", argv[2]);
	if (!strcmp(argv[1], "save"))
		save_or_register(&d, TMK_PERSIST_SAVE, 0, 0);
	else if (!strcmp(argv[1], "blank") && argc == 5)
		blank(open_disk(&d), "0123456789abcdef", strtoull(argv[3], NULL, 0),
			strtoull(argv[4], NULL, 0));
	else if (!strcmp(argv[1], "witness") && argc == 5)
		save_or_register(&d, TMK_PERSIST_WITNESS, strtoull(argv[3], NULL, 0),
			strtoull(argv[4], NULL, 0));
	else if (!strcmp(argv[1], "register") && argc == 5)
		save_or_register(&d, 0, strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
	else if (!strcmp(argv[1], "use") && argc == 5)
		use(&d, strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
	else
		fail("unknown command");
	return 0;
}
