// SPDX-License-Identifier: Apache-2.0
/* The end of a commit: what is durable becomes known to machine, catalog and agent, in this order. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"
#include "server/commit.h"

/* Caller holds m->lock. */
static void unlink_commit(struct machine *m, struct commit *c)
{
	struct commit **p = &m->commits;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	pthread_cond_broadcast(&m->changed);
}

static void reopen(struct machine *m, uint64_t seq)
{
	struct attempt *a = attempt_find(m, seq);

	if (a)
		a->closed = false;
}

static void remove_attempt(struct machine *m, uint64_t seq)
{
	struct attempt *a = attempt_find(m, seq);

	if (a)
		attempt_drop(m, a);
}

/* The disks' new state, before the commit leaves the list: no session begins earlier. */
static void save_joins(struct commit *c)
{
	struct machine *m = c->s->machine;
	struct tm_err err;

	for (uint32_t i = 0; i < c->njoins; i++) {
		struct disk *d = c->joins[i].disk;

		pthread_mutex_lock(&m->lock);
		if (c->ret == 0 && !d->c.closed) {
			d->c.joined = true;
			memcpy(d->c.tracking, c->joins[i].tracking, TM_UUID);
		}
		if (d->c.pending == c->seq)
			d->c.pending = 0;
		pthread_mutex_unlock(&m->lock);
		if (disk_save(m, d, &err))
			tm_log_of(TM_LOG_ERR, m->name, d->c.name,
				"machine %s, disk %s: its state is not written down: %s", m->name,
				d->c.name, err.msg);
		else if (c->ret == 0)
			tm_log_of(TM_LOG_INFO, m->name, d->c.name, "machine %s: disk %s is whole",
				m->name, d->c.name);
	}
	if (c->njoins && machine_note(m, &err))
		tm_log_of(TM_LOG_ERR, m->name, NULL, "machine %s: %s", m->name, err.msg);
}

static void succeeded(struct commit *c)
{
	struct machine *m = c->s->machine;
	struct tm_msg_epoch_done done = {
		.attempt = c->seq, .result = c->point ? TM_EPOCH_POINT : TM_EPOCH_STORED};
	struct tm_out out;
	struct tm_err err;

	pthread_mutex_lock(&m->lock);
	m->head.id = c->id;
	m->head.seq = c->seq;
	m->head.arrival_ns = c->result.arrival_ns;
	m->epochs++;
	if (c->point) {
		m->head.point = c->seq;
		m->valid = c->valid;
		m->newest_kind = c->kind;
		m->points++;
	}
	remove_attempt(m, c->seq);
	for (uint32_t i = 0; i < c->npieces; i++)
		remove_attempt(m, c->pieces[i]);
	unlink_commit(m, c);
	pthread_mutex_unlock(&m->lock);
	if (tm_build_epoch_done(&out, &done, c->missing, &err) == 0)
		session_post(c->s, &out);
}

static uint16_t code_of(const struct commit *c, struct refusal *r)
{
	if (c->ret == -EINVAL && c->doomed)
		refuse(r, c->doomed, c->seq, "the epoch before it failed");
	else
		refuse_store(r, c->ret, c->seq, &c->err);
	return r->code;
}

static void failed(struct commit *c)
{
	struct machine *m = c->s->machine;
	struct refusal r;
	struct attempt *a;
	uint16_t code;

	pthread_mutex_lock(&m->lock);
	code = code_of(c, &r);
	m->failed[m->nfailed % MACHINE_FAILED].id = c->id;
	m->failed[m->nfailed++ % MACHINE_FAILED].code = code;
	for (struct commit *later = c->next; later; later = later->next)
		later->doomed = code;
	for (uint32_t i = 0; i < c->npieces; i++)
		reopen(m, c->pieces[i]);
	a = attempt_find(m, c->seq);
	if (a && (c->ret == -ENOSPC || c->ret == -EINVAL))
		a->closed = false;
	else if (a)
		a->lost = true;
	unlink_commit(m, c);
	pthread_mutex_unlock(&m->lock);
	session_post_refusal(c->s, &r, TM_MSG_EPOCH_COMMIT);
}

static void finish(struct commit *c)
{
	save_joins(c);
	if (c->ret == 0)
		succeeded(c);
	else
		failed(c);
	commit_free(c);
}

void *commit_finisher(void *server)
{
	struct server *s = server;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct commit *c = s->done;

		if (!c) {
			if (__atomic_load_n(&s->stopping, __ATOMIC_ACQUIRE) && s->drained)
				break;
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		s->done = c->done_next;
		if (!s->done)
			s->done_tail = &s->done;
		pthread_mutex_unlock(&s->lock);
		finish(c);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static bool idle(const struct machine *m)
{
	if (m->commits)
		return false;
	for (const struct attempt *a = m->attempts; a; a = a->next)
		if (a->flushing)
			return false;
	return true;
}

void commit_drain(struct server *s)
{
	struct machine *m;

	for (m = s->machines; m; m = m->next) {
		pthread_mutex_lock(&m->lock);
		while (!idle(m))
			pthread_cond_wait(&m->changed, &m->lock);
		pthread_mutex_unlock(&m->lock);
	}
	pthread_mutex_lock(&s->lock);
	s->drained = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}
