// SPDX-License-Identifier: Apache-2.0
/*
 * Asking the committer: copies what the caller gave, puts it into the queue; waits where waiting is wanted.
 */
#include <stdlib.h>

#include "server/store/internal.h"

static void enqueue(struct store *st, struct request *r)
{
	pthread_mutex_lock(&st->queue_lock);
	*st->queue_tail = r;
	st->queue_tail = &r->next;
	pthread_cond_signal(&st->queue_cond);
	pthread_mutex_unlock(&st->queue_lock);
}

static void *copy(const void *p, size_t n, size_t size)
{
	void *c = calloc(n + 1, size);

	if (c && n)
		memcpy(c, p, n * size);
	return c;
}

static int copy_commit(struct request *r, const struct store_commit *c)
{
	r->c = *c;
	r->pieces = copy(c->pieces, c->npieces, sizeof(*c->pieces));
	r->piece = calloc(c->npieces + 1, sizeof(*r->piece));
	if (!r->pieces || !r->piece)
		return -1;
	if (!c->point)
		return 0;
	r->point = copy(c->point, 1, sizeof(*c->point));
	if (!r->point)
		return -1;
	r->point->disks = copy(c->point->disks, c->point->ndisks, sizeof(*c->point->disks));
	return r->point->disks ? 0 : -1;
}

static struct request *request_new(store_done_fn *done, void *arg)
{
	struct request *r = calloc(1, sizeof(*r));

	if (!r)
		abort(); /* a few hundred bytes */
	r->done = done;
	r->arg = arg;
	return r;
}

/* An epoch: no more puts from here on, unless the answer is that the attempt stays open. */
static int close_epoch(struct store *st, struct request *r, uint64_t seq)
{
	r->a = attempt_get(st, seq);
	if (!r->a)
		return tm_fail(&r->err, ESTALE, "attempt %llu is unknown or has ended",
			(unsigned long long)seq);
	if (is_piece(r->a->kind))
		return tm_fail(&r->err, EINVAL, "attempt %llu is a piece, not an epoch",
			(unsigned long long)seq);
	if (attempt_close(r->a, &r->err))
		return -r->err.code;
	if (r->a->failed)
		return tm_fail(
			&r->err, EIO, "attempt %llu failed earlier", (unsigned long long)seq);
	r->keep = 1;
	return 0;
}

void store_commit_start(struct store *st, uint64_t seq, const struct store_commit *c,
	store_done_fn *done, void *arg)
{
	struct request *r = request_new(done, arg);

	r->ret = close_epoch(st, r, seq);
	if (r->ret == -ESTALE || r->ret == -EINVAL) {
		/* Not ours to end. */
		if (r->a)
			attempt_put(st, r->a);
		r->a = NULL;
	} else if (!r->ret && copy_commit(r, c)) {
		r->ret = tm_fail(&r->err, ENOMEM, "out of memory");
	} else if (!r->ret && c->point && c->point->ndisks > TM_DISKS_MAX) {
		r->ret = tm_fail(&r->err, EINVAL, "a point of %u disks", c->point->ndisks);
	} else if (!r->ret) {
		r->ret = store_space(st, &r->err);
	}
	if (!r->ret)
		r->keep = 0;
	enqueue(st, r);
}

/* A part takes with it what was put so far; puts may go on meanwhile. */
static int take_part(struct store *st, struct request *r, uint64_t seq)
{
	struct attempt *a = attempt_get(st, seq);
	int ret = 0;

	if (!a)
		return tm_fail(&r->err, ESTALE, "attempt %llu is unknown or has ended",
			(unsigned long long)seq);
	pthread_mutex_lock(&a->lock);
	if (!is_piece(a->kind) || a->complete)
		ret = tm_fail(
			&r->err, EINVAL, "attempt %llu takes no part", (unsigned long long)seq);
	else if (a->closing)
		ret = tm_fail(&r->err, ESTALE, "attempt %llu has ended", (unsigned long long)seq);
	else if (a->failed)
		ret = tm_fail(&r->err, EIO, "attempt %llu failed earlier", (unsigned long long)seq);
	else {
		a->pending++;
		r->load = a->cur;
		memset(&a->cur, 0, sizeof(a->cur));
	}
	pthread_mutex_unlock(&a->lock);
	if (ret)
		attempt_put(st, a);
	else
		r->a = a;
	return ret;
}

void store_part_start(struct store *st, uint64_t seq, const struct store_range *ranges, size_t n,
	int last, store_done_fn *done, void *arg)
{
	struct request *r = request_new(done, arg);

	r->is_part = 1;
	r->last = last != 0;
	r->nranges = n;
	r->ranges = copy(ranges, n, sizeof(*ranges));
	r->ret = r->ranges ? store_space(st, &r->err) : tm_fail(&r->err, ENOMEM, "out of memory");
	if (!r->ret)
		r->ret = take_part(st, r, seq);
	enqueue(st, r);
}

struct wait {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int done, ret;
	struct store_result result;
	struct tm_err err;
};

static void wake(void *arg, int ret, const struct store_result *result, const struct tm_err *err)
{
	struct wait *w = arg;

	pthread_mutex_lock(&w->lock);
	w->ret = ret;
	if (ret)
		w->err = *err;
	else
		w->result = *result;
	w->done = 1;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static int wait_for(struct wait *w, struct store_result *result, struct tm_err *err)
{
	pthread_mutex_lock(&w->lock);
	while (!w->done)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->cond);
	if (w->ret)
		*err = w->err;
	else if (result)
		*result = w->result;
	return w->ret;
}

int store_commit(struct store *st, uint64_t seq, const struct store_commit *c,
	struct store_result *result, struct tm_err *err)
{
	struct wait w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

	store_commit_start(st, seq, c, wake, &w);
	return wait_for(&w, result, err);
}

int store_part(struct store *st, uint64_t seq, const struct store_range *done, size_t n, int last,
	struct tm_err *err)
{
	struct wait w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

	store_part_start(st, seq, done, n, last, wake, &w);
	return wait_for(&w, NULL, err);
}
