// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "server/store/internal.h"

int write_full(int fd, const void *buf, size_t len, uint64_t off, struct tm_err *err)
{
	const char *p = buf;
	ssize_t n;

	while (len) {
		n = pwrite(fd, p, len, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return tm_fail_errno(err, "cannot write to the store");
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int read_full(int fd, void *buf, size_t len, uint64_t off, struct tm_err *err)
{
	char *p = buf;
	ssize_t n;

	while (len) {
		n = pread(fd, p, len, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return tm_fail_errno(err, "cannot read from the store");
		if (n == 0)
			return tm_fail(err, EIO, "a file of the store is cut short");
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int sync_dir(int dirfd, const char *what, struct tm_err *err)
{
	if (fsync(dirfd))
		return tm_fail_errno(err, "cannot flush the folder %s", what);
	return 0;
}

int open_dir(int at, const char *name, struct tm_err *err)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? tm_fail_errno(err, "cannot open the folder %s", name) : fd;
}

int make_dir(int at, const char *name, struct tm_err *err)
{
	if (mkdirat(at, name, 0700) == 0) {
		if (at != AT_FDCWD && sync_dir(at, name, err))
			return -err->code;
	} else if (errno != EEXIST) {
		return tm_fail_errno(err, "cannot make the folder %s", name);
	}
	return open_dir(at, name, err);
}

int replace_file(int dirfd, const char *name, const void *buf, size_t len, struct tm_err *err)
{
	char tmp[280];
	int fd, ret;

	snprintf(tmp, sizeof(tmp), "%s.new", name);
	fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return tm_fail_errno(err, "cannot create %s", tmp);
	ret = write_full(fd, buf, len, 0, err);
	if (!ret && fsync(fd))
		ret = tm_fail_errno(err, "cannot flush %s", tmp);
	close(fd);
	if (!ret && renameat(dirfd, tmp, dirfd, name))
		ret = tm_fail_errno(err, "cannot rename %s", tmp);
	if (!ret)
		ret = sync_dir(dirfd, name, err);
	if (ret)
		unlinkat(dirfd, tmp, 0);
	return ret;
}

int slurp(int dirfd, const char *name, size_t max, char **out, size_t *len, struct tm_err *err)
{
	struct stat sb;
	int fd, ret;

	fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return tm_fail_errno(err, "cannot open %s", name);
	if (fstat(fd, &sb) || (uint64_t)sb.st_size > max) {
		close(fd);
		return tm_fail(err, EBADMSG, "%s is larger than it can be", name);
	}
	*len = (size_t)sb.st_size;
	*out = malloc(*len + 1);
	ret = *out ? read_full(fd, *out, *len, 0, err) : tm_fail(err, ENOMEM, "out of memory");
	close(fd);
	if (ret) {
		free(*out);
		return tm_wrap(err, "%s", name);
	}
	(*out)[*len] = 0;
	return 0;
}

int remove_tree(int at, const char *name, struct tm_err *err)
{
	struct dirent *e;
	int fd, ret = 0;
	DIR *d;

	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : tm_fail_errno(err, "cannot open %s", name);
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return tm_fail_errno(err, "cannot read the folder %s", name);
	}
	while (!ret && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd(d), e->d_name, 0) == 0)
			continue;
		ret = errno == EISDIR || errno == EPERM
			      ? remove_tree(dirfd(d), e->d_name, err)
			      : tm_fail_errno(err, "cannot remove %s/%s", name, e->d_name);
	}
	closedir(d);
	if (!ret && unlinkat(at, name, AT_REMOVEDIR))
		ret = tm_fail_errno(err, "cannot remove %s", name);
	return ret;
}

int to_lost_found(int root, int from, const char *what, const char *name, struct tm_err *err)
{
	int fd = make_dir(root, "lost+found", err), ret = -EEXIST;
	char target[400];

	if (fd < 0)
		return fd;
	for (int i = 0; ret == -EEXIST && i < 10000; i++) {
		snprintf(target, sizeof(target), i ? "%s-%.255s.%d" : "%s-%.255s", what, name, i);
		ret = renameat2(from, name, fd, target, RENAME_NOREPLACE) ? -errno : 0;
	}
	if (ret) {
		errno = -ret;
		ret = tm_fail_errno(err, "cannot move %s/%s to lost+found", what, name);
	}
	if (!ret)
		ret = sync_dir(fd, "lost+found", err);
	if (!ret)
		ret = sync_dir(from, what, err);
	close(fd);
	return ret;
}

uint64_t free_bytes(int dirfd)
{
	struct statvfs sv;

	if (fstatvfs(dirfd, &sv))
		return 0;
	return (uint64_t)sv.f_bavail * sv.f_frsize;
}
