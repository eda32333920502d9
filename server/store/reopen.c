// SPDX-License-Identifier: Apache-2.0
/*
 * Going on after the index refused a write (a full disk, a failed flush). The engine's handle is not trusted any more: it is closed and
 * opened again, which brings back what is durable and nothing else. While that fails the index is open for reading, so that points
 * stay usable, and the committer tries again. Manual compactions, which would hold it up, are interrupted.
 */
#include <stdlib.h>
#include <time.h>

#include "server/store/internal.h"

#define SECOND    1000000000ull
#define PAUSE_MAX (5 * SECOND)
#define FULL_MAX  (60 * SECOND)
#define ROOM      (256u << 20)
#define ROOM_STEP (1u << 20) /* a full disk is worth another try when so much has been freed */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

int store_index_open(struct store *st, int read_only, struct tm_err *err)
{
	struct index_conf conf = {.cache_bytes = st->o.cache_bytes,
		.buffer_bytes = st->o.buffer_bytes,
		.rate = st->o.rate,
		.read_only = read_only,
		.stats = st->o.stats,
		.filter = read_only ? NULL : filter_factory,
		.filter_arg = st,
		.broken = &st->index_failed};
	char path[4096];

	snprintf(path, sizeof(path), "%s/index", st->path);
	return index_open(&st->ix, path, &conf, err);
}

/*
 * Each try that fails may leave files behind until one succeeds: on a full disk it waits until something was freed since, so that it does
 * not use up the rest.
 */
static int too_early(const struct store *st)
{
	const struct reopening *r = &st->reopening;
	uint64_t waited = now_ns() - r->tried_ns;

	if (!r->tried_ns)
		return 0;
	if (r->why.code == ENOSPC && r->free < ROOM)
		return waited < FULL_MAX && free_bytes(st->rootfd) < r->free + ROOM_STEP;
	return waited < r->pause_ns;
}

static void failed(struct store *st, uint64_t before, const struct tm_err *why)
{
	struct reopening *r = &st->reopening;
	uint64_t after = free_bytes(st->rootfd);

	r->tried_ns = now_ns();
	r->pause_ns = r->pause_ns ? r->pause_ns * 2 : SECOND / 2;
	if (r->pause_ns > PAUSE_MAX)
		r->pause_ns = PAUSE_MAX;
	r->free = before < after ? before : after;
	r->why = *why;
}

static void stop_compaction(struct store *st)
{
	pthread_rwlock_rdlock(&st->index_lock);
	if (st->ix.db && !st->ix.read_only)
		rocksdb_disable_manual_compaction(st->ix.db);
	pthread_rwlock_unlock(&st->index_lock);
}

int store_index_reopen(struct store *st, struct tm_err *err)
{
	struct tm_err ignored;
	uint64_t before;
	int ret;

	ballast_give(st);
	before = free_bytes(st->rootfd);
	if (atomic_load(&st->interrupted))
		return tm_fail(err, ECANCELED, "the store is about to be closed");
	if (too_early(st)) {
		*err = st->reopening.why;
		return -err->code;
	}
	stop_compaction(st);
	pthread_rwlock_wrlock(&st->index_lock);
	index_close(&st->ix);
	ret = store_index_open(st, 0, err);
	if (!ret) {
		st->reopening = (struct reopening){0};
		atomic_store(&st->index_failed, 0);
	} else {
		failed(st, before, err);
		atomic_store(&st->index_failed, 1);
		if (!store_index_open(st, 1, &ignored))
			st->ix.why = *err;
	}
	pthread_rwlock_unlock(&st->index_lock);
	return ret;
}

void store_index_shut(struct store *st)
{
	pthread_rwlock_wrlock(&st->index_lock);
	index_close(&st->ix);
	atomic_store(&st->index_failed, 1);
	pthread_rwlock_unlock(&st->index_lock);
}

void store_interrupt(struct store *st)
{
	atomic_store(&st->interrupted, 1);
	pthread_mutex_lock(&st->queue_lock);
	pthread_cond_broadcast(&st->queue_cond);
	pthread_mutex_unlock(&st->queue_lock);
	stop_compaction(st);
}

int store_ending(struct store *st, struct tm_err *err)
{
	if (atomic_load(&st->interrupted))
		return tm_fail(err, ECANCELED, "the store is about to be closed");
	if (atomic_load(&st->index_failed))
		return tm_fail(err, ECANCELED, "the index refuses writes");
	return 0;
}
