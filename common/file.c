// SPDX-License-Identifier: Apache-2.0
#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"

char *tm_path(const char *fmt, ...)
{
	char *path;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&path, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : path;
}

int tm_write_full(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int tm_pwrite_full(int fd, const void *buf, size_t len, uint64_t offset)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int tm_pread_full(int fd, void *buf, size_t len, uint64_t offset)
{
	char *p = buf;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int tm_fsync_dir(const char *path, struct tm_err *err)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return tm_fail_errno(err, "sync folder %s", path);
	return 0;
}

/* "a/b" is in "a", "b" in ".", "/b" in "/"; slashes at the end don't count. NULL without memory. */
static char *parent_of(const char *path)
{
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	while (n && path[n - 1] != '/')
		n--;
	while (n > 1 && path[n - 1] == '/')
		n--;
	return n ? strndup(path, n) : strdup(".");
}

int tm_fsync_parent(const char *path, struct tm_err *err)
{
	CLEANUP_FREE char *dir = parent_of(path);

	if (!dir)
		return tm_fail(err, ENOMEM, "sync folder of %s: out of memory", path);
	return tm_fsync_dir(dir, err);
}

/* The temporary file's name ends in something that no second process draws. */
static char *temp_name(const char *path)
{
	uint64_t r = 0;

	if (getrandom(&r, sizeof(r), 0) != sizeof(r))
		r = (uint64_t)getpid();
	return tm_path("%s.%016llx.tmp", path, (unsigned long long)r);
}

static int fill(const char *tmp, const void *data, size_t len, mode_t mode, struct tm_err *err)
{
	CLEANUP_CLOSE int fd = -1;
	int r;

	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return tm_fail_errno(err, "create %s", tmp);
	/* open() took the umask off; the mode is what the caller said. */
	if (fchmod(fd, mode) < 0)
		return tm_fail_errno(err, "set the mode of %s", tmp);
	r = tm_write_full(fd, data, len);
	if (r < 0)
		return tm_fail(err, -r, "write %s: %s", tmp, strerror(-r));
	if (fsync(fd) < 0)
		return tm_fail_errno(err, "sync %s", tmp);
	r = close(fd);
	fd = -1;
	return r < 0 ? tm_fail_errno(err, "close %s", tmp) : 0;
}

static int put(const char *path, const void *data, size_t len, mode_t mode, bool replace,
	struct tm_err *err)
{
	CLEANUP_FREE char *tmp = temp_name(path);
	int r;

	if (!tmp)
		return tm_fail(err, ENOMEM, "write %s: out of memory", path);
	r = fill(tmp, data, len, mode, err);
	if (r == 0 && replace && rename(tmp, path) < 0)
		r = tm_fail_errno(err, "rename %s to %s", tmp, path);
	if (r == 0 && !replace && link(tmp, path) < 0)
		r = tm_fail_errno(err, "create %s", path);
	if (r < 0 || !replace)
		unlink(tmp);
	return r < 0 ? r : tm_fsync_parent(path, err);
}

int tm_file_write(const char *path, const void *data, size_t len, mode_t mode, struct tm_err *err)
{
	return put(path, data, len, mode, true, err);
}

int tm_file_create(const char *path, const void *data, size_t len, mode_t mode, struct tm_err *err)
{
	return put(path, data, len, mode, false, err);
}

int tm_file_read(const char *path, size_t max, char **data, size_t *len, struct tm_err *err)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	CLEANUP_FREE char *buf = NULL;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return tm_fail_errno(err, "open %s", path);
	if (!S_ISREG(st.st_mode))
		return tm_fail(err, EINVAL, "%s is not a regular file", path);
	if ((uint64_t)st.st_size > max)
		return tm_fail(err, EFBIG, "%s is too long (%lld bytes, at most %zu)", path,
			(long long)st.st_size, max);
	buf = malloc((size_t)st.st_size + 1);
	if (!buf)
		return tm_fail(err, ENOMEM, "read %s: out of memory", path);
	r = tm_pread_full(fd, buf, (size_t)st.st_size, 0);
	if (r < 0)
		return tm_fail(err, -r, "read %s: %s", path, strerror(-r));
	buf[st.st_size] = 0;
	*len = (size_t)st.st_size;
	*data = tm_take(buf);
	return 0;
}

int tm_file_remove(const char *path, struct tm_err *err)
{
	if (unlink(path) < 0)
		return errno == ENOENT ? 0 : tm_fail_errno(err, "remove %s", path);
	return tm_fsync_parent(path, err);
}

int tm_file_rename(const char *from, const char *to, struct tm_err *err)
{
	if (rename(from, to) < 0)
		return tm_fail_errno(err, "rename %s to %s", from, to);
	if (tm_fsync_parent(to, err) < 0)
		return -err->code;
	return tm_fsync_parent(from, err);
}

int tm_mkdirs(const char *path, mode_t mode, struct tm_err *err)
{
	CLEANUP_FREE char *p = strdup(path);
	struct stat st;

	if (!p || !*path)
		return tm_fail(err, p ? EINVAL : ENOMEM, "make folder: %s",
			p ? "empty name" : "out of memory");
	for (char *at = p + 1;; at++) {
		char c = *at;

		if (c && c != '/')
			continue;
		*at = 0;
		if (mkdir(p, mode) == 0) {
			if (tm_fsync_parent(p, err) < 0)
				return -err->code;
		} else if (errno != EEXIST) {
			return tm_fail_errno(err, "make folder %s", p);
		}
		*at = c;
		if (!c)
			break;
	}
	if (stat(path, &st) < 0)
		return tm_fail_errno(err, "make folder %s", path);
	if (!S_ISDIR(st.st_mode))
		return tm_fail(err, ENOTDIR, "%s is not a folder", path);
	return 0;
}
