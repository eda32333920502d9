// SPDX-License-Identifier: Apache-2.0
#include "agent/reader.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"

struct reader {
	const struct reader_ops *ops;
	void *engine;
	unsigned depth;
	pthread_mutex_t lock; /* also: one submitter at a time in the engine */
	pthread_cond_t room;
	unsigned inflight;        /* lock */
	struct read_req **failed; /* lock: could not be submitted, to be reaped; room for depth */
	unsigned nfailed;         /* lock */
};

int reader_engine_parse(const char *text, enum reader_engine *engine)
{
	static const char *const names[] = {"auto", "io_uring", "libaio"};

	for (size_t i = 0; i < TM_ARRAY_SIZE(names); i++) {
		if (strcmp(text, names[i]) == 0) {
			*engine = (enum reader_engine)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int open_engine(struct reader *r, enum reader_engine engine,
	const struct reader_buffers *buffers, struct tm_err *err)
{
	struct tm_err why;

	if (engine != READER_AIO) {
		r->ops = &reader_uring;
		if (r->ops->open(r->depth, buffers, &r->engine, &why) == 0)
			return 0;
		if (engine == READER_URING) {
			*err = why;
			return -err->code;
		}
		tm_log(TM_LOG_NOTICE, "reading by libaio, because %s", why.msg);
	}
	r->ops = &reader_aio;
	return r->ops->open(r->depth, buffers, &r->engine, err);
}

int reader_open(enum reader_engine engine, unsigned depth, const struct reader_buffers *buffers,
	struct reader **reader, struct tm_err *err)
{
	struct reader *r = calloc(1, sizeof(*r));

	if (!r || !(r->failed = calloc(depth, sizeof(struct read_req *)))) {
		free(r);
		return tm_fail(err, ENOMEM, "no memory for a reader");
	}
	r->depth = depth;
	if (open_engine(r, engine, buffers, err)) {
		free(r->failed);
		free(r);
		return -err->code;
	}
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->room, NULL);
	*reader = r;
	return 0;
}

void reader_close(struct reader *r)
{
	if (!r)
		return;
	r->ops->close(r->engine);
	pthread_cond_destroy(&r->room);
	pthread_mutex_destroy(&r->lock);
	free(r->failed);
	free(r);
}

const char *reader_name(const struct reader *r)
{
	return r->ops->name;
}

void reader_submit(struct reader *r, struct read_req **reqs, unsigned n)
{
	LOCK_SCOPE(&r->lock);
	unsigned some;
	int ret;

	while (n) {
		while (r->inflight >= r->depth)
			pthread_cond_wait(&r->room, &r->lock);
		some = n < r->depth - r->inflight ? n : r->depth - r->inflight;
		ret = r->ops->submit(r->engine, reqs, some);
		if (ret <= 0) {
			reqs[0]->res = ret ? ret : -EAGAIN;
			r->failed[r->nfailed++] = reqs[0];
			ret = 1;
		}
		r->inflight += (unsigned)ret;
		reqs += ret;
		n -= (unsigned)ret;
	}
}

/* Called with the lock held. */
static unsigned collect(struct reader *r, struct read_req **out, unsigned max)
{
	unsigned n = 0;

	while (r->nfailed && n < max)
		out[n++] = r->failed[--r->nfailed];
	n += r->ops->collect(r->engine, out + n, max - n);
	r->inflight -= n;
	if (n)
		pthread_cond_broadcast(&r->room);
	return n;
}

unsigned reader_reap(struct reader *r, struct read_req **out, unsigned max, unsigned timeout_ms)
{
	unsigned n;

	pthread_mutex_lock(&r->lock);
	n = collect(r, out, max);
	pthread_mutex_unlock(&r->lock);
	if (n)
		return n;
	r->ops->wait(r->engine, timeout_ms);
	pthread_mutex_lock(&r->lock);
	n = collect(r, out, max);
	pthread_mutex_unlock(&r->lock);
	return n;
}
