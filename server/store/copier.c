// SPDX-License-Identifier: Apache-2.0
/* Copying one file of a backup: at a bounded rate, summed on the way, whole or not at all. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/clock.h"
#include "common/file.h"
#include "server/store/manifest.h"

#define PIECE (1u << 20)

int copier_init(struct copier *c, const struct backup_opts *o, struct tm_err *err)
{
	static const struct backup_opts none;

	*c = (struct copier){.o = o ? o : &none, .begun = tm_mono_ns(), .buf = malloc(PIECE)};
	return c->buf ? 0 : tm_fail(err, ENOMEM, "out of memory");
}

void copier_exit(struct copier *c)
{
	free(c->buf);
	c->buf = NULL;
}

static int go_on(struct copier *c, struct tm_err *err)
{
	if (c->o->progress && c->o->progress(c->o->arg, c->done, c->total))
		return tm_fail(err, ECANCELED, "interrupted: the backup before this one is whole");
	return 0;
}

/* Waits until the bytes so far fit the rate, a fifth of a second at a time. */
static int pace(struct copier *c, struct tm_err *err)
{
	struct timespec ts = {.tv_nsec = 200000000};

	while (c->o->rate && (double)c->done > (double)c->o->rate *
						       (double)(tm_mono_ns() - c->begun) /
						       (double)TM_SEC) {
		if (go_on(c, err))
			return -err->code;
		nanosleep(&ts, NULL);
	}
	return go_on(c, err);
}

static int pump(struct copier *c, int in, int out, const char *name, uint64_t size,
	XXH3_state_t *sum, struct tm_err *err)
{
	uint64_t at = 0;
	size_t len;
	int r;

	for (; at < size; at += len) {
		len = size - at < PIECE ? (size_t)(size - at) : PIECE;
		r = tm_pread_full(in, c->buf, len, at);
		if (r)
			return tm_fail(err, -r, "cannot read %s: %s", name, strerror(-r));
		XXH3_64bits_update(sum, c->buf, len);
		r = out < 0 ? 0 : tm_pwrite_full(out, c->buf, len, at);
		if (r)
			return tm_fail(err, -r, "cannot write %s: %s", name, strerror(-r));
		c->done += len;
		if (pace(c, err))
			return -err->code;
	}
	return 0;
}

static int copy(struct copier *c, int in, int out, const char *name, uint64_t *size, uint64_t *sum,
	struct tm_err *err)
{
	XXH3_state_t *state = XXH3_createState();
	struct stat sb;
	int ret;

	if (!state)
		return tm_fail(err, ENOMEM, "out of memory");
	XXH3_64bits_reset(state);
	ret = fstat(in, &sb) ? tm_fail_errno(err, "cannot look at %s", name) : 0;
	if (!ret)
		ret = pump(c, in, out, name, (uint64_t)sb.st_size, state, err);
	*size = ret ? 0 : (uint64_t)sb.st_size;
	*sum = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	if (!ret && fsync(out < 0 ? in : out))
		ret = tm_fail_errno(err, "cannot flush %s", name);
	/* What is read once should not push the index out of memory. */
	posix_fadvise(in, 0, 0, POSIX_FADV_DONTNEED);
	if (out >= 0)
		posix_fadvise(out, 0, 0, POSIX_FADV_DONTNEED);
	return ret;
}

int copier_file(struct copier *c, int from_at, const char *from, int to_at, const char *to,
	uint64_t *size, uint64_t *sum, struct tm_err *err)
{
	int in = openat(from_at, from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), out = -1, ret = 0;
	char tmp[420];

	if (in < 0)
		return tm_fail_errno(err, "cannot open %s", from);
	if (to) {
		snprintf(tmp, sizeof(tmp), "%s.new", to);
		out = openat(
			to_at, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (out < 0)
			ret = tm_fail_errno(err, "cannot create %s", tmp);
	}
	if (!ret)
		ret = copy(c, in, out, to ? to : from, size, sum, err);
	close(in);
	if (out >= 0) {
		close(out);
		if (!ret && renameat(to_at, tmp, to_at, to))
			ret = tm_fail_errno(err, "cannot rename %s", tmp);
		if (ret)
			unlinkat(to_at, tmp, 0);
	}
	return ret;
}
