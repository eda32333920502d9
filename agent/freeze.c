// SPDX-License-Identifier: Apache-2.0
#include "agent/freeze.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/content.h"
#include "agent/disk.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define DEVS_MAX   1024
#define LOOPS_DEEP 8 /* filesystems in files of filesystems in files... */

struct freeze {
	int *fds; /* one per filesystem; the watchdog has them too */
	size_t n;
	int sock; /* to the watchdog; its end of file tells it of our death */
	pid_t watchdog;
};

struct quiet {
	int mounts; /* /proc/self/mountinfo: poll() tells of changes */
};

static size_t all_devices(const char *const *disks, size_t n, dev_t *devs)
{
	size_t have = 0;

	for (size_t i = 0; i < n && have < DEVS_MAX; i++)
		have += disk_devices(disks[i], devs + have, DEVS_MAX - have);
	return have;
}

/* The device below the file of a loop device; 0 if it has none. */
static int loop_below(const char *name, dev_t *below, struct tm_err *err)
{
	struct loop_info64 info;
	CLEANUP_CLOSE int fd = -1;
	char path[300];

	*below = 0;
	snprintf(path, sizeof(path), "/dev/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0)
		*below = (dev_t)info.lo_device;
	else if (errno != ENXIO && errno != ENOENT) /* without a file; gone meanwhile */
		return tm_fail_errno(err, "%s", path);
	return 0;
}

static bool is_in(dev_t dev, const dev_t *devs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (devs[i] == dev)
			return true;
	return false;
}

/*
 * Adds the loop devices whose files lie on devs[from..n), with all that is on them, behind these; *end: where they end. One that cannot be
 * looked at might have to be frozen: that is an error.
 */
static int add_loops(dev_t *devs, size_t from, size_t n, size_t *end, struct tm_err *err)
{
	CLEANUP_CLOSEDIR DIR *dir = opendir("/sys/block");
	struct dirent *e;
	dev_t below;

	*end = n;
	if (!dir)
		return tm_fail_errno(err, "/sys/block");
	while ((errno = 0, e = readdir(dir)) && *end < DEVS_MAX) {
		if (strncmp(e->d_name, "loop", 4))
			continue;
		if (loop_below(e->d_name, &below, err))
			return -err->code;
		if (is_in(below, devs + from, n - from))
			*end += disk_devices(e->d_name, devs + *end, DEVS_MAX - *end);
	}
	return errno && !e ? tm_fail_errno(err, "/sys/block") : 0;
}

static void thaw_all(const int *fds, size_t n)
{
	while (n--)
		(void)ioctl(fds[n], FITHAW, 0); /* EINVAL: thawed already */
}

/* Everything before the freezing is done here: from then on the child only waits, and makes system calls. */
static void watchdog(int sock, const int *fds, size_t n, uint64_t limit_ns)
{
	bool late = false;
	uint64_t end;
	char c = 0;

	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	end = tm_mono_ns() + limit_ns;
	for (;;) {
		struct pollfd p = {.fd = sock, .events = POLLIN};
		uint64_t now = tm_mono_ns();
		int ret;

		if (now >= end) {
			late = true;
			thaw_all(fds, n);
			/* And again: one that took long to freeze may have been frozen only after this. */
			end = now + TM_SEC / 10;
		}
		ret = poll(&p, 1, (int)((end - now) / TM_MS) + 1);
		if (ret == 0 || (ret < 0 && errno == EINTR))
			continue;
		/* The agent thaws by itself and says so; if it died it is done here. */
		if (ret > 0 && read(sock, &c, 1) == 1 && c == 'd')
			_exit(late ? 3 : 0);
		thaw_all(fds, n);
		_exit(3);
	}
}

static int start_watchdog(struct freeze *f, uint64_t limit_ns, struct tm_err *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return tm_fail_errno(err, "no socket for the thawing watchdog");
	f->watchdog = fork();
	if (f->watchdog == 0) {
		close(pair[0]);
		watchdog(pair[1], f->fds, f->n, limit_ns);
	}
	close(pair[1]);
	f->sock = pair[0];
	if (f->watchdog < 0) {
		tm_fail_errno(err, "no thawing watchdog");
		close(f->sock);
		f->sock = -1;
	}
	return f->watchdog < 0 ? -err->code : 0;
}

static int open_mount(const char *target, struct tm_err *err)
{
	int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		fd = open(target, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? tm_fail_errno(err, "%s", target) : fd;
}

/* Opens what is mounted for writing on these devices, behind those that are open already. */
static int open_mounts(struct freeze *f, const dev_t *devs, size_t ndevs, struct tm_err *err)
{
	CLEANUP_FREE struct content_mount *mounts = NULL;
	size_t n = 0;
	int *more, fd;

	if (content_mounts(devs, ndevs, &mounts, &n, err))
		return -err->code;
	more = reallocarray(f->fds, f->n + n + 1, sizeof(*f->fds));
	if (!more)
		return tm_fail(err, ENOMEM, "no memory");
	f->fds = more;
	/* The last mounted lies on, or in, the ones before it: it is frozen first. */
	for (size_t i = n; i-- > 0;) {
		if (mounts[i].read_only)
			continue;
		fd = open_mount(mounts[i].target, err);
		if (fd < 0)
			return fd;
		f->fds[f->n++] = fd;
	}
	return 0;
}

/*
 * All filesystems, in the order of freezing: those in files of others before these, whatever the order of mounting says; the other way
 * round a freeze would wait for what it stopped itself.
 */
static int open_all(struct freeze *f, const char *const *disks, size_t n, struct tm_err *err)
{
	CLEANUP_FREE dev_t *devs = calloc(DEVS_MAX, sizeof(*devs));
	size_t end[LOOPS_DEEP + 2] = {0};
	unsigned deep = 1;
	int ret = 0;

	if (!devs)
		return tm_fail(err, ENOMEM, "no memory");
	end[1] = all_devices(disks, n, devs);
	while (!ret && deep <= LOOPS_DEEP && end[deep] > end[deep - 1]) {
		ret = add_loops(devs, end[deep - 1], end[deep], &end[deep + 1], err);
		deep++;
	}
	for (; !ret && deep > 0; deep--)
		ret = open_mounts(f, devs + end[deep - 1], end[deep] - end[deep - 1], err);
	/* What can be written out before need not be waited for while all stand still. */
	for (size_t i = 0; !ret && i < f->n; i++)
		if (syncfs(f->fds[i]) < 0)
			ret = tm_fail_errno(err, "a filesystem cannot be synced");
	return ret;
}

static void free_freeze(struct freeze *f)
{
	for (size_t i = 0; i < f->n; i++)
		close(f->fds[i]);
	if (f->sock >= 0)
		close(f->sock);
	free(f->fds);
	free(f);
}

/* Tells the watchdog that all is thawed and takes its answer: -ETIMEDOUT if it acted before. */
static int dismiss(struct freeze *f)
{
	int status = 0, ret;

	if (f->watchdog <= 0)
		return 0;
	ret = send(f->sock, "d", 1, MSG_NOSIGNAL) == 1 ? 0 : -ETIMEDOUT;
	while (waitpid(f->watchdog, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? ret : -ETIMEDOUT;
}

int freeze_begin(const char *const *disks, size_t n, uint64_t limit_ns, struct freeze **out,
	struct tm_err *err)
{
	struct freeze *f = calloc(1, sizeof(*f));
	size_t i = 0;
	int ret;

	if (!f)
		return tm_fail(err, ENOMEM, "no memory");
	f->sock = -1;
	ret = open_all(f, disks, n, err);
	if (!ret && !f->n)
		ret = tm_fail(
			err, ENOENT, "no filesystem of the protected disks is mounted for writing");
	if (!ret)
		ret = start_watchdog(f, limit_ns, err);
	for (; !ret && i < f->n; i++)
		if (ioctl(f->fds[i], FIFREEZE, 0) < 0)
			ret = tm_fail_errno(err, "a filesystem cannot be frozen");
	if (ret) {
		thaw_all(f->fds, ret && i ? i - 1 : 0);
		dismiss(f);
		free_freeze(f);
		return ret;
	}
	*out = f;
	return 0;
}

int freeze_end(struct freeze *f, struct tm_err *err)
{
	int ret;

	thaw_all(f->fds, f->n);
	ret = dismiss(f);
	free_freeze(f);
	return ret ? tm_fail(err, -ret, "the time limit passed and the filesystems were thawed")
		   : 0;
}

static int check_quiet(const char *const *disks, size_t n)
{
	CLEANUP_FREE struct content_mount *mounts = NULL;
	CLEANUP_FREE dev_t *devs = calloc(DEVS_MAX, sizeof(*devs));
	struct disk_info info;
	size_t nmounts = 0;
	struct tm_err err;

	for (size_t i = 0; i < n; i++) {
		int fd;

		if (disk_get(disks[i], &info, &err) || !info.content[0])
			return -EBUSY;
		/* Fails while a partition is mounted, swapped on, or held by LVM or md; let go at once, not to be in anyone's way. */
		fd = open(info.path, O_RDONLY | O_EXCL | O_CLOEXEC);
		if (fd < 0)
			return -EBUSY;
		close(fd);
	}
	if (!devs || content_mounts(devs, all_devices(disks, n, devs), &mounts, &nmounts, &err))
		return -EBUSY;
	return nmounts ? -EBUSY : 0;
}

int quiet_begin(const char *const *disks, size_t n, struct quiet **out)
{
	struct quiet *q = calloc(1, sizeof(*q));
	char drop[4096];

	if (!q)
		return -ENOMEM;
	q->mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	while (q->mounts >= 0 && read(q->mounts, drop, sizeof(drop)) > 0)
		;
	if (q->mounts < 0 || check_quiet(disks, n)) {
		quiet_end(q);
		return -EBUSY;
	}
	*out = q;
	return 0;
}

bool quiet_end(struct quiet *q)
{
	struct pollfd p = {.fd = q->mounts, .events = POLLPRI};
	bool changed = q->mounts < 0 || poll(&p, 1, 0) != 0;

	if (q->mounts >= 0)
		close(q->mounts);
	free(q);
	return !changed;
}
