// SPDX-License-Identifier: Apache-2.0
#include "agent/point.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/units.h"
#include "common/uuid.h"

struct point *point_new(void)
{
	struct point *p = calloc(1, sizeof(*p));

	if (!p)
		abort(); /* so little is missing only when the machine is past help; systemd starts us again */
	p->began = tm_mono_ns();
	p->boottime = tm_boot_ns();
	p->c.cut_realtime_ns = tm_real_ns();
	return p;
}

bool member_joined(const struct member *m)
{
	return m->handle && m->phase == TM_DISK_WHOLE;
}

bool line_ready(const struct agent *a)
{
	if (!tm_epoch_is_zero(&a->head))
		return true;
	for (struct member *m = a->members; m; m = m->next)
		if (m->phase == TM_DISK_RESYNC && !m->piece && !m->closing)
			return false;
	return true;
}

bool point_take_requests(struct agent *a, struct point *p)
{
	bool freeze = false;

	for (struct request *rq = a->requests; rq; rq = rq->next) {
		if (rq->kind != REQUEST_POINT || rq->done || rq->taken)
			continue;
		rq->taken = true;
		rq->by = p;
		freeze |= rq->freeze;
		if (!p->label[0])
			snprintf(p->label, sizeof(p->label), "%s", rq->label);
		if (rq->point_kind == TM_POINT_APP)
			p->c.kind = TM_POINT_APP;
	}
	return freeze;
}

int point_open(struct agent *a, struct point *p, struct tm_err *err)
{
	struct tm_msg_attempt_begin begin = {
		.kind = TM_ATTEMPT_EPOCH, .id = p->c.id, .parent = p->c.parent};
	struct tm_in_attempt in;
	struct tm_out out;
	struct call call;
	int ret;

	if (tm_build_attempt_begin(&out, &begin, err))
		return -err->code;
	ret = session_call(a->session, &call, &out, TM_MSG_ATTEMPT, 0, err);
	if (!ret && !(ret = tm_parse_attempt(call.body, call.len, &in, err)))
		p->c.attempt = in.m->attempt;
	p->refusal = call.refusal;
	call_free(&call);
	return ret;
}

void point_list(struct agent *a, struct point *p)
{
	p->ndisks = p->npieces = 0;
	for (struct member *m = a->members; m; m = m->next) {
		if (!m->handle || (!member_joined(m) && !m->piece && !m->frames))
			continue;
		p->disks[p->ndisks++] = (struct tm_epoch_disk){.handle = m->handle,
			.size = m->info.ident.size,
			.frames = m->frames,
			.digest = m->digest};
		if (m->piece)
			p->pieces[p->npieces++] = m->piece;
		m->frames = 0;
		m->digest = 0;
	}
}

int point_send(struct agent *a, struct point *p, struct tm_err *err)
{
	struct tm_out out;
	uint64_t frozen;

	if (!p->ndisks)
		return tm_fail(err, EAGAIN, "no disk is in sync yet");
	p->c.age_ns = tm_boot_ns() - p->boottime;
	/* Rounded up: one that was frozen never says that it was not. */
	frozen = p->freeze_ns ? (p->freeze_ns + TM_MS - 1) / TM_MS : 0;
	p->c.freeze_ms = frozen < UINT16_MAX ? (uint16_t)frozen : UINT16_MAX;
	if (tm_build_epoch_commit(&out, &p->c, p->disks, p->ndisks, p->pieces, p->npieces, p->label,
		    p->reason, err))
		return -err->code;
	session_begin(a->session, &p->call, &out, TM_MSG_EPOCH_DONE, p->c.attempt);
	p->sent = true;
	return 0;
}

bool point_answered(struct agent *a, const struct point *p)
{
	return p->sent && session_done(a->session, &p->call);
}

int point_wait(struct agent *a, struct point *p, struct tm_err *err)
{
	struct tm_in_epoch_done done;
	int ret = session_wait(a->session, &p->call, err);

	p->refusal = p->call.refusal;
	if (!ret)
		ret = tm_parse_epoch_done(p->call.body, p->call.len, &done, err);
	if (!ret) {
		p->id = done.m->result == TM_EPOCH_POINT ? p->c.attempt : 0;
		snprintf(p->text, sizeof(p->text), "%s", done.text);
	}
	call_free(&p->call);
	p->sent = false;
	return ret;
}

static void answer(struct agent *a, struct point *p, const struct tm_err *err)
{
	struct request *rq, *next;

	for (rq = a->requests; rq; rq = next) {
		next = rq->next;
		if (rq->by != p || rq->done)
			continue;
		rq->point = p->id;
		rq->made = p->c.kind;
		snprintf(rq->text, sizeof(rq->text), "%s", p->reason[0] ? p->reason : p->text);
		request_end(a, rq, err);
	}
}

void point_put_back(struct agent *a, struct point *p)
{
	for (struct request *rq = a->requests; rq; rq = rq->next) {
		if (rq->by != p)
			continue;
		rq->taken = false;
		rq->by = NULL;
	}
}

static bool lists(const struct point *p, uint64_t piece)
{
	for (uint32_t i = 0; i < p->npieces; i++)
		if (p->pieces[i] == piece)
			return true;
	return false;
}

/* The state's doubts of disks whose pieces are visible now; saved with the rest. */
static int note(struct agent *a, struct point *p, struct tm_err *err)
{
	struct state *st = &a->state;
	LOCK_SCOPE(&st->lock);

	if (p->id) {
		st->point = p->id;
		st->point_time = p->c.cut_realtime_ns;
	}
	for (struct member *m = a->members; m; m = m->next) {
		struct state_disk *d = state_find(st, m->uuid);

		if (d && m->piece && lists(p, m->piece)) {
			d->doubt[0] = '\0';
			d->compare = false;
		}
	}
	return p->npieces ? state_save(st, err) : 0;
}

void point_done(struct agent *a, struct point *p)
{
	struct tm_err none = {0}, err;
	char took[TM_TEXT_ROOM];

	if (note(a, p, &err))
		agent_error(a, TODO_STATE, "%s", err.msg);
	for (struct member *m = a->members; m; m = m->next) {
		if (m->piece && lists(p, m->piece)) {
			m->piece = 0;
			m->phase = TM_DISK_WHOLE;
			m->state = SYNC_CONTINUOUS;
		}
		if (p->id && member_joined(m))
			m->last_point = p->id;
	}
	if (p->freeze_ns)
		a->freeze_ns = p->freeze_ns;
	tm_duration_format(tm_mono_ns() - p->began, took);
	if (p->id)
		tm_log(p->label[0] || p->npieces || p->c.kind == TM_POINT_SCAN ? TM_LOG_INFO
									       : TM_LOG_DEBUG,
			"point %llu after %s", (unsigned long long)p->id, took);
	else
		tm_log(TM_LOG_INFO, "stored, but no point yet: %s", p->text);
	answer(a, p, &none);
}

/* Pieces whose epoch was refused are of no use any more, but for an initial sync, which stays complete. */
static void drop_pieces(struct agent *a)
{
	for (struct member *m = a->members; m; m = m->next) {
		uint64_t piece = m->piece;

		if (!piece || m->phase == TM_DISK_INITIAL || m->phase == TM_DISK_NEW)
			continue;
		m->piece = 0;
		pthread_mutex_unlock(&a->lock);
		piece_abort(a, piece);
		pthread_mutex_lock(&a->lock);
	}
}

void point_failed(struct agent *a, struct point *p, const struct tm_err *err)
{
	if (session_ended(a->session, NULL, NULL)) {
		point_put_back(a, p);
		return;
	}
	agent_error(a, "nothing: the next point is tried by itself; earlier ones stay",
		"no point: %s", err->msg);
	answer(a, p, err);
	drop_pieces(a);
	if (p->refusal == TM_E_PARENT)
		session_fail(a->session, err, p->refusal);
}

int new_line(struct agent *a, const char *why, struct tm_err *err)
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

void alarm_gone(struct agent *a, const struct tm_msg_welcome *w)
{
	struct state *st = &a->state;
	char is[TM_EPOCH_TEXT], was[TM_EPOCH_TEXT], when[TM_TEXT_ROOM];
	unsigned long long head = w->head_attempt, point;

	pthread_mutex_lock(&st->lock);
	tm_epoch_format(&st->acked, was);
	tm_time_format(st->point_time, when);
	point = st->point;
	pthread_mutex_unlock(&st->lock);
	LOCK_SCOPE(&a->lock);
	a->alarms++;
	if (point > head)
		agent_error(a,
			"find out who put back an older copy of the server's store; a resync runs by itself",
			"ALARM: the server went back in time: acknowledged points after %llu up to %llu (%s) are gone; resync under a new tracking",
			head, point, when);
	else
		agent_error(a, "find out who else writes as this machine; a resync runs by itself",
			"ALARM: the server's newest epoch (%s, point %llu) is not ours (%s, point %llu of %s): resync under a new tracking",
			tm_epoch_format(&w->head, is), head, was, point, when);
}
