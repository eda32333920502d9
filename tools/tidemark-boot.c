// SPDX-License-Identifier: Apache-2.0
/*
 * tidemark-boot [CONF [REPORT]]: early at boot, before any filesystem is mounted: takes the saved maps back.
 *
 * CONF, made by the agent and copied into the initramfs, says where the maps were saved: the file's id, the size of its
 * disk, its blocks. Disks are known by what is on them: names and numbers change. What is found is used up first, for
 * good, whatever comes of it: maps hold for one boot. Then every disk of a size that was saved is attached, and the
 * module takes its map or says why not. REPORT tells the agent; a line per disk, or one for all:
 *
 *   MAJOR:MINOR restored DIRTY-BLOCKS
 *   MAJOR:MINOR doubt REASON...
 *   all doubt REASON...
 *
 * Nothing that goes wrong here may keep the machine from booting: it ends with 0 within seconds.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/tidemark_abi.h"

#define WAIT_FILE_MS  10000 /* for the disk with the file */
#define WAIT_DISKS_MS 5000  /* for the others, once it is there */
#define EXTENTS_MAX   4096
#define FILE_MAX      (64ull << 20)
#define DISKS_MAX     256

struct disk {
	char path[80];
	unsigned major, minor;
	uint64_t sectors;
	bool done; /* attached, or will never be */
};

static struct conf {
	uint8_t file[16];
	uint64_t sectors;
	struct tmk_extent extent[EXTENTS_MAX];
	uint32_t count;
	uint64_t blocks;
} conf;

static struct disk disks[DISKS_MAX];
static unsigned ndisks;
static FILE *report;

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (report) {
		vfprintf(report, fmt, ap);
		fputc('\n', report);
	}
	va_end(ap);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- what the agent wrote ---- */

static bool parse_id(const char *text, uint8_t id[16])
{
	for (int i = 0; i < 16; i++) {
		unsigned v;

		if (sscanf(text + (size_t)2 * i, "%2x", &v) != 1)
			return false;
		id[i] = (uint8_t)v;
	}
	return true;
}

static bool parse_line(const char *line)
{
	struct tmk_extent *x = &conf.extent[conf.count];
	unsigned long long a, b;
	char id[33];

	if (sscanf(line, "file %32[0-9a-f]", id) == 1)
		return strlen(id) == 32 && parse_id(id, conf.file);
	if (sscanf(line, "sectors %llu", &a) == 1) {
		conf.sectors = a;
		return a > 0;
	}
	if (sscanf(line, "extent %llu %llu", &a, &b) == 2) {
		if (conf.count == EXTENTS_MAX || !b || b > FILE_MAX / TMK_BLOCK ||
			a > UINT64_MAX / TMK_BLOCK / 2)
			return false;
		*x = (struct tmk_extent){a, b};
		conf.count++;
		conf.blocks += b;
		return conf.blocks <= FILE_MAX / TMK_BLOCK;
	}
	return line[0] == '#' || line[0] == '\n';
}

static bool read_conf(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[256];
	bool ok = f;

	while (ok && fgets(line, sizeof(line), f))
		ok = parse_line(line);
	if (f)
		fclose(f);
	return ok && conf.sectors && conf.count;
}

/* ---- disks ---- */

static uint64_t sys_number(const char *name, const char *file)
{
	char path[300], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/%.200s/%s", name, file);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (!fgets(text, sizeof(text), f))
		text[0] = '\0';
	fclose(f);
	return strtoull(text, NULL, 10);
}

static bool is_disk(const char *name)
{
	static const char *const no[] = {"loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"};

	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		if (!strncmp(name, no[i], strlen(no[i])))
			return false;
	return name[0] != '.' && sys_number(name, "size") && !sys_number(name, "hidden") &&
	       !sys_number(name, "ro");
}

static bool known(unsigned major, unsigned minor)
{
	for (unsigned i = 0; i < ndisks; i++)
		if (disks[i].major == major && disks[i].minor == minor)
			return true;
	return false;
}

static void add_disk(const char *name)
{
	struct disk *d = &disks[ndisks];
	char path[300], text[32] = "";
	FILE *f;
	int n;

	if (ndisks == DISKS_MAX || !is_disk(name) || strlen(name) > 60)
		return;
	snprintf(path, sizeof(path), "/sys/block/%.200s/dev", name);
	f = fopen(path, "re");
	if (!f)
		return;
	if (!fgets(text, sizeof(text), f))
		text[0] = '\0';
	fclose(f);
	memset(d, 0, sizeof(*d));
	n = snprintf(d->path, sizeof(d->path), "/dev/%s", name);
	for (int i = 5; i < n; i++)
		if (d->path[i] == '!') /* sysfs writes '/' of a name so */
			d->path[i] = '/';
	if (sscanf(text, "%u:%u", &d->major, &d->minor) != 2 || known(d->major, d->minor))
		return;
	d->sectors = sys_number(name, "size");
	if (access(d->path, F_OK) == 0)
		ndisks++;
}

/* New ones are added; they come up one by one. */
static void look(void)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		add_disk(e->d_name);
	if (dir)
		closedir(dir);
}

/* ---- the file ---- */

static uint64_t file_block(uint64_t n)
{
	for (uint32_t i = 0; i < conf.count; n -= conf.extent[i++].count)
		if (n < conf.extent[i].count)
			return conf.extent[i].start + n;
	return UINT64_MAX;
}

static int block_io(int fd, void *buf, uint64_t n, bool write_it)
{
	uint64_t at = file_block(n);
	ssize_t r;

	if (at == UINT64_MAX)
		return -EINVAL;
	r = write_it ? pwrite(fd, buf, TMK_BLOCK, (off_t)(at * TMK_BLOCK))
		     : pread(fd, buf, TMK_BLOCK, (off_t)(at * TMK_BLOCK));
	return r == TMK_BLOCK ? 0 : r < 0 ? -errno : -EIO;
}

static void *pages(size_t bytes)
{
	void *p = aligned_alloc(TMK_BLOCK, bytes);

	if (p)
		memset(p, 0, bytes);
	return p;
}

enum found { NOTHING, EMPTY, SAVED };

static enum found look_at(int fd, void *page)
{
	const struct tmk_map_block *empty = page;
	const struct tmk_map_head *saved = page;

	if (block_io(fd, page, 0, false))
		return NOTHING;
	if (empty->magic == TMK_MAP_EMPTY && !memcmp(empty->file, conf.file, sizeof(conf.file)))
		return EMPTY;
	return saved->magic == TMK_MAP_SAVED && !memcmp(saved->file, conf.file, sizeof(conf.file))
		       ? SAVED
		       : NOTHING;
}

/* An empty file again, its first block for good before the others: nothing else here may come before that. */
static int use_up(int fd, uint64_t blocks)
{
	struct tmk_map_block *b = pages(TMK_BLOCK);
	int ret = b ? 0 : -ENOMEM;

	if (!b)
		return ret;
	b->magic = TMK_MAP_EMPTY;
	memcpy(b->file, conf.file, sizeof(b->file));
	for (; !ret && b->index < blocks; b->index++) {
		ret = block_io(fd, b, b->index, true);
		if (!ret && (b->index == 0 || b->index == blocks - 1) && fsync(fd) < 0)
			ret = -errno;
	}
	free(b);
	return ret;
}

/* The maps as saved, *len bytes, used up on the disk; NULL: none that can be used. */
static struct tmk_map_head *take(int fd, const struct tmk_map_head *head, size_t *len)
{
	uint64_t blocks = head->bytes / TMK_BLOCK;
	char *data = NULL;
	int ret = 0;

	if (blocks && blocks <= conf.blocks && head->disks <= TMK_MAX_DISKS)
		data = pages(blocks * TMK_BLOCK);
	for (uint64_t i = 0; data && !ret && i < blocks; i++)
		ret = block_io(fd, data + i * TMK_BLOCK, i, false);
	if (use_up(fd, data ? blocks : 1))
		ret = -EIO;
	if (ret) {
		free(data);
		return NULL;
	}
	*len = blocks * TMK_BLOCK;
	return (struct tmk_map_head *)data;
}

/* Looks through the disks that have come up, uses up what it finds; *seen counts files, saved or not. */
static struct tmk_map_head *search(size_t *len, unsigned *seen, unsigned *saved)
{
	struct tmk_map_head *maps = NULL, *one;
	void *page = pages(TMK_BLOCK);

	for (unsigned i = 0; page && i < ndisks; i++) {
		enum found found = NOTHING;
		int fd;

		if (disks[i].sectors != conf.sectors)
			continue;
		fd = open(disks[i].path, O_RDWR | O_DIRECT | O_CLOEXEC);
		if (fd < 0)
			continue;
		found = look_at(fd, page);
		*seen += found != NOTHING;
		*saved += found == SAVED;
		one = found == SAVED ? take(fd, page, len) : NULL;
		close(fd);
		free(maps && one ? one : NULL);
		maps = maps ? maps : one;
	}
	free(page);
	return maps;
}

static struct tmk_map_head *find_maps(size_t *len, const char **why)
{
	uint64_t end = now_ms() + WAIT_FILE_MS;
	unsigned seen = 0, saved = 0;
	struct tmk_map_head *maps = NULL;

	for (;;) {
		look();
		maps = search(len, &seen, &saved);
		if (seen || now_ms() >= end)
			break;
		usleep(50000);
	}
	*why = !seen    ? "the disk with the saved map was not found at boot"
	       : !saved ? "the machine was not shut down cleanly, or was started without the module"
	       : !maps  ? "the saved map could not be read or used up"
	       : seen > 1 ? "the disk with the saved map is there twice"
			  : NULL;
	if (*why) {
		free(maps);
		return NULL;
	}
	return maps;
}

/* ---- the module ---- */

static const char *doubt_text(uint32_t reason)
{
	switch (reason) {
	case TMK_RESTORE_NO_FILE:
		return "the saved map is of another version";
	case TMK_RESTORE_UNCLEAN:
		return "the machine was not shut down cleanly";
	case TMK_RESTORE_CHECKSUM:
		return "the saved map is damaged";
	case TMK_RESTORE_NO_DISK:
		return "the disk is not in the saved map, or has another size";
	case TMK_RESTORE_FOREIGN:
		return "the disk was written to while it was not tracked";
	case TMK_RESTORE_LATE:
		return "the disk was in use before its map was restored";
	case TMK_RESTORE_DOUBT:
		return "its map was in doubt at the shutdown";
	default:
		return "the module did not take the saved map";
	}
}

static int open_module(const char **why)
{
	struct tmk_version v = {0};
	int fd = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);

	*why = NULL;
	if (fd < 0)
		*why = "the kernel module was not loaded at boot";
	else if (ioctl(fd, TMK_VERSION, &v) < 0 || v.abi != TMK_ABI_VERSION)
		*why = "the kernel module in the initramfs is of another version";
	return fd;
}

static bool was_saved(const struct tmk_map_head *maps, uint64_t sectors)
{
	for (uint32_t i = 0; i < maps->disks; i++)
		if (maps->sectors[i] == sectors)
			return true;
	return false;
}

/* 1 if the disk has its map back. */
static unsigned restore(int fd, struct disk *d, const struct tmk_map_head *maps, size_t len)
{
	struct tmk_attach at = {.major = d->major, .minor = d->minor};
	struct tmk_restore r = {.data = (uintptr_t)maps, .len = len};
	struct tmk_detach det = {0};

	d->done = true;
	if (ioctl(fd, TMK_ATTACH, &at) < 0) {
		say("%u:%u doubt could not be attached at boot (%u)", d->major, d->minor,
			at.reason);
		return 0;
	}
	r.disk = at.disk;
	if (ioctl(fd, TMK_RESTORE, &r) == 0) {
		say("%u:%u restored %llu", d->major, d->minor, (unsigned long long)r.dirty);
		return 1;
	}
	say("%u:%u doubt %s", d->major, d->minor, doubt_text(r.reason));
	det.disk = at.disk;
	if (ioctl(fd, TMK_DETACH, &det) < 0) /* then the agent finds it attached, and in doubt */
		say("# %u:%u stays attached", d->major, d->minor);
	return 0;
}

static void restore_all(int fd, const struct tmk_map_head *maps, size_t len)
{
	uint64_t end = now_ms() + WAIT_DISKS_MS;
	unsigned restored = 0;

	for (;;) {
		for (unsigned i = 0; i < ndisks; i++)
			if (!disks[i].done && was_saved(maps, disks[i].sectors))
				restored += restore(fd, &disks[i], maps, len);
		if (restored >= maps->disks || now_ms() >= end)
			return;
		usleep(50000);
		look();
	}
}

int main(int argc, char **argv)
{
	const char *path = argc > 2 ? argv[2] : "/run/tidemark-boot", *why = NULL, *no_module;
	struct tmk_map_head *maps;
	size_t len = 0;
	int fd;

	umask(0077);
	if (!read_conf(argc > 1 ? argv[1] : "/etc/tidemark/boot.conf"))
		return 0; /* nothing was protected when the initramfs was made */
	report = fopen(path, "we");
	maps = find_maps(&len, &why);
	fd = open_module(&no_module);
	if (no_module || why)
		say("all doubt %s", no_module ? no_module : why);
	else
		restore_all(fd, maps, len);
	free(maps);
	if (fd >= 0)
		close(fd);
	if (report && fclose(report))
		return 0;
	return 0;
}
