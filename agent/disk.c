// SPDX-License-Identifier: Apache-2.0
#include "agent/disk.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/content.h"
#include "common/cell.h"
#include "common/cleanup.h"
#include "common/file.h"

char *disk_sys_read(char *out, size_t room, const char *fmt, ...)
{
	CLEANUP_CLOSE int fd = -1;
	char path[512], *from = out;
	ssize_t n = 0;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		n = read(fd, out, room - 1);
	out[n > 0 ? n : 0] = '\0';
	for (char *p = out; *p; p++)
		if (!isprint((unsigned char)*p))
			*p = ' ';
	while (*from == ' ')
		from++;
	memmove(out, from, strlen(from) + 1);
	for (n = (ssize_t)strlen(out); n > 0 && out[n - 1] == ' '; n--)
		out[n - 1] = '\0';
	return out;
}

static uint64_t sys_number(const char *name, const char *file)
{
	char text[64];

	return strtoull(
		disk_sys_read(text, sizeof(text), "/sys/block/%s/%s", name, file), NULL, 10);
}

/* SCSI's page 0x80: four bytes of header, then the serial number. */
static void read_vpd_serial(const char *name, char *out, size_t room)
{
	CLEANUP_CLOSE int fd = -1;
	char path[256], page[260];
	size_t len, at = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/block/%s/device/vpd_pg80", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, page, sizeof(page));
	if (n <= 4)
		return;
	len = (size_t)n - 4;
	for (size_t i = 0; i < len && at + 1 < room; i++)
		if (isgraph((unsigned char)page[4 + i]))
			out[at++] = page[4 + i];
	out[at] = '\0';
}

static void read_serial(struct disk_info *d)
{
	const size_t room = sizeof(d->ident.serial);
	char wwid[DISK_TEXT - 8];
	struct stat st;

	if (disk_sys_read(d->ident.serial, room, "/sys/block/%s/loop/backing_file", d->name)[0]) {
		if (stat(d->ident.serial, &st) == 0)
			snprintf(d->ident.serial, room, "file:%llx:%llu",
				(unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
		else
			d->ident.serial[0] = '\0';
		return;
	}
	read_vpd_serial(d->name, d->ident.serial, room);
	if (!d->ident.serial[0])
		disk_sys_read(d->ident.serial, room, "/sys/block/%s/device/serial", d->name);
	if (!d->ident.serial[0])
		disk_sys_read(d->ident.serial, room, "/sys/block/%s/serial", d->name);
	if (d->ident.serial[0])
		return;
	disk_sys_read(wwid, sizeof(wwid), "/sys/block/%s/wwid", d->name);
	if (!wwid[0])
		disk_sys_read(wwid, sizeof(wwid), "/sys/block/%s/device/wwid", d->name);
	if (wwid[0])
		snprintf(d->ident.serial, room, "wwn:%s", wwid);
}

/* Names in a folder of sysfs ("slaves", "holders"), as one list. */
static bool sys_names(const char *name, const char *folder, char *out, size_t room)
{
	CLEANUP_CLOSEDIR DIR *dir = NULL;
	char path[256];
	struct dirent *e;
	size_t at = 0;

	snprintf(path, sizeof(path), "/sys/block/%s/%s", name, folder);
	out[0] = '\0';
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.' && at < room)
			at += (size_t)snprintf(
				out + at, room - at, "%s%s", at ? ", " : "", e->d_name);
	return at > 0;
}

static void judge(struct disk_info *d)
{
	char text[160];

	if (d->ident.size > TM_DISK_MAX)
		snprintf(d->why_not, sizeof(d->why_not), "larger than 1 PiB");
	else if (d->sector != 512 && d->sector != 4096)
		snprintf(d->why_not, sizeof(d->why_not), "sectors of %u bytes", d->sector);
	else if (sys_names(d->name, "slaves", text, sizeof(text)))
		snprintf(d->why_not, sizeof(d->why_not), "lies on %s: protect that instead", text);
	else if (strcmp(disk_sys_read(text, sizeof(text), "/sys/block/%s/queue/zoned", d->name),
			 "none") &&
		 text[0])
		snprintf(d->why_not, sizeof(d->why_not), "a zoned disk");
}

static bool is_candidate(const char *name)
{
	static const char *const no[] = {"ram", "zram", "sr", "fd", "mtdblock"};
	char text[32];

	if (name[0] == '.')
		return false;
	for (size_t i = 0; i < TM_ARRAY_SIZE(no); i++)
		if (!strncmp(name, no[i], strlen(no[i])) &&
			isdigit((unsigned char)name[strlen(no[i])]))
			return false;
	if (strcmp(disk_sys_read(text, sizeof(text), "/sys/block/%s/hidden", name), "1") == 0)
		return false;
	return sys_number(name, "size") > 0;
}

static int fill(const char *name, struct disk_info *d, struct tm_err *err)
{
	char text[64];

	memset(d, 0, sizeof(*d));
	if (strlen(name) >= sizeof(d->name))
		return tm_fail(err, ENOENT, "no disk with such a long name");
	snprintf(d->name, sizeof(d->name), "%s", name);
	snprintf(d->path, sizeof(d->path), "/dev/%s", name);
	for (char *p = d->path; *p; p++)
		if (*p == '!') /* sysfs writes '/' of a name so */
			*p = '/';
	if (sscanf(disk_sys_read(text, sizeof(text), "/sys/block/%s/dev", name), "%u:%u", &d->major,
		    &d->minor) != 2)
		return tm_fail(err, ENOENT, "%s: no such disk", name);
	d->ident.size = sys_number(name, "size") * 512;
	d->sector = (uint32_t)sys_number(name, "queue/logical_block_size");
	d->seq = sys_number(name, "diskseq");
	disk_sys_read(d->model, sizeof(d->model), "/sys/block/%s/device/model", name);
	if (!d->model[0] && !strncmp(name, "loop", 4))
		disk_sys_read(d->model, sizeof(d->model), "/sys/block/%s/loop/backing_file", name);
	read_serial(d);
	judge(d);
	content_read(d);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strverscmp(((const struct disk_info *)a)->name, ((const struct disk_info *)b)->name);
}

int disk_list(struct disk_info **list, size_t *n, struct tm_err *err)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir("/sys/block");
	CLEANUP_FREE struct disk_info *all = NULL;
	struct disk_info *more;
	struct dirent *e;
	size_t room = 0;

	*n = 0;
	if (!dir)
		return tm_fail_errno(err, "/sys/block");
	while ((e = readdir(dir))) {
		if (!is_candidate(e->d_name))
			continue;
		if (*n == room) {
			room = room ? room * 2 : 16;
			more = reallocarray(all, room, sizeof(*all));
			if (!more)
				return tm_fail(err, ENOMEM, "no memory for the list of disks");
			all = more;
		}
		if (fill(e->d_name, &all[*n], err) == 0)
			++*n;
	}
	if (*n)
		qsort(all, *n, sizeof(*all), by_name);
	*list = tm_take(all);
	return 0;
}

int disk_get(const char *path, struct disk_info *info, struct tm_err *err)
{
	char full[PATH_MAX], text[64], link[300], *name;
	ssize_t len;
	struct stat st;

	snprintf(full, sizeof(full), "%s%s", path[0] == '/' ? "" : "/dev/", path);
	if (stat(full, &st) < 0 || !S_ISBLK(st.st_mode))
		return tm_fail(err, ENOENT, "%s: no such disk (see \"agentctl disks\")", path);
	snprintf(text, sizeof(text), "/sys/dev/block/%u:%u", major(st.st_rdev), minor(st.st_rdev));
	len = readlink(text, link, sizeof(link) - 1);
	if (len < 0)
		return tm_fail_errno(err, "%s: %s", path, text);
	link[len] = '\0';
	name = strrchr(link, '/');
	name = name ? name + 1 : link;
	if (disk_sys_read(text, sizeof(text), "/sys/dev/block/%u:%u/partition", major(st.st_rdev),
		    minor(st.st_rdev))[0])
		return tm_fail(err, EINVAL, "%s is a partition: name the whole disk", path);
	if (fill(name, info, err))
		return -err->code;
	if (!info->ident.size)
		return tm_fail(err, ENOENT, "%s: no medium", path);
	return 0;
}

uint64_t disk_size(const char *path)
{
	struct stat st;
	char text[64];

	if (stat(path, &st) < 0 || !S_ISBLK(st.st_mode))
		return 0;
	disk_sys_read(text, sizeof(text), "/sys/dev/block/%u:%u/size", major(st.st_rdev),
		minor(st.st_rdev));
	return strtoull(text, NULL, 10) * 512;
}

bool disk_same(const struct disk_ident *was, const struct disk_ident *is, char *why, size_t room)
{
	const char *a = was->fs, *b = is->fs, *what = "filesystem";

	if (was->serial[0] && is->serial[0]) {
		a = was->serial;
		b = is->serial;
		what = "serial number";
	} else if (was->table[0]) {
		a = was->table;
		b = is->table;
		what = "partition table";
	} else if (!was->fs[0] && !was->serial[0]) {
		return true;
	}
	if (strcmp(a, b) == 0)
		return true;
	snprintf(why, room, "its %s is \"%.60s\", the protected disk's is \"%.60s\"", what,
		b[0] ? b : "none", a);
	return false;
}

int disk_find(
	const struct disk_ident *was, const char *path, struct disk_info *info, struct tm_err *err)
{
	CLEANUP_FREE struct disk_info *list = NULL;
	char why[300] = "there is no disk";
	struct tm_err e2;
	size_t n = 0;

	if (disk_get(path, info, &e2) == 0 && disk_same(was, &info->ident, why, sizeof(why)))
		return 0;
	if (disk_list(&list, &n, err))
		return -err->code;
	for (size_t i = 0; i < n && was->serial[0]; i++) {
		if (strcmp(list[i].ident.serial, was->serial) == 0) {
			*info = list[i];
			return 0;
		}
	}
	return tm_fail(err, ENOENT, "%s is not the protected disk: %s", path, why);
}

static void add_device(const char *dev, dev_t *devs, size_t *n, size_t max)
{
	unsigned ma, mi;

	if (sscanf(dev, "%u:%u", &ma, &mi) != 2 || *n == max)
		return;
	for (size_t i = 0; i < *n; i++)
		if (devs[i] == makedev(ma, mi))
			return;
	devs[(*n)++] = makedev(ma, mi);
}

/* Adds what is at a folder of sysfs: itself, its partitions, its holders. */
static void walk(const char *folder, dev_t *devs, size_t *n, size_t max, int depth)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir(folder);
	CLEANUP_CLOSEDIR DIR *holders = NULL;
	char path[PATH_MAX], text[64];
	struct dirent *e;

	add_device(disk_sys_read(text, sizeof(text), "%s/dev", folder), devs, n, max);
	while (dir && depth > 0 && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s/partition", folder, e->d_name);
		if (e->d_name[0] == '.' || access(path, F_OK))
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		walk(path, devs, n, max, depth - 1);
	}
	snprintf(path, sizeof(path), "%s/holders", folder);
	holders = opendir(path);
	while (holders && depth > 0 && (e = readdir(holders))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s", e->d_name);
		walk(path, devs, n, max, depth - 1);
	}
}

size_t disk_devices(const char *name, dev_t *devs, size_t max)
{
	char path[PATH_MAX];
	size_t n = 0;

	snprintf(path, sizeof(path), "/sys/block/%s", name);
	walk(path, devs, &n, max, 8);
	return n;
}

void disk_hardware(char *out, size_t room)
{
	CLEANUP_FREE struct disk_info *list = NULL;
	char dmi[128];
	struct tm_err err;
	size_t n = 0, at;

	disk_sys_read(dmi, sizeof(dmi), "/sys/class/dmi/id/product_uuid");
	at = (size_t)snprintf(out, room, "dmi=%s", dmi);
	if (disk_list(&list, &n, &err))
		return;
	for (size_t i = 0; i < n && at < room; i++)
		if (list[i].ident.serial[0] && strncmp(list[i].ident.serial, "file:", 5) &&
			strncmp(list[i].name, "dm-", 3) && strncmp(list[i].name, "md", 2))
			at += (size_t)snprintf(
				out + at, room - at, " disk=%.100s", list[i].ident.serial);
}

/* Its blocks are numbered otherwise, or it comes up later than a disk at the boot. */
static bool is_stacked(const char *folder)
{
	static const char *const kinds[] = {"dm", "md", "loop"};

	for (size_t i = 0; i < TM_ARRAY_SIZE(kinds); i++) {
		CLEANUP_FREE char *path = tm_path("%s/%s", folder, kinds[i]);

		if (!path || access(path, F_OK) == 0)
			return true;
	}
	return false;
}

int disk_below(dev_t dev, dev_t *disk, uint64_t *sectors, uint64_t *start, struct tm_err *err)
{
	CLEANUP_FREE char *link = tm_path("/sys/dev/block/%u:%u", major(dev), minor(dev));
	char folder[PATH_MAX], text[64];
	unsigned ma, mi;

	*start = 0;
	if (!link || !realpath(link, folder))
		return tm_fail(err, EOPNOTSUPP, "its filesystem is on no disk");
	if (is_stacked(folder))
		return tm_fail(err, EOPNOTSUPP,
			"its filesystem is on %s, not on a plain disk or partition",
			strrchr(folder, '/') + 1);
	if (disk_sys_read(text, sizeof(text), "%s/partition", folder)[0]) {
		disk_sys_read(text, sizeof(text), "%s/start", folder);
		*start = strtoull(text, NULL, 10) * 512;
		if (!*start)
			return tm_fail(err, EOPNOTSUPP, "%s tells no start", folder);
		*strrchr(folder, '/') = '\0';
	}
	if (sscanf(disk_sys_read(text, sizeof(text), "%s/dev", folder), "%u:%u", &ma, &mi) != 2)
		return tm_fail(err, EOPNOTSUPP, "%s tells no number", folder);
	*disk = makedev(ma, mi);
	*sectors = strtoull(disk_sys_read(text, sizeof(text), "%s/size", folder), NULL, 10);
	return *sectors ? 0 : tm_fail(err, EOPNOTSUPP, "%s tells no size", folder);
}
