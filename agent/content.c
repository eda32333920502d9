// SPDX-License-Identifier: Apache-2.0
#include "agent/content.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <libmount/libmount.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"

static void append(char *out, size_t room, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void append(char *out, size_t room, const char *fmt, ...)
{
	size_t at = strlen(out);
	va_list ap;

	va_start(ap, fmt);
	if (at + 1 < room)
		vsnprintf(out + at, room - at, fmt, ap);
	va_end(ap);
}

static void value(blkid_probe pr, const char *name, char *out, size_t room)
{
	const char *v = NULL;

	out[0] = '\0';
	if (blkid_probe_lookup_value(pr, name, &v, NULL) == 0 && v)
		snprintf(out, room, "%s", v);
}

/* Type of what is in one part of the disk. */
static void part_type(int fd, blkid_loff_t off, blkid_loff_t size, char *out, size_t room)
{
	blkid_probe pr = blkid_new_probe();

	out[0] = '\0';
	if (!pr)
		return;
	if (blkid_probe_set_device(pr, fd, off, size) == 0) {
		blkid_probe_enable_superblocks(pr, 1);
		blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE);
		if (blkid_do_safeprobe(pr) == 0)
			value(pr, "TYPE", out, room);
	}
	blkid_free_probe(pr);
}

/* " /target" for the first mount on a device. */
static void mounted_at(struct content_mount *mounts, size_t n, dev_t dev, struct disk_info *d)
{
	for (size_t i = 0; i < n; i++) {
		if (mounts[i].dev == dev) {
			append(d->content, sizeof(d->content), " %s", mounts[i].target);
			return;
		}
	}
}

static void read_partitions(
	blkid_probe pr, int fd, struct disk_info *d, struct content_mount *mounts, size_t nmounts)
{
	blkid_partlist list = blkid_probe_get_partitions(pr);
	int n = list ? blkid_partlist_numof_partitions(list) : 0;
	char type[64], path[192], text[32];
	unsigned ma, mi;

	for (int i = 0; i < n; i++) {
		blkid_partition p = blkid_partlist_get_partition(list, i);
		CLEANUP_FCLOSE FILE *f = NULL;

		if (blkid_partition_is_extended(p))
			continue;
		part_type(fd, blkid_partition_get_start(p) * 512, blkid_partition_get_size(p) * 512,
			type, sizeof(type));
		append(d->content, sizeof(d->content), "%s %s", i ? "," : ":",
			type[0] ? type : "unknown");
		snprintf(path, sizeof(path), "/sys/block/%s/%s%s%d/dev", d->name, d->name,
			strpbrk(d->name + strlen(d->name) - 1, "0123456789") ? "p" : "",
			blkid_partition_get_partno(p));
		f = fopen(path, "re");
		if (f && fgets(text, sizeof(text), f) && sscanf(text, "%u:%u", &ma, &mi) == 2)
			mounted_at(mounts, nmounts, makedev(ma, mi), d);
	}
}

void content_read(struct disk_info *d)
{
	CLEANUP_CLOSE int fd = open(d->path, O_RDONLY | O_CLOEXEC);
	CLEANUP_FREE struct content_mount *mounts = NULL;
	blkid_probe pr = fd < 0 ? NULL : blkid_new_probe();
	dev_t devs[256];
	size_t n = disk_devices(d->name, devs, TM_ARRAY_SIZE(devs)), nmounts = 0;
	char type[64], table[64];
	struct tm_err err;

	if (!pr)
		return;
	if (content_mounts(devs, n, &mounts, &nmounts, &err))
		nmounts = 0;
	if (blkid_probe_set_device(pr, fd, 0, 0) == 0) {
		blkid_probe_enable_superblocks(pr, 1);
		blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID);
		blkid_probe_enable_partitions(pr, 1);
		if (blkid_do_safeprobe(pr) == 0) {
			value(pr, "PTTYPE", table, sizeof(table));
			value(pr, "PTUUID", d->ident.table, sizeof(d->ident.table));
			value(pr, "TYPE", type, sizeof(type));
			value(pr, "UUID", d->ident.fs, sizeof(d->ident.fs));
			append(d->content, sizeof(d->content), "%s", table[0] ? table : type);
			if (!table[0])
				mounted_at(mounts, nmounts, makedev(d->major, d->minor), d);
			else
				read_partitions(pr, fd, d, mounts, nmounts);
		}
	}
	blkid_free_probe(pr);
}

/* The block device of a mount: its device number, or (btrfs and the like) its source's. */
static dev_t mount_device(struct libmnt_fs *fs)
{
	const char *source = mnt_fs_get_source(fs);
	struct stat st;

	if (major(mnt_fs_get_devno(fs)))
		return mnt_fs_get_devno(fs);
	if (source && source[0] == '/' && stat(source, &st) == 0 && S_ISBLK(st.st_mode))
		return st.st_rdev;
	return 0;
}

static bool wanted(
	dev_t dev, const dev_t *devs, size_t ndevs, const struct content_mount *list, size_t n)
{
	bool in = false;

	for (size_t i = 0; i < ndevs; i++)
		in |= devs[i] == dev;
	for (size_t i = 0; i < n; i++)
		if (list[i].dev == dev)
			return false;
	return in;
}

int content_mounts(
	const dev_t *devs, size_t ndevs, struct content_mount **list, size_t *n, struct tm_err *err)
{
	struct libmnt_table *table = mnt_new_table_from_file("/proc/self/mountinfo");
	struct libmnt_iter *it = mnt_new_iter(MNT_ITER_FORWARD);
	struct content_mount *all = NULL, *more;
	struct libmnt_fs *fs;
	int ret = 0;

	*n = 0;
	if (!table || !it)
		ret = tm_fail(err, EIO, "/proc/self/mountinfo cannot be read");
	while (!ret && mnt_table_next_fs(table, it, &fs) == 0) {
		dev_t dev = mount_device(fs);

		if (!dev || !wanted(dev, devs, ndevs, all, *n))
			continue;
		more = reallocarray(all, *n + 1, sizeof(*all));
		if (!more) {
			ret = tm_fail(err, ENOMEM, "no memory for the list of mounts");
			break;
		}
		all = more;
		memset(&all[*n], 0, sizeof(*all));
		snprintf(all[*n].target, sizeof(all->target), "%s", mnt_fs_get_target(fs));
		snprintf(all[*n].type, sizeof(all->type), "%s",
			mnt_fs_get_fstype(fs) ? mnt_fs_get_fstype(fs) : "");
		all[*n].dev = dev;
		all[*n].read_only = mnt_fs_match_options(fs, "ro") > 0;
		++*n;
	}
	mnt_free_iter(it);
	mnt_unref_table(table);
	if (ret)
		free(tm_take(all));
	*list = all;
	return ret;
}
