// SPDX-License-Identifier: Apache-2.0
/* DISK_OPEN and DISK_CLOSE: in which state a disk is, by what was committed of it and under which tracking. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/uuid.h"
#include "server/compare.h"
#include "server/session.h"

/* Finds the disk or makes it; its name, size and so on are as the agent says, in store and catalog too. */
static int enlist(
	struct machine *m, const struct tm_in_disk_open *in, struct disk **d, struct tm_err *err)
{
	struct store_disk sd = {.size = in->m->size};
	struct catalog_disk c = {.size = in->m->size};
	int rc;

	memcpy(sd.machine, m->uuid, TM_UUID);
	memcpy(sd.uuid, in->m->disk, TM_UUID);
	memcpy(sd.name, in->name, sizeof(sd.name));
	memcpy(sd.serial, in->serial, sizeof(sd.serial));
	rc = store_disk_register(m->server->store, &sd, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&m->lock);
	*d = machine_disk_find(m, in->m->disk);
	pthread_mutex_unlock(&m->lock);
	if (*d)
		return 0;
	memcpy(c.uuid, in->m->disk, TM_UUID);
	return machine_disk_add(m, &c, sd.no, d, err);
}

/* True if the row has to be written. Caller holds m->lock. */
static bool take_over(struct disk *d, const struct tm_in_disk_open *in)
{
	struct catalog_disk c = d->c;

	memset(c.name, 0, sizeof(c.name));
	memset(c.serial, 0, sizeof(c.serial));
	strcpy(c.name, in->name);
	strcpy(c.serial, in->serial);
	if (c.size != in->m->size && c.joined)
		memset(c.tracking, 0, TM_UUID); /* another size is a doubt, for good */
	c.size = in->m->size;
	c.sector = in->m->sector;
	c.tracker = in->m->tracker;
	c.closed = false;
	if (memcmp(&c, &d->c, sizeof(c)) == 0)
		return false;
	d->c = c;
	return true;
}

/* Pieces under another tracking will never be gone on with. Caller holds m->lock; it is dropped meanwhile. */
static void end_foreign_pieces(struct machine *m, uint32_t handle, const uint8_t *tracking)
{
	struct attempt *a = m->attempts;

	while (a) {
		if (a->kind != TM_ATTEMPT_EPOCH && a->handle == handle && attempt_may_end(a) &&
			!tm_uuid_equal(a->tracking, tracking)) {
			attempt_abort(m, a);
			a = m->attempts;
		} else {
			a = a->next;
		}
	}
}

static struct attempt *initial_piece(struct machine *m, uint32_t handle)
{
	for (struct attempt *a = m->attempts; a; a = a->next)
		if (a->kind == TM_ATTEMPT_INITIAL && a->handle == handle && !a->closed)
			return a;
	return NULL;
}

/* Caller holds m->lock. */
static void state_of(struct machine *m, struct disk *d, struct tm_msg_disk_state *state)
{
	struct attempt *a = initial_piece(m, d->handle);
	bool whole = d->c.joined && tm_uuid_equal(d->c.tracking, d->tracking);

	memcpy(state->disk, d->c.uuid, TM_UUID);
	state->handle = d->handle;
	if (d->c.pending && tm_uuid_equal(d->c.pending_tracking, d->tracking))
		whole = true; /* no session begins before its commit has ended: only this one can see it */
	if (whole) {
		state->phase = TM_DISK_WHOLE;
	} else if (a) {
		state->phase = TM_DISK_INITIAL;
		state->attempt = a->seq;
		state->next_part = a->part;
	} else {
		state->phase = d->c.joined ? TM_DISK_RESYNC : TM_DISK_NEW;
	}
}

static int answer(struct session *s, struct disk *d, struct refusal *r)
{
	struct machine *m = s->machine;
	CLEANUP_FREE struct store_range *done = NULL;
	struct tm_msg_disk_state state = {.phase = TM_DISK_NEW};
	size_t n = 0;
	uint32_t part;
	uint64_t seq;
	struct tm_out out;
	struct tm_err err;
	int rc;

	pthread_mutex_lock(&m->lock);
	state_of(m, d, &state);
	pthread_mutex_unlock(&m->lock);
	if (state.phase == TM_DISK_INITIAL) {
		rc = store_attempt_resume(m->server->store, d->no, TM_ATTEMPT_INITIAL, d->tracking,
			&seq, &done, &n, &part, &err);
		if (rc && rc != -ENOENT)
			return refuse_store(r, rc, 0, &err);
		if (rc || seq != state.attempt)
			n = 0; /* all is sent again: slower, never wrong */
	}
	if (n > TM_RANGES_MAX)
		n = TM_RANGES_MAX;
	if (tm_build_disk_state(&out, &state, done, (uint32_t)n, &err))
		return refuse(r, TM_E_IO, 0, "%s", err.msg);
	tm_conn_send_msg(s->conn, &out, &err); /* a broken connection shows at the next receive */
	return 0;
}

int disk_open(struct session *s, const void *body, size_t len, struct refusal *r)
{
	struct machine *m = s->machine;
	struct tm_in_disk_open in;
	struct tm_err err;
	struct disk *d;
	bool dirty;
	int rc;

	if (tm_parse_disk_open(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	if (tm_uuid_is_zero(in.m->disk) || tm_uuid_is_zero(in.m->tracking))
		return refuse(r, TM_E_PROTO, 0, "a disk or tracking UUID of zero");
	rc = enlist(m, &in, &d, &err);
	if (rc)
		return refuse_store(r, rc, 0, &err);
	pthread_mutex_lock(&m->lock);
	dirty = take_over(d, &in);
	d->open = true;
	memcpy(d->tracking, in.m->tracking, TM_UUID);
	compare_drop(m, d);
	end_foreign_pieces(m, d->handle, d->tracking);
	pthread_mutex_unlock(&m->lock);
	compare_reap(m);
	if (dirty && (disk_save(m, d, &err) || machine_note(m, &err)))
		return refuse(r, TM_E_IO, 0, "%s", err.msg);
	return answer(s, d, r);
}

int disk_close(struct session *s, const void *body, size_t len, struct refusal *r)
{
	struct machine *m = s->machine;
	const struct tm_msg_disk_close *in;
	struct tm_out out;
	struct tm_err err;
	struct disk *d;

	if (tm_parse_disk_close(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	pthread_mutex_lock(&m->lock);
	d = machine_disk_find(m, in->disk);
	if (d) {
		static const uint8_t none[TM_UUID];

		d->open = false;
		d->c.closed = true;
		d->c.joined = false;
		memset(d->c.tracking, 0, TM_UUID);
		compare_drop(m, d);
		end_foreign_pieces(m, d->handle, none);
	}
	pthread_mutex_unlock(&m->lock);
	compare_reap(m);
	if (d && (disk_save(m, d, &err) || machine_note(m, &err)))
		return refuse(r, TM_E_IO, 0, "%s", err.msg);
	if (d)
		tm_log_of(TM_LOG_NOTICE, m->name, d->c.name,
			"machine %s: disk %s is no longer protected", m->name, d->c.name);
	if (tm_build_ok(&out, &err) == 0)
		tm_conn_send_msg(s->conn, &out, &err);
	return 0;
}
