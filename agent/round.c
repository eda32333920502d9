// SPDX-License-Identifier: Apache-2.0
#include "agent/round.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/freeze.h"
#include "agent/point.h"
#include "agent/tracker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

/* A point can only be made when a disk that has joined is there. */
static bool any_joined(const struct agent *a)
{
	for (struct member *m = a->members; m; m = m->next)
		if (member_joined(m))
			return true;
	return false;
}

/* Is a round wanted now? Else *until = when it will be. */
static bool wanted(struct agent *a, uint64_t now, uint64_t *until)
{
	if (a->round.active || a->paused || !line_ready(a))
		return false;
	if (a->urgent_round)
		return true;
	if (!any_joined(a))
		return false;
	for (struct request *rq = a->requests; rq; rq = rq->next)
		if (rq->kind == REQUEST_POINT && !rq->done)
			return true;
	if (!a->conf.interval)
		return false;
	if (a->round_due < *until)
		*until = a->round_due;
	return now >= a->round_due;
}

static void begin_freeze(struct agent *a)
{
	const char *names[TM_DISKS_MAX];
	struct round *r = &a->round;
	struct point *p = r->point;
	struct tm_err err;
	size_t n = 0;

	for (struct member *m = a->members; m; m = m->next)
		if (m->in_round)
			names[n++] = m->info.name;
	if (r->want_freeze) {
		uint64_t began = tm_mono_ns();

		if (freeze_begin(names, n, a->conf.freeze_limit, &r->freeze, &err) == 0) {
			p->c.kind = TM_POINT_CRASH;
			p->freeze_ns = began;
		} else {
			snprintf(p->reason, sizeof(p->reason), "not frozen: %.400s", err.msg);
		}
		return;
	}
	if (quiet_begin(names, n, &r->quiet) == 0)
		p->c.kind = TM_POINT_CRASH;
}

static void begin(struct agent *a)
{
	struct round *r = &a->round;

	memset(r, 0, sizeof(*r));
	r->active = true;
	r->point = point_new();
	r->want_freeze = point_take_requests(a, r->point);
	if (r->point->c.kind == TM_POINT_APP)
		snprintf(r->point->reason, sizeof(r->point->reason),
			"the scan tracker makes no application-consistent points");
	r->point->c.kind = TM_POINT_SCAN;
	a->urgent_round = false;
	for (struct member *m = a->members; m; m = m->next) {
		if (!member_joined(m) || m->piece || m->closing)
			continue;
		m->in_round = true;
		if (!m->running)
			m->job = JOB_PASS;
	}
	pthread_mutex_unlock(&a->lock);
	begin_freeze(a);
	pthread_mutex_lock(&a->lock);
}

static bool complete(const struct agent *a)
{
	for (struct member *m = a->members; m; m = m->next)
		if (m->in_round && !m->piece)
			return false;
	return a->round.active;
}

void round_fail(struct agent *a, struct member *m)
{
	m->in_round = false;
	if (!a->round.failed.code)
		a->round.failed = m->result;
}

/* Thaws, and says what the point may be called. */
static void end_freeze(struct agent *a)
{
	struct round *r = &a->round;
	struct point *p = r->point;
	struct tm_err err;

	if (r->freeze) {
		if (freeze_end(r->freeze, &err)) {
			p->c.kind = TM_POINT_SCAN;
			snprintf(p->reason, sizeof(p->reason), "not frozen to the end: %.400s",
				err.msg);
			p->freeze_ns = 0;
		} else {
			p->freeze_ns = tm_mono_ns() - p->freeze_ns;
		}
	} else if (r->quiet && !quiet_end(r->quiet)) {
		p->c.kind = TM_POINT_SCAN;
	}
	/* What was read before the round, while the disk was in use, makes the point a scan. */
	for (struct member *m = a->members; m; m = m->next)
		if (m->piece && !m->in_round)
			p->c.kind = TM_POINT_SCAN;
	r->freeze = NULL;
	r->quiet = NULL;
}

/* Known before it is sent, so that a commit whose answer is lost is known again. */
static int draw_id(struct agent *a, struct tm_epoch_id *id, struct tm_err *err)
{
	struct state *st = &a->state;
	LOCK_SCOPE(&st->lock);

	memcpy(id->tracking, st->tracking, TM_UUID);
	id->cut = ++st->cut;
	tm_uuid_new(id->nonce);
	st->sent = *id;
	return state_save(st, err);
}

static int acknowledged(struct agent *a, const struct tm_epoch_id *id, struct tm_err *err)
{
	struct state *st = &a->state;
	LOCK_SCOPE(&st->lock);

	st->acked = *id;
	memset(&st->sent, 0, sizeof(st->sent));
	return state_save(st, err);
}

static int commit(struct agent *a, struct point *p, struct tm_err *err)
{
	p->c.parent = a->head;
	if (draw_id(a, &p->c.id, err) || point_open(a, p, err) || point_send(a, p, err) ||
		point_wait(a, p, err))
		return -err->code;
	a->head = p->c.id;
	return 0;
}

static void end(struct agent *a)
{
	struct point *p = a->round.point;
	struct tm_err err = a->round.failed;
	int ret = -err.code;

	pthread_mutex_unlock(&a->lock);
	end_freeze(a);
	pthread_mutex_lock(&a->lock);
	point_list(a, p);
	pthread_mutex_unlock(&a->lock);
	if (!ret)
		ret = commit(a, p, &err);
	pthread_mutex_lock(&a->lock);
	for (struct member *m = a->members; m; m = m->next)
		m->in_round = false;
	a->round.active = false;
	a->round_due = tm_mono_ns() + (ret ? 5 * TM_SEC : a->conf.interval);
	if (ret)
		point_failed(a, p, &err);
	else
		point_done(a, p);
	if (!ret && acknowledged(a, &p->c.id, &err))
		agent_error(a, TODO_STATE, "%s", err.msg);
	free(p);
	a->round.point = NULL;
}

static void scan_step(struct agent *a, uint64_t now, uint64_t *until)
{
	if (wanted(a, now, until))
		begin(a);
}

static bool scan_finish(struct agent *a)
{
	if (!complete(a))
		return false;
	end(a);
	return true;
}

static void scan_cancel(struct agent *a)
{
	if (!a->round.active)
		return;
	pthread_mutex_unlock(&a->lock);
	end_freeze(a);
	pthread_mutex_lock(&a->lock);
	a->round.active = false;
	for (struct member *m = a->members; m; m = m->next)
		m->in_round = false;
	point_put_back(a, a->round.point); /* the next session's first round makes it */
	free(a->round.point);
	a->round.point = NULL;
}

static int scan_head(struct agent *a, const struct tm_msg_welcome *w, struct tm_err *err)
{
	struct state *st = &a->state;
	bool acked, sent, fresh;
	int ret = 0;

	pthread_mutex_lock(&st->lock);
	acked = tm_epoch_equal(&w->head, &st->acked);
	sent = !tm_epoch_is_zero(&st->sent) && tm_epoch_equal(&w->head, &st->sent);
	fresh = tm_epoch_is_zero(&st->acked);
	if (sent) { /* its answer was lost with the connection */
		st->acked = st->sent;
		st->point = w->head_attempt;
	}
	if (acked || sent) {
		memset(&st->sent, 0, sizeof(st->sent));
		ret = state_save(st, err);
	}
	pthread_mutex_unlock(&st->lock);
	a->head = w->head;
	if (acked || sent)
		return ret;
	/* With nothing acknowledged nothing is lost, but the line of a machine that was here before is not ours either. */
	if (!fresh)
		alarm_gone(a, w);
	memset(&a->head, 0, sizeof(a->head));
	return new_line(a,
		fresh ? "the server knows this machine from before"
		      : "the server's newest epoch is not ours",
		err);
}

static int scan_attach(struct member *m, struct tm_err *err)
{
	return 0;
}

static void scan_detach(struct member *m)
{
}

static bool scan_clean(struct agent *a)
{
	return false;
}

static void scan_status(struct agent *a, struct cJSON *o)
{
}

const struct tracker tracker_scan = {.name = "scan",
	.head = scan_head,
	.attach = scan_attach,
	.detach = scan_detach,
	.step = scan_step,
	.finish = scan_finish,
	.cancel = scan_cancel,
	.clean = scan_clean,
	.status = scan_status};
