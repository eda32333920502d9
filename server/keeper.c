// SPDX-License-Identifier: Apache-2.0
#include "server/keeper.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

#define DROP_MAX   512u           /* points in one durable step */
#define COLLECT_NS (600 * TM_SEC) /* between walks over the index, unless space is short */
#define COPY_RATE  (64ull << 20)

struct keeper {
	struct server *s;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop;          /* lock */
	uint64_t collected; /* the thread's: monotonic ns of the last walk */
	bool dropped;       /* the thread's: points have gone since then */
};

static bool stopping(struct keeper *k)
{
	LOCK_SCOPE(&k->lock);

	return k->stop;
}

/* Drops what the policy says, a bounded number at a time. */
static void keep_machine(struct keeper *k, struct machine *m)
{
	CLEANUP_FREE uint64_t *seqs = NULL;
	struct tm_err err;
	size_t n, at, step;
	int rc = policy_plan(m, &seqs, &n, &err);

	for (at = 0; !rc && at < n && !stopping(k); at += step) {
		step = n - at < DROP_MAX ? n - at : DROP_MAX;
		rc = store_points_drop(k->s->store, m->uuid, seqs + at, step, &err);
		if (rc == 0)
			k->dropped = true;
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

/* Has the index forget what nobody sees, and packs with it. */
static void reclaim(struct keeper *k)
{
	struct store_collect_opts opts = {.rate = COPY_RATE};
	struct store_collected got = {.packs = 0};
	struct tm_err err;
	int rc = store_compact(k->s->store, NULL, &err);

	if (!rc && !stopping(k))
		rc = store_collect(k->s->store, &opts, &got, &err);
	if (rc && rc != -EBUSY)
		tm_log(TM_LOG_WARNING, "space is not reclaimed: %s", err.msg);
	if (got.freed_bytes)
		tm_log(TM_LOG_INFO, "%" PRIu64 " MiB freed, %" PRIu64 " MiB copied",
			got.freed_bytes >> 20, got.copied_bytes >> 20);
	if (got.damaged)
		tm_log(TM_LOG_ERR, "%" PRIu64 " packs hold damaged cells: run serverctl scrub",
			got.damaged);
}

static void pass(struct keeper *k)
{
	struct server *s = k->s;
	uint64_t now = tm_mono_ns();
	bool full = __atomic_load_n(&s->full, __ATOMIC_RELAXED);
	struct machine *m;

	pthread_mutex_lock(&s->lock);
	m = s->machines; /* the list only grows at its head */
	pthread_mutex_unlock(&s->lock);
	for (; m && !stopping(k); m = m->next)
		keep_machine(k, m);
	if (stopping(k) || (!full && (!k->dropped || now - k->collected < COLLECT_NS)))
		return;
	k->dropped = false;
	reclaim(k);
	k->collected = tm_mono_ns();
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
