// SPDX-License-Identifier: Apache-2.0
#include "agent/round.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "agent/freeze.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/units.h"
#include "common/uuid.h"

static bool joined(const struct member *m)
{
	return m->handle && m->phase == TM_DISK_WHOLE;
}

/* A point can only be made when every disk that has joined is there. */
static bool any_joined(const struct agent *a)
{
	for (struct member *m = a->members; m; m = m->next)
		if (joined(m))
			return true;
	return false;
}

bool round_wanted(struct agent *a, uint64_t now, uint64_t *until)
{
	*until = UINT64_MAX;
	if (a->round.active || a->paused)
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
	*until = a->round_due;
	return now >= a->round_due;
}

static void begin_freeze(struct agent *a)
{
	const char *names[TM_DISKS_MAX];
	struct round *r = &a->round;
	struct tm_err err;
	size_t n = 0;

	for (struct member *m = a->members; m; m = m->next)
		if (m->in_round)
			names[n++] = m->info.name;
	if (r->want_freeze) {
		uint64_t began = tm_mono_ns();

		if (freeze_begin(names, n, a->conf.freeze_limit, &r->freeze, &err) == 0) {
			r->kind = TM_POINT_CRASH;
			r->freeze_ns = began;
		} else {
			snprintf(r->reason, sizeof(r->reason), "not frozen: %.400s", err.msg);
		}
		return;
	}
	if (quiet_begin(names, n, &r->quiet) == 0)
		r->kind = TM_POINT_CRASH;
}

void round_begin(struct agent *a)
{
	struct round *r = &a->round;

	memset(r, 0, sizeof(*r));
	r->active = true;
	r->kind = TM_POINT_SCAN;
	r->began = tm_mono_ns();
	r->realtime = tm_real_ns();
	r->boottime = tm_boot_ns();
	a->urgent_round = false;
	for (struct request *rq = a->requests; rq; rq = rq->next) {
		if (rq->kind != REQUEST_POINT || rq->done)
			continue;
		rq->taken = true;
		r->want_freeze |= rq->freeze;
	}
	for (struct member *m = a->members; m; m = m->next) {
		if (!joined(m) || m->piece || m->closing)
			continue;
		m->in_round = true;
		if (!m->running)
			m->job = JOB_PASS;
	}
	pthread_mutex_unlock(&a->lock);
	begin_freeze(a);
	pthread_mutex_lock(&a->lock);
}

bool round_complete(const struct agent *a)
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
	struct tm_err err;

	if (r->freeze) {
		if (freeze_end(r->freeze, &err)) {
			r->kind = TM_POINT_SCAN;
			snprintf(r->reason, sizeof(r->reason), "not frozen to the end: %.400s",
				err.msg);
			r->freeze_ns = 0;
		} else {
			r->freeze_ns = tm_mono_ns() - r->freeze_ns;
		}
	} else if (r->quiet && !quiet_end(r->quiet)) {
		r->kind = TM_POINT_SCAN;
	}
	/* What was read before the round, while the disk was in use, makes the point a scan. */
	for (struct member *m = a->members; m; m = m->next)
		if (m->piece && !m->in_round)
			r->kind = TM_POINT_SCAN;
	r->freeze = NULL;
	r->quiet = NULL;
}

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

static int acknowledged(
	struct agent *a, const struct tm_epoch_id *id, uint64_t point, struct tm_err *err)
{
	struct state *st = &a->state;
	LOCK_SCOPE(&st->lock);

	st->acked = *id;
	memset(&st->sent, 0, sizeof(st->sent));
	if (point) {
		st->point = point;
		st->point_time = a->round.realtime;
	}
	for (size_t i = 0; i < st->ndisks; i++) {
		struct member *m = a->members;

		while (m && !tm_uuid_equal(m->uuid, st->disks[i].uuid))
			m = m->next;
		if (m && m->piece)
			st->disks[i].doubt[0] = '\0';
	}
	return state_save(st, err);
}

/* The commit message's lists, out of the members. */
static void collect(struct agent *a, struct tm_epoch_disk *disks, uint32_t *ndisks,
	uint64_t *pieces, uint32_t *npieces)
{
	*ndisks = *npieces = 0;
	for (struct member *m = a->members; m; m = m->next) {
		if (!m->handle || (!joined(m) && !m->piece))
			continue;
		disks[(*ndisks)++] =
			(struct tm_epoch_disk){.handle = m->handle, .size = m->info.ident.size};
		if (m->piece)
			pieces[(*npieces)++] = m->piece;
	}
}

static const char *round_label(struct agent *a)
{
	for (struct request *rq = a->requests; rq; rq = rq->next)
		if (rq->taken && rq->label[0])
			return rq->label;
	return "";
}

static int begin_epoch(
	struct agent *a, struct tm_msg_epoch_commit *c, uint16_t *refusal, struct tm_err *err)
{
	struct tm_msg_attempt_begin begin = {
		.kind = TM_ATTEMPT_EPOCH, .id = c->id, .parent = c->parent};
	struct tm_in_attempt in;
	struct tm_out out;
	struct call call;
	int ret;

	if (tm_build_attempt_begin(&out, &begin, err))
		return -err->code;
	ret = session_call(a->session, &call, &out, TM_MSG_ATTEMPT, 0, err);
	if (!ret && !(ret = tm_parse_attempt(call.body, call.len, &in, err)))
		c->attempt = in.m->attempt;
	*refusal = call.refusal;
	call_free(&call);
	return ret;
}

static int commit(struct agent *a, const char *label, uint64_t *point, char text[TM_TEXT_MAX + 1],
	uint16_t *refusal, struct tm_err *err)
{
	struct tm_msg_epoch_commit c = {
		.parent = a->head, .cut_realtime_ns = a->round.realtime, .kind = a->round.kind};
	struct tm_epoch_disk disks[TM_DISKS_MAX];
	uint64_t pieces[TM_DISKS_MAX];
	struct tm_in_epoch_done done;
	uint32_t ndisks, npieces;
	struct tm_out out;
	struct call call;
	int ret;

	*point = 0;
	*refusal = 0;
	collect(a, disks, &ndisks, pieces, &npieces);
	if (draw_id(a, &c.id, err) || begin_epoch(a, &c, refusal, err))
		return -err->code;
	c.age_ns = tm_boot_ns() - a->round.boottime;
	if (tm_build_epoch_commit(
		    &out, &c, disks, ndisks, pieces, npieces, label, a->round.reason, err))
		return -err->code;
	ret = session_call(a->session, &call, &out, TM_MSG_EPOCH_DONE, c.attempt, err);
	*refusal = call.refusal;
	if (!ret)
		ret = tm_parse_epoch_done(call.body, call.len, &done, err);
	if (!ret) {
		*point = done.m->result == TM_EPOCH_POINT ? c.attempt : 0;
		snprintf(text, TM_TEXT_MAX + 1, "%s", done.text);
	}
	call_free(&call);
	if (ret)
		return ret;
	a->head = c.id;
	return acknowledged(a, &c.id, *point, err);
}

static void finish_members(struct agent *a, uint64_t point)
{
	for (struct member *m = a->members; m; m = m->next) {
		m->in_round = false;
		if (m->piece) {
			m->piece = 0;
			m->phase = TM_DISK_WHOLE;
			m->state = SYNC_CONTINUOUS;
		}
		if (point && joined(m))
			m->last_point = point;
	}
}

/* Pieces whose epoch was refused are of no use any more, but for an initial sync, which stays complete. */
static void drop_pieces(struct agent *a)
{
	for (struct member *m = a->members; m; m = m->next) {
		uint64_t piece = m->piece;

		m->in_round = false;
		if (!piece || m->phase == TM_DISK_INITIAL || m->phase == TM_DISK_NEW)
			continue;
		m->piece = 0;
		pthread_mutex_unlock(&a->lock);
		piece_abort(a, piece);
		pthread_mutex_lock(&a->lock);
	}
}

static void answer(struct agent *a, uint64_t point, const char *text, const struct tm_err *err)
{
	struct request *rq, *next;

	for (rq = a->requests; rq; rq = next) {
		next = rq->next;
		if (!rq->taken || rq->done)
			continue;
		rq->point = point;
		rq->made = a->round.kind;
		snprintf(rq->text, sizeof(rq->text), "%s",
			a->round.reason[0] ? a->round.reason : text);
		request_end(a, rq, err);
	}
}

void round_end(struct agent *a)
{
	char label[TM_LABEL_MAX + 1], text[TM_TEXT_MAX + 1] = "", took[TM_TEXT_ROOM];
	struct tm_err err = {0};
	uint16_t refusal = 0;
	uint64_t point = 0;
	int ret;

	snprintf(label, sizeof(label), "%s", round_label(a));
	pthread_mutex_unlock(&a->lock);
	end_freeze(a);
	err = a->round.failed;
	ret = err.code ? -err.code : commit(a, label, &point, text, &refusal, &err);
	pthread_mutex_lock(&a->lock);
	tm_duration_format(tm_mono_ns() - a->round.began, took);
	if (ret) {
		if (!session_ended(a->session, NULL, NULL))
			drop_pieces(a);
		agent_error(a, "no point: %s", err.msg);
	} else {
		finish_members(a, point);
		if (a->round.freeze_ns)
			a->freeze_ns = a->round.freeze_ns;
		if (point)
			tm_log(TM_LOG_INFO, "point %llu after %s", (unsigned long long)point, took);
		else
			tm_log(TM_LOG_INFO, "stored, but no point yet: %s", text);
	}
	answer(a, point, text, &err);
	a->round.active = false;
	a->round_due = tm_mono_ns() + (ret ? 5 * TM_SEC : a->conf.interval);
	if (ret && refusal == TM_E_PARENT)
		session_fail(a->session, &err, refusal);
}

void round_cancel(struct agent *a)
{
	struct request *rq;

	if (!a->round.active)
		return;
	pthread_mutex_unlock(&a->lock);
	end_freeze(a);
	pthread_mutex_lock(&a->lock);
	a->round.active = false;
	for (struct member *m = a->members; m; m = m->next)
		m->in_round = false;
	for (rq = a->requests; rq; rq = rq->next)
		rq->taken = false; /* the next session's first round makes the point */
}

/* Begins a new line: nothing of ours is where the server thinks. Everything is compared before the next point. */
static int new_line(struct agent *a, const char *why, struct tm_err *err)
{
	struct state *st = &a->state;
	LOCK_SCOPE(&st->lock);

	tm_uuid_new(st->tracking);
	st->cut = 0;
	memset(&st->acked, 0, sizeof(st->acked));
	memset(&st->sent, 0, sizeof(st->sent));
	st->point = 0;
	for (size_t i = 0; i < st->ndisks; i++) {
		tm_uuid_new(st->disks[i].tracking);
		snprintf(st->disks[i].doubt, sizeof(st->disks[i].doubt), "%s", why);
	}
	return state_save(st, err);
}

static void alarm_gone(struct agent *a, const struct tm_msg_welcome *w)
{
	struct state *st = &a->state;
	char is[TM_EPOCH_TEXT], was[TM_EPOCH_TEXT], when[TM_TEXT_ROOM];

	pthread_mutex_lock(&st->lock);
	tm_epoch_format(&st->acked, was);
	tm_time_format(st->point_time, when);
	pthread_mutex_lock(&a->lock);
	a->alarms++;
	if (st->point > w->head_attempt)
		agent_error(a,
			"ALARM: the server went back in time: acknowledged points after %llu up to %llu (%s) are gone; resync under a new tracking",
			(unsigned long long)w->head_attempt, (unsigned long long)st->point, when);
	else
		agent_error(a,
			"ALARM: the server's newest epoch (%s, point %llu) is not ours (%s, point %llu of %s): resync under a new tracking",
			tm_epoch_format(&w->head, is), (unsigned long long)w->head_attempt, was,
			(unsigned long long)st->point, when);
	pthread_mutex_unlock(&a->lock);
	pthread_mutex_unlock(&st->lock);
}

int round_head_unlocked(struct agent *a, const struct tm_msg_welcome *w, struct tm_err *err)
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
	a->head = w->head;
	pthread_mutex_unlock(&st->lock);
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
