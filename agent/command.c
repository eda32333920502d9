// SPDX-License-Identifier: Apache-2.0
#include "agent/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/tracker.h"
#include "agent/throttle.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

/* Bytes per second since the last heartbeat. Caller holds the lock. */
static void rates(struct agent *a)
{
	uint64_t now = tm_mono_ns(), read = pipeline_read_bytes(a->pipeline), wire = a->wire_past;
	uint64_t ns = now - a->last_beat;
	struct tm_conn_stats st;
	unsigned links;

	if (a->ship) {
		ship_stats(a->ship, &st, &links);
		wire += st.sent + st.received;
	}
	if (a->last_beat && ns > 100 * TM_MS) {
		a->read_rate = (uint64_t)((double)(read - a->last_read) * 1e9 / (double)ns);
		a->wire_rate =
			wire < a->last_wire
				? 0
				: (uint64_t)((double)(wire - a->last_wire) * 1e9 / (double)ns);
	}
	a->last_beat = now;
	a->last_read = read;
	a->last_wire = wire;
}

static void beat(void *ctx, struct tm_msg_heartbeat *m, struct tm_disk_beat *disks, uint32_t *n,
	char error[TM_TEXT_MAX + 1])
{
	struct agent *a = ctx;
	LOCK_SCOPE(&a->lock);

	rates(a);
	m->read_rate = a->read_rate;
	m->wire_rate = a->wire_rate;
	m->paused = a->paused;
	if (a->tracker && a->tracker->clean(a))
		m->clean = a->head;
	*n = 0;
	for (struct member *mb = a->members; mb && *n < TM_DISKS_MAX; mb = mb->next) {
		if (!mb->handle)
			continue;
		disks[(*n)++] = (struct tm_disk_beat){.handle = mb->handle,
			.state = (uint8_t)(a->paused ? SYNC_PAUSED : mb->state),
			.done = mb->running ? mb->done : 0,
			.total = mb->running ? mb->total : 0,
			.backlog = mb->backlog};
	}
	snprintf(error, TM_TEXT_MAX + 1, "%s", a->error);
}

static void beat_ok(void *ctx, const struct tm_msg_heartbeat_ok *m)
{
	struct agent *a = ctx;
	LOCK_SCOPE(&a->lock);

	a->rpo_ms = m->rpo_ms;
	a->newest = m->newest;
	a->full = m->full;
}

static void tell_result(struct agent *a, uint64_t id, bool ok, uint64_t point, const char *text)
{
	struct tm_msg_command_result m = {.id = id, .point = point, .ok = ok};
	struct tm_out out;
	struct tm_err err;

	if (a->session && tm_build_command_result(&out, &m, text, &err) == 0)
		session_tell(a->session, &out);
}

void request_add(struct agent *a, struct request *rq)
{
	struct request **p = &a->requests;

	while (*p)
		p = &(*p)->next;
	*p = rq;
	rq->next = NULL;
	agent_wake(a);
}

void request_end(struct agent *a, struct request *rq, const struct tm_err *err)
{
	struct request **p = &a->requests;

	while (*p && *p != rq)
		p = &(*p)->next;
	if (*p)
		*p = rq->next;
	rq->err = *err;
	rq->done = true;
	if (rq->command)
		tell_result(a, rq->command, !err->code, rq->point, err->code ? err->msg : rq->text);
	if (rq->command || rq->dropped)
		free(rq);
	agent_wake(a);
}

static void command(void *ctx, const struct tm_in_command *c)
{
	struct agent *a = ctx;
	struct request *rq;
	struct tm_err err;
	LOCK_SCOPE(&a->lock);

	tm_log(TM_LOG_INFO, "the server asks: command %u", c->m->command);
	switch (c->m->command) {
	case TM_CMD_THROTTLE:
		pthread_mutex_lock(&a->state.lock);
		a->state.throttle = c->m->rate;
		if (state_save(&a->state, &err))
			agent_error(a, TODO_STATE, "%s", err.msg);
		pthread_mutex_unlock(&a->state.lock);
		throttle_apply(a);
		tell_result(a, c->m->id, true, 0, "");
		return;
	case TM_CMD_POINT:
	case TM_CMD_RESYNC:
	case TM_CMD_VERIFY:
		break;
	default:
		tell_result(a, c->m->id, false, 0, "this agent cannot do that");
		return;
	}
	rq = calloc(1, sizeof(*rq));
	if (!rq) {
		tell_result(a, c->m->id, false, 0, "the agent has no memory");
		return;
	}
	rq->kind = c->m->command == TM_CMD_POINT    ? REQUEST_POINT
		   : c->m->command == TM_CMD_VERIFY ? REQUEST_VERIFY
						    : REQUEST_RESYNC;
	rq->point_kind = c->m->kind;
	rq->freeze = c->m->kind == TM_POINT_APP;
	rq->command = c->m->id;
	memcpy(rq->disk, c->m->disk, TM_UUID);
	snprintf(rq->label, sizeof(rq->label), "%s", c->label);
	request_add(a, rq);
}

static void answered(void *ctx)
{
	agent_kick(ctx);
}

/* Nobody may go on waiting for ACKs that cannot come: the machine's thread itself waits for those of an epoch. */
static void ended(void *ctx)
{
	struct agent *a = ctx;
	struct ship *ship;

	pthread_mutex_lock(&a->lock);
	ship = a->ship; /* freed only after this thread has ended */
	agent_wake(a);
	pthread_mutex_unlock(&a->lock);
	if (ship)
		ship_stop(ship);
}

struct session_owner command_owner(struct agent *a)
{
	return (struct session_owner){a, beat, beat_ok, command, answered, ended};
}
