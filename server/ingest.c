// SPDX-License-Identifier: Apache-2.0
/*
 * Data connections: cells into the store. A frame is either stored whole or not at all, and is acknowledged only when stored; what
 * is wrong with it ends the connection before anything of it is kept.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"
#include "server/compare.h"
#include "server/session.h"

#define PART_WAIT_NS (10 * TM_SEC)
#define EXTENTS_MAX  65536u /* of a part: what is beyond is only sent twice after a restart */
#define IDLE_MS      1000   /* after which a big buffer is given back */
#define SMALL_FRAME  (64u << 10)

struct ingest {
	struct session *s;
	struct machine *m;
	struct tm_conn *c;
	uint8_t *buf;
	size_t room;
};

/* Makes the buffer large enough; large ones count against the budget for as long as they are kept. */
static int buffer(struct ingest *in, size_t len, struct refusal *r)
{
	size_t room = len <= SMALL_FRAME ? SMALL_FRAME : TM_FRAME_MAX;

	if (in->room >= len)
		return 0;
	free(in->buf);
	in->buf = NULL;
	if (in->room > SMALL_FRAME)
		budget_give(&in->m->server->budget, in->room);
	in->room = 0;
	if (room > SMALL_FRAME)
		budget_take(&in->m->server->budget, room);
	in->buf = malloc(room);
	if (!in->buf) {
		if (room > SMALL_FRAME)
			budget_give(&in->m->server->budget, room);
		return refuse(r, TM_E_BUSY, 0, "out of memory");
	}
	in->room = room;
	return 0;
}

static void buffer_free(struct ingest *in)
{
	free(in->buf);
	if (in->room > SMALL_FRAME)
		budget_give(&in->m->server->budget, in->room);
	in->buf = NULL;
	in->room = 0;
}

/*
 * The attempt that the frame belongs to, or NULL with r. The next part's first frames may come on this connection before the PART_COMMIT
 * on the control connection has been handled. Caller holds m->lock.
 */
static struct attempt *attempt_of(struct ingest *in, const struct tm_msg_data *h, struct refusal *r)
{
	uint64_t until = tm_mono_ns() + PART_WAIT_NS;
	struct timespec ts = tm_timespec(until);
	struct machine *m = in->m;

	for (;;) {
		struct attempt *a = attempt_find(m, h->attempt);

		if (!a || a->closed || a->session != in->s->id) {
			refuse(r, TM_E_STALE, h->attempt, "the attempt is unknown or has ended");
			return NULL;
		}
		if (h->part == a->part)
			return a;
		if (h->part != a->part + 1 || a->kind == TM_ATTEMPT_EPOCH || tm_mono_ns() > until) {
			refuse(r, TM_E_STALE, h->attempt, "part %u is not open (%u is)", h->part,
				a->part);
			return NULL;
		}
		pthread_cond_clockwait(&m->changed, &m->lock, CLOCK_MONOTONIC, &ts);
	}
}

/* 1: goes on, a->busy is counted; 0: a duplicate; -1 refused. */
static int enter(struct ingest *in, const struct tm_msg_data *h, struct attempt **out,
	uint64_t *blocks, uint32_t *no, struct refusal *r)
{
	struct machine *m = in->m;
	LOCK_SCOPE(&m->lock);
	struct attempt *a = attempt_of(in, h, r);
	struct disk *d = machine_disk(m, h->handle);
	struct frames *f;

	if (!a)
		return -1;
	if (!d || (a->kind != TM_ATTEMPT_EPOCH && a->handle != h->handle))
		return refuse(r, TM_E_STALE, h->attempt,
			"disk %u is not open, or not the attempt's", h->handle);
	f = attempt_frames(a, h->handle, false);
	if (f && frames_has(f, h->frame))
		return 0;
	a->busy++;
	*out = a;
	*no = d->no;
	*blocks = (d->c.size + TM_BLOCK - 1) / TM_BLOCK;
	return 1;
}

static void leave(struct machine *m, struct attempt *a)
{
	a->busy--;
	pthread_cond_broadcast(&m->changed);
}

static int check_cells(const struct tm_in_data *data, uint64_t blocks, struct refusal *r)
{
	size_t at = 0, size;
	uint32_t n = 0;
	struct tm_err err;

	while (at < data->len) {
		if (tm_cell_check(data->cells + at, data->len - at, blocks, &size, &err))
			return refuse(r, TM_E_PROTO, data->m->attempt, "frame %u, cell %u: %s",
				data->m->frame, n, err.msg);
		at += size;
		n++;
	}
	if (n != data->m->ncells)
		return refuse(r, TM_E_PROTO, data->m->attempt, "frame %u has %u cells, not %u",
			data->m->frame, n, data->m->ncells);
	return 0;
}

/* What an initial sync need not send again once the part is durable. Caller holds m->lock. */
static void note_blocks(struct attempt *a, const struct tm_in_data *data)
{
	for (size_t at = 0; at < data->len;) {
		const struct tm_cell *cell = (const void *)(data->cells + at);

		if (a->blocks.n >= EXTENTS_MAX ||
			tm_extents_add(&a->blocks, cell->block, cell->count))
			a->uncounted = true; /* sent twice */
		at += sizeof(*cell) + cell->len;
	}
}

/* Registers the frame, 1; 0 if another connection was first; -1. */
static int claim(struct machine *m, struct attempt *a, const struct tm_msg_data *h, uint64_t digest,
	struct refusal *r)
{
	LOCK_SCOPE(&m->lock);
	struct frames *f = attempt_frames(a, h->handle, true);
	struct tm_err err;
	int rc;

	if (!f)
		return refuse(r, TM_E_BUSY, h->attempt, "out of memory");
	rc = frames_add(f, h->frame, digest, &err);
	if (rc < 0)
		return refuse(r, rc == -ENOMEM ? TM_E_BUSY : TM_E_PROTO, h->attempt, "%s", err.msg);
	return rc;
}

static int store_frame(struct machine *m, struct attempt *a, const struct tm_in_data *data,
	uint32_t no, uint64_t digest, struct refusal *r)
{
	struct tm_err err, ignored;
	int rc = store_put(m->server->store, a->seq, no, data->cells, data->len, &err);
	LOCK_SCOPE(&m->lock);
	struct frames *f;

	if (!rc) {
		if (a->kind == TM_ATTEMPT_INITIAL)
			note_blocks(a, data);
		a->bytes += data->len;
		m->received += data->len;
		return 0;
	}
	f = attempt_frames(a, data->m->handle, false);
	if (f)
		frames_remove(f, data->m->frame, digest, &ignored);
	if (rc == -EIO || rc == -ESTALE)
		a->closed = a->lost = true;
	return refuse_store(r, rc, a->seq, &err);
}

/* A frame that has been entered. */
static int accept_frame(struct ingest *in, struct attempt *a, const struct tm_in_data *data,
	uint64_t blocks, uint32_t no, struct refusal *r)
{
	uint64_t digest;
	int rc = check_cells(data, blocks, r);

	if (rc)
		return rc;
	digest = frames_digest(data->m->frame, data->cells, data->len);
	rc = claim(in->m, a, data->m, digest, r);
	return rc <= 0 ? rc : store_frame(in->m, a, data, no, digest, r);
}

static int data_frame(struct ingest *in, const void *body, size_t len, struct refusal *r)
{
	struct tm_in_data data;
	struct tm_msg_ack ack;
	struct attempt *a = NULL;
	struct tm_out out;
	struct tm_err err;
	uint64_t blocks = 0;
	uint32_t no = 0;
	int rc;

	if (tm_parse_data(body, len, &data, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	rc = enter(in, data.m, &a, &blocks, &no, r);
	if (rc > 0) {
		rc = accept_frame(in, a, &data, blocks, no, r);
		pthread_mutex_lock(&in->m->lock);
		leave(in->m, a);
		pthread_mutex_unlock(&in->m->lock);
	}
	if (rc)
		return -1;
	ack = (struct tm_msg_ack){.attempt = data.m->attempt,
		.handle = data.m->handle,
		.part = data.m->part,
		.frame = data.m->frame};
	if (tm_build_ack(&out, &ack, &err) == 0)
		tm_conn_send_msg(in->c, &out, &err); /* if it broke, the next receive says so */
	return 0;
}

/* One message. 0, -1 refused; 1: the connection has ended. */
static int next_message(struct ingest *in, uint16_t *about, struct refusal *r)
{
	struct tm_frame h;
	struct tm_err err;
	int rc;

	*about = 0;
	rc = tm_conn_recv(in->c, in->room > SMALL_FRAME ? IDLE_MS : -1, &h, &err);
	if (rc == -EAGAIN) {
		buffer_free(in);
		return 0;
	}
	if (!rc) {
		*about = h.type;
		if (session_check(in->s, r) || buffer(in, h.length, r))
			return -1;
		rc = tm_conn_body(in->c, in->buf, h.length, &err);
	}
	if (rc == -EPROTO || rc == -EBADMSG || rc == -EMSGSIZE)
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	if (rc)
		return 1;
	if (h.type == TM_MSG_DATA)
		return data_frame(in, in->buf, h.length, r);
	if (h.type == TM_MSG_COMPARE)
		return compare_serve(in->s, in->c, in->buf, h.length, r);
	return refuse(r, TM_E_PROTO, 0, "not expected here");
}

static void converse(struct ingest *in)
{
	struct refusal r = {.fatal = false};
	uint16_t about;
	int rc = 0;

	while (rc != 1 && !r.fatal) {
		rc = next_message(in, &about, &r);
		if (rc < 0) {
			/* An unread body leaves nothing to go on with. */
			r.fatal |= r.code == TM_E_BUSY;
			refusal_send(in->c, &r, about, in->m->name);
		}
	}
	buffer_free(in);
	if (rc < 0)
		tm_conn_finish(in->c, 2000);
}

/* Takes the place in the session; a half-open predecessor at the same index is cut off. Caller holds m->lock. */
static int join(struct machine *m, struct tm_conn *c, const struct tm_msg_hello_data *h,
	struct session **s, struct refusal *r)
{
	uint64_t until = tm_mono_ns() + PART_WAIT_NS;

	for (;;) {
		struct timespec ts = tm_timespec(until);

		*s = m->session;
		if (!*s || (*s)->id != h->session || (*s)->ending) {
			refuse(r, TM_E_STALE, 0, "the session has ended");
			r->fatal = true;
			return -1;
		}
		if (!(*s)->data[h->index])
			break;
		tm_conn_cancel((*s)->data[h->index]);
		if (tm_mono_ns() > until)
			return refuse(r, TM_E_BUSY, 0, "data connection %u is in use", h->index);
		pthread_cond_clockwait(&m->changed, &m->lock, CLOCK_MONOTONIC, &ts);
	}
	(*s)->data[h->index] = c;
	(*s)->ndata++;
	session_get(*s);
	return 0;
}

int ingest_serve(struct server *srv, struct machine *m, struct tm_conn *c,
	const struct tm_msg_hello_data *hello, struct refusal *r)
{
	struct ingest in = {.m = m, .c = c};
	struct tm_out out;
	struct tm_err err;
	int rc;

	if (hello->index >= srv->conf.data_max || hello->index >= SESSION_DATA_MAX)
		return refuse(r, TM_E_PROTO, 0, "data connection %u: at most %llu", hello->index,
			(unsigned long long)srv->conf.data_max);
	pthread_mutex_lock(&m->lock);
	rc = join(m, c, hello, &in.s, r);
	pthread_mutex_unlock(&m->lock);
	if (rc)
		return rc;
	pthread_mutex_lock(&srv->lock);
	srv->strangers--;
	pthread_mutex_unlock(&srv->lock);
	tm_conn_expect(c, TM_STAGE_DATA);
	if (tm_build_ok(&out, &err) == 0 && tm_conn_send_msg(c, &out, &err) == 0)
		converse(&in);
	pthread_mutex_lock(&srv->lock);
	srv->strangers++;
	pthread_mutex_unlock(&srv->lock);
	pthread_mutex_lock(&m->lock);
	in.s->data[hello->index] = NULL;
	in.s->ndata--;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	session_put(in.s);
	return 0;
}
