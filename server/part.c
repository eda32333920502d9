// SPDX-License-Identifier: Apache-2.0
/* PART_COMMIT: what a piece attempt has received becomes durable, and need not be sent again whatever crashes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "server/session.h"

struct part {
	struct session *s;
	uint64_t seq;
	uint32_t part;
	bool last;
	struct tm_extents blocks; /* of the part: given back if there was no space */
};

static void part_free(struct part *p)
{
	tm_extents_clear(&p->blocks);
	session_put(p->s);
	free(p);
}

/* Caller holds m->lock. */
static void settle(struct machine *m, struct attempt *a, struct part *p, int ret)
{
	a->flushing = false;
	if (ret == 0) {
		a->complete = p->last;
	} else if (ret == -ENOSPC) {
		if (tm_extents_merge(&a->blocks, &p->blocks))
			a->uncounted = true; /* they are only sent twice */
		a->again = true;
	} else {
		a->closed = a->lost = true;
	}
	pthread_cond_broadcast(&m->changed);
}

/* From the store's committer: does not block. */
static void part_done(
	void *arg, int ret, const struct store_result *result, const struct tm_err *serr)
{
	struct part *p = arg;
	struct machine *m = p->s->machine;
	struct tm_msg_part_done msg = {.attempt = p->seq, .part = p->part};
	struct refusal r;
	struct tm_out out;
	struct tm_err err;
	struct attempt *a;

	pthread_mutex_lock(&m->lock);
	a = attempt_find(m, p->seq);
	if (a)
		settle(m, a, p, ret);
	pthread_mutex_unlock(&m->lock);
	if (ret) {
		refuse_store(&r, ret, p->seq, serr);
		session_post_refusal(p->s, &r, TM_MSG_PART_COMMIT);
	} else if (tm_build_part_done(&out, &msg, &err) == 0) {
		session_post(p->s, &out);
	}
	part_free(p);
}

/* The blocks as an array for the store. */
static struct store_range *ranges_of(const struct tm_extents *set, size_t *n)
{
	struct store_range *list = calloc(set->n ? set->n : 1, sizeof(*list));
	struct tm_extent e;

	*n = 0;
	for (uint64_t at = 0; list && tm_extents_next(set, at, &e); at = e.start + e.count)
		list[(*n)++] = (struct store_range){e.start, e.count};
	return list;
}

/*
 * Before an initial sync counts as complete every block of the disk must have come: cells, zeros or unreadable ones, in this part or in one that is
 * durable. A point of it would show zeros for what is missing. Caller holds m->lock.
 */
static int check_covered(
	struct machine *m, struct attempt *a, const struct disk *d, struct refusal *r)
{
	CLEANUP_FREE struct store_range *done = NULL;
	uint64_t blocks = (d->c.size + TM_BLOCK - 1) / TM_BLOCK, seq;
	struct tm_extents all;
	struct tm_extent e;
	struct tm_err err;
	uint32_t part;
	size_t n = 0;
	int rc = store_attempt_resume(m->server->store, d->no, TM_ATTEMPT_INITIAL, a->tracking,
		&seq, &done, &n, &part, &err);

	if (rc || seq != a->seq)
		return refuse(r, TM_E_STALE, a->seq, "the attempt is unknown or has ended");
	tm_extents_init(&all);
	for (size_t i = 0; !rc && i < n; i++)
		rc = tm_extents_add(&all, done[i].block, done[i].count);
	if (!rc)
		rc = tm_extents_merge(&all, &a->blocks);
	if (rc)
		refuse(r, TM_E_BUSY, a->seq, "out of memory");
	else if (tm_extents_next_gap(&all, 0, blocks, &e))
		rc = refuse(r, TM_E_STATE, a->seq,
			"disk %s: the initial sync is not whole, block %llu and %llu more are missing",
			d->c.name, (unsigned long long)e.start,
			(unsigned long long)(blocks - 1 -
					     (all.blocks < blocks ? all.blocks : blocks - 1)));
	tm_extents_clear(&all);
	return rc ? -1 : 0;
}

/*
 * Checks the part against what was received and closes it: from here on frames belong to the next one. A part whose flush failed for lack
 * of space is committed again by the same message. 1: there is nothing left to do. Caller holds m->lock.
 */
static int close_part(struct session *s, const struct tm_msg_part_commit *in, struct attempt **out,
	struct refusal *r)
{
	struct machine *m = s->machine;
	struct attempt *a = attempt_find(m, in->attempt);
	struct frames *f;

	while (a && !a->closed && (a->busy || a->flushing)) {
		pthread_cond_wait(&m->changed, &m->lock);
		a = attempt_find(m, in->attempt);
	}
	if (!a || a->closed || a->kind == TM_ATTEMPT_EPOCH || a->session != s->id ||
		a->handle != in->handle)
		return refuse(r, TM_E_STALE, in->attempt, "the attempt is unknown or has ended");
	*out = a;
	if (a->again && in->part + 1 == a->part)
		return 0;
	if (in->part != a->part)
		return refuse(r, TM_E_STALE, in->attempt, "part %u is not open (%u is)", in->part,
			a->part);
	if (a->complete && in->last && !in->frames)
		return 1; /* the answer was lost: it has been complete for a while */
	f = attempt_frames(a, in->handle, false);
	if (in->frames && (!f || !frames_whole(f, in->frames)))
		return refuse(r, TM_E_DAMAGED, in->attempt, "not all of the %u frames are here",
			in->frames);
	if ((f ? f->digest : 0) != in->digest || (!in->frames && f && f->set.n))
		return refuse(r, TM_E_DAMAGED, in->attempt, "the frames' digest differs");
	if (a->kind == TM_ATTEMPT_INITIAL && in->last && !a->uncounted &&
		check_covered(m, a, machine_disk(m, in->handle), r))
		return -1;
	attempt_forget(a);
	a->part++;
	pthread_cond_broadcast(&m->changed);
	return 0;
}

static void answer(struct session *s, const struct tm_msg_part_commit *in)
{
	struct tm_msg_part_done msg = {.attempt = in->attempt, .part = in->part};
	struct tm_out out;
	struct tm_err err;

	if (tm_build_part_done(&out, &msg, &err) == 0)
		tm_conn_send_msg(s->conn, &out, &err);
}

int part_commit(struct session *s, const void *body, size_t len, struct refusal *r)
{
	struct machine *m = s->machine;
	struct part *p = calloc(1, sizeof(*p));
	CLEANUP_FREE struct store_range *ranges = NULL;
	const struct tm_msg_part_commit *in;
	struct attempt *a = NULL;
	struct tm_err err;
	size_t n = 0;
	int rc;

	if (tm_parse_part_commit(body, len, &in, &err)) {
		free(p);
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	}
	if (!p)
		return refuse(r, TM_E_BUSY, in->attempt, "out of memory");
	pthread_mutex_lock(&m->lock);
	rc = close_part(s, in, &a, r);
	if (!rc) {
		p->blocks = a->blocks;
		tm_extents_init(&a->blocks);
		a->flushing = true;
		a->again = false;
	}
	pthread_mutex_unlock(&m->lock);
	if (rc) {
		free(p);
		if (rc > 0)
			answer(s, in);
		return rc < 0 ? rc : 0;
	}
	session_get(s);
	p->s = s;
	p->seq = in->attempt;
	p->part = in->part;
	p->last = in->last;
	ranges = ranges_of(&p->blocks, &n);
	store_part_start(m->server->store, p->seq, ranges, n, p->last, part_done, p);
	return 0;
}
