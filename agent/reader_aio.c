// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/reader.h"
#include "common/clock.h"

struct aio {
	io_context_t ctx;
	unsigned depth;
	struct iocb *pool; /* depth control blocks; free ones are linked by their data pointer */
	struct iocb *free;
	struct io_event *events; /* depth; the waiting thread's, then collect's */
	unsigned nevents;
};

static void aio_close(void *engine)
{
	struct aio *a = engine;

	if (a->ctx)
		io_destroy(a->ctx);
	free(a->pool);
	free(a->events);
	free(a);
}

static int aio_open(
	unsigned depth, const struct reader_buffers *b, void **engine, struct tm_err *err)
{
	struct aio *a = calloc(1, sizeof(*a));
	int ret;

	if (!a)
		return tm_fail(err, ENOMEM, "no memory for libaio");
	a->depth = depth;
	a->pool = calloc(depth, sizeof(*a->pool));
	a->events = calloc(depth, sizeof(*a->events));
	ret = a->pool && a->events ? io_setup((int)depth, &a->ctx) : -ENOMEM;
	if (ret < 0) {
		aio_close(a);
		return tm_fail(err, -ret, "libaio cannot be used: %s", strerror(-ret));
	}
	for (unsigned i = 0; i < depth; i++) {
		a->pool[i].data = a->free;
		a->free = &a->pool[i];
	}
	*engine = a;
	return 0;
}

static struct iocb *take_iocb(struct aio *a)
{
	struct iocb *cb = a->free;

	if (cb)
		a->free = cb->data;
	return cb;
}

static void give_back(struct aio *a, struct iocb *cb)
{
	cb->data = a->free;
	a->free = cb;
}

#define BATCH 32

static int aio_submit(void *engine, struct read_req **reqs, unsigned n)
{
	struct aio *a = engine;
	struct iocb *list[BATCH];
	unsigned i;
	int ret;

	for (i = 0; i < n && i < BATCH && (list[i] = take_iocb(a)); i++) {
		io_prep_pread(list[i], reqs[i]->fd, reqs[i]->to, reqs[i]->len,
			(long long)reqs[i]->offset);
		list[i]->data = reqs[i];
	}
	do
		ret = i ? io_submit(a->ctx, (long)i, list) : -EAGAIN;
	while (ret == -EINTR);
	for (unsigned k = ret > 0 ? (unsigned)ret : 0; k < i; k++)
		give_back(a, list[k]);
	return ret;
}

static void aio_wait(void *engine, unsigned timeout_ms)
{
	struct timespec ts = tm_timespec(timeout_ms * TM_MS);
	struct aio *a = engine;
	int n;

	if (a->nevents)
		return;
	n = io_getevents(a->ctx, 1, a->depth, a->events, &ts);
	a->nevents = n > 0 ? (unsigned)n : 0;
}

static unsigned aio_collect(void *engine, struct read_req **out, unsigned max)
{
	struct aio *a = engine;
	unsigned n = 0;

	for (; n < max && a->nevents; n++) {
		struct io_event *e = &a->events[--a->nevents];

		out[n] = e->data;
		out[n]->res = (int)(long)e->res;
		give_back(a, e->obj);
	}
	return n;
}

const struct reader_ops reader_aio = {
	"libaio", aio_open, aio_close, aio_submit, aio_wait, aio_collect};
