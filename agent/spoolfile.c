// SPDX-License-Identifier: Apache-2.0
#include "agent/spoolfile.h"

#include <errno.h>
#include <fcntl.h>
#include <libmount/libmount.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/disk.h"
#include "agent/kmod.h"
#include "common/cleanup.h"

#define EXT4_MAGIC  0xef53
#define XFS_MAGIC   0x58465342
#define PIECES_MAX  4096u
#define PIECES_ONCE 256u

/* Such an extent does not lie in the file's own place. One that is only reserved does. */
#define FIEMAP_BAD                                                                                \
	(FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED |                 \
		FIEMAP_EXTENT_NOT_ALIGNED | FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL | \
		FIEMAP_EXTENT_SHARED)

/* Data that goes through the journal is written to more places than the file's. */
static bool journals_data(dev_t dev)
{
	struct libmnt_table *t = mnt_new_table_from_file("/proc/self/mountinfo");
	struct libmnt_fs *fs = t ? mnt_table_find_devno(t, dev, MNT_ITER_BACKWARD) : NULL;
	const char *options = fs ? mnt_fs_get_fs_options(fs) : NULL;
	char *value;
	size_t len;
	bool is = !options || (mnt_optstr_get_option(options, "data", &value, &len) == 0 &&
				      len == 7 && !memcmp(value, "journal", 7));

	mnt_unref_table(t);
	return is;
}

/* Nothing may move it: no file of a filesystem that writes elsewhere each time, none that a tool for defragmenting finds. */
static int settle_place(int fd, dev_t dev, struct tm_err *err)
{
	struct fsxattr x;
	struct statfs fs;
	int flags = 0;

	if (fstatfs(fd, &fs) < 0)
		return tm_fail_errno(err, "statfs");
	if (fs.f_type != EXT4_MAGIC && fs.f_type != XFS_MAGIC)
		return tm_fail(err, EOPNOTSUPP, "its filesystem is neither ext4 nor XFS");
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return tm_fail_errno(err, "its attributes cannot be read");
	if (fs.f_type == EXT4_MAGIC)
		return flags & FS_JOURNAL_DATA_FL || journals_data(dev)
			       ? tm_fail(err, EOPNOTSUPP, "its filesystem journals data")
			       : 0;
	if (ioctl(fd, FS_IOC_FSGETXATTR, &x) < 0)
		return tm_fail_errno(err, "its attributes cannot be read");
	if (x.fsx_xflags & FS_XFLAG_REALTIME)
		return tm_fail(err, EOPNOTSUPP, "it would lie on XFS's realtime device");
	x.fsx_xflags |= FS_XFLAG_NODEFRAG;
	return ioctl(fd, FS_IOC_FSSETXATTR, &x) < 0
		       ? tm_fail_errno(err, "it cannot be kept from being moved")
		       : 0;
}

/* The disk must not be full because of it. */
static int reserve(int fd, uint64_t size, struct tm_err *err)
{
	struct statvfs vfs;

	if (fstatvfs(fd, &vfs) < 0)
		return tm_fail_errno(err, "statvfs");
	if ((uint64_t)vfs.f_bavail * vfs.f_frsize < size + vfs.f_blocks * vfs.f_frsize / 20)
		return tm_fail(err, ENOSPC,
			"with %llu bytes less, a twentieth of its filesystem would not be free",
			(unsigned long long)size);
	return fallocate(fd, 0, 0, (off_t)size) < 0 ? tm_fail_errno(err, "no space can be had") : 0;
}

static int add_extent(
	struct spoolfile *f, const struct fiemap_extent *fe, uint64_t start, struct tm_err *err)
{
	uint64_t at = fe->fe_physical + start;

	if (fe->fe_flags & FIEMAP_BAD)
		return tm_fail(err, EOPNOTSUPP, "the filesystem keeps it in no place of its own");
	if (at % TMK_BLOCK || fe->fe_length % TMK_BLOCK)
		return tm_fail(err, EOPNOTSUPP, "it does not lie at whole blocks of 4096 bytes");
	if (f->nextents == PIECES_MAX)
		return tm_fail(err, EOPNOTSUPP, "it is in too many pieces");
	f->extents[f->nextents++] = (struct tmk_extent){at / TMK_BLOCK, fe->fe_length / TMK_BLOCK};
	return 0;
}

static int by_start(const void *a, const void *b)
{
	const struct tmk_extent *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* One write may go over two neighbours, and is left out only where one extent has all of it. */
static void join_neighbours(struct spoolfile *f)
{
	uint32_t n = 0;

	qsort(f->extents, f->nextents, sizeof(*f->extents), by_start);
	for (uint32_t i = 0; i < f->nextents; i++) {
		struct tmk_extent *last = n ? &f->extents[n - 1] : NULL;

		if (last && last->start + last->count == f->extents[i].start)
			last->count += f->extents[i].count;
		else
			f->extents[n++] = f->extents[i];
	}
	f->nextents = n;
}

static int find_extents(struct spoolfile *f, uint64_t size, uint64_t start, struct tm_err *err)
{
	CLEANUP_FREE struct fiemap *fm =
		calloc(1, sizeof(*fm) + PIECES_ONCE * sizeof(struct fiemap_extent));
	uint64_t at = 0;

	f->extents = calloc(PIECES_MAX, sizeof(*f->extents));
	if (!fm || !f->extents)
		return tm_fail(err, ENOMEM, "no memory");
	while (at < size) {
		memset(fm, 0, sizeof(*fm));
		fm->fm_start = at;
		fm->fm_length = size - at;
		fm->fm_flags = FIEMAP_FLAG_SYNC;
		fm->fm_extent_count = PIECES_ONCE;
		if (ioctl(f->fd, FS_IOC_FIEMAP, fm) < 0)
			return tm_fail_errno(err, "its place cannot be found");
		if (!fm->fm_mapped_extents)
			return tm_fail(err, EOPNOTSUPP, "some of it has no place");
		for (uint32_t i = 0; i < fm->fm_mapped_extents; i++) {
			const struct fiemap_extent *fe = &fm->fm_extents[i];

			if (fe->fe_logical != at)
				return tm_fail(err, EOPNOTSUPP, "some of it has no place");
			if (add_extent(f, fe, start, err))
				return -err->code;
			at += fe->fe_length;
		}
	}
	join_neighbours(f);
	return 0;
}

static int make(struct spoolfile *f, uint64_t size, struct tm_err *err)
{
	uint64_t start, sectors;
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return tm_fail_errno(err, "fstat");
	if (disk_below(st.st_dev, &f->disk, &sectors, &start, err) ||
		settle_place(f->fd, st.st_dev, err) || reserve(f->fd, size, err))
		return -err->code;
	/* Past the page cache: what waits for its turn there would slow the applications' writes. */
	if (fcntl(f->fd, F_SETFL, O_DIRECT) < 0)
		return tm_fail_errno(err, "no direct writing");
	/* Lasting before anything relies on it: after a crash the blocks must not be another file's in an older tree. */
	if (fsync(f->fd) < 0)
		return tm_fail_errno(err, "fsync");
	return find_extents(f, size, start, err);
}

int spoolfile_open(const char *dir, uint64_t size, struct spoolfile *f, struct tm_err *err)
{
	memset(f, 0, sizeof(*f));
	f->fd = open(dir, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	if (f->fd < 0)
		return tm_fail_errno(err, "%s", dir);
	if (make(f, size, err) == 0)
		return 0;
	close(f->fd);
	spoolfile_free(f);
	return tm_wrap(err, "%s", dir);
}

void spoolfile_free(struct spoolfile *f)
{
	free(f->extents);
	memset(f, 0, sizeof(*f));
	f->fd = -1;
}

int spoolfile_exclude(const struct spoolfile *f, int kmod, uint32_t disk, unsigned major,
	unsigned minor, struct tm_err *err)
{
	struct tmk_exclude x = {.disk = disk,
		.flags = TMK_EXCLUDE_FILE,
		.extents = (uintptr_t)f->extents,
		.count = f->nextents,
		.fd = (uint32_t)f->fd};

	if (makedev(major, minor) != f->disk)
		return 0;
	return kmod_ioctl(kmod, TMK_EXCLUDE, &x) < 0
		       ? tm_fail_errno(err, "the kernel module cannot leave it out")
		       : 0;
}

bool spoolfile_at(
	const struct spoolfile *f, unsigned major, unsigned minor, uint64_t block, uint64_t count)
{
	if (makedev(major, minor) != f->disk)
		return false;
	for (uint32_t i = 0; i < f->nextents; i++)
		if (block < f->extents[i].start + f->extents[i].count &&
			f->extents[i].start < block + count)
			return true;
	return false;
}
