// SPDX-License-Identifier: Apache-2.0
/*
 * Getting space back: the engine's compaction with our filter, then packs that hold little that is alive.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "server/store/internal.h"
#include "server/store/space.h"

#define BATCH      (8u << 20) /* bytes of cells copied between two flushes */
#define DEAD_SHARE 7u         /* of what is alive a seventh may be dead */
/* a pack below a sixteenth of the limit is small; so many small ones are merged */
#define SMALL_SHARE 16u

/* ---- Compaction ---- */

static int compact_disk(struct store *st, uint32_t no, struct tm_err *err)
{
	rocksdb_compactoptions_t *o;
	char from[4], to[4];
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	if (index_writable(&st->ix, err)) {
		index_leave(st);
		return -err->code;
	}
	o = rocksdb_compactoptions_create();
	/* Flushes and automatic compactions go on beside it; the lowest level is gone through too, or nothing would be dropped there. */
	rocksdb_compactoptions_set_exclusive_manual_compaction(o, 0);
	rocksdb_compactoptions_set_bottommost_level_compaction(o, 2);
	put_be32(from, no);
	put_be32(to, no + 1);
	rocksdb_compact_range_cf_opt(st->ix.db, st->ix.cf[CF_CHUNK], o, from, 4, to, 4);
	if (!atomic_load(&st->interrupted))
		rocksdb_compact_range_cf_opt(st->ix.db, st->ix.cf[CF_BLOCK], o, from, 4, to, 4);
	rocksdb_compactoptions_destroy(o);
	index_leave(st);
	return 0;
}

int store_compact(struct store *st, const uint8_t *machine, struct tm_err *err)
{
	struct squash *q;
	uint32_t ndisks, i;
	int ret = 0, mine;

	if (atomic_exchange(&st->compacting, 1))
		return tm_fail(err, EBUSY, "the index is being compacted already");
	pthread_rwlock_rdlock(&st->lock);
	ndisks = st->ndisks;
	pthread_rwlock_unlock(&st->lock);
	for (i = 1; !ret && i < ndisks && !atomic_load(&st->interrupted); i++) {
		pthread_rwlock_rdlock(&st->lock);
		mine = st->disks[i] &&
		       (!machine || !memcmp(st->disks[i]->machine, machine, TM_UUID));
		pthread_rwlock_unlock(&st->lock);
		if (mine) {
			q = squash_begin(st, i, err);
			ret = q ? squash_end(q) : -err->code;
		}
		if (mine && !ret)
			ret = compact_disk(st, i, err);
	}
	atomic_store(&st->compacting, 0);
	return ret;
}

/* ---- Which packs ---- */

struct pile {
	uint32_t no, disk;
	uint64_t size, live;
	uint8_t keep; /* not to be moved now: an entry in it can't be */
	uint8_t move;
};

struct collector {
	struct store *st;
	const struct store_collect_opts *o;
	struct store_collected *r;
	struct pile *p; /* ascending by number */
	size_t n, room;
	struct vis *vis;
	size_t nvis;
	uint8_t *disk; /* by number: is there one? */
	uint32_t ndisks, next_disk;
	struct tm_err *err;
	/* copying */
	rocksdb_writebatch_t *b;
	struct touched *out;
	size_t nout;
	uint64_t pending;
};

static struct pile *pile_of(struct collector *c, uint32_t no)
{
	size_t lo = 0, hi = c->n, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (c->p[mid].no < no)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->n && c->p[lo].no == no ? &c->p[lo] : NULL;
}

/* The packs that nobody appends to and no attempt holds: nothing new can come to refer to them from here on. */
static int list_packs(struct collector *c)
{
	rocksdb_iterator_t *it = index_iter(&c->st->ix, CF_PACK, 1);
	struct pile *grown;
	struct stat sb;
	const char *key, *val;
	char name[16];
	size_t klen, len;
	int ret = 0;

	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		struct pile p = {0};

		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != 4 || len < sizeof(p.disk))
			continue;
		p.no = get_be32(key);
		memcpy(&p.disk, val, sizeof(p.disk));
		pack_name(name, p.no);
		if (fstatat(c->st->packsfd, name, &sb, 0))
			continue; /* missing: for scrub to tell */
		p.size = (uint64_t)sb.st_size;
		c->r->packs++;
		if (pack_held(&c->st->packs, p.no))
			continue;
		if (c->n == c->room) {
			c->room = c->room ? c->room * 2 : 256;
			grown = realloc(c->p, c->room * sizeof(*grown));
			if (!grown) {
				ret = tm_fail(c->err, ENOMEM, "out of memory");
				break;
			}
			c->p = grown;
		}
		c->p[c->n++] = p;
	}
	if (!ret)
		ret = index_iter_error(it, c->err);
	rocksdb_iter_destroy(it);
	return ret;
}

/* DEAD: nobody can ever see it. PINNED: its attempt was open, so its key may still be written by others. */
enum state { LIVE, DEAD, PINNED };

static enum state state_of(const struct collector *c, const char *key, const struct loc *l)
{
	const struct vis *v;

	if (key_disk(key) >= c->next_disk)
		return PINNED; /* registered since */
	if (key_disk(key) >= c->ndisks || !c->disk[key_disk(key)])
		return DEAD; /* of a machine that was removed */
	if (!(l->flags & LOC_COND))
		return LIVE;
	v = vis_find(c->vis, c->nvis, key_seq(key));
	if (!v)
		return PINNED; /* begun since */
	return v->at != NEVER ? LIVE : v->state == VIS_ENDED ? DEAD : PINNED;
}

/*
 * How things stand, before packs are listed: what is committed or aborted later only looks more alive than it is, and what is begun
 * later refers to none of these packs.
 */
static int snapshot(struct collector *c)
{
	struct store *st = c->st;

	pthread_rwlock_rdlock(&st->lock);
	c->vis = malloc((st->nvis + 1) * sizeof(*c->vis));
	c->disk = calloc(st->ndisks + 1, 1);
	if (c->vis && c->disk) {
		c->nvis = st->nvis;
		if (st->nvis)
			memcpy(c->vis, st->vis, st->nvis * sizeof(*c->vis));
		c->ndisks = st->ndisks;
		c->next_disk = st->next_disk;
		for (uint32_t i = 0; i < st->ndisks; i++)
			c->disk[i] = st->disks[i] != NULL;
	}
	pthread_rwlock_unlock(&st->lock);
	return c->vis && c->disk ? 0 : tm_fail(c->err, ENOMEM, "out of memory");
}

/* Calls fn for every entry with data of one family. */
static int each_entry(struct collector *c, enum cf cf,
	int (*fn)(struct collector *c, enum cf cf, const char *key, const struct loc *l))
{
	rocksdb_iterator_t *it = index_iter(&c->st->ix, cf, 1);
	const char *key, *val;
	size_t klen, len;
	struct loc l;
	int ret = 0;

	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != KEY_LEN || len != sizeof(l))
			continue;
		memcpy(&l, val, sizeof(l));
		if (loc_has_data(&l) && !(ret = store_ending(c->st, c->err)))
			ret = fn(c, cf, key, &l);
	}
	if (!ret)
		ret = index_iter_error(it, c->err);
	rocksdb_iter_destroy(it);
	return ret;
}

static int count(struct collector *c, enum cf cf, const char *key, const struct loc *l)
{
	struct pile *p = pile_of(c, l->pack);

	if (!p)
		return 0;
	switch (state_of(c, key, l)) {
	case PINNED:
		p->keep = 1;
		/* fall through */
	case LIVE:
		p->live += sizeof(struct tm_cell) + l->len;
		break;
	case DEAD:
		break;
	}
	return 0;
}

static uint64_t dead_in(const struct pile *p)
{
	uint64_t used = p->size > PACK_HEADER_LEN ? p->size - PACK_HEADER_LEN : 0;

	return used > p->live ? used - p->live : 0;
}

/*
 * Many packs may be a little less than a third dead: of all that is alive not more than so much may be dead. Those that are most dead go first,
 * and none that is hardly dead: it would be copied for nothing.
 */
static void choose_more(struct collector *c, uint64_t budget)
{
	static const uint8_t parts[] = {3, 4, 5, 6, 8};
	uint64_t dead = 0, live = 0, own;

	for (size_t i = 0; i < c->n; i++) {
		live += c->p[i].live;
		dead += c->p[i].move ? 0 : dead_in(&c->p[i]);
	}
	for (size_t k = 0; k < sizeof(parts); k++)
		for (size_t i = 0; i < c->n && dead * DEAD_SHARE > live; i++) {
			own = dead_in(&c->p[i]);
			if (c->p[i].move || c->p[i].keep || c->p[i].live > budget ||
				own * parts[k] < own + c->p[i].live)
				continue;
			c->p[i].move = 1;
			budget -= c->p[i].live;
			dead -= own;
		}
}

static void choose(struct collector *c)
{
	uint64_t budget = c->o->copy_max ? c->o->copy_max : 1ull << 30, small_size;
	size_t small = 0;

	small_size = c->st->o.pack_bytes / SMALL_SHARE;
	for (size_t i = 0; i < c->n; i++)
		small += c->p[i].size < small_size;
	for (size_t i = 0; i < c->n; i++) {
		struct pile *p = &c->p[i];

		c->r->live_bytes += p->live;
		c->r->dead_bytes += dead_in(p);
		if (p->keep || p->live > budget)
			continue;
		if (p->live >= dead_in(p) * 2 && p->live &&
			!(p->size < small_size && small > SMALL_SHARE))
			continue;
		p->move = 1;
		budget -= p->live;
	}
	choose_more(c, budget);
}

/* ---- Copying ---- */

static void slow_down(struct collector *c, uint64_t bytes)
{
	struct timespec ts;
	uint64_t ns;

	if (!c->o->rate)
		return;
	ns = bytes * 1000 / (c->o->rate / 1000000 + 1);
	ts.tv_sec = (time_t)(ns / 1000000000);
	ts.tv_nsec = (long)(ns % 1000000000);
	nanosleep(&ts, NULL);
}

/* What was copied is durable, then the index says where it lies now. */
static int settle(struct collector *c)
{
	char key[4];
	int ret = 0;

	for (size_t i = 0; i < c->nout; i++) {
		if (!ret)
			ret = pack_sync(&c->st->packs, c->out[i].pack, c->out[i].mark, c->err);
		put_be32(key, c->out[i].pack->no);
		rocksdb_writebatch_put_cf(c->b, c->st->ix.cf[CF_PACK], key, sizeof(key),
			(char *)&c->out[i].pack->disk, sizeof(uint32_t));
	}
	if (!ret && c->nout)
		ret = index_write(&c->st->ix, c->b, 1, c->err);
	rocksdb_writebatch_clear(c->b);
	for (size_t i = 0; i < c->nout; i++)
		pack_put(&c->st->packs, c->out[i].pack);
	c->nout = 0;
	slow_down(c, c->pending);
	c->pending = 0;
	return ret;
}

static int note_pack(struct collector *c, struct pack *p, uint64_t mark)
{
	struct touched *grown;

	for (size_t i = 0; i < c->nout; i++)
		if (c->out[i].pack == p) {
			pack_put(&c->st->packs, p);
			c->out[i].mark = mark;
			return 0;
		}
	grown = realloc(c->out, (c->nout + 1) * sizeof(*grown));
	if (!grown) {
		pack_put(&c->st->packs, p);
		return tm_fail(c->err, ENOMEM, "out of memory");
	}
	c->out = grown;
	c->out[c->nout++] = (struct touched){.pack = p, .mark = mark};
	return 0;
}

/* Reads the cell and verifies it: damage must not be copied as if it were sound. */
static int fetch_cell(struct collector *c, const struct loc *l, char *cell)
{
	char plain[TM_CHUNK];
	struct tm_cell h;
	struct tm_err why;
	struct pack *p;
	int ret;

	if (l->len > TM_CHUNK || pack_get(&c->st->packs, l->pack, &p, &why))
		return -1;
	ret = read_full(p->fd, cell, sizeof(h) + l->len, l->off, &why);
	pack_put(&c->st->packs, p);
	memcpy(&h, cell, sizeof(h));
	if (ret || h.len != l->len || h.codec != l->codec || h.plain_sum != l->sum)
		return -1;
	return tm_cell_decode(&h, cell + sizeof(h), plain, &why);
}

static int move(struct collector *c, enum cf cf, const char *key, const struct loc *l)
{
	struct pile *p = pile_of(c, l->pack);
	char cell[sizeof(struct tm_cell) + TM_CHUNK];
	size_t len = sizeof(struct tm_cell) + l->len;
	struct loc to = *l;
	struct pack *out;
	uint64_t mark;
	uint32_t off;
	int ret;

	if (!p || !p->move || state_of(c, key, l) == DEAD)
		return 0;
	if (fetch_cell(c, l, cell)) {
		p->move = 0;
		c->r->damaged++;
		return 0;
	}
	ret = store_space(c->st, c->err);
	if (!ret)
		ret = packs_append(&c->st->packs, p->disk, key_disk(key), key_seq(key), cell, len,
			&out, &off, &mark, c->err);
	if (ret)
		return ret;
	to.pack = out->no;
	to.off = off;
	rocksdb_writebatch_put_cf(c->b, c->st->ix.cf[cf], key, KEY_LEN, (char *)&to, sizeof(to));
	c->r->copied_bytes += len;
	c->pending += len;
	ret = note_pack(c, out, mark);
	return ret ? ret : c->pending >= BATCH ? settle(c) : 0;
}

/* ---- Removing ---- */

/* The record goes first: a file without one is swept away at the next opening, a record without a file would look like a loss. */
static int remove_pack(struct collector *c, struct pile *p)
{
	struct store *st = c->st;
	rocksdb_writebatch_t *b;
	char key[4], name[16];
	int ret;

	/* Not while a checkpoint links packs; not while a reader has it open: next time. */
	pthread_mutex_lock(&st->checkpoint_lock);
	if (pack_busy(&st->packs, p->no)) {
		pthread_mutex_unlock(&st->checkpoint_lock);
		return 0;
	}
	b = rocksdb_writebatch_create();
	put_be32(key, p->no);
	rocksdb_writebatch_delete_cf(b, st->ix.cf[CF_PACK], key, sizeof(key));
	ret = index_write(&st->ix, b, 1, c->err);
	rocksdb_writebatch_destroy(b);
	pack_name(name, p->no);
	if (!ret && unlinkat(st->packsfd, name, 0) && errno != ENOENT)
		ret = tm_fail_errno(c->err, "cannot remove pack %s", name);
	pthread_mutex_unlock(&st->checkpoint_lock);
	if (!ret) {
		c->r->removed++;
		c->r->freed_bytes += p->size;
	}
	return ret;
}

static int collect(struct collector *c)
{
	int ret = list_packs(c), any = 0;

	if (!ret)
		ret = each_entry(c, CF_CHUNK, count);
	if (!ret)
		ret = each_entry(c, CF_BLOCK, count);
	if (ret)
		return ret;
	choose(c);
	for (size_t i = 0; i < c->n; i++)
		any |= c->p[i].move && c->p[i].live;
	if (any)
		ret = each_entry(c, CF_CHUNK, move);
	if (any && !ret)
		ret = each_entry(c, CF_BLOCK, move);
	if (settle(c) && !ret)
		ret = -c->err->code;
	for (size_t i = 0; !ret && i < c->n; i++)
		if (c->p[i].move)
			ret = remove_pack(c, &c->p[i]);
	return ret;
}

int store_collect(struct store *st, const struct store_collect_opts *opts,
	struct store_collected *result, struct tm_err *err)
{
	static const struct store_collect_opts none;
	struct store_collected ignored = {0};
	struct collector c = {
		.st = st, .o = opts ? opts : &none, .r = result ? result : &ignored, .err = err};
	int ret;

	memset(c.r, 0, sizeof(*c.r));
	if (atomic_exchange(&st->collecting, 1))
		return tm_fail(err, EBUSY, "packs are being collected already");
	ret = snapshot(&c);
	if (!ret)
		ret = index_enter(st, err);
	if (!ret) {
		c.b = rocksdb_writebatch_create();
		ret = collect(&c);
		rocksdb_writebatch_destroy(c.b);
		index_leave(st);
	}
	free(c.p);
	free(c.vis);
	free(c.disk);
	free(c.out);
	atomic_store(&st->collecting, 0);
	return ret;
}
