// SPDX-License-Identifier: Apache-2.0
/* What "agentctl status" and "agentctl disks" show. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control.h"
#include "agent/tracker.h"
#include "agent/throttle.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/units.h"
#include "common/uuid.h"

static struct member *member_of(struct agent *a, const struct state_disk *d)
{
	struct member *m = a->members;

	while (m && !tm_uuid_equal(m->uuid, d->uuid))
		m = m->next;
	return m;
}

static const char *shown_state(const struct agent *a, const struct member *m)
{
	if (a->held)
		return sync_state_name(SYNC_HELD);
	if (m && m->state == SYNC_GONE)
		return sync_state_name(SYNC_GONE);
	if (a->paused)
		return sync_state_name(SYNC_PAUSED);
	if (m && m->running && m->job == JOB_RESYNC)
		return sync_state_name(SYNC_RESYNC);
	return sync_state_name(m ? m->state : SYNC_WAITING);
}

static const char *job_name(const struct member *m)
{
	static const char *const names[] = {"", "initial sync", "resync", "pass", "verify"};

	return m && m->running ? names[m->job] : "";
}

/* Seconds until the running job ends, by its rate so far. */
static void add_left(cJSON *o, const struct member *m)
{
	uint64_t ns = tm_mono_ns() - m->started;

	if (!m->running || !m->done || m->done <= m->began_at || ns < TM_SEC)
		return;
	tm_json_u64(o, "seconds_left",
		(uint64_t)((double)(m->total - m->done) / (double)(m->done - m->began_at) *
			   (double)ns / 1e9));
}

static void add_disk(cJSON *list, struct agent *a, const struct state_disk *d)
{
	const struct member *m = member_of(a, d);
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", strrchr(d->path, '/') + 1);
	cJSON_AddStringToObject(o, "path", d->path);
	tm_json_uuid(o, "uuid", d->uuid);
	cJSON_AddStringToObject(o, "state", shown_state(a, m));
	cJSON_AddStringToObject(o, "job", job_name(m));
	cJSON_AddStringToObject(o, "tracker", d->tracker == TM_TRACKER_KMOD ? "kmod" : "scan");
	tm_json_u64(o, "size", d->ident.size);
	/* A piece that is complete stays so until an epoch makes it visible. */
	tm_json_u64(o, "done", m && (m->running || m->piece) ? m->done : 0);
	tm_json_u64(o, "total", m && (m->running || m->piece) ? m->total : 0);
	tm_json_u64(o, "backlog", m ? m->backlog : 0);
	tm_json_u64(o, "last_point", m ? m->last_point : 0);
	tm_json_u64(o, "wire_bytes", m ? m->sent_total + m->sent_bytes : 0);
	tm_json_u64(o, "differing_chunks", m ? m->differ : 0);
	tm_json_u64(o, "bad_blocks", m ? m->bad : 0);
	cJSON_AddStringToObject(o, "doubt", d->doubt);
	cJSON_AddStringToObject(o, "error", m ? m->error : "");
	if (m)
		add_left(o, m);
	cJSON_AddItemToArray(list, o);
}

/* Caller holds both locks. */
static void add_counters(cJSON *o, struct agent *a)
{
	uint64_t wire = a->wire_past;
	struct tm_conn_stats st;
	unsigned links = 0;

	if (a->ship) {
		ship_stats(a->ship, &st, &links);
		wire += st.sent + st.received;
	}
	if (a->session) {
		session_stats(a->session, &st);
		wire += st.sent + st.received;
	}
	cJSON_AddNumberToObject(o, "connections", links);
	tm_json_u64(o, "read_bytes", pipeline_read_bytes(a->pipeline));
	tm_json_u64(o, "compared_bytes", a->compared_bytes);
	tm_json_u64(o, "wire_bytes", wire);
	tm_json_u64(o, "read_rate", a->session ? a->read_rate : 0);
	tm_json_u64(o, "wire_rate", a->session ? a->wire_rate : 0);
}

static void add_machine(cJSON *o, struct agent *a)
{
	struct state *st = &a->state;
	char server[300] = "";

	cJSON_AddBoolToObject(o, "enrolled", a->enrolled);
	if (a->enrolled) {
		tm_json_uuid(o, "machine", a->id.machine);
		snprintf(server, sizeof(server), "%s:%u", a->id.host, a->id.port);
	} else {
		cJSON_AddNullToObject(o, "machine");
	}
	cJSON_AddStringToObject(o, "server", server);
	cJSON_AddBoolToObject(o, "connected", a->session && a->ship);
	cJSON_AddStringToObject(o, "link",
		a->held                 ? "held"
		: a->session && a->ship ? "connected"
					: "down");
	cJSON_AddBoolToObject(o, "paused", a->paused);
	cJSON_AddBoolToObject(o, "server_full", a->full);
	tm_json_u64(o, "throttle", tm_rate_get(&a->rate));
	cJSON_AddStringToObject(o, "throttle_by", throttle_by(a));
	cJSON_AddStringToObject(o, "engine", pipeline_engine(a->pipeline));
	if (a->rpo_ms == UINT64_MAX)
		cJSON_AddNullToObject(o, "rpo_ms");
	else
		tm_json_u64(o, "rpo_ms", a->rpo_ms);
	tm_json_u64(o, "last_point", st->point);
	tm_json_time(o, "last_point_time", st->point_time);
	tm_json_u64(o, "freeze_ms", (a->freeze_ns + TM_MS - 1) / TM_MS);
	tm_json_u64(o, "alarms", a->alarms);
	cJSON_AddStringToObject(o, "last_error", a->error);
	tm_json_time(o, "last_error_time", a->error_time);
	cJSON_AddStringToObject(o, "last_error_todo", a->todo ? a->todo : "");
}

void status_line(const struct agent *a, char *out, size_t room)
{
	unsigned n = 0, whole = 0;
	char rpo[TM_TEXT_ROOM];

	for (const struct member *m = a->members; m; m = m->next) {
		n++;
		whole += m->state == SYNC_CONTINUOUS;
	}
	if (!a->enrolled)
		snprintf(out, room, "not enrolled");
	else if (a->held)
		snprintf(out, room, "held by the server until an operator decides");
	else if (!a->session || !a->ship)
		snprintf(out, room, "not connected: %s", a->error[0] ? a->error : "just begun");
	else if (a->rpo_ms == UINT64_MAX)
		snprintf(out, room, "%u of %u disks in sync, no point yet%s", whole, n,
			a->paused ? ", paused" : "");
	else
		snprintf(out, room, "%u of %u disks in sync, newest point %s old%s", whole, n,
			tm_duration_format(a->rpo_ms * TM_MS, rpo), a->paused ? ", paused" : "");
}

int control_status(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct agent *a = call->ctx;
	cJSON *o = cJSON_CreateObject(), *disks;
	LOCK_SCOPE(&a->lock);
	LOCK_SCOPE(&a->state.lock);

	add_machine(o, a);
	add_counters(o, a);
	if (a->tracker)
		a->tracker->status(a, o);
	disks = cJSON_AddArrayToObject(o, "disks");
	for (size_t i = 0; i < a->state.ndisks; i++)
		if (!a->state.disks[i].leaving)
			add_disk(disks, a, &a->state.disks[i]);
	*result = o;
	return 0;
}

/* Why a disk is not, or cannot be, protected; "" if it is. */
static const char *protection(struct agent *a, const struct disk_info *d, bool *is)
{
	LOCK_SCOPE(&a->state.lock);
	char why[300];

	*is = false;
	for (size_t i = 0; i < a->state.ndisks; i++) {
		const struct state_disk *s = &a->state.disks[i];

		if (!s->leaving && !strcmp(s->path, d->path) &&
			disk_same(&s->ident, &d->ident, why, sizeof(why)))
			*is = true;
	}
	return d->why_not;
}

int control_disks(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	CLEANUP_FREE struct disk_info *list = NULL;
	struct agent *a = call->ctx;
	cJSON *disks;
	size_t n;
	bool is;

	if (disk_list(&list, &n, err))
		return -err->code;
	*result = cJSON_CreateObject();
	disks = cJSON_AddArrayToObject(*result, "disks");
	for (size_t i = 0; i < n; i++) {
		cJSON *o = cJSON_CreateObject();
		const char *why = protection(a, &list[i], &is);

		cJSON_AddStringToObject(o, "name", list[i].name);
		cJSON_AddStringToObject(o, "path", list[i].path);
		tm_json_u64(o, "size", list[i].ident.size);
		cJSON_AddNumberToObject(o, "sector", list[i].sector);
		cJSON_AddStringToObject(o, "model", list[i].model);
		cJSON_AddStringToObject(o, "serial", list[i].ident.serial);
		cJSON_AddStringToObject(o, "content", list[i].content);
		cJSON_AddBoolToObject(o, "protected", is);
		cJSON_AddBoolToObject(o, "possible", !why[0]);
		cJSON_AddStringToObject(o, "why_not", why);
		cJSON_AddItemToArray(disks, o);
	}
	return 0;
}
