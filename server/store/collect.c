// SPDX-License-Identifier: Apache-2.0
/*
 * Getting space back: packs that hold little that is alive.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "server/store/collect.h"

#define BATCH        (8u << 20) /* bytes of cells copied between two flushes */
#define ITER_ENTRIES (1u << 12) /* that an iterator serves */

/* ---- Which packs ---- */

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

/* An entry with data, and what the walk costs. */
static int visit(struct collector *c, enum cf cf, const char *key, const char *val, size_t len,
	int (*fn)(struct collector *c, enum cf cf, const char *key, const struct loc *l))
{
	struct loc l;
	int ret = pace_pay(c->st, &c->pace, KEY_LEN + sizeof(l), c->err);

	if (ret || len != sizeof(l))
		return ret;
	memcpy(&l, val, sizeof(l));
	return loc_has_data(&l) ? fn(c, cf, key, &l) : 0;
}

/*
 * Calls fn for every entry with data of one family. Now and then with a new iterator: an old one keeps files that compaction has replaced. That
 * shows entries that are gone meanwhile no more, and none that is new and lies in a pack of ours.
 */
static int each_entry(struct collector *c, enum cf cf,
	int (*fn)(struct collector *c, enum cf cf, const char *key, const struct loc *l))
{
	rocksdb_iterator_t *it = index_iter(&c->st->ix, cf, 1);
	const char *key, *val;
	char from[KEY_LEN];
	size_t klen, len;
	uint32_t n = 0;
	int ret = 0;

	rocksdb_iter_seek_to_first(it);
	for (; !ret && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != KEY_LEN)
			continue;
		if (++n == ITER_ENTRIES) {
			n = 0;
			memcpy(from, key, KEY_LEN);
			ret = index_iter_error(it, c->err);
			rocksdb_iter_destroy(it);
			it = index_iter(&c->st->ix, cf, 1);
			rocksdb_iter_seek(it, from, KEY_LEN);
			if (ret || !rocksdb_iter_valid(it))
				break;
			key = rocksdb_iter_key(it, &klen);
			val = rocksdb_iter_value(it, &len);
			if (klen != KEY_LEN)
				continue;
		}
		ret = visit(c, cf, key, val, len, fn);
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

/* ---- Copying ---- */

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
	if (!ret)
		ret = pace_pay(c->st, &c->pace, c->pending, c->err);
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
	if (!c->pending && !collect_room(c))
		return tm_fail(c->err, ENOSPC, "no room for copying what is alive");
	ret = packs_append(&c->st->packs, p->disk, 1, key_disk(key), key_seq(key), cell, len, &out,
		&off, &mark, c->err);
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
		ledger_gone(&st->ledger, p->no);
		c->r->removed++;
		c->r->freed_bytes += p->size;
	}
	return ret;
}

static int collect(struct collector *c)
{
	struct ledger *l = &c->st->ledger;
	int ret = list_packs(c), any = 0;

	if (ret || (c->o->lazy && !collect_worth(c)))
		return ret;
	c->r->walked = 1;
	c->r->live_bytes = c->r->dead_bytes = 0;
	ledger_walk(l);
	if (!ret)
		ret = each_entry(c, CF_CHUNK, count);
	if (!ret)
		ret = each_entry(c, CF_BLOCK, count);
	if (ret)
		return ret;
	for (size_t i = 0; i < c->n; i++)
		ledger_counted(l, c->p[i].no, c->p[i].live);
	collect_choose(c);
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
	l->settled = 1;
	if (!ret)
		ledger_walked(l);
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

	c.pace.rate = c.o->rate;
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
