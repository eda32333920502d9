// SPDX-License-Identifier: Apache-2.0
#include "server/chores.h"

#include "common/clock.h"
#include "common/log.h"
#include "server/checkpoint.h"
#include "server/machine.h"

#define SAVE_NS  (60 * TM_SEC)
#define SWEEP_NS (10 * TM_SEC)

static void watch_space(struct server *s, struct chores *c)
{
	struct store_info info;
	struct tm_err err;

	if (store_info(s->store, &info, &err)) {
		tm_log(TM_LOG_WARNING, "store: %s", err.msg);
		return;
	}
	if (info.full && !s->full)
		tm_log(TM_LOG_ERR,
			"the store is full: %llu MiB are free; machines keep tracking until space is freed",
			(unsigned long long)(info.free_bytes >> 20));
	else if (!info.full && s->full)
		tm_log(TM_LOG_NOTICE, "the store has space again");
	__atomic_store_n(&s->full, info.full, __ATOMIC_RELAXED);
	if (info.failed && !c->warned)
		tm_log(TM_LOG_ERR,
			"the store refuses writes and is tried again until it does not: %s",
			info.why[0] ? info.why : "a write to its index failed");
	else if (!info.failed && c->warned)
		tm_log(TM_LOG_NOTICE, "the store takes writes again");
	c->warned = info.failed;
}

static void sweep(struct server *s, uint64_t now)
{
	struct machine *m;

	pthread_mutex_lock(&s->lock);
	m = s->machines; /* the list only grows at its head */
	pthread_mutex_unlock(&s->lock);
	for (; m; m = m->next) {
		pthread_mutex_lock(&m->lock);
		if (!m->session && !m->arriving && now > s->conf.keep)
			attempts_sweep(m, NULL, now - s->conf.keep);
		pthread_mutex_unlock(&m->lock);
	}
	checkpoints_sweep(s);
}

void chores_run(struct server *s, struct chores *c)
{
	uint64_t now = tm_mono_ns();
	struct tm_err err;

	watch_space(s, c);
	if (now - c->swept > SWEEP_NS) {
		sweep(s, now);
		c->swept = now;
	}
	if (now - c->saved > SAVE_NS) {
		if (server_run_save(s, &err))
			tm_log(TM_LOG_WARNING, "%s", err.msg);
		c->saved = now;
	}
}
