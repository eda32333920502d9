// SPDX-License-Identifier: Apache-2.0
/*
 * The committer: one thread that takes all waiting commits and parts, flushes the packs they touched, writes one synced batch
 * with their index entries and points, answers all. The next group gathers meanwhile, so that flushes per second are
 * bounded by the device, not by the number of machines.
 */
#include <stdlib.h>
#include <time.h>

#include "server/store/internal.h"

#define GROUP_ITEMS (1u << 19) /* index entries in one batch, roughly: bounds its memory */

struct group {
	struct request *first, **tail;
	size_t items;
	uint64_t
		number; /* written with the batch: tells after a failed write whether it happened all the same */
};

/* ---- Choosing ---- */

static int in_group(const struct group *g, const struct request *like, int same_attempt)
{
	for (const struct request *r = g->first; r; r = r->next)
		if (r->a && (same_attempt ? r->a == like->a
					  : !memcmp(r->a->machine, like->a->machine, TM_UUID)))
			return 1;
	return 0;
}

static int was_deferred(const struct request *rest, const uint8_t machine[TM_UUID])
{
	for (; rest; rest = rest->next)
		if (rest->a && !memcmp(rest->a->machine, machine, TM_UUID))
			return 1;
	return 0;
}

/*
 * Zeros ask the index what lies below them, a piece's later part what its earlier one left; what is still in this batch does not show
 * there. So these wait for the next group if this has something of their machine (attempt), and so do that machine's later ones.
 */
static int must_wait(const struct group *g, const struct request *r, const struct request *deferred)
{
	const struct load *l = r->is_part ? &r->load : r->a ? &r->a->cur : NULL;

	if (!l)
		return 0;
	if (g->items && g->items + l->nitems + l->zero_chunks > GROUP_ITEMS)
		return 1;
	if (was_deferred(deferred, r->a->machine))
		return 1;
	return (l->zero_chunks && in_group(g, r, 0)) || (r->is_part && in_group(g, r, 1));
}

/* Moves what can be done now from the list to the group; the rest stays in order. */
static void choose(struct group *g, struct request **list)
{
	struct request *r, *deferred = NULL, **dtail = &deferred, *next;

	g->tail = &g->first;
	g->first = NULL;
	g->items = 0;
	for (r = *list; r; r = next) {
		next = r->next;
		r->next = NULL;
		if (must_wait(g, r, deferred)) {
			*dtail = r;
			dtail = &r->next;
			continue;
		}
		if (r->a) {
			const struct load *l = r->is_part ? &r->load : &r->a->cur;

			g->items += l->nitems + l->zero_chunks;
		}
		*g->tail = r;
		g->tail = &r->next;
	}
	*list = deferred;
}

/* ---- Checking and building ---- */

static int refuse(struct request *r, int code, const char *text)
{
	r->keep = 1;
	return tm_fail(&r->err, code, "attempt %llu: %s", (unsigned long long)r->a->seq, text);
}

/* The head that this epoch must follow: that of an earlier one in the same group, or the machine's. */
static int check_parent(struct store *st, const struct group *g, struct request *r)
{
	const struct tm_epoch_id *head = NULL;
	const struct request *e;
	struct machine *m;
	uint64_t seq = 0;

	pthread_rwlock_rdlock(&st->lock);
	m = machine_find(st, r->a->machine);
	if (m && m->has_head) {
		head = &m->head;
		seq = m->head_seq;
	}
	for (e = g->first; e != r; e = e->next)
		if (e->a && !e->is_part && !e->ret &&
			!memcmp(e->a->machine, r->a->machine, TM_UUID)) {
			head = &e->c.id;
			seq = e->a->seq;
		}
	pthread_rwlock_unlock(&st->lock);
	if (r->a->seq <= seq)
		return tm_fail(&r->err, ESTALE,
			"attempt %llu was overtaken by a later epoch of its machine",
			(unsigned long long)r->a->seq);
	if (head && !r->c.new_line && memcmp(head, &r->c.parent, sizeof(*head)))
		return refuse(r, EINVAL, "its parent is not the newest epoch that is stored here");
	if (!head && !r->c.new_line)
		return refuse(r, EINVAL, "its parent is not stored here");
	return 0;
}

/* A piece must be whole, of the same machine, older than the epoch, and no more is let in. */
static int take_piece(struct store *st, struct request *r, uint32_t i)
{
	struct attempt *a = attempt_get(st, r->pieces[i]);
	struct tm_err err;

	if (!a)
		return refuse(r, EINVAL, "one of its pieces is unknown or has ended");
	if (!is_piece(a->kind) || !a->complete || a->seq >= r->a->seq ||
		memcmp(a->machine, r->a->machine, TM_UUID) || attempt_close(a, &err)) {
		attempt_put(st, a);
		return refuse(
			r, EINVAL, "one of its pieces is not complete or does not belong to it");
	}
	r->piece[i] = a;
	r->result.bytes += a->bytes;
	r->result.bad |= a->bad;
	return 0;
}

static void release_pieces(struct store *st, struct request *r)
{
	for (uint32_t i = 0; r->piece && i < r->c.npieces; i++)
		if (r->piece[i]) {
			if (r->ret)
				attempt_reopen(r->piece[i]);
			else
				attempt_remove(st, r->piece[i]);
			attempt_put(st, r->piece[i]);
			r->piece[i] = NULL;
		}
}

static void write_head(struct store *st, struct request *r, rocksdb_writebatch_t *b)
{
	struct head_rec h = {.id = r->c.id, .seq = r->a->seq, .arrival_ns = r->result.arrival_ns};
	char key[1 + TM_UUID];

	head_key(key, r->a->machine);
	rocksdb_writebatch_put_cf(b, st->ix.cf[CF_META], key, sizeof(key), (char *)&h, sizeof(h));
}

static void write_point(struct store *st, struct request *r, rocksdb_writebatch_t *b)
{
	struct store_point *p = r->point;

	p->seq = r->a->seq;
	memcpy(p->machine, r->a->machine, TM_UUID);
	p->id = r->c.id;
	p->parent = r->c.parent;
	p->bytes = r->result.bytes;
	p->arrival_ns = r->result.arrival_ns;
	p->bad |= r->result.bad;
	point_record(b, &st->ix, p);
}

static int build_epoch(
	struct store *st, const struct group *g, struct request *r, rocksdb_writebatch_t *b)
{
	struct timespec now;
	int ret = check_parent(st, g, r);

	clock_gettime(CLOCK_REALTIME, &now);
	r->result.seq = r->a->seq;
	r->result.bytes = r->a->bytes;
	r->result.bad = r->a->bad;
	r->result.arrival_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
	for (uint32_t i = 0; !ret && i < r->c.npieces; i++)
		ret = take_piece(st, r, i);
	if (ret)
		return ret;
	load_stand(st, r->a, &r->a->cur);
	ret = load_entries(st, r->a, &r->a->cur, b, r->a->spilled, &r->err);
	if (ret)
		return ret;
	load_pack_records(st, &r->a->cur, b);
	if (r->a->spilled)
		attempt_record(b, &st->ix, r->a, AT_COMMITTED, r->a->seq);
	for (uint32_t i = 0; i < r->c.npieces; i++)
		attempt_record(b, &st->ix, r->piece[i], AT_COMMITTED, r->a->seq);
	write_head(st, r, b);
	if (r->point)
		write_point(st, r, b);
	return 0;
}

static int build_part(struct store *st, struct request *r, rocksdb_writebatch_t *b)
{
	struct attempt *a = r->a;
	int ret = 0;

	load_stand(st, a, &r->load);
	pthread_mutex_lock(&a->lock);
	if (a->failed)
		ret = tm_fail(
			&r->err, EIO, "attempt %llu failed earlier", (unsigned long long)a->seq);
	/* Known as done only when this batch is durable; if it is not, the attempt has failed and nobody asks. */
	for (size_t i = 0; !ret && i < r->nranges; i++)
		ret = ranges_add(&a->done, &a->ndone, r->ranges[i], &r->err);
	if (!ret)
		ret = load_entries(st, a, &r->load, b, 1, &r->err);
	if (!ret) {
		a->parts++;
		a->complete |= r->last;
		a->spilled = 1;
		attempt_record(b, &st->ix, a, AT_OPEN, NEVER);
		load_pack_records(st, &r->load, b);
	}
	pthread_mutex_unlock(&a->lock);
	r->result.seq = a->seq;
	return ret;
}

static void fail_all(struct group *g, const struct tm_err *err)
{
	for (struct request *r = g->first; r; r = r->next)
		if (!r->ret) {
			r->err = *err;
			r->ret = -err->code;
			r->keep = err->code == ENOSPC && !r->is_part;
		}
}

static void build(struct store *st, struct group *g, rocksdb_writebatch_t *b)
{
	for (struct request *r = g->first; r; r = r->next) {
		if (r->ret)
			continue;
		rocksdb_writebatch_set_save_point(b);
		r->ret = r->is_part ? build_part(st, r, b) : build_epoch(st, g, r, b);
		if (r->ret) {
			char *msg = NULL;

			rocksdb_writebatch_rollback_to_save_point(b, &msg);
			rocksdb_free(msg);
			release_pieces(st, r);
		}
	}
	rocksdb_writebatch_put_cf(
		b, st->ix.cf[CF_META], "group", 5, (char *)&g->number, sizeof(g->number));
}

/* ---- Durable ---- */

static void flush_packs(struct store *st, struct group *g)
{
	for (struct request *r = g->first; r; r = r->next) {
		const struct load *l;

		if (r->ret)
			continue;
		l = r->is_part ? &r->load : &r->a->cur;
		r->ret = load_sync(st, l, &r->err);
		/* Data that a flush lost for want of space is lost: the attempt cannot go on. */
		if (r->ret == -ENOSPC)
			r->ret = -(r->err.code = EIO);
	}
}

/* Sleeps for a second, or until the owner wants to close; then it gives 1. */
static int pause_a_second(struct store *st)
{
	struct timespec until;
	int ret = 0, stop;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec++;
	pthread_mutex_lock(&st->queue_lock);
	while (!(stop = st->stopping || atomic_load(&st->interrupted)) && ret != ETIMEDOUT)
		ret = pthread_cond_clockwait(
			&st->queue_cond, &st->queue_lock, CLOCK_MONOTONIC, &until);
	pthread_mutex_unlock(&st->queue_lock);
	return stop;
}

/*
 * After a failed write the index is opened anew; what it then says counts. Nobody is answered before: an epoch that was called lost must
 * not turn up later. On a full disk that takes until there is room; only who wants to close is told that it is not known.
 */
static int happened(struct store *st, uint64_t number)
{
	struct tm_err err;
	uint64_t found = 0;
	size_t len;
	char *val;

	while (store_index_reopen(st, &err))
		if (pause_a_second(st)) {
			store_index_shut(st);
			return 0;
		}
	if (index_get(&st->ix, CF_META, "group", 5, &val, &len, &err) > 0) {
		if (len == sizeof(found))
			memcpy(&found, val, sizeof(found));
		rocksdb_free(val);
	}
	return found == number;
}

static void make_durable(struct store *st, struct group *g)
{
	struct tm_err err;
	rocksdb_writebatch_t *b;
	int ret;

	flush_packs(st, g);
	if ((atomic_load(&st->index_failed) && store_index_reopen(st, &err)) ||
		index_writable(&st->ix, &err)) {
		fail_all(g, &err);
		return;
	}
	b = rocksdb_writebatch_create();
	build(st, g, b);
	ret = index_write(&st->ix, b, 1, &err);
	rocksdb_writebatch_destroy(b);
	if (ret && !happened(st, g->number))
		fail_all(g, &err);
}

/* ---- Visible, answered ---- */

/* All of a group under one lock: a view sees an epoch with its pieces or not at all. */
static void publish(struct store *st, struct group *g)
{
	struct tm_err err;

	pthread_rwlock_wrlock(&st->lock);
	for (struct request *r = g->first; r; r = r->next) {
		struct machine *m;

		if (r->ret) {
			/* An epoch that is lost: compaction may take what it spilled. */
			if (r->a && !r->is_part && !r->keep && r->a->spilled)
				vis_set(st, r->a->seq, NEVER, 0, VIS_ENDED, &err);
			continue;
		}
		if (r->is_part) {
			if (r->last)
				vis_set(st, r->a->seq, NEVER, r->a->disk, VIS_WHOLE, &err);
			continue;
		}
		m = machine_make(st, r->a->machine, &err);
		m->has_head = 1;
		m->head = r->c.id;
		m->head_seq = r->a->seq;
		m->head_arrival_ns = r->result.arrival_ns;
		if (r->a->spilled)
			vis_set(st, r->a->seq, r->a->seq, 0, VIS_ENDED, &err);
		for (uint32_t i = 0; i < r->c.npieces; i++)
			vis_set(st, r->pieces[i], r->a->seq, r->piece[i]->disk, VIS_ENDED, &err);
		if (r->point && machine_point_add(m, r->a->seq, &err))
			abort(); /* a kept point that compaction does not know of would be lost */
	}
	pthread_rwlock_unlock(&st->lock);
}

static void request_free(struct request *r)
{
	store_point_free(r->point);
	free(r->pieces);
	free(r->piece);
	free(r->ranges);
	free(r);
}

static void end_part(struct store *st, struct request *r)
{
	struct attempt *a = r->a;

	load_free(st, &r->load);
	pthread_mutex_lock(&a->lock);
	if (r->ret)
		a->failed = 1;
	a->pending--;
	pthread_cond_broadcast(&a->idle);
	pthread_mutex_unlock(&a->lock);
}

static void finish(struct store *st, struct group *g)
{
	struct request *r, *next;

	for (r = g->first; r; r = r->next) {
		if (!r->is_part)
			release_pieces(st, r);
		if (r->a && r->is_part)
			end_part(st, r);
		else if (r->a && r->ret && r->keep)
			attempt_reopen(r->a);
		else if (r->a)
			attempt_remove(st, r->a);
		if (r->a)
			attempt_put(st, r->a);
	}
	for (r = g->first; r; r = next) {
		next = r->next;
		r->done(r->arg, r->ret, r->ret ? NULL : &r->result, r->ret ? &r->err : NULL);
		request_free(r);
	}
}

/* queue_lock held. Now and then it looks whether the index has been broken meanwhile: by others, who don't wake it. */
static void wait_for_work(struct store *st)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec++;
	pthread_cond_clockwait(&st->queue_cond, &st->queue_lock, CLOCK_MONOTONIC, &until);
}

static void *committer(void *arg)
{
	struct store *st = arg;
	struct request *list = NULL, **tail;
	struct group g = {0};
	struct timespec now;
	struct tm_err err;
	int stopping;

	/* Unlike any number of an earlier run. */
	clock_gettime(CLOCK_REALTIME, &now);
	g.number = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
	for (;;) {
		pthread_mutex_lock(&st->queue_lock);
		while (!st->queue && !list && !st->stopping && !atomic_load(&st->index_failed))
			wait_for_work(st);
		for (tail = &list; *tail; tail = &(*tail)->next)
			;
		*tail = st->queue;
		st->queue = NULL;
		st->queue_tail = &st->queue;
		stopping = st->stopping;
		pthread_mutex_unlock(&st->queue_lock);
		if (!list && stopping)
			return NULL;
		if (!list) {
			if (store_index_reopen(st, &err))
				pause_a_second(st);
			continue;
		}
		g.number++;
		choose(&g, &list);
		make_durable(st, &g);
		publish(st, &g);
		finish(st, &g);
	}
}

int committer_start(struct store *st, struct tm_err *err)
{
	int ret = pthread_create(&st->committer, NULL, committer, st);

	if (ret)
		return tm_fail(err, ret, "cannot start the committer: %s", strerror(ret));
	st->started = 1;
	return 0;
}

void committer_stop(struct store *st)
{
	if (!st->started)
		return;
	pthread_mutex_lock(&st->queue_lock);
	st->stopping = 1;
	pthread_cond_signal(&st->queue_cond);
	pthread_mutex_unlock(&st->queue_lock);
	pthread_join(st->committer, NULL);
	st->started = 0;
}
