// SPDX-License-Identifier: Apache-2.0
#include "server/commit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/uuid.h"
#include "server/epoch.h"

void commit_free(struct commit *c)
{
	if (!c)
		return;
	session_put(c->s);
	free(c->joins);
	free(c->pieces);
	if (c->p)
		free(c->p->disks);
	free(c->p);
	free(c);
}

/* The newest epoch that is committed or will be, unless something fails; NULL: none. Caller holds m->lock. */
static const struct tm_epoch_id *tail(const struct machine *m)
{
	const struct tm_epoch_id *id = m->head.seq ? &m->head.id : NULL;

	for (const struct commit *c = m->commits; c; c = c->next)
		if (!c->doomed)
			id = &c->id;
	return id;
}

/* An epoch whose predecessor failed or waits is not in doubt, it only comes too early. Caller holds m->lock. */
static int check_predecessor(
	struct machine *m, const struct tm_in_epoch_commit *in, struct refusal *r)
{
	const struct tm_epoch_id *parent = &in->m->parent;

	for (const struct commit *c = m->commits; c; c = c->next)
		if (c->doomed && tm_epoch_equal(&c->id, parent))
			return refuse(r, c->doomed, in->m->attempt, "the epoch before it failed");
	for (unsigned int i = 0; i < MACHINE_FAILED && i < m->nfailed; i++)
		if (tm_epoch_equal(&m->failed[i].id, parent))
			return refuse(
				r, m->failed[i].code, in->m->attempt, "the epoch before it failed");
	if (attempt_find_epoch(m, parent))
		return refuse(
			r, TM_E_STATE, in->m->attempt, "the epoch before it is not committed yet");
	return 0;
}

static int check_frames(struct machine *m, const struct attempt *a, const struct tm_epoch_disk *e,
	struct refusal *r)
{
	struct disk *d = machine_disk(m, e->handle);
	struct frames *f = attempt_frames((struct attempt *)a, e->handle, false);

	if (!d)
		return refuse(r, TM_E_STATE, a->seq, "disk %u is not open", e->handle);
	if (e->size != d->c.size)
		return refuse(r, TM_E_STATE, a->seq, "disk %s changed its size: open it again",
			d->c.name);
	if (e->frames && (!f || !frames_whole(f, e->frames)))
		return refuse(r, TM_E_DAMAGED, a->seq, "disk %s: not all of the %u frames are here",
			d->c.name, e->frames);
	if ((f ? f->digest : 0) != e->digest || (!e->frames && f && f->set.n))
		return refuse(
			r, TM_E_DAMAGED, a->seq, "disk %s: the frames' digest differs", d->c.name);
	return 0;
}

/* The attempt, with all its frames here and closed to more, or NULL with r. Caller holds m->lock. */
static struct attempt *whole_attempt(
	struct session *s, const struct tm_in_epoch_commit *in, struct refusal *r)
{
	struct machine *m = s->machine;
	struct attempt *a = attempt_find(m, in->m->attempt);

	while (a && !a->closed && a->busy) {
		pthread_cond_wait(&m->changed, &m->lock);
		a = attempt_find(m, in->m->attempt);
	}
	if (!a || a->closed || a->kind != TM_ATTEMPT_EPOCH || a->session != s->id) {
		refuse(r, TM_E_STALE, in->m->attempt, "the attempt is unknown or has ended");
		return NULL;
	}
	if (!tm_epoch_equal(&a->id, &in->m->id) || !tm_epoch_equal(&a->parent, &in->m->parent)) {
		refuse(r, TM_E_STATE, a->seq, "the attempt was begun for another epoch");
		return NULL;
	}
	for (uint32_t i = 0; i < in->m->ndisks; i++)
		if (check_frames(m, a, &in->disks[i], r))
			return NULL;
	return a;
}

/* What the rules look at, for each disk that the machine ever had. Caller holds m->lock. */
static void describe(struct machine *m, struct attempt *a, const struct tm_in_epoch_commit *in,
	struct epoch_disk *e)
{
	for (uint32_t i = 0; i < m->ndisks; i++) {
		struct disk *d = m->disks[i];
		struct frames *f = attempt_frames(a, d->handle, false);

		e[i].name = d->c.name;
		e[i].open = d->open;
		e[i].joined = (d->c.joined || d->c.pending) && !d->c.closed;
		e[i].whole = d->open &&
			     ((d->c.joined && tm_uuid_equal(d->c.tracking, d->tracking)) ||
				     (d->c.pending &&
					     tm_uuid_equal(d->c.pending_tracking, d->tracking)));
		e[i].frames = f && f->set.n;
	}
	for (uint32_t i = 0; i < in->m->ndisks; i++)
		e[in->disks[i].handle - 1].listed = true;
}

static int describe_pieces(struct machine *m, const struct tm_in_epoch_commit *in,
	struct epoch_disk *e, struct refusal *r)
{
	for (uint32_t i = 0; i < in->m->npieces; i++) {
		uint64_t seq = tm_in_piece(in, i);
		struct attempt *p = attempt_find(m, seq);
		struct disk *d = p ? machine_disk(m, p->handle) : NULL;

		if (!d || p->closed || !p->complete || p->flushing || seq > in->m->attempt ||
			!tm_uuid_equal(p->tracking, d->tracking))
			return refuse(r, TM_E_STATE, in->m->attempt,
				"piece %llu is not complete, or not this epoch's",
				(unsigned long long)seq);
		if (p->kind == TM_ATTEMPT_CATCHUP)
			e[p->handle - 1].catchup = true;
		else
			e[p->handle - 1].piece = true;
	}
	return 0;
}

static int judge(struct machine *m, struct attempt *a, const struct tm_in_epoch_commit *in,
	struct epoch_disk *e, struct epoch_verdict *v, struct refusal *r)
{
	const struct tm_epoch_id *last = tail(m);
	struct epoch_parent parent = {
		.has_head = last,
		.none = tm_epoch_is_zero(&in->m->parent),
		.head = last && tm_epoch_equal(last, &in->m->parent),
	};

	if (!parent.head && !parent.none && check_predecessor(m, in, r))
		return -1;
	describe(m, a, in, e);
	if (describe_pieces(m, in, e, r) || epoch_judge(&parent, e, m->ndisks, v, r)) {
		r->attempt = a->seq;
		return -1;
	}
	if (in->m->kind == TM_POINT_NONE) {
		v->point = false;
		snprintf(v->missing, sizeof(v->missing), "a round of catch-up is no instant");
	}
	return 0;
}

/* Caller holds m->lock. */
static int fill_point(
	struct commit *c, const struct tm_in_epoch_commit *in, const struct epoch_disk *e)
{
	struct machine *m = c->s->machine;
	struct store_point *p = c->p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->disks = calloc(in->m->ndisks ? in->m->ndisks : 1, sizeof(*p->disks));
	if (!p->disks)
		return -ENOMEM;
	p->kind = in->m->kind;
	p->freeze_ms = in->m->freeze_ms;
	p->cut_ns = (int64_t)in->m->cut_realtime_ns;
	p->run_ns = server_run_ns(m->server);
	p->digest = XXH3_64bits(in->disks, in->m->ndisks * sizeof(*in->disks));
	memcpy(p->label, in->label, sizeof(p->label));
	memcpy(p->reason, in->reason, sizeof(p->reason));
	for (uint32_t i = 0; i < in->m->ndisks; i++) {
		struct disk *d = m->disks[in->disks[i].handle - 1];
		struct store_point_disk *pd = &p->disks[p->ndisks];

		if (!e[d->handle - 1].whole && !e[d->handle - 1].piece)
			continue;
		memcpy(pd->uuid, d->c.uuid, TM_UUID);
		memcpy(pd->name, d->c.name, sizeof(pd->name));
		pd->no = d->no;
		pd->size = in->disks[i].size;
		p->ndisks++;
	}
	return 0;
}

/* Caller holds m->lock. */
static int fill_joins(
	struct commit *c, const struct tm_in_epoch_commit *in, const struct epoch_disk *e)
{
	struct machine *m = c->s->machine;

	c->pieces = calloc(in->m->npieces ? in->m->npieces : 1, sizeof(*c->pieces));
	c->joins = calloc(in->m->ndisks ? in->m->ndisks : 1, sizeof(*c->joins));
	if (!c->pieces || !c->joins)
		return -ENOMEM;
	for (c->npieces = 0; c->npieces < in->m->npieces; c->npieces++)
		c->pieces[c->npieces] = tm_in_piece(in, c->npieces);
	for (uint32_t i = 0; i < in->m->ndisks; i++) {
		struct disk *d = m->disks[in->disks[i].handle - 1];

		if (!e[d->handle - 1].piece || e[d->handle - 1].whole)
			continue;
		c->joins[c->njoins].disk = d;
		memcpy(c->joins[c->njoins++].tracking, d->tracking, TM_UUID);
	}
	return 0;
}

static struct commit *commit_new(struct session *s, const struct tm_in_epoch_commit *in,
	const struct epoch_disk *e, const struct epoch_verdict *v)
{
	struct commit *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	session_get(s);
	c->s = s;
	c->seq = in->m->attempt;
	c->id = in->m->id;
	c->kind = in->m->kind;
	c->point = v->point;
	memcpy(c->missing, v->missing, sizeof(c->missing));
	c->valid = (int64_t)tm_mono_ns() -
		   (int64_t)(in->m->age_ns < INT64_MAX / 2 ? in->m->age_ns : INT64_MAX / 2);
	if (fill_joins(c, in, e) || (v->point && fill_point(c, in, e))) {
		commit_free(c);
		return NULL;
	}
	return c;
}

/* From here on it is on its way. Caller holds m->lock. */
static void enter(struct machine *m, struct attempt *a, struct commit *c)
{
	struct commit **p = &m->commits;

	while (*p)
		p = &(*p)->next;
	*p = c;
	a->closed = true;
	for (uint32_t i = 0; i < c->npieces; i++)
		attempt_find(m, c->pieces[i])->closed = true;
	for (uint32_t i = 0; i < c->njoins; i++) {
		struct disk *d = c->joins[i].disk;

		d->c.pending = c->seq;
		memcpy(d->c.pending_tracking, c->joins[i].tracking, TM_UUID);
	}
}

/* From the store's committer: only hands on. */
static void store_said(
	void *arg, int ret, const struct store_result *result, const struct tm_err *err)
{
	struct commit *c = arg;
	struct server *srv = c->s->machine->server;
	LOCK_SCOPE(&srv->lock);

	c->ret = ret;
	if (ret)
		c->err = *err;
	else
		c->result = *result;
	c->done_next = NULL;
	*srv->done_tail = c;
	srv->done_tail = &c->done_next;
	pthread_cond_broadcast(&srv->changed);
}

static void start(struct commit *c, const struct tm_in_epoch_commit *in, bool new_line)
{
	struct machine *m = c->s->machine;
	struct store_commit sc = {
		.id = in->m->id,
		.parent = in->m->parent,
		.new_line = new_line,
		.pieces = c->pieces,
		.npieces = c->npieces,
		.point = c->p,
	};
	struct tm_err err;
	int rc = 0;

	for (uint32_t i = 0; !rc && i < c->njoins; i++)
		rc = disk_save(m, c->joins[i].disk, &err);
	if (rc) /* a full catalog is a full store */
		store_said(c, rc == -ENOSPC ? -ENOSPC : -EIO, NULL, &err);
	else
		store_commit_start(m->server->store, c->seq, &sc, store_said, c);
}

/* The answer got lost, and the epoch has been committed already. */
static int answer_again(struct session *s, const struct tm_in_epoch_commit *in)
{
	struct machine *m = s->machine;
	struct tm_msg_epoch_done done = {.attempt = in->m->attempt};
	struct tm_out out;
	struct tm_err err;
	bool same;

	pthread_mutex_lock(&m->lock);
	same = m->head.seq == in->m->attempt && tm_epoch_equal(&m->head.id, &in->m->id);
	done.result = m->head.point == m->head.seq ? TM_EPOCH_POINT : TM_EPOCH_STORED;
	pthread_mutex_unlock(&m->lock);
	if (same && tm_build_epoch_done(&out, &done, "", &err) == 0)
		session_post(s, &out);
	return same;
}

int epoch_commit(struct session *s, const void *body, size_t len, struct refusal *r)
{
	struct machine *m = s->machine;
	CLEANUP_FREE struct epoch_disk *e = NULL;
	struct tm_in_epoch_commit in;
	struct epoch_verdict v;
	struct commit *c = NULL;
	struct attempt *a;
	struct tm_err err;

	if (tm_parse_epoch_commit(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	if (answer_again(s, &in))
		return 0;
	e = calloc(MACHINE_DISKS, sizeof(*e));
	if (!e)
		return refuse(r, TM_E_BUSY, in.m->attempt, "out of memory");
	pthread_mutex_lock(&m->lock);
	a = whole_attempt(s, &in, r);
	if (a && judge(m, a, &in, e, &v, r) == 0) {
		c = commit_new(s, &in, e, &v);
		if (c)
			enter(m, a, c);
		else
			refuse(r, TM_E_BUSY, a->seq, "out of memory");
	}
	pthread_mutex_unlock(&m->lock);
	if (!c)
		return -1;
	start(c, &in, v.new_line);
	return 0;
}
