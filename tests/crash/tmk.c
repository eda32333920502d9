// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "tests/crash/tmk.h"

#define PARAMS "/sys/module/tidemark/parameters/"

unsigned long tmk_patience, tmk_nomem;

static int call(int fd, unsigned long nr, void *arg)
{
	unsigned long left = tmk_patience;
	int r;

	do {
		r = ioctl(fd, nr, arg);
		tmk_nomem += r < 0 && errno == ENOMEM;
	} while (r < 0 && (errno == EINTR || (errno == ENOMEM && left--)));
	return r < 0 ? -errno : 0;
}

int tmk_open(struct tmk *t)
{
	memset(t, 0, sizeof(*t));
	t->fd = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);
	return t->fd < 0 ? -errno : 0;
}

void tmk_close(struct tmk *t)
{
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
}

int disk_size(struct disk *d)
{
	int sector;

	if (ioctl(d->fd, BLKGETSIZE64, &d->bytes) < 0 || ioctl(d->fd, BLKSSZGET, &sector) < 0)
		return -errno;
	d->sector = (uint32_t)sector;
	return 0;
}

int disk_open(struct disk *d, const char *path)
{
	struct stat st;

	memset(d, 0, sizeof(*d));
	snprintf(d->path, sizeof(d->path), "%s", path);
	d->fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (d->fd < 0 || fstat(d->fd, &st) < 0)
		return -errno;
	d->major = major(st.st_rdev);
	d->minor = minor(st.st_rdev);
	return disk_size(d);
}

void disk_close(struct disk *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

int tmk_attach(struct tmk *t, struct disk *d, uint32_t *reason)
{
	struct tmk_attach a = {.major = d->major, .minor = d->minor};
	int r = call(t->fd, TMK_ATTACH, &a);

	if (reason)
		*reason = a.reason;
	if (r)
		return r;
	d->num = a.disk;
	return tmk_resync(t, d, ~0U);
}

int tmk_detach(struct tmk *t, const struct disk *d)
{
	struct tmk_detach a = {.disk = d->num};

	return call(t->fd, TMK_DETACH, &a);
}

int tmk_resync(struct tmk *t, const struct disk *d, uint32_t doubt)
{
	struct tmk_info info;
	struct tmk_resync a = {.disk = d->num};
	int r = tmk_info(t, d->num, &info);

	if (r)
		return r;
	a.doubt = info.doubt & doubt;
	return a.doubt ? call(t->fd, TMK_RESYNC, &a) : 0;
}

int tmk_info(struct tmk *t, uint32_t disk, struct tmk_info *info)
{
	memset(info, 0, sizeof(*info));
	info->disk = disk;
	return call(t->fd, TMK_INFO, info);
}

int tmk_info_next(struct tmk *t, uint32_t disk, struct tmk_info *info)
{
	memset(info, 0, sizeof(*info));
	info->disk = disk;
	info->flags = TMK_INFO_NEXT;
	return call(t->fd, TMK_INFO, info);
}

int tmk_stats(struct tmk *t, struct tmk_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	return call(t->fd, TMK_STATS, stats);
}

int tmk_head(struct tmk *t, struct tmk_head *head)
{
	memset(head, 0, sizeof(*head));
	return call(t->fd, TMK_HEAD, head);
}

int tmk_cut(struct tmk *t, uint32_t ms, struct tmk_cut *cut)
{
	struct tmk_cut c;
	uint64_t end = now_us() + ms * 1000ULL;
	int r;

	do {
		memset(&c, 0, sizeof(c));
		c.timeout_ms = ms;
		r = call(t->fd, TMK_CUT, &c);
	} while ((r == -ETIME || r == -EAGAIN) && now_us() < end);
	if (!r)
		t->id = c.id;
	if (cut)
		*cut = c;
	return r;
}

int tmk_settle(struct tmk *t, int ms)
{
	uint64_t end = now_us() + (uint64_t)ms * 1000;
	struct tmk_head head;
	int r;

	for (;;) {
		/* POLLPRI stays up until HEAD is called, and then tells of news: the epoch may be gone. */
		struct pollfd p = {.fd = t->fd, .events = POLLIN | POLLPRI};
		int64_t left = (int64_t)(end - now_us()) / 1000;

		if (left <= 0)
			return -ETIME;
		if (poll(&p, 1, left < 1000 ? (int)left : 1000) < 0 && errno != EINTR)
			return -errno;
		if (p.revents & POLLIN)
			return 0;
		r = tmk_head(t, &head);
		if (r)
			return r;
		if (memcmp(&head.frozen, &t->id, sizeof(t->id)))
			return -ESTALE;
	}
}

static int drain_extent(struct tmk *t, const struct disk *d, unsigned int index, uint64_t start,
	uint32_t count, void *buf, tmk_sink sink, void *arg)
{
	uint8_t bad[TMK_MAX_DRAIN / 8];
	struct tmk_drain a = {.id = t->id, .disk = d->num, .start = start, .count = count};
	size_t want = (size_t)count * TMK_BLOCK;
	size_t got = 0;
	int r;

	if (start * TMK_BLOCK + want > d->bytes)
		want = start * TMK_BLOCK < d->bytes ? d->bytes - start * TMK_BLOCK : 0;
	while (got < want) {
		ssize_t n = pread(
			d->fd, (char *)buf + got, want - got, (off_t)(start * TMK_BLOCK + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		got += (size_t)n;
	}
	memset((char *)buf + got, 0, (size_t)count * TMK_BLOCK - got);
	a.buffer = (uintptr_t)buf;
	a.bad = (uintptr_t)bad;
	r = call(t->fd, TMK_DRAIN, &a);
	return r ? r : sink ? sink(arg, index, start, count, buf, a.nbad) : 0;
}

int tmk_drain_disk(struct tmk *t, const struct disk *d, unsigned int index, uint32_t piece,
	tmk_sink sink, void *arg)
{
	enum { ROOM = 512 };
	struct tmk_extent *ext = calloc(ROOM, sizeof(*ext));
	struct tmk_ranges a = {
		.id = t->id, .disk = d->num, .count = ROOM, .extents = (uintptr_t)ext};
	void *buf = alloc_pages((size_t)piece * TMK_BLOCK);
	int r = ext ? 0 : -ENOMEM;

	while (!r && !a.done) {
		r = call(t->fd, TMK_RANGES, &a);
		for (uint32_t i = 0; !r && i < a.n; i++) {
			for (uint64_t b = 0; !r && b < ext[i].count; b += piece) {
				uint64_t left = ext[i].count - b;

				r = drain_extent(t, d, index, ext[i].start + b,
					left < piece ? (uint32_t)left : piece, buf, sink, arg);
			}
		}
	}
	munmap(buf, (size_t)piece * TMK_BLOCK);
	free(ext);
	return r;
}

int tmk_commit(struct tmk *t, const struct tmk_id *id)
{
	struct tmk_commit a = {.id = *id};

	return call(t->fd, TMK_COMMIT, &a);
}

int tmk_abort(struct tmk *t)
{
	struct tmk_abort a = {0};

	return call(t->fd, TMK_ABORT, &a);
}

bool tmk_is_test(struct tmk *t)
{
	struct tmk_version v = {0};

	return !call(t->fd, TMK_VERSION, &v) && (v.features & TMK_FEATURE_TEST);
}

const char *tmk_refusal_name(uint32_t reason)
{
	static const char *const name[] = {"ok", "no-hook", "hook-busy", "partition", "read-only",
		"zoned", "dax", "stacked", "attached", "replaced", "too-many", "empty", "shutdown",
		"in-use"};

	return reason < sizeof(name) / sizeof(*name) ? name[reason] : "unknown";
}

int param_set(const char *name, uint64_t value)
{
	char path[160];
	FILE *f;
	int r;

	snprintf(path, sizeof(path), PARAMS "%s", name);
	f = fopen(path, "w");
	if (!f)
		return -errno;
	r = fprintf(f, "%llu\n", (unsigned long long)value) < 0 ? -EIO : 0;
	return fclose(f) && !r ? -errno : r;
}

int param_get(const char *name, uint64_t *value)
{
	char path[160], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), PARAMS "%s", name);
	f = fopen(path, "r");
	if (!f)
		return -errno;
	if (!fgets(text, sizeof(text), f))
		text[0] = 0;
	fclose(f);
	*value = text[0] == 'Y' ? 1 : strtoull(text, NULL, 0);
	return 0;
}

int disk_read_all(const struct disk *d, void *to)
{
	uint64_t at = 0;

	while (at < d->bytes) {
		size_t want = d->bytes - at < (4 << 20) ? d->bytes - at : 4 << 20;
		ssize_t n = pread(d->fd, (char *)to + at, want, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		at += (uint64_t)n;
	}
	return 0;
}

void *alloc_pages(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("no memory for %zu bytes", bytes);
	return p;
}

uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void fail(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("FAIL: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}
