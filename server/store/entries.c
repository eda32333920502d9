// SPDX-License-Identifier: Apache-2.0
/*
 * From what was put to index entries.
 *
 * Within one attempt a later put of a block wins. Across attempts the higher seq wins, and of a chunk and a block of the same seq the
 * block. So, chunk by chunk: a whole chunk (or zeros over all of it) undoes what came before it in the attempt, a block stands over it.
 * Zeros are written only where something older exists: absent reads as zeros.
 */
#include <stdlib.h>

#include "server/store/internal.h"

struct ent {
	uint64_t block; /* first */
	uint32_t disk;
	uint32_t order;
	uint32_t count; /* 1 or TM_CHUNK_BLOCKS */
	struct loc loc;
};

struct ents {
	struct ent *e;
	size_t n, room;
	size_t data; /* the first `data` are those of cells with data and BAD; zeros follow */
	struct tm_err *err;
	int ret;
};

static void push(struct ents *v, uint32_t disk, uint64_t block, uint32_t count, uint32_t order,
	const struct loc *loc)
{
	size_t room = v->room ? v->room * 2 : 1024;
	struct ent *grown;

	if (v->ret)
		return;
	if (v->n == v->room) {
		grown = realloc(v->e, room * sizeof(*grown));
		if (!grown) {
			v->ret = tm_fail(v->err, ENOMEM, "out of memory");
			return;
		}
		v->e = grown;
		v->room = room;
	}
	v->e[v->n++] = (struct ent){
		.block = block, .disk = disk, .order = order, .count = count, .loc = *loc};
}

/* Any run as whole chunks where it covers them, else as single blocks. */
static void push_run(struct ents *v, uint32_t disk, uint64_t block, uint64_t count, uint32_t order,
	const struct loc *loc)
{
	uint64_t end = block + count;

	while (block < end && !v->ret)
		if (block % TM_CHUNK_BLOCKS == 0 && end - block >= TM_CHUNK_BLOCKS) {
			push(v, disk, block, TM_CHUNK_BLOCKS, order, loc);
			block += TM_CHUNK_BLOCKS;
		} else {
			push(v, disk, block++, 1, order, loc);
		}
}

static int by_place(const void *x, const void *y)
{
	const struct ent *a = x, *b = y;
	uint64_t ca = a->block / TM_CHUNK_BLOCKS, cb = b->block / TM_CHUNK_BLOCKS;

	if (a->disk != b->disk)
		return a->disk < b->disk ? -1 : 1;
	if (ca != cb)
		return ca < cb ? -1 : 1;
	return a->order < b->order ? -1 : a->order > b->order;
}

/* ---- What exists below a run of zeros ---- */

/* An iterator that goes up within one run of zeros. */
struct cursor {
	rocksdb_iterator_t *it;
	int placed; /* it stands at the first entry from some unit of this run on */
};

struct below {
	struct cursor chunk, block;
	uint32_t disk;
};

/* Is there an entry of a unit in [unit, end)? Then the cursor stands at the newest of the lowest such unit. */
static int seek_unit(struct cursor *c, uint32_t disk, uint64_t unit, uint64_t end)
{
	char key[KEY_LEN];
	const char *k;
	size_t len;

	/* Often it stands there already, or beyond: no seek needed then. */
	if (c->placed && rocksdb_iter_valid(c->it)) {
		k = rocksdb_iter_key(c->it, &len);
		if (key_disk(k) != disk || key_unit(k) >= unit)
			return key_disk(k) == disk && key_unit(k) < end;
	} else if (c->placed) {
		return 0;
	}
	key_make(key, disk, unit, UINT64_MAX);
	rocksdb_iter_seek(c->it, key, sizeof(key));
	c->placed = 1;
	if (!rocksdb_iter_valid(c->it))
		return 0;
	k = rocksdb_iter_key(c->it, &len);
	return key_disk(k) == disk && key_unit(k) < end;
}

static int at_unit(struct cursor *c, uint32_t disk, uint64_t unit)
{
	return seek_unit(c, disk, unit, unit + 1);
}

static uint64_t unit_of(struct cursor *c)
{
	size_t len;

	return key_unit(rocksdb_iter_key(c->it, &len));
}

/* The newest entry of the whole chunk is a visible zero and no block stands over it: nothing would change. */
static int zero_already(struct below *w, uint64_t chunk, int has_blocks)
{
	struct loc loc;
	size_t len;

	if (has_blocks || !at_unit(&w->chunk, w->disk, chunk))
		return 0;
	memcpy(&loc, rocksdb_iter_value(w->chunk.it, &len), sizeof(loc));
	return loc.codec == TM_CODEC_ZERO && !(loc.flags & LOC_COND);
}

static void zero_chunk(struct ents *v, struct below *w, uint64_t chunk, uint64_t from, uint64_t to,
	int has_chunk, uint32_t order)
{
	static const struct loc zero = {.codec = TM_CODEC_ZERO};
	uint64_t first = chunk * TM_CHUNK_BLOCKS, last = first + TM_CHUNK_BLOCKS;
	int has_blocks;

	if (from <= first && to >= last) {
		has_blocks = seek_unit(&w->block, w->disk, first, last);
		if (!zero_already(w, chunk, has_blocks))
			push(v, w->disk, first, TM_CHUNK_BLOCKS, order, &zero);
		return;
	}
	for (uint64_t b = first > from ? first : from; b < last && b < to; b++)
		if (has_chunk || at_unit(&w->block, w->disk, b))
			push(v, w->disk, b, 1, order, &zero);
}

static void zero_where_needed(
	struct ents *v, struct below *w, const struct item *it, uint32_t order)
{
	uint64_t from = it->block, to = it->block + it->count, chunk, c, b;
	uint64_t end = (to + TM_CHUNK_BLOCKS - 1) / TM_CHUNK_BLOCKS;

	w->chunk.placed = w->block.placed = 0;
	for (chunk = from / TM_CHUNK_BLOCKS; chunk < end && !v->ret; chunk++) {
		c = seek_unit(&w->chunk, w->disk, chunk, end) ? unit_of(&w->chunk) : NEVER;
		b = seek_unit(&w->block, w->disk, chunk * TM_CHUNK_BLOCKS, end * TM_CHUNK_BLOCKS)
			    ? unit_of(&w->block) / TM_CHUNK_BLOCKS
			    : NEVER;
		chunk = c < b ? c : b;
		if (chunk == NEVER)
			break;
		zero_chunk(v, w, chunk, from, to, c == chunk, order);
	}
}

/* The same for what the attempt itself brought before, in this very batch. */
static void zero_own(struct ents *v, const struct item *it, uint32_t order)
{
	static const struct loc zero = {.codec = TM_CODEC_ZERO};
	uint64_t to = it->block + it->count;
	struct ent key = {.disk = it->disk, .block = it->block};
	size_t lo = 0, hi = v->data, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (by_place(&v->e[mid], &key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < v->data && v->e[lo].disk == it->disk; lo++) {
		uint64_t from = v->e[lo].block, end = from + v->e[lo].count;

		if (from / TM_CHUNK_BLOCKS * TM_CHUNK_BLOCKS >= to)
			break;
		if (v->e[lo].order > order)
			continue;
		from = from > it->block ? from : it->block;
		end = end < to ? end : to;
		if (from < end)
			push_run(v, it->disk, from, end - from, order, &zero);
	}
}

/*
 * An attempt that was begun earlier and is still open (a piece of the same disk, an epoch of the machine) may bring older contents of these
 * blocks later: zeros must stand over them although nothing is there now.
 */
static int must_stand(struct store *st, const struct attempt *a, uint32_t disk)
{
	const struct attempt *e;
	int found = 0;

	pthread_rwlock_rdlock(&st->lock);
	for (size_t i = 0; !found && i < st->nvis && st->vis[i].seq < a->seq; i++)
		found = st->vis[i].state == VIS_OPEN && st->vis[i].disk == disk;
	for (e = st->attempts; !found && e; e = e->next)
		found = !is_piece(e->kind) && e->seq < a->seq &&
			!memcmp(e->machine, a->machine, TM_UUID);
	pthread_rwlock_unlock(&st->lock);
	return found;
}

void load_stand(struct store *st, const struct attempt *a, struct load *l)
{
	uint32_t disk = 0;
	int stand = 0;

	for (size_t i = 0; l->zero_chunks && i < l->nitems; i++) {
		if (l->items[i].loc.codec != TM_CODEC_ZERO)
			continue;
		if (l->items[i].disk != disk)
			stand = must_stand(st, a, l->items[i].disk);
		disk = l->items[i].disk;
		l->items[i].loc.flags = stand ? LOC_STAND : 0;
	}
}

static int add_zeros(struct store *st, const struct load *l, struct ents *v)
{
	static const struct loc zero = {.codec = TM_CODEC_ZERO};
	struct below w = {.chunk.it = index_iter(&st->ix, CF_CHUNK, 1),
		.block.it = index_iter(&st->ix, CF_BLOCK, 1)};

	for (size_t i = 0; i < l->nitems && !v->ret; i++) {
		const struct item *it = &l->items[i];

		if (it->loc.codec != TM_CODEC_ZERO)
			continue;
		w.disk = it->disk;
		if (it->loc.flags & LOC_STAND) {
			push_run(v, it->disk, it->block, it->count, (uint32_t)i, &zero);
			continue;
		}
		zero_where_needed(v, &w, it, (uint32_t)i);
		zero_own(v, it, (uint32_t)i);
	}
	if (!v->ret &&
		(index_iter_error(w.chunk.it, v->err) || index_iter_error(w.block.it, v->err)))
		v->ret = -v->err->code;
	rocksdb_iter_destroy(w.chunk.it);
	rocksdb_iter_destroy(w.block.it);
	return v->ret;
}

/* ---- Chunk by chunk into the batch ---- */

struct emit {
	struct store *st;
	const struct attempt *a;
	rocksdb_writebatch_t *b;
	int cond;
};

static void put_entry(struct emit *m, enum cf cf, uint32_t disk, uint64_t unit, struct loc loc)
{
	char key[KEY_LEN];

	loc.flags = m->cond ? LOC_COND : 0;
	key_make(key, disk, unit, m->a->seq);
	rocksdb_writebatch_put_cf(
		m->b, m->st->ix.cf[cf], key, sizeof(key), (char *)&loc, sizeof(loc));
}

/* An earlier batch of this attempt may have left a block that the chunk now covers; at the same seq it would win. */
static int drop_block(struct emit *m, uint32_t disk, uint64_t block, struct tm_err *err)
{
	char key[KEY_LEN], *val;
	size_t len;
	int ret;

	key_make(key, disk, block, m->a->seq);
	ret = index_get(&m->st->ix, CF_BLOCK, key, sizeof(key), &val, &len, err);
	if (ret <= 0)
		return ret;
	rocksdb_free(val);
	rocksdb_writebatch_delete_cf(m->b, m->st->ix.cf[CF_BLOCK], key, sizeof(key));
	return 0;
}

/* All entries of one chunk, in order. */
static int emit_chunk(struct emit *m, const struct ent *e, size_t n, struct tm_err *err)
{
	const struct loc *whole = NULL, *single[TM_CHUNK_BLOCKS] = {NULL};
	uint64_t chunk = e->block / TM_CHUNK_BLOCKS, block;
	int ret = 0;

	for (size_t i = 0; i < n; i++)
		if (e[i].count == TM_CHUNK_BLOCKS) {
			whole = &e[i].loc;
			memset(single, 0, sizeof(single));
		} else {
			single[e[i].block % TM_CHUNK_BLOCKS] = &e[i].loc;
		}
	if (whole)
		put_entry(m, CF_CHUNK, e->disk, chunk, *whole);
	for (uint32_t i = 0; !ret && i < TM_CHUNK_BLOCKS; i++) {
		block = chunk * TM_CHUNK_BLOCKS + i;
		if (single[i])
			put_entry(m, CF_BLOCK, e->disk, block, *single[i]);
		else if (whole && m->a->spilled)
			ret = drop_block(m, e->disk, block, err);
	}
	return ret;
}

int load_entries(struct store *st, const struct attempt *a, const struct load *l,
	rocksdb_writebatch_t *b, int cond, struct tm_err *err)
{
	struct emit m = {.st = st, .a = a, .b = b, .cond = cond};
	struct ents v = {.err = err};
	size_t i, n;

	for (i = 0; i < l->nitems; i++)
		if (l->items[i].loc.codec != TM_CODEC_ZERO)
			push_run(&v, l->items[i].disk, l->items[i].block, l->items[i].count,
				(uint32_t)i, &l->items[i].loc);
	v.data = v.n;
	if (!v.ret && v.n)
		qsort(v.e, v.n, sizeof(*v.e), by_place);
	if (!v.ret && l->zero_chunks && !add_zeros(st, l, &v) && v.n > v.data)
		qsort(v.e, v.n, sizeof(*v.e), by_place);
	for (i = 0; !v.ret && i < v.n; i += n) {
		for (n = 1; i + n < v.n && v.e[i + n].disk == v.e[i].disk &&
			    v.e[i + n].block / TM_CHUNK_BLOCKS == v.e[i].block / TM_CHUNK_BLOCKS;
			n++)
			;
		v.ret = emit_chunk(&m, &v.e[i], n, err);
	}
	free(v.e);
	return v.ret;
}

void load_pack_records(struct store *st, const struct load *l, rocksdb_writebatch_t *b)
{
	char key[4];

	for (size_t i = 0; i < l->ntouched; i++) {
		put_be32(key, l->touched[i].pack->no);
		rocksdb_writebatch_put_cf(b, st->ix.cf[CF_PACK], key, sizeof(key),
			(char *)&l->touched[i].pack->disk, sizeof(uint32_t));
	}
}
