// SPDX-License-Identifier: Apache-2.0
#include "server/keeper.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

#define DROP_MAX 512u           /* points in one durable step */
#define PAUSE_NS (600 * TM_SEC) /* between two compactions of a machine, unless space is short */
#define LONG_NS  (24 * 3600 * TM_SEC) /* after that also for little */
#define WORTH    2u /* bytes dropped that are worth one byte of index to be gone through */

struct keeper {
	struct server *s;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop;          /* lock */
	uint64_t collected; /* the thread's: monotonic ns of the last collection */
};

static bool stopping(struct keeper *k)
{
	LOCK_SCOPE(&k->lock);

	return k->stop;
}

/* Drops what the policy says, a bounded number at a time. */
static void keep_machine(struct keeper *k, struct machine *m)
{
	LOCK_SCOPE(&m->policy);
	CLEANUP_FREE uint64_t *seqs = NULL;
	struct tm_err err;
	size_t n, at, step;
	int rc = policy_plan(m, &seqs, &n, &err);

	for (at = 0; !rc && at < n && !stopping(k); at += step) {
		step = n - at < DROP_MAX ? n - at : DROP_MAX;
		rc = store_points_drop(k->s->store, m->uuid, seqs + at, step, &err);
	}
	if (rc == -EPERM)
		return; /* one has been pinned meanwhile: the next plan knows */
	if (rc)
		tm_log_of(TM_LOG_WARNING, m->name, NULL, "machine %s: points are not dropped: %s",
			m->name, err.msg);
	else if (n)
		tm_log_of(TM_LOG_DEBUG, m->name, NULL,
			"machine %s: %zu points dropped by its policy", m->name, n);
}

/*
 * Has the machine's part of the index forget what nobody sees, if enough has been dropped: what is written for it is then in proportion to
 * what has been received.
 */
static bool compact(struct keeper *k, struct machine *m, bool full)
{
	uint64_t since = tm_mono_ns() - m->compacted, debt, cost;
	struct tm_err err;
	int rc;

	if (since < PAUSE_NS && !full)
		return false;
	rc = store_debt(k->s->store, m->uuid, &debt, &cost, &err);
	if (rc || !debt || (!full && debt / WORTH < cost && since < LONG_NS))
		return false;
	rc = store_compact(k->s->store, m->uuid, &err);
	if (rc && rc != -EBUSY && rc != -ECANCELED)
		tm_log(TM_LOG_WARNING, "machine %s: its index is not compacted: %s", m->name,
			err.msg);
	m->compacted = tm_mono_ns();
	return rc == 0;
}

static void collect(struct keeper *k)
{
	struct store_collect_opts opts = {.rate = k->s->conf.reclaim, .lazy = 1};
	struct store_collected got = {.packs = 0};
	struct tm_err err;
	int rc = store_collect(k->s->store, &opts, &got, &err);

	if (rc && rc != -EBUSY && rc != -ECANCELED)
		tm_log(TM_LOG_WARNING, "space is not reclaimed: %s", err.msg);
	if (got.freed_bytes)
		tm_log(TM_LOG_INFO, "%" PRIu64 " MiB freed, %" PRIu64 " MiB copied",
			got.freed_bytes >> 20, got.copied_bytes >> 20);
	if (got.damaged)
		tm_log(TM_LOG_ERR, "%" PRIu64 " packs hold damaged cells: run serverctl scrub",
			got.damaged);
	k->collected = tm_mono_ns();
}

static void pass(struct keeper *k)
{
	struct server *s = k->s;
	bool full = __atomic_load_n(&s->full, __ATOMIC_RELAXED), compacted = false;
	struct machine *first, *m;

	store_ballast(s->store);
	pthread_mutex_lock(&s->lock);
	first = s->machines; /* the list only grows at its head */
	pthread_mutex_unlock(&s->lock);
	for (m = first; m && !stopping(k); m = m->next)
		keep_machine(k, m);
	for (m = first; m && !stopping(k); m = m->next)
		compacted |= compact(k, m, full);
	if (!stopping(k) && (compacted || full || tm_mono_ns() - k->collected > PAUSE_NS))
		collect(k);
}

static void *run(void *arg)
{
	struct keeper *k = arg;

	pthread_mutex_lock(&k->lock);
	while (!k->stop) {
		struct timespec ts = tm_timespec(tm_mono_ns() + k->s->conf.retention);

		pthread_cond_clockwait(&k->changed, &k->lock, CLOCK_MONOTONIC, &ts);
		if (k->stop)
			break;
		pthread_mutex_unlock(&k->lock);
		pass(k);
		pthread_mutex_lock(&k->lock);
	}
	pthread_mutex_unlock(&k->lock);
	return NULL;
}

int keeper_start(struct server *s, struct keeper **out, struct tm_err *err)
{
	struct keeper *k = calloc(1, sizeof(*k));
	int rc;

	if (!k)
		return tm_fail(err, ENOMEM, "out of memory");
	k->s = s;
	k->collected = tm_mono_ns();
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->changed, NULL);
	rc = pthread_create(&k->thread, NULL, run, k);
	if (rc) {
		free(k);
		return tm_fail(err, rc, "no thread: %s", strerror(rc));
	}
	*out = k;
	return 0;
}

void keeper_stop(struct keeper *k)
{
	if (!k)
		return;
	pthread_mutex_lock(&k->lock);
	k->stop = true;
	pthread_cond_signal(&k->changed);
	pthread_mutex_unlock(&k->lock);
	pthread_join(k->thread, NULL);
	pthread_cond_destroy(&k->changed);
	pthread_mutex_destroy(&k->lock);
	free(k);
}
