// SPDX-License-Identifier: Apache-2.0
/*
 * Reading all cells again. Walking the index verifies the engine's own sums along the way.
 */
#include <stdlib.h>
#include <time.h>

#include "server/store/internal.h"
#include "server/store/space.h"

struct walker {
	struct store *st;
	struct store_scrub *s;
	enum cf cf;
	char prefix[PREFIX_LEN];
	uint64_t superseded; /* when the next newer version of this unit became visible */
	void (*fn)(void *arg, const struct store_damage *d);
	void *arg;
	uint64_t budget, bytes;
};

/* When the entry became visible; NEVER if it is not. st->lock held. */
static uint64_t visible_at(struct store *st, const char *key, const struct loc *l)
{
	const struct vis *v;

	if (key_disk(key) >= st->ndisks || !st->disks[key_disk(key)])
		return NEVER;
	if (!(l->flags & LOC_COND))
		return key_seq(key);
	v = vis_find(st->vis, st->nvis, key_seq(key));
	return v ? v->at : NEVER;
}

/* Who sees the damage: the kept points from when it became visible up to when something newer did. st->lock held. */
static void find_points(struct walker *w, const char *key, uint64_t at, struct store_damage *d)
{
	const struct machine *m = w->st->owner[key_disk(key)];
	uint64_t p;

	memcpy(d->machine, w->st->disks[key_disk(key)]->machine, TM_UUID);
	d->in_head = w->superseded == NEVER;
	p = machine_point_from(m, at);
	if (p >= w->superseded)
		return;
	d->first_point = d->last_point = p;
	for (size_t i = m->npoints; i-- > 0;)
		if (m->points[i] < w->superseded) {
			d->last_point = m->points[i];
			break;
		}
}

static void check_cell(struct walker *w, const char *key, const struct loc *l, struct tm_err *why)
{
	char cell[sizeof(struct tm_cell) + TM_CHUNK], plain[TM_CHUNK];
	uint64_t block = key_unit(key) * (w->cf == CF_CHUNK ? TM_CHUNK_BLOCKS : 1);
	struct tm_cell h;
	struct pack *p;
	size_t size;
	int ret;

	why->code = 0;
	if (l->len > TM_CHUNK) {
		tm_fail(why, EBADMSG, "the index entry is malformed");
		return;
	}
	if (pack_get(&w->st->packs, l->pack, &p, why))
		return;
	ret = read_full(p->fd, cell, sizeof(h) + l->len, l->off, why);
	pack_put(&w->st->packs, p);
	if (ret)
		return;
	memcpy(&h, cell, sizeof(h));
	if (h.block != block || h.len != l->len || h.codec != l->codec || h.plain_sum != l->sum)
		tm_fail(why, EBADMSG, "its header is another's");
	else if (!tm_cell_check(cell, sizeof(h) + l->len, TM_DISK_MAX / TM_BLOCK, &size, why))
		tm_cell_decode(&h, cell + sizeof(h), plain, why);
}

/* The pack may have been collected since the iterator was made: then the index says otherwise now. */
static int moved(struct walker *w, const char *key, struct loc *l)
{
	struct tm_err err;
	struct loc now;
	size_t len;
	char *val;
	int differs;

	if (index_get(&w->st->ix, w->cf, key, KEY_LEN, &val, &len, &err) <= 0)
		return -1; /* dropped by compaction: nobody needs it */
	differs = len == sizeof(now) && memcmp(val, l, sizeof(*l));
	if (differs)
		memcpy(l, val, sizeof(*l));
	rocksdb_free(val);
	return differs;
}

static int look(struct walker *w, const char *key, struct loc l, struct tm_err *err)
{
	struct store_damage d = {0};
	struct tm_err why;
	uint64_t at;
	int m;

	if (memcmp(w->prefix, key, PREFIX_LEN)) {
		memcpy(w->prefix, key, PREFIX_LEN);
		w->superseded = NEVER;
	}
	if (!store_peek(w->st))
		return tm_fail(err, EAGAIN, "the store is too busy for a scrub");
	at = visible_at(w->st, key, &l);
	pthread_rwlock_unlock(&w->st->lock);
	if (at == NEVER)
		return 0;
	if (loc_has_data(&l)) {
		check_cell(w, key, &l, &why);
		if (why.code && (m = moved(w, key, &l)) != 0) {
			why.code = 0;
			if (m > 0)
				check_cell(w, key, &l, &why);
		}
		w->s->cells++;
		w->s->bytes += sizeof(struct tm_cell) + l.len;
		w->bytes += sizeof(struct tm_cell) + l.len;
		if (!store_peek(w->st))
			return tm_fail(err, EAGAIN, "the store is too busy for a scrub");
		if (why.code && visible_at(w->st, key, &l) != NEVER) {
			d.disk_no = key_disk(key);
			d.count = w->cf == CF_CHUNK ? TM_CHUNK_BLOCKS : 1;
			d.block = key_unit(key) * d.count;
			d.pack = l.pack;
			snprintf(d.why, sizeof(d.why), "%.150s", why.msg);
			find_points(w, key, at, &d);
		}
		pthread_rwlock_unlock(&w->st->lock);
		/* What neither a point nor the newest state sees only waits for compaction. */
		if (d.disk_no && (d.first_point || d.in_head)) {
			w->s->damaged++;
			w->fn(w->arg, &d);
		}
	}
	if (at < w->superseded)
		w->superseded = at;
	return 0;
}

static void slow_down(struct walker *w)
{
	struct timespec ts;
	uint64_t ns;

	if (w->s->rate && w->bytes > 4u << 20) {
		ns = w->bytes * 1000 / (w->s->rate / 1000000 + 1);
		ts.tv_sec = (time_t)(ns / 1000000000);
		ts.tv_nsec = (long)(ns % 1000000000);
		nanosleep(&ts, NULL);
		w->bytes = 0;
	}
}

/* One family, from the position on; stops between units only, so that what supersedes what is known. */
static int walk(struct walker *w, struct tm_err *err)
{
	rocksdb_iterator_t *it = index_iter(&w->st->ix, w->cf, 1);
	const char *key, *val;
	struct loc l;
	size_t klen, len;
	int ret = 0;

	rocksdb_iter_seek(it, (char *)w->s->pos.key, w->s->pos.started ? KEY_LEN : 0);
	for (; !ret && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != KEY_LEN || len != sizeof(l))
			continue;
		if (w->budget == 0 && memcmp(w->prefix, key, PREFIX_LEN)) {
			memcpy(w->s->pos.key, key, KEY_LEN);
			w->s->pos.started = 1;
			ret = 1;
			break;
		}
		memcpy(&l, val, sizeof(l));
		ret = look(w, key, l, err);
		w->budget -= w->budget > 0;
		slow_down(w);
	}
	if (!ret)
		ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	return ret;
}

int store_scrub(struct store *st, struct store_scrub *s,
	void (*fn)(void *arg, const struct store_damage *d), void *arg, struct tm_err *err)
{
	struct walker w = {.st = st,
		.s = s,
		.fn = fn,
		.arg = arg,
		.budget = s->max_cells ? s->max_cells : UINT64_MAX};
	uint64_t n;
	int ret = 0;

	s->done = 0;
	s->total_estimate = 0;
	for (int family = 0; !ret && family < 2; family++) {
		w.cf = family ? CF_BLOCK : CF_CHUNK;
		memset(w.prefix, 0, sizeof(w.prefix));
		w.superseded = NEVER;
		ret = index_enter(st, err);
		if (ret)
			break;
		if (!rocksdb_property_int_cf(
			    st->ix.db, st->ix.cf[w.cf], "rocksdb.estimate-num-keys", &n))
			s->total_estimate += n;
		if (family >= s->pos.family)
			ret = walk(&w, err);
		index_leave(st);
		if (!ret && family >= s->pos.family) {
			memset(&s->pos, 0, sizeof(s->pos));
			s->pos.family = (uint8_t)(family + 1);
		}
	}
	if (ret < 0)
		return ret;
	if (ret == 0) {
		s->done = 1;
		memset(&s->pos, 0, sizeof(s->pos));
	}
	return 0;
}
