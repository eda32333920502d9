// SPDX-License-Identifier: Apache-2.0
/*
 * Where systems leave traces when they use a disk: superblocks, labels and heads of metadata, which are at fixed places of
 * a disk, partition or volume. What is there does not matter: whatever mounts, assembles or repartitions it writes there.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/bootmap.h"
#include "agent/disk.h"
#include "agent/kmod.h"
#include "common/cleanup.h"
#include "common/extent.h"
#include "common/file.h"

#define PER_BLOCK 8u  /* sectors of 512 bytes */
#define ENDS      32u /* blocks at either end of each area */
#define AREAS     64u
#define AGS_MAX   64u /* allocation groups of XFS */
#define DM_ROOM   16384u

struct areas {
	struct tm_extents *out;
	int fd; /* the whole disk */
	unsigned n;
};

static uint64_t number(const char *folder, const char *file)
{
	char text[64];

	return strtoull(disk_sys_read(text, sizeof(text), "%s/%s", folder, file), NULL, 10);
}

/* From a block of an area on; what lies beyond its end is left out. */
static int add(struct areas *a, uint64_t start, uint64_t sectors, uint64_t from, uint64_t blocks)
{
	uint64_t end = (start + sectors) / PER_BLOCK, first = start / PER_BLOCK + from;

	if (first >= end || a->out->blocks > TMK_MAX_WITNESS / 2)
		return 0;
	return tm_extents_add(a->out, first, end - first < blocks ? end - first : blocks);
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* XFS keeps the heads of its free space and inodes at the start of each group. */
static int add_xfs(struct areas *a, uint64_t start, uint64_t sectors)
{
	CLEANUP_FREE uint8_t *sb = aligned_alloc(TMK_BLOCK, TMK_BLOCK);
	uint64_t group;
	uint32_t groups;
	int ret = 0;

	if (!sb || tm_pread_full(a->fd, sb, TMK_BLOCK, start / PER_BLOCK * TMK_BLOCK))
		return 0; /* one witness less */
	if (start % PER_BLOCK || memcmp(sb, "XFSB", 4))
		return 0;
	group = (uint64_t)be32(sb + 4) * be32(sb + 84) / TMK_BLOCK;
	groups = be32(sb + 88);
	for (uint32_t i = 0; !ret && group && i < groups && i < AGS_MAX; i++)
		ret = add(a, start, sectors, i * group, 1);
	return ret;
}

/* Both ends; the second copies of btrfs and f2fs. */
static int add_area(struct areas *a, uint64_t start, uint64_t sectors)
{
	uint64_t blocks = sectors / PER_BLOCK;
	int ret;

	if (a->n++ >= AREAS)
		return 0;
	ret = add(a, start, sectors, 0, ENDS);
	if (!ret && blocks > ENDS)
		ret = add(a, start, sectors, blocks - ENDS, ENDS + 1);
	if (!ret)
		ret = add(a, start, sectors, 512, 1);
	if (!ret)
		ret = add(a, start, sectors, 1024, 1);
	if (!ret)
		ret = add(a, start, sectors, (64u << 20) / TMK_BLOCK, 1);
	return ret ? ret : add_xfs(a, start, sectors);
}

/* The table of a device-mapper device, malloc'ed; NULL: it cannot be had. */
static struct dm_ioctl *dm_table(unsigned ma, unsigned mi)
{
	CLEANUP_CLOSE int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	struct dm_ioctl *dm = calloc(1, DM_ROOM + 1);

	if (!dm)
		return NULL;
	dm->version[0] = 4;
	dm->data_size = DM_ROOM;
	dm->data_start = sizeof(*dm);
	dm->flags = DM_STATUS_TABLE_FLAG;
	dm->dev = (uint64_t)(mi & 0xff) | (uint64_t)ma << 8 | (uint64_t)(mi & ~0xffu) << 12;
	if (fd >= 0 && ioctl(fd, DM_TABLE_STATUS, dm) == 0 && !(dm->flags & DM_BUFFER_FULL_FLAG) &&
		dm->data_start >= sizeof(*dm))
		return dm;
	free(dm);
	return NULL;
}

/* The parts of a volume (LVM) that lie on the area at `folder`, which begins at `base`, one to one. */
static int add_volume(struct areas *a, const char *folder, const char *name, uint64_t base)
{
	CLEANUP_FREE struct dm_ioctl *dm = NULL;
	unsigned ma, mi, on_ma, on_mi;
	unsigned long long offset;
	char mine[64], text[64];
	uint64_t at;
	int ret = 0;

	if (sscanf(disk_sys_read(mine, sizeof(mine), "%s/dev", folder), "%u:%u", &on_ma, &on_mi) !=
			2 ||
		sscanf(disk_sys_read(text, sizeof(text), "/sys/block/%s/dev", name), "%u:%u", &ma,
			&mi) != 2)
		return 0;
	dm = dm_table(ma, mi);
	at = dm ? dm->data_start : 0;
	for (uint32_t i = 0; dm && !ret && i < dm->target_count; i++) {
		const struct dm_target_spec *t = (const void *)((const char *)dm + at);

		if (at + sizeof(*t) >= DM_ROOM)
			break;
		if (!strcmp(t->target_type, "linear") &&
			sscanf((const char *)(t + 1), "%u:%u %llu", &ma, &mi, &offset) == 3 &&
			ma == on_ma && mi == on_mi)
			ret = add_area(a, base + offset, t->length);
		at = dm->data_start + t->next;
	}
	return ret;
}

static int add_volumes(struct areas *a, const char *folder, uint64_t start)
{
	CLEANUP_FREE char *path = tm_path("%s/holders", folder);
	CLEANUP_CLOSEDIR DIR *dir = path ? opendir(path) : NULL;
	struct dirent *e;
	int ret = 0;

	while (!ret && dir && (e = readdir(dir)))
		if (!strncmp(e->d_name, "dm-", 3))
			ret = add_volume(a, folder, e->d_name, start);
	return ret;
}

static int add_disk(struct areas *a, const char *name)
{
	CLEANUP_FREE char *folder = tm_path("/sys/block/%s", name);
	CLEANUP_CLOSEDIR DIR *dir = folder ? opendir(folder) : NULL;
	struct dirent *e;
	int ret = folder ? add_volumes(a, folder, 0) : -ENOMEM;

	if (!ret)
		ret = add_xfs(a, 0, number(folder, "size"));
	while (!ret && dir && (e = readdir(dir))) {
		CLEANUP_FREE char *part = tm_path("%s/%s", folder, e->d_name);
		uint64_t start;

		if (!part || e->d_name[0] == '.' || !number(part, "partition"))
			continue;
		start = number(part, "start");
		ret = add_area(a, start, number(part, "size"));
		if (!ret)
			ret = add_volumes(a, part, start);
	}
	return ret;
}

int bootmap_witness(int fd, uint32_t disk, const char *name, int disk_fd, struct tm_err *err)
{
	struct tm_extents set;
	struct areas a = {.out = &set, .fd = disk_fd};
	struct tmk_persist p = {.disk = disk, .flags = TMK_PERSIST_WITNESS};
	CLEANUP_FREE struct tmk_extent *x = NULL;
	struct tm_extent e;
	int ret;

	tm_extents_init(&set);
	ret = add_disk(&a, name);
	x = calloc(set.n + 1, sizeof(*x));
	if (ret || !x) {
		tm_extents_clear(&set);
		return tm_fail(err, ENOMEM, "no memory for the places to compare after a boot");
	}
	for (uint64_t at = 0; tm_extents_next(&set, at, &e); at = e.start + e.count)
		x[p.count++] = (struct tmk_extent){e.start, e.count};
	tm_extents_clear(&set);
	p.extents = (uintptr_t)x;
	return kmod_ioctl(fd, TMK_PERSIST, &p) < 0 ? tm_fail_errno(err, "kernel module: PERSIST")
						   : 0;
}
