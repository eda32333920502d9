// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/crash/aio.h"
#include "tests/crash/writers.h"

#define BUF_BYTES (CHUNK_SECT * SECTOR)

struct slot {
	bool busy;
	uint32_t seq;
	struct op op;
	uint64_t since;
	char *buf;
};

bool uring_works(void)
{
	struct aio *a = aio_new(4, true);

	aio_free(a);
	return a;
}

static bool overlaps(const struct op *a, const struct op *b)
{
	return a->disk == b->disk && a->sector < b->sector + b->count &&
	       b->sector < a->sector + a->count;
}

/* True if write seq may go: the order of writes to one place must be known, and the window is bounded. */
static bool may_go(
	const struct writer *w, const struct slot *slots, const struct op *op, uint32_t seq)
{
	if (seq - done_low(w->all->done[w->index]) > WINDOW)
		return false;
	for (uint32_t i = 0; i < w->all->depth; i++) {
		if (slots[i].busy && overlaps(&slots[i].op, op))
			return false;
	}
	return true;
}

static bool reap(struct writer *w, struct aio *a, struct slot *slots)
{
	struct writers *ws = w->all;
	unsigned int tag;
	uint64_t took;
	int res, r;

	r = aio_reap(a, &tag, &res);
	if (r < 0) {
		snprintf(w->error, sizeof(w->error), "waiting for a write: %s", strerror(-r));
		return false;
	}
	if (!r)
		return true;
	took = now_us() - slots[tag].since;
	if (took > w->longest_us)
		w->longest_us = took;
	slots[tag].busy = false;
	if (res != (int)(slots[tag].op.count * SECTOR)) {
		ws->errors++;
		if (!ws->error_ok) {
			snprintf(w->error, sizeof(w->error),
				"write %u of writer %u to disk %u, sector %llu+%u: %s (%d)",
				slots[tag].seq, w->index, slots[tag].op.disk,
				(unsigned long long)(slots[tag].op.sector + ws->l.first),
				slots[tag].op.count, res < 0 ? strerror(-res) : "short", res);
			return false;
		}
	}
	ws->done[w->index] = done_add(ws->done[w->index], slots[tag].seq);
	return true;
}

static bool submit(struct writer *w, struct aio *a, struct slot *s, unsigned int tag,
	const struct op *op, uint32_t seq)
{
	struct writers *ws = w->all;
	done_t known[WRITERS_MAX];
	int r;

	/* What is known complete is read before the write can begin; that it may have begun is told before it can. */
	for (uint32_t i = 0; i < ws->l.writers; i++)
		known[i] = ws->done[i];
	rec_make(&ws->l, op, w->index, seq, known, s->buf);
	ws->submitted[w->index] = seq;
	s->busy = true;
	s->seq = seq;
	s->op = *op;
	s->since = now_us();
	r = aio_write(a, ws->fd[op->disk], s->buf, op->count * SECTOR,
		(ws->l.first + op->sector) * SECTOR, op->fua, tag);
	if (r) {
		snprintf(w->error, sizeof(w->error), "submitting a write: %s", strerror(-r));
		s->busy = false;
	}
	return !r;
}

static bool run(struct writer *w, struct aio *a, struct slot *slots)
{
	struct writers *ws = w->all;
	uint32_t busy;

	for (;;) {
		struct slot *idle = NULL;
		uint32_t seq = ws->submitted[w->index] + 1;
		struct op op = op_at(&ws->l, w->index, seq);

		busy = 0;
		for (uint32_t i = 0; i < ws->depth; i++) {
			busy += slots[i].busy;
			if (!slots[i].busy)
				idle = &slots[i];
		}
		if (ws->stop && !busy)
			return true;
		if (!ws->stop && idle && may_go(w, slots, &op, seq)) {
			if (!submit(w, a, idle, (unsigned int)(idle - slots), &op, seq))
				return false;
			if (ws->nap_us)
				usleep(ws->nap_us);
		} else if (!reap(w, a, slots)) {
			return false;
		}
	}
}

/* After an error writes may still be under way into our buffers. */
static void settle(struct aio *a, struct slot *slots, uint32_t depth)
{
	uint64_t end = now_us() + 30000000;
	unsigned int tag;
	int res;

	for (uint32_t i = 0; i < depth;) {
		if (!slots[i].busy)
			i++;
		else if (aio_reap(a, &tag, &res) > 0)
			slots[tag].busy = false;
		else if (now_us() > end)
			return;
	}
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct writers *ws = w->all;
	struct slot slots[WINDOW] = {0};
	struct aio *a = aio_new(WINDOW, ws->engine == ENGINE_URING);
	char *bufs;

	if (!a) {
		snprintf(w->error, sizeof(w->error), "no queue: %s", strerror(errno));
		return NULL;
	}
	bufs = alloc_pages((size_t)ws->depth * BUF_BYTES);
	for (uint32_t i = 0; i < ws->depth; i++)
		slots[i].buf = bufs + (size_t)i * BUF_BYTES;
	if (!run(w, a, slots))
		settle(a, slots, ws->depth);
	aio_free(a);
	munmap(bufs, (size_t)ws->depth * BUF_BYTES);
	return NULL;
}

int writers_start(struct writers *ws)
{
	ws->stop = false;
	if (ws->engine == ENGINE_AUTO)
		ws->engine = uring_works() ? ENGINE_URING : ENGINE_AIO;
	for (uint32_t i = 0; i < ws->l.writers; i++) {
		int r;

		ws->w[i].all = ws;
		ws->w[i].index = i;
		r = pthread_create(&ws->w[i].thread, NULL, writer_main, &ws->w[i]);
		if (r)
			fail("no thread: %s", strerror(r));
	}
	return 0;
}

const char *writers_stop(struct writers *ws)
{
	ws->stop = true;
	for (uint32_t i = 0; i < ws->l.writers; i++)
		pthread_join(ws->w[i].thread, NULL);
	return writers_error(ws);
}

const char *writers_error(const struct writers *ws)
{
	for (uint32_t i = 0; i < ws->l.writers; i++) {
		if (ws->w[i].error[0])
			return ws->w[i].error;
	}
	return NULL;
}

uint64_t writers_count(struct writers *ws)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < ws->l.writers; i++)
		n += ws->submitted[i];
	return n;
}

uint64_t writers_longest(const struct writers *ws)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < ws->l.writers; i++) {
		if (ws->w[i].longest_us > n)
			n = ws->w[i].longest_us;
	}
	return n;
}
