// SPDX-License-Identifier: Apache-2.0
/* ATTEMPT_BEGIN and ABORT: the two ends of an attempt that are not its commit. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/uuid.h"
#include "server/session.h"

#define GOT_MAX 65536u

/* Says what is here of the open part. Caller holds m->lock. NULL: none, or no memory (then all is sent again). */
static struct tm_frames_got *frames_got(const struct attempt *a, uint32_t *n)
{
	struct tm_frames_got *got;
	size_t total = 0;

	*n = 0;
	for (uint32_t i = 0; i < a->ndisks; i++)
		total += a->disks[i].frames.set.n;
	if (total > GOT_MAX)
		total = GOT_MAX;
	got = total ? calloc(total, sizeof(*got)) : NULL;
	for (uint32_t i = 0; got && i < a->ndisks; i++) {
		struct tm_extent e;

		for (uint64_t at = 0;
			*n < total && tm_extents_next(&a->disks[i].frames.set, at, &e);
			at = e.start + e.count)
			got[(*n)++] = (struct tm_frames_got){
				a->disks[i].handle, (uint32_t)e.start, (uint32_t)e.count};
	}
	return got;
}

static int answer(struct session *s, uint64_t seq, struct refusal *r)
{
	CLEANUP_FREE struct tm_frames_got *got = NULL;
	struct machine *m = s->machine;
	struct tm_msg_attempt msg = {.attempt = seq};
	struct attempt *a;
	struct tm_out out;
	struct tm_err err;
	uint32_t n = 0;

	pthread_mutex_lock(&m->lock);
	a = attempt_find(m, seq);
	if (a) {
		msg.part = a->part;
		got = frames_got(a, &n);
	}
	pthread_mutex_unlock(&m->lock);
	if (!a)
		return refuse(r, TM_E_STALE, seq, "the attempt has ended");
	if (tm_build_attempt(&out, &msg, got, n, &err))
		return refuse(r, TM_E_IO, seq, "%s", err.msg);
	tm_conn_send_msg(s->conn, &out, &err);
	return 0;
}

/* Forgets the open part's frames here and in the store. Caller holds m->lock; it is dropped meanwhile. */
static int start_over(struct machine *m, struct attempt *a, struct refusal *r)
{
	uint64_t seq = a->seq;
	struct tm_err err;
	int rc;

	a->closed = true;
	while (a->busy || a->flushing)
		pthread_cond_wait(&m->changed, &m->lock);
	attempt_forget(a);
	tm_extents_clear(&a->blocks);
	pthread_mutex_unlock(&m->lock);
	rc = store_forget(m->server->store, seq, &err);
	pthread_mutex_lock(&m->lock);
	if (rc) {
		attempt_abort(m, a);
		return refuse(r, TM_E_STALE, seq, "the attempt cannot be begun again: %s", err.msg);
	}
	a->closed = false;
	return 0;
}

/* Caller holds m->lock. */
static bool same_attempt(
	struct machine *m, const struct attempt *a, const struct tm_msg_attempt_begin *in)
{
	struct disk *d;

	if (a->closed || a->kind != in->kind)
		return false;
	if (in->kind == TM_ATTEMPT_EPOCH)
		return tm_epoch_equal(&a->id, &in->id) && tm_epoch_equal(&a->parent, &in->parent);
	d = machine_disk(m, in->handle);
	return d && a->handle == in->handle && tm_uuid_equal(a->tracking, d->tracking);
}

static int go_on(struct session *s, const struct tm_msg_attempt_begin *in, struct refusal *r)
{
	struct machine *m = s->machine;
	struct attempt *a;
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	a = attempt_find(m, in->attempt);
	if (!a || !same_attempt(m, a, in)) {
		pthread_mutex_unlock(&m->lock);
		return refuse(r, TM_E_STALE, in->attempt, "there is no such attempt to go on with");
	}
	/* What a resync left out was the same for who compared it, and nobody else knows when that was. */
	if (a->kind == TM_ATTEMPT_RESYNC &&
		(in->fresh || !tm_uuid_equal(a->instance, s->instance))) {
		pthread_mutex_unlock(&m->lock);
		return refuse(r, TM_E_STALE, in->attempt,
			"a comparison by checksum is not gone on with by another process");
	}
	a->session = s->id;
	/* Frames that another process sent are nothing that this one can account for. */
	if (in->fresh || !tm_uuid_equal(a->instance, s->instance))
		rc = start_over(m, a, r);
	if (!rc)
		memcpy(a->instance, s->instance, TM_UUID);
	pthread_mutex_unlock(&m->lock);
	return rc ? rc : answer(s, in->attempt, r);
}

/* Of the same disk and kind and not complete, or of the same epoch: superseded. Caller holds m->lock; dropped meanwhile. */
static void end_superseded(struct machine *m, const struct tm_msg_attempt_begin *in)
{
	struct attempt *a = m->attempts;

	while (a) {
		bool same =
			in->kind == TM_ATTEMPT_EPOCH
				? a->kind == TM_ATTEMPT_EPOCH && tm_epoch_equal(&a->id, &in->id)
				: a->kind == in->kind && a->handle == in->handle && !a->complete;

		if (same && attempt_may_end(a)) {
			attempt_abort(m, a);
			a = m->attempts;
		} else {
			a = a->next;
		}
	}
}

static unsigned int count(const struct machine *m)
{
	unsigned int n = 0;

	for (const struct attempt *a = m->attempts; a; a = a->next)
		n++;
	return n;
}

/* What a new attempt needs to be given; fills in the disk's number and tracking for a piece. */
static int check_new(struct session *s, const struct tm_msg_attempt_begin *in, uint32_t *no,
	uint8_t *tracking, struct refusal *r)
{
	struct machine *m = s->machine;
	LOCK_SCOPE(&m->lock);
	struct disk *d;

	if (count(m) >= MACHINE_ATTEMPTS)
		return refuse(r, TM_E_BUSY, 0, "too many open attempts");
	if (in->kind == TM_ATTEMPT_EPOCH) {
		if (tm_epoch_is_zero(&in->id))
			return refuse(r, TM_E_PROTO, 0, "an epoch without an id");
		if (tm_epoch_equal(&in->id, &m->head.id))
			return refuse(r, TM_E_STATE, 0, "the epoch is committed already");
		end_superseded(m, in);
		return 0;
	}
	d = machine_disk(m, in->handle);
	if (!d)
		return refuse(r, TM_E_STATE, 0, "disk %u is not open", in->handle);
	if (in->kind == TM_ATTEMPT_RESYNC && !d->c.joined)
		return refuse(r, TM_E_STATE, 0, "disk %s has nothing to compare with", d->c.name);
	*no = d->no;
	memcpy(tracking, d->tracking, TM_UUID);
	end_superseded(m, in);
	return 0;
}

static int begin_new(struct session *s, const struct tm_msg_attempt_begin *in, struct refusal *r)
{
	struct machine *m = s->machine;
	uint8_t tracking[TM_UUID] = {0};
	uint32_t no = 0;
	uint64_t seq;
	struct attempt *a;
	struct tm_err err;
	int rc = check_new(s, in, &no, tracking, r);

	if (rc)
		return rc;
	rc = store_attempt_begin(m->server->store, m->uuid, in->kind, no, tracking, &seq, &err);
	if (rc)
		return refuse_store(r, rc, 0, &err);
	pthread_mutex_lock(&m->lock);
	a = attempt_add(m, seq, in->kind);
	if (a) {
		a->session = s->id;
		a->handle = in->kind == TM_ATTEMPT_EPOCH ? 0 : in->handle;
		a->id = in->id;
		a->parent = in->parent;
		memcpy(a->instance, s->instance, TM_UUID);
		memcpy(a->tracking, tracking, TM_UUID);
	}
	pthread_mutex_unlock(&m->lock);
	if (!a) {
		store_abort(m->server->store, seq, &err);
		return refuse(r, TM_E_BUSY, 0, "out of memory");
	}
	return answer(s, seq, r);
}

int attempt_begin(struct session *s, const void *body, size_t len, struct refusal *r)
{
	const struct tm_msg_attempt_begin *in;
	struct tm_err err;

	if (tm_parse_attempt_begin(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	return in->attempt ? go_on(s, in, r) : begin_new(s, in, r);
}

int attempt_end(struct session *s, const void *body, size_t len, struct refusal *r)
{
	struct machine *m = s->machine;
	const struct tm_msg_abort *in;
	struct attempt *a;
	struct tm_out out;
	struct tm_err err;
	bool ended;

	if (tm_parse_abort(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	pthread_mutex_lock(&m->lock);
	a = attempt_find(m, in->attempt);
	ended = a && attempt_may_end(a);
	if (ended)
		attempt_abort(m, a);
	pthread_mutex_unlock(&m->lock);
	if (a && !ended)
		return refuse(r, TM_E_STATE, in->attempt, "the attempt is being committed");
	/* One that has ended already, or never was, is as good as aborted. */
	if (tm_build_ok(&out, &err) == 0)
		tm_conn_send_msg(s->conn, &out, &err);
	return 0;
}
