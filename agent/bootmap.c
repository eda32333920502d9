// SPDX-License-Identifier: Apache-2.0
#include "agent/bootmap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/disk.h"
#include "agent/kmod.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/uuid.h"

#define FILE_BYTES (1u << 20) /* some 60000 runs of dirty blocks; more are saved more coarsely */
#define RUNS_MAX   256u
#define EXT4_MAGIC 0xef53
#define XFS_MAGIC  0x58465342
#define REPORT     "/run/tidemark-boot"

/* Such an extent does not lie in the file's own, written place. */
#define FIEMAP_BAD                                                                                \
	(FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED |                 \
		FIEMAP_EXTENT_NOT_ALIGNED | FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL | \
		FIEMAP_EXTENT_UNWRITTEN | FIEMAP_EXTENT_SHARED)

static int by_place(const void *a, const void *b)
{
	const struct bootmap_run *x = a, *y = b;

	return (x->on_disk.start > y->on_disk.start) - (x->on_disk.start < y->on_disk.start);
}

static int add_run(struct bootmap *map, const struct fiemap_extent *fe, uint64_t start,
	uint64_t *expected, struct tm_err *err)
{
	uint64_t place = fe->fe_physical + start;

	if (fe->fe_flags & FIEMAP_BAD || fe->fe_logical != *expected)
		return tm_fail(err, EOPNOTSUPP, "the filesystem keeps it in no place of its own");
	if (place % TMK_BLOCK || fe->fe_length % TMK_BLOCK)
		return tm_fail(err, EOPNOTSUPP, "it does not lie at whole blocks of 4096 bytes");
	*expected += fe->fe_length;
	map->runs[map->nruns++] = (struct bootmap_run){
		{place / TMK_BLOCK, fe->fe_length / TMK_BLOCK}, fe->fe_logical};
	return 0;
}

/* Where the file lies. */
static int find_runs(int fd, struct bootmap *map, struct tm_err *err)
{
	CLEANUP_FREE struct fiemap *fm = NULL;
	uint64_t start, expected = 0;
	struct stat st;

	free(map->runs);
	map->nruns = 0;
	map->runs = calloc(RUNS_MAX, sizeof(*map->runs));
	if (!map->runs)
		return tm_fail(err, ENOMEM, "no memory");
	if (fstat(fd, &st) < 0)
		return tm_fail_errno(err, "fstat");
	if (disk_below(st.st_dev, &map->disk, &map->sectors, &start, err))
		return -err->code;
	fm = calloc(1, sizeof(*fm) + RUNS_MAX * sizeof(struct fiemap_extent));
	if (!fm)
		return tm_fail(err, ENOMEM, "no memory");
	fm->fm_length = FIEMAP_MAX_OFFSET;
	fm->fm_flags = FIEMAP_FLAG_SYNC;
	fm->fm_extent_count = RUNS_MAX;
	if (ioctl(fd, FS_IOC_FIEMAP, fm) < 0)
		return tm_fail_errno(err, "its place cannot be found");
	for (uint32_t i = 0; i < fm->fm_mapped_extents; i++)
		if (add_run(map, &fm->fm_extents[i], start, &expected, err))
			return -err->code;
	if (expected != FILE_BYTES)
		return tm_fail(err, EOPNOTSUPP, "it is in too many pieces");
	qsort(map->runs, map->nruns, sizeof(*map->runs), by_place);
	return 0;
}

/* All blocks, in the order in which the module counts them. */
static int each_block(int fd, const struct bootmap *map,
	int (*call)(int fd, uint64_t at, uint64_t index, void *ctx), void *ctx)
{
	uint64_t index = 0;
	int ret = 0;

	for (uint32_t r = 0; r < map->nruns; r++)
		for (uint64_t b = 0; !ret && b < map->runs[r].on_disk.count; b++)
			ret = call(fd, map->runs[r].at + b * TMK_BLOCK, index++, ctx);
	return ret;
}

static int write_block(int fd, uint64_t at, uint64_t index, void *ctx)
{
	struct tmk_map_block *b = ctx;

	b->index = index;
	return tm_pwrite_full(fd, b, sizeof(*b), at);
}

struct checked {
	struct tmk_map_block *block;
	uint8_t id[16];
};

static int check_block(int fd, uint64_t at, uint64_t index, void *ctx)
{
	struct checked *c = ctx;
	int ret = tm_pread_full(fd, c->block, sizeof(*c->block), at);

	if (!ret && !index)
		memcpy(c->id, c->block->file, sizeof(c->id)); /* both kinds have it in one place */
	if (!ret && (c->block->magic != TMK_MAP_EMPTY || c->block->index != index ||
			    memcmp(c->block->file, c->id, sizeof(c->id))))
		ret = -ESTALE;
	return ret;
}

/* Makes it an empty file, if it is not one: new, or maps were saved and nobody took them at the boot. */
static int fill(int fd, struct bootmap *map, struct tm_err *err)
{
	CLEANUP_FREE struct tmk_map_block *b = aligned_alloc(TMK_BLOCK, TMK_BLOCK);
	struct checked c = {.block = b};
	static const uint8_t none[16];
	int ret;

	if (!b)
		return tm_fail(err, ENOMEM, "no memory");
	ret = each_block(fd, map, check_block, &c);
	if (ret == -ESTALE) {
		if (b->magic != TMK_MAP_SAVED && b->magic != TMK_MAP_EMPTY)
			memcpy(c.id, none, sizeof(c.id));
		if (!memcmp(c.id, none, sizeof(c.id)))
			tm_uuid_new(c.id);
		memset(b, 0, sizeof(*b));
		b->magic = TMK_MAP_EMPTY;
		memcpy(b->file, c.id, sizeof(c.id));
		ret = each_block(fd, map, write_block, b);
		if (!ret && fsync(fd) < 0)
			ret = -errno;
	}
	memcpy(map->id, c.id, sizeof(map->id));
	return ret ? tm_fail(err, -ret, "it cannot be read or written: %s", strerror(-ret)) : 0;
}

/* With space of its own, all of it written once, so that no write changes its place any more. */
static int open_file(const char *path, struct tm_err *err)
{
	CLEANUP_FREE char *zero = NULL;
	CLEANUP_CLOSE int fd = -1;
	struct stat st;
	int got, ret;

	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return tm_fail_errno(err, "%s", path);
	if (st.st_size != FILE_BYTES) {
		zero = calloc(1, FILE_BYTES);
		if (!zero)
			return tm_fail(err, ENOMEM, "no memory");
		ret = ftruncate(fd, 0) < 0 ? -errno : tm_pwrite_full(fd, zero, FILE_BYTES, 0);
		if (!ret && fsync(fd) < 0)
			ret = -errno;
		if (ret)
			return tm_fail(err, -ret, "%s: %s", path, strerror(-ret));
		if (tm_fsync_parent(path, err))
			return -err->code;
	}
	got = open(path, O_RDWR | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
	return got < 0 ? tm_fail_errno(err, "%s", path) : got;
}

static int check_filesystem(int fd, struct tm_err *err)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return tm_fail_errno(err, "statfs");
	return fs.f_type == EXT4_MAGIC || fs.f_type == XFS_MAGIC
		       ? 0
		       : tm_fail(err, EOPNOTSUPP, "its filesystem is neither ext4 nor XFS");
}

/* boot.conf; not touched when it says so already: its change makes the initramfs anew. */
static int write_conf(const char *dir, const struct bootmap *map, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/boot.conf", dir), *text = NULL, *was = NULL;
	struct tm_err ignored;
	size_t len = 0, was_len;
	FILE *f = open_memstream(&text, &len);

	if (!path || !f) {
		if (f)
			fclose(f);
		return tm_fail(err, ENOMEM, "no memory");
	}
	fprintf(f, "# Made by tidemark-agent, for the initramfs: where the maps are saved.\nfile ");
	for (int i = 0; i < 16; i++)
		fprintf(f, "%02x", map->id[i]);
	fprintf(f, "\nsectors %llu\n", (unsigned long long)map->sectors);
	for (uint32_t i = 0; i < map->nruns; i++)
		fprintf(f, "extent %llu %llu\n", (unsigned long long)map->runs[i].on_disk.start,
			(unsigned long long)map->runs[i].on_disk.count);
	if (fclose(f) || !text)
		return tm_fail(err, ENOMEM, "no memory");
	if (tm_file_read(path, 1u << 20, &was, &was_len, &ignored) == 0 && was_len == len &&
		memcmp(was, text, len) == 0)
		return 0;
	return tm_file_write(path, text, len, 0600, err);
}

static int prepare(const char *dir, const char *conf_dir, struct bootmap *map, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/maps", dir);
	CLEANUP_CLOSE int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;

	if (!path)
		return tm_fail(err, ENOMEM, "no memory");
	if (folder < 0)
		return tm_fail_errno(err, "%s", dir);
	if (check_filesystem(folder, err))
		return -err->code;
	fd = open_file(path, err);
	if (fd < 0 || find_runs(fd, map, err) || fill(fd, map, err))
		return -err->code;
	return write_conf(conf_dir, map, err);
}

int bootmap_prepare(const char *dir, const char *conf_dir, struct bootmap *map, struct tm_err *err)
{
	memset(map, 0, sizeof(*map));
	if (prepare(dir, conf_dir, map, err) == 0)
		return 0;
	bootmap_free(map);
	return tm_wrap(err, "%s/maps", dir);
}

void bootmap_free(struct bootmap *map)
{
	free(map->runs);
	memset(map, 0, sizeof(*map));
}

int bootmap_register(int fd, uint32_t disk, const struct bootmap *map, struct tm_err *err)
{
	CLEANUP_FREE struct tmk_extent *x = calloc(map->nruns + 1, sizeof(*x));
	struct tmk_persist p = {.disk = disk, .extents = (uintptr_t)x, .count = map->nruns};

	if (!x)
		return tm_fail(err, ENOMEM, "no memory");
	for (uint32_t i = 0; i < map->nruns; i++)
		x[i] = map->runs[i].on_disk;
	return kmod_ioctl(fd, TMK_PERSIST, &p) < 0 ? tm_fail_errno(err, "kernel module: PERSIST")
						   : 0;
}

char *bootmap_report(void)
{
	struct tm_err ignored;
	char *text = NULL;
	size_t len;

	if (tm_file_read(REPORT, 1u << 20, &text, &len, &ignored))
		return NULL;
	unlink(REPORT);
	return text;
}

bool bootmap_reason(const char *report, unsigned major, unsigned minor, char *reason, size_t room)
{
	char own[32];
	const char *at = NULL;
	int len;

	if (!report)
		return false;
	snprintf(own, sizeof(own), "%u:%u doubt ", major, minor);
	for (const char *line = report; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, own, strlen(own)))
			at = line + strlen(own);
		else if (!strncmp(line, "all doubt ", 10))
			at = line + 10;
	}
	if (!at)
		return false;
	len = (int)strcspn(at, "\n");
	snprintf(reason, room, "%.*s", len, at);
	return true;
}

bool bootmap_restored(char *report, unsigned major, unsigned minor)
{
	char line[48], *at;

	snprintf(line, sizeof(line), "%u:%u restored ", major, minor);
	for (at = report; at && (at = strstr(at, line)); at++) {
		if (at != report && at[-1] != '\n')
			continue;
		*at = '#';
		return true;
	}
	return false;
}
