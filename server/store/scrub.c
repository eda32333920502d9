// SPDX-License-Identifier: Apache-2.0
/*
 * Reading all cells again. Walking the index verifies the engine's own sums along the way.
 */
#include <stdlib.h>

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
	uint64_t budget;
	struct pace pace;
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
	/* Its record may have gone since the walk read the entry: then it is visible. */
	return v ? v->at : key_seq(key);
}

/* Who sees the damage: the kept points from when it became visible up to when something newer did. st->lock held. */
static void find_points(
	struct walker *w, const char *key, uint64_t at, uint64_t superseded, struct store_damage *d)
{
	const struct machine *m = w->st->owner[key_disk(key)];
	uint64_t p;

	memcpy(d->machine, w->st->disks[key_disk(key)]->machine, TM_UUID);
	d->in_head = superseded == NEVER;
	p = machine_point_from(m, at);
	if (p >= superseded)
		return;
	d->first_point = d->last_point = p;
	for (size_t i = m->npoints; i-- > 0;)
		if (m->points[i] < superseded) {
			d->last_point = m->points[i];
			break;
		}
}

/*
 * When a version of the other family, newer than this key's, became visible over the block: the block of a chunk is also written by itself,
 * and the other way round. NEVER if none is. st->lock held.
 */
static uint64_t covered_at(
	struct walker *w, rocksdb_iterator_t *it, const char *key, uint64_t block)
{
	uint64_t unit = w->cf == CF_CHUNK ? block : block / TM_CHUNK_BLOCKS, at = NEVER, seen;
	char from[KEY_LEN];
	const char *k, *val;
	struct loc l;
	size_t klen, len;

	key_make(from, key_disk(key), unit, NEVER);
	for (rocksdb_iter_seek(it, from, KEY_LEN); rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
		k = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != KEY_LEN || len != sizeof(l) || memcmp(k, from, PREFIX_LEN))
			break;
		/* Of the same attempt the block counts. */
		if (key_seq(k) < key_seq(key) || (key_seq(k) == key_seq(key) && w->cf == CF_BLOCK))
			break;
		memcpy(&l, val, sizeof(l));
		seen = visible_at(w->st, k, &l);
		at = seen < at ? seen : at;
	}
	return at;
}

/* Tells of a damaged cell, as one where all its blocks are seen by the same points. What nobody sees only waits for compaction. */
static int tell(
	struct walker *w, const char *key, const struct loc *l, const char *why, struct tm_err *err)
{
	uint64_t n = w->cf == CF_CHUNK ? TM_CHUNK_BLOCKS : 1, block = key_unit(key) * n, at;
	struct store_damage d[TM_CHUNK_BLOCKS] = {0}, *now;
	rocksdb_iterator_t *it;
	int found = 0, ret;

	if (!store_peek(w->st))
		return tm_fail(err, EAGAIN, "the store is too busy for a scrub");
	at = visible_at(w->st, key, l);
	it = index_iter(&w->st->ix, w->cf == CF_CHUNK ? CF_BLOCK : CF_CHUNK, 1);
	for (uint64_t i = 0; at != NEVER && i < n; i++) {
		uint64_t covered = covered_at(w, it, key, block + i);

		now = &d[i];
		find_points(w, key, at, covered < w->superseded ? covered : w->superseded, now);
		now->disk_no = key_disk(key);
		now->block = block + i;
		now->count = 1;
		now->pack = l->pack;
		snprintf(now->why, sizeof(now->why), "%.150s", why);
	}
	pthread_rwlock_unlock(&w->st->lock);
	ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	for (uint64_t i = 0; !ret && at != NEVER && i < n; i += d[i].count) {
		while (i + d[i].count < n && d[i].first_point == d[i + d[i].count].first_point &&
			d[i].last_point == d[i + d[i].count].last_point &&
			d[i].in_head == d[i + d[i].count].in_head)
			d[i].count++;
		if (!d[i].first_point && !d[i].in_head)
			continue;
		found = 1;
		w->fn(w->arg, &d[i]);
	}
	w->s->damaged += found;
	return ret;
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

/* While the index is open for reading only, points must be verifiable too. */
static int pay(struct walker *w, uint64_t bytes, struct tm_err *err)
{
	int ret = pace_pay(w->st, &w->pace, bytes, err);

	return ret == -ECANCELED && !atomic_load(&w->st->interrupted) ? 0 : ret;
}

static int look(struct walker *w, const char *key, struct loc l, struct tm_err *err)
{
	struct tm_err why;
	uint64_t at;
	int m, ret;

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
		/* A shortage of ours is no damage. */
		if (why.code == EMFILE || why.code == ENFILE || why.code == ENOMEM) {
			*err = why;
			return -why.code;
		}
		ret = why.code ? tell(w, key, &l, why.msg, err) : 0;
		if (!ret)
			ret = pay(w, sizeof(struct tm_cell) + l.len, err);
		if (ret)
			return ret;
	}
	if (at < w->superseded)
		w->superseded = at;
	return 0;
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
		.pace.rate = s->rate,
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
