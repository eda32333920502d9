// SPDX-License-Identifier: Apache-2.0
#include "agent/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

const char *sync_state_name(enum sync_state state)
{
	static const char *const names[] = {
		"waiting", "initial", "continuous", "resync", "catch-up", "paused", "held", "gone"};

	return state < TM_ARRAY_SIZE(names) ? names[state] : "unknown";
}

/* A change of size or of the scan's line is doubt: the server is told by a new tracking UUID. */
static int note_size(struct member *m, struct state_disk *d, struct tm_err *err)
{
	struct state *st = &m->agent->state;

	if (d->ident.size == m->info.ident.size && !strcmp(d->path, m->info.path) &&
		!strcmp(d->ident.table, m->info.ident.table) &&
		!strcmp(d->ident.fs, m->info.ident.fs))
		return 0;
	if (d->ident.size != m->info.ident.size) {
		tm_log_of(TM_LOG_WARNING, NULL, m->info.path,
			"%s: size changed from %llu to %llu bytes: resync", m->info.path,
			(unsigned long long)d->ident.size, (unsigned long long)m->info.ident.size);
		tm_uuid_new(d->tracking);
		snprintf(d->doubt, sizeof(d->doubt), "its size changed");
	}
	d->ident = m->info.ident;
	snprintf(d->path, sizeof(d->path), "%s", m->info.path);
	return state_save(st, err);
}

int member_open(struct member *m, struct tm_err *err)
{
	struct state *st = &m->agent->state;
	struct state_disk *d, copy;
	int ret;

	pthread_mutex_lock(&st->lock);
	d = state_find(st, m->uuid);
	if (d)
		copy = *d;
	pthread_mutex_unlock(&st->lock);
	if (!d)
		return tm_fail(err, ENOENT, "not protected any more");
	snprintf(m->info.path, sizeof(m->info.path), "%s", copy.path);
	snprintf(m->info.name, sizeof(m->info.name), "%s", strrchr(copy.path, '/') + 1);
	m->tracker = copy.tracker;
	if (disk_find(&copy.ident, copy.path, &m->info, err))
		return -err->code;
	m->fd = open(m->info.path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (m->fd < 0)
		return tm_fail_errno(err, "%s cannot be opened", m->info.path);
	pthread_mutex_lock(&st->lock);
	d = state_find(st, m->uuid);
	ret = d ? note_size(m, d, err) : tm_fail(err, ENOENT, "not protected any more");
	if (!ret)
		memcpy(m->tracking, d->tracking, TM_UUID);
	pthread_mutex_unlock(&st->lock);
	return ret;
}

static int take_state(struct member *m, const struct tm_in_disk_state *in, struct tm_err *err)
{
	LOCK_SCOPE(&m->agent->lock);

	if (!tm_uuid_equal(in->m->disk, m->uuid))
		return tm_fail(err, EPROTO, "the server answered for another disk");
	m->handle = in->m->handle;
	m->phase = in->m->phase;
	m->attempt = in->m->attempt;
	tm_extents_clear(&m->have);
	for (uint32_t i = 0; i < in->m->nranges; i++)
		if (tm_extents_add(&m->have, in->ranges[i].block, in->ranges[i].count))
			return tm_fail(err, ENOMEM, "no memory for the list of what is durable");
	m->state = m->phase == TM_DISK_WHOLE    ? SYNC_CONTINUOUS
		   : m->phase == TM_DISK_RESYNC ? SYNC_RESYNC
						: SYNC_INITIAL;
	return 0;
}

int member_announce(struct member *m, struct tm_err *err)
{
	struct tm_msg_disk_open open = {
		.size = m->info.ident.size, .sector = m->info.sector, .tracker = m->tracker};
	struct agent *a = m->agent;
	struct tm_in_disk_state in;
	struct tm_out out;
	struct call call;
	int ret;

	memcpy(open.disk, m->uuid, TM_UUID);
	memcpy(open.tracking, m->tracking, TM_UUID);
	if (tm_build_disk_open(&out, &open, m->info.name, m->info.ident.serial, err))
		return -err->code;
	ret = session_call(a->session, &call, &out, TM_MSG_DISK_STATE, 0, err);
	if (!ret)
		ret = tm_parse_disk_state(call.body, call.len, &in, err);
	if (!ret)
		ret = take_state(m, &in, err);
	call_free(&call);
	return ret;
}

int piece_begin(
	struct member *m, uint8_t kind, uint64_t *attempt, uint32_t *part, struct tm_err *err)
{
	struct tm_msg_attempt_begin begin = {
		.attempt = *attempt, .kind = kind, .fresh = *attempt != 0, .handle = m->handle};
	struct tm_in_attempt in;
	struct tm_out out;
	struct call call;
	int ret;

	if (tm_build_attempt_begin(&out, &begin, err))
		return -err->code;
	ret = session_call(m->agent->session, &call, &out, TM_MSG_ATTEMPT, 0, err);
	if (!ret)
		ret = tm_parse_attempt(call.body, call.len, &in, err);
	if (!ret) {
		*attempt = in.m->attempt;
		*part = in.m->part;
	}
	call_free(&call);
	return ret;
}

int piece_commit(struct member *m, struct stream *s, bool last, struct tm_err *err)
{
	struct tm_msg_part_commit pc = {.attempt = s->attempt, .handle = s->handle, .last = last};
	const struct tm_msg_part_done *done;
	struct tm_out out;
	struct call call;
	int ret;

	if (stream_flush(s, err))
		return -err->code;
	pc.part = s->part;
	pc.frames = s->frames;
	pc.digest = s->digest;
	if (tm_build_part_commit(&out, &pc, err))
		return -err->code;
	ret = session_call(m->agent->session, &call, &out, TM_MSG_PART_DONE, s->attempt, err);
	if (!ret)
		ret = tm_parse_part_done(call.body, call.len, &done, err);
	call_free(&call);
	if (!ret)
		stream_next_part(s);
	return ret;
}

void piece_abort(struct agent *a, uint64_t attempt)
{
	struct tm_msg_abort m = {.attempt = attempt};
	struct tm_out out;
	struct call call;
	struct tm_err err;

	if (!tm_build_abort(&out, &m, &err))
		(void)session_call(a->session, &call, &out, TM_MSG_OK, 0, &err);
	call_free(&call);
}
