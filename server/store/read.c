// SPDX-License-Identifier: Apache-2.0
/*
 * Reading a disk as of a point: per block the newest version that the point sees, in either family, of two that are equally
 * new the block. Two seeks per block, however many versions lie before and behind.
 */
#include <stdlib.h>

#include "server/store/internal.h"

#define STEP_CHUNKS 64u /* resolved, read and decoded at a time: 1 MiB */
#define RUN_MAX     (STEP_CHUNKS * (TM_CHUNK + 64u))
#define GAP_MAX     4096u /* bytes between two cells that are read along rather than sought over */

struct cursor {
	rocksdb_iterator_t *it;
	uint8_t placed; /* at the first entry from an earlier place on */
	uint8_t narrow; /* within one unit only: the bloom filters help */
};

enum from { NOTHING, WHOLE, SINGLE };

/* What the four blocks of a chunk are. */
struct chunk_view {
	struct loc whole;
	struct loc single[TM_CHUNK_BLOCKS];
	uint8_t from[TM_CHUNK_BLOCKS]; /* enum from */
};

struct reader {
	struct reader *next;
	struct cursor chunk, block;
	int narrow;
	struct chunk_view view[STEP_CHUNKS];
	char plain[TM_CHUNK];
	char run[RUN_MAX];
};

/* ---- Readers: iterators and buffers, kept for the next read ---- */

static void drop_iterators(struct reader *r)
{
	if (r->chunk.it) {
		rocksdb_iter_destroy(r->chunk.it);
		rocksdb_iter_destroy(r->block.it);
	}
	r->chunk.it = r->block.it = NULL;
}

static void make_iterators(struct store_view *v, struct reader *r, int narrow)
{
	/* A live index moves on, and open iterators would hold back what it wants to delete: only those of a checkpoint are kept. */
	if (r->chunk.it && r->narrow != narrow)
		drop_iterators(r);
	if (!r->chunk.it) {
		r->chunk.it = index_iter(v->ix, CF_CHUNK, !narrow);
		r->block.it = index_iter(v->ix, CF_BLOCK, !narrow);
	}
	r->narrow = narrow;
	r->chunk.placed = r->block.placed = 0;
	r->chunk.narrow = r->block.narrow = (uint8_t)narrow;
}

static int reader_get(struct store_view *v, struct reader **out, int narrow, struct tm_err *err)
{
	struct reader *r, **pp;

	if (v->st && index_enter(v->st, err))
		return -err->code;
	pthread_mutex_lock(&v->lock);
	for (pp = &v->idle; *pp && (*pp)->chunk.it && (*pp)->narrow != narrow; pp = &(*pp)->next)
		;
	if (!*pp)
		pp = &v->idle;
	r = *pp;
	if (r)
		*pp = r->next;
	pthread_mutex_unlock(&v->lock);
	if (!r)
		r = calloc(1, sizeof(*r));
	if (!r) {
		if (v->st)
			index_leave(v->st);
		return tm_fail(err, ENOMEM, "out of memory");
	}
	make_iterators(v, r, narrow);
	*out = r;
	return 0;
}

static void reader_put(struct store_view *v, struct reader *r)
{
	if (v->st) {
		drop_iterators(r);
		index_leave(v->st);
	}
	pthread_mutex_lock(&v->lock);
	r->next = v->idle;
	v->idle = r;
	pthread_mutex_unlock(&v->lock);
}

void readers_free(struct store_view *v)
{
	struct reader *r;

	while ((r = v->idle)) {
		v->idle = r->next;
		drop_iterators(r);
		free(r);
	}
}

/* ---- Resolving ---- */

static int sees(const struct store_view *v, uint64_t seq, const struct loc *l)
{
	size_t lo = 0, hi = v->nvisible, mid;

	if (!(l->flags & LOC_COND))
		return 1;
	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (v->visible[mid] < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < v->nvisible && v->visible[lo] == seq;
}

static const char *here(struct cursor *c)
{
	size_t len;

	return rocksdb_iter_valid(c->it) ? rocksdb_iter_key(c->it, &len) : NULL;
}

/* -1, 0, 1: before, in, behind the unit. */
static int where(const struct store_view *v, const char *key, uint64_t unit)
{
	if (key_disk(key) != v->disk)
		return key_disk(key) < v->disk ? -1 : 1;
	return key_unit(key) < unit ? -1 : key_unit(key) > unit;
}

/* To the first entry of the unit that is not newer than the view, or to what follows it. Units are asked for in ascending order. */
static void place(const struct store_view *v, struct cursor *c, uint64_t unit)
{
	const char *k = c->placed && !c->narrow ? here(c) : NULL;
	char key[KEY_LEN];

	if (k && where(v, k, unit) < 0) {
		/* Where versions are few the next one is near: cheaper than a seek. */
		rocksdb_iter_next(c->it);
		k = here(c);
	}
	if (c->placed && !c->narrow && !k)
		return;
	if (k && (where(v, k, unit) > 0 || (where(v, k, unit) == 0 && key_seq(k) <= v->seq)))
		return;
	key_make(key, v->disk, unit, v->seq);
	rocksdb_iter_seek(c->it, key, sizeof(key));
	c->placed = 1;
}

/* 1 if the view sees a version of the unit in this family. */
static int find(
	const struct store_view *v, struct cursor *c, uint64_t unit, struct loc *l, uint64_t *seq)
{
	const char *k;
	size_t len;

	place(v, c, unit);
	for (; (k = here(c)) && where(v, k, unit) == 0; rocksdb_iter_next(c->it)) {
		const char *val = rocksdb_iter_value(c->it, &len);

		if (len != sizeof(*l))
			continue;
		memcpy(l, val, sizeof(*l));
		*seq = key_seq(k);
		if (*seq <= v->seq && sees(v, *seq, l))
			return 1;
	}
	return 0;
}

/* The blocks [from, to) of a chunk, numbered 0 to 4. */
static void resolve(struct store_view *v, struct reader *r, uint64_t chunk, uint32_t from,
	uint32_t to, struct chunk_view *cv)
{
	uint64_t cseq = 0, bseq = 0;
	int whole = find(v, &r->chunk, chunk, &cv->whole, &cseq);

	for (uint32_t i = from; i < to; i++) {
		cv->from[i] = whole ? WHOLE : NOTHING;
		if (find(v, &r->block, chunk * TM_CHUNK_BLOCKS + i, &cv->single[i], &bseq) &&
			(!whole || bseq >= cseq))
			cv->from[i] = SINGLE;
	}
}

static const struct loc *loc_of(const struct chunk_view *cv, uint32_t i)
{
	static const struct loc zero = {.codec = TM_CODEC_ZERO};

	return cv->from[i] == NOTHING ? &zero : cv->from[i] == WHOLE ? &cv->whole : &cv->single[i];
}

static int resolve_error(struct reader *r, struct tm_err *err)
{
	return index_iter_error(r->chunk.it, err) ? -err->code : index_iter_error(r->block.it, err);
}

/* ---- Reading ---- */

/* A cell to be read, and which blocks of it are wanted. */
struct want {
	const struct loc *l;
	uint64_t block;
	uint32_t count;
	uint8_t mask; /* of the chunk's blocks */
};

struct job {
	struct store_view *v;
	struct reader *r;
	char *buf;
	uint64_t off, len; /* what buf is, in bytes of the disk */
	struct want *want;
	size_t nwant;
	struct tm_err *err;
};

/* Copies what overlaps the buffer of the plain bytes at `at`. */
static void give(struct job *j, uint64_t at, const char *plain, size_t len)
{
	uint64_t from = at > j->off ? at : j->off, end = j->off + j->len;
	uint64_t to = at + len < end ? at + len : end;

	if (from < to && plain)
		memcpy(j->buf + (from - j->off), plain + (from - at), to - from);
	else if (from < to)
		memset(j->buf + (from - j->off), 0, to - from);
}

static int damaged(struct job *j, const struct want *w, const char *why)
{
	return tm_fail(j->err, EIO,
		"disk %u, block %llu: the cell in pack %08x at %u is damaged: %s", j->v->disk,
		(unsigned long long)w->block, w->l->pack, w->l->off, why);
}

static int decode(struct job *j, const struct want *w, const char *stored)
{
	uint64_t at = w->block * TM_BLOCK;
	size_t len = (size_t)w->count * TM_BLOCK;
	struct tm_err why;
	struct tm_cell c;
	char *to = j->r->plain;
	/* Straight to where it is wanted if all of it is. */
	int direct = w->mask == (1u << w->count) - 1 && at >= j->off && at + len <= j->off + j->len;

	memcpy(&c, stored, sizeof(c));
	if (c.block != w->block || c.count != w->count || c.len != w->l->len ||
		c.codec != w->l->codec || c.plain_sum != w->l->sum)
		return damaged(j, w, "its header is another's");
	if (direct && w->count > 1)
		to = j->buf + (at - j->off);
	if (tm_cell_decode(&c, stored + sizeof(c), to, &why))
		return damaged(j, w, why.msg);
	if (to != j->r->plain)
		return 0;
	for (uint32_t i = 0; i < w->count; i++)
		if (w->count == 1 || w->mask & 1u << i)
			give(j, at + i * TM_BLOCK, to + (size_t)i * TM_BLOCK, TM_BLOCK);
	return 0;
}

static uint64_t want_end(const struct want *w)
{
	return (uint64_t)w->l->off + sizeof(struct tm_cell) + w->l->len;
}

/* Reads cells that lie together in one go. */
static int read_run(struct job *j, const struct want *w, size_t n)
{
	uint64_t off = w->l->off, len = want_end(&w[n - 1]) - off;
	struct pack *p;
	struct tm_err why;
	int ret;

	ret = pack_get(j->v->packs, w->l->pack, &p, j->err);
	if (ret)
		return ret;
	ret = read_full(p->fd, j->r->run, len, off, &why);
	pack_put(j->v->packs, p);
	if (ret)
		return damaged(j, w, why.msg);
	for (size_t i = 0; !ret && i < n; i++)
		ret = decode(j, &w[i], j->r->run + (w[i].l->off - off));
	return ret;
}

static int read_wanted(struct job *j)
{
	size_t i, n;
	int ret = 0;

	for (i = 0; !ret && i < j->nwant; i += n) {
		const struct want *w = &j->want[i];

		for (n = 1; i + n < j->nwant && w[n].l->pack == w->l->pack &&
			    w[n].l->off >= want_end(&w[n - 1]) &&
			    w[n].l->off - want_end(&w[n - 1]) <= GAP_MAX &&
			    want_end(&w[n]) - w->l->off <= RUN_MAX;
			n++)
			;
		ret = read_run(j, w, n);
	}
	return ret;
}

/* Sorts the blocks of one chunk into zeros (given at once) and cells to be read. */
static int collect(
	struct job *j, const struct chunk_view *cv, uint64_t chunk, uint32_t from, uint32_t to)
{
	struct want *whole = NULL;

	for (uint32_t i = from; i < to; i++) {
		const struct loc *l = loc_of(cv, i);
		uint64_t block = chunk * TM_CHUNK_BLOCKS + i;

		if (l->codec == TM_CODEC_BAD)
			return tm_fail(j->err, EIO,
				"disk %u: block %llu was unreadable at the source", j->v->disk,
				(unsigned long long)block);
		if (!loc_has_data(l)) {
			give(j, block * TM_BLOCK, NULL, TM_BLOCK);
		} else if (cv->from[i] == SINGLE) {
			j->want[j->nwant++] = (struct want){l, block, 1, 1};
		} else {
			if (!whole) {
				whole = &j->want[j->nwant++];
				*whole = (struct want){
					l, chunk * TM_CHUNK_BLOCKS, TM_CHUNK_BLOCKS, 0};
			}
			whole->mask |= (uint8_t)(1u << i);
		}
	}
	return 0;
}

/* One step: at most STEP_CHUNKS chunks. */
static int read_step(struct job *j)
{
	uint64_t first = j->off / TM_BLOCK, last = (j->off + j->len - 1) / TM_BLOCK;
	struct want want[STEP_CHUNKS * (TM_CHUNK_BLOCKS + 1)];
	uint64_t c0 = first / TM_CHUNK_BLOCKS, c1 = last / TM_CHUNK_BLOCKS;
	int ret = 0;

	j->want = want;
	j->nwant = 0;
	for (uint64_t c = c0; !ret && c <= c1; c++) {
		struct chunk_view *cv = &j->r->view[c - c0];
		uint32_t from = c == c0 ? first % TM_CHUNK_BLOCKS : 0;
		uint32_t to = c == c1 ? last % TM_CHUNK_BLOCKS + 1 : TM_CHUNK_BLOCKS;

		resolve(j->v, j->r, c, from, to, cv);
		ret = collect(j, cv, c, from, to);
	}
	if (!ret)
		ret = resolve_error(j->r, j->err);
	return ret ? ret : read_wanted(j);
}

static int read_once(
	struct store_view *v, char *buf, uint64_t len, uint64_t off, struct tm_err *err)
{
	struct job j = {.v = v, .buf = buf, .off = off, .len = len, .err = err};
	int narrow = off / TM_CHUNK == (off + len - 1) / TM_CHUNK, ret;

	ret = reader_get(v, &j.r, narrow, err);
	if (ret)
		return ret;
	ret = read_step(&j);
	reader_put(v, j.r);
	return ret;
}

int store_view_read(struct store_view *v, void *buf, size_t len, uint64_t off, struct tm_err *err)
{
	uint64_t n, inside = off < v->size ? v->size - off : 0;
	char *p = buf;
	int ret;

	if (len > inside)
		memset(p + inside, 0, len - inside);
	else
		inside = len;
	for (; inside; p += n, off += n, inside -= n) {
		n = (STEP_CHUNKS * (uint64_t)TM_CHUNK) - off % TM_CHUNK;
		n = n < inside ? n : inside;
		ret = read_once(v, p, n, off, err);
		/* The pack may just have been collected: its live cells are elsewhere now. */
		if (ret == -ENOENT && v->st)
			ret = read_once(v, p, n, off, err);
		if (ret == -ENOENT)
			ret = -(err->code = EIO);
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- Extents ---- */

struct run {
	int (*fn)(void *arg, uint64_t off, uint64_t len, enum store_extent_kind kind);
	void *arg;
	uint64_t start, end; /* of the run so far, clipped to what was asked */
	uint64_t from, to;
	enum store_extent_kind kind;
};

static int run_flush(struct run *x)
{
	uint64_t from = x->start > x->from ? x->start : x->from,
		 to = x->end < x->to ? x->end : x->to;

	return from < to ? x->fn(x->arg, from, to - from, x->kind) : 0;
}

static int run_add(struct run *x, uint64_t off, uint64_t len, enum store_extent_kind kind)
{
	int ret = 0;

	if (kind != x->kind || off != x->end) {
		ret = run_flush(x);
		x->start = off;
		x->kind = kind;
	}
	x->end = off + len;
	return ret;
}

/* The next chunk at or after `chunk` of which either family has anything. */
static uint64_t next_chunk(struct store_view *v, struct reader *r, uint64_t chunk)
{
	const char *c, *b;
	uint64_t next = NEVER;

	place(v, &r->chunk, chunk);
	place(v, &r->block, chunk * TM_CHUNK_BLOCKS);
	c = here(&r->chunk);
	b = here(&r->block);
	if (c && key_disk(c) == v->disk)
		next = key_unit(c);
	if (b && key_disk(b) == v->disk && key_unit(b) / TM_CHUNK_BLOCKS < next)
		next = key_unit(b) / TM_CHUNK_BLOCKS;
	return next > chunk ? next : chunk;
}

static int walk_extents(struct store_view *v, struct reader *r, struct run *x, struct tm_err *err)
{
	uint64_t end = (x->to + TM_CHUNK - 1) / TM_CHUNK, chunk = x->from / TM_CHUNK, next;
	struct chunk_view cv;
	int ret = 0;

	for (; !ret && chunk < end; chunk++) {
		next = next_chunk(v, r, chunk);
		if (next > chunk) {
			next = next < end ? next : end;
			ret = run_add(x, chunk * TM_CHUNK, (next - chunk) * TM_CHUNK, STORE_ZERO);
			if (ret || next == end)
				break;
			chunk = next;
		}
		resolve(v, r, chunk, 0, TM_CHUNK_BLOCKS, &cv);
		for (uint32_t i = 0; !ret && i < TM_CHUNK_BLOCKS; i++)
			ret = run_add(x, chunk * TM_CHUNK + (uint64_t)i * TM_BLOCK, TM_BLOCK,
				loc_of(&cv, i)->codec == TM_CODEC_ZERO ? STORE_ZERO : STORE_DATA);
	}
	if (!ret)
		ret = resolve_error(r, err);
	return ret ? ret : run_flush(x);
}

int store_view_extents(struct store_view *v, uint64_t off, uint64_t len,
	int (*fn)(void *arg, uint64_t off, uint64_t len, enum store_extent_kind kind), void *arg,
	struct tm_err *err)
{
	struct run x = {.fn = fn, .arg = arg, .from = off, .start = off, .end = off};
	struct reader *r;
	int ret;

	if (off >= v->size)
		return 0;
	x.to = len < v->size - off ? off + len : v->size;
	ret = reader_get(v, &r, 0, err);
	if (ret)
		return ret;
	ret = walk_extents(v, r, &x, err);
	reader_put(v, r);
	return ret;
}
