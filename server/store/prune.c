// SPDX-License-Identifier: Apache-2.0
/*
 * Records of attempts that have ended. Every conditional entry needs its attempt's record, so without this the table of them would grow for ever
 * with the pieces of catch-ups. A record goes when no entry needs it any more, by a walk over the machine's part of the index:
 *
 *   - An entry of an aborted attempt is deleted.
 *   - An entry of an attempt that began at `seq` and became visible at `at` is made an unconditional one, visible at `seq`, once nobody could
 *     tell the difference: no kept point and no view in [seq, at). There will be none later, either, as points only come behind the head.
 *     Not those of an initial sync or a resync: they are few, and their entries many. Their records wait until no entry is met.
 *
 * Only attempts that had ended before the walk's iterators are made are looked at: they bring nothing more. The entries are written before the
 * record is deleted, into the same log, so after a crash a record may stand for nothing, but no entry without its record. Collection, which
 * writes entries as it once read them, is kept out.
 */
#include <stdlib.h>

#include "server/store/internal.h"

#define BATCH 4096 /* entries in one write */

struct ended {
	uint64_t seq;
	uint8_t kind, aborted;
	uint8_t needed; /* an entry was met that keeps it */
};

struct prune {
	struct store *st;
	const uint8_t *machine;
	struct ended *e; /* ascending */
	size_t n, room;
	rocksdb_writebatch_t *b;
	struct pace pace;
	struct tm_err *err;
};

/* Its entries are left as they are. */
static int stays(const struct ended *e)
{
	return e->kind == TM_ATTEMPT_INITIAL || e->kind == TM_ATTEMPT_RESYNC;
}

static struct ended *find(const struct prune *p, uint64_t seq)
{
	size_t lo = 0, hi = p->n, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (p->e[mid].seq < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < p->n && p->e[lo].seq == seq ? &p->e[lo] : NULL;
}

/* st->lock held. Would nobody notice if it had been visible from its beginning? */
static int settled(struct prune *p, uint64_t seq, const struct attempt_rec *r)
{
	const struct vis *v = vis_find(p->st->vis, p->st->nvis, seq);
	const struct machine *m = machine_find(p->st, p->machine);

	if (!v || v->state != VIS_ENDED || !m)
		return 0;
	if (r->state != AT_COMMITTED)
		return v->at == NEVER;
	return v->at == r->visible_at && v->at >= seq && !epoch_unpublished(m, v->at) &&
	       !points_need(p->st, m, seq, v->at);
}

static int take(struct prune *p, uint64_t seq, const struct attempt_rec *r)
{
	struct ended *grown;
	int ok;

	pthread_rwlock_rdlock(&p->st->lock);
	ok = settled(p, seq, r);
	pthread_rwlock_unlock(&p->st->lock);
	if (!ok)
		return 0;
	if (p->n == p->room) {
		p->room = p->room ? p->room * 2 : 256;
		grown = realloc(p->e, p->room * sizeof(*grown));
		if (!grown)
			return tm_fail(p->err, ENOMEM, "out of memory");
		p->e = grown;
	}
	p->e[p->n++] =
		(struct ended){.seq = seq, .kind = r->kind, .aborted = r->state != AT_COMMITTED};
	return 0;
}

/* The machine's attempts that have ended, as their records say. The index lock is not held while `take` waits for the store's. */
static int gather(struct prune *p)
{
	struct record {
		uint64_t seq;
		struct attempt_rec r;
	} *list = NULL, *grown;
	size_t n = 0, room = 0, klen, len;
	rocksdb_iterator_t *it;
	const char *key, *val;
	struct attempt_rec r;
	int ret = index_enter(p->st, p->err);

	if (ret)
		return ret;
	it = index_iter(&p->st->ix, CF_ATTEMPT, 1);
	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != 8 || len < sizeof(r))
			continue;
		memcpy(&r, val, sizeof(r));
		if (r.state == AT_OPEN || memcmp(r.machine, p->machine, TM_UUID))
			continue;
		if (n == room) {
			room = room ? room * 2 : 256;
			grown = realloc(list, room * sizeof(*list));
			if (!grown) {
				ret = tm_fail(p->err, ENOMEM, "out of memory");
				break;
			}
			list = grown;
		}
		list[n++] = (struct record){get_be64(key), r};
	}
	if (!ret)
		ret = index_iter_error(it, p->err);
	rocksdb_iter_destroy(it);
	index_leave(p->st);
	for (size_t i = 0; !ret && i < n; i++)
		ret = take(p, list[i].seq, &list[i].r);
	free(list);
	return ret;
}

static int flush(struct prune *p, int least)
{
	int ret = 0;

	/* Not synced: the record's deletion is, behind it. */
	if (rocksdb_writebatch_count(p->b) >= least) {
		ret = index_write(&p->st->ix, p->b, 0, p->err);
		rocksdb_writebatch_clear(p->b);
	}
	return ret;
}

static int settle_entry(struct prune *p, enum cf cf, const char *key, struct loc l)
{
	struct ended *e = l.flags & LOC_COND ? find(p, key_seq(key)) : NULL;

	if (!e)
		return 0;
	if (e->aborted) {
		rocksdb_writebatch_delete_cf(p->b, p->st->ix.cf[cf], key, KEY_LEN);
		ledger_drop(&p->st->ledger, &l);
	} else if (stays(e)) {
		e->needed = 1;
	} else {
		l.flags &= (uint8_t)~LOC_COND;
		rocksdb_writebatch_put_cf(
			p->b, p->st->ix.cf[cf], key, KEY_LEN, (char *)&l, sizeof(l));
	}
	return flush(p, BATCH);
}

static int walk_disk(struct prune *p, enum cf cf, uint32_t disk)
{
	rocksdb_iterator_t *it = index_iter(&p->st->ix, cf, 1);
	const char *key, *val;
	char from[KEY_LEN];
	size_t klen, len;
	struct loc l;
	int ret = 0;

	key_make(from, disk, 0, UINT64_MAX);
	rocksdb_iter_seek(it, from, KEY_LEN);
	for (; !ret && rocksdb_iter_valid(it); rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != KEY_LEN || len != sizeof(l))
			continue;
		if (key_disk(key) != disk)
			break;
		memcpy(&l, val, sizeof(l));
		ret = settle_entry(p, cf, key, l);
		if (!ret)
			ret = pace_pay(p->st, &p->pace, KEY_LEN + sizeof(l), p->err);
	}
	if (!ret)
		ret = index_iter_error(it, p->err);
	rocksdb_iter_destroy(it);
	return ret;
}

static int walk(struct prune *p, const uint32_t *disks, size_t n)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < n; i++) {
		ret = walk_disk(p, CF_CHUNK, disks[i]);
		if (!ret)
			ret = walk_disk(p, CF_BLOCK, disks[i]);
	}
	return ret ? ret : flush(p, 1);
}

/* Durable, and with it all that the walk has written. */
static int delete_records(struct prune *p)
{
	char key[8];

	for (size_t i = 0; i < p->n; i++) {
		if (p->e[i].needed)
			continue;
		put_be64(key, p->e[i].seq);
		rocksdb_writebatch_delete_cf(p->b, p->st->ix.cf[CF_ATTEMPT], key, sizeof(key));
	}
	return index_write(&p->st->ix, p->b, 1, p->err);
}

static void forget(struct prune *p)
{
	struct store *st = p->st;
	const struct ended *e;
	size_t n = 0;

	pthread_rwlock_wrlock(&st->lock);
	for (size_t i = 0; i < st->nvis; i++) {
		e = find(p, st->vis[i].seq);
		if (!e || e->needed)
			st->vis[n++] = st->vis[i];
	}
	st->nvis = n;
	pthread_rwlock_unlock(&st->lock);
}

/* All disks of the machine. */
static uint32_t *disks_of(struct prune *p, size_t *n)
{
	struct store *st = p->st;
	uint32_t *list;

	*n = 0;
	pthread_rwlock_rdlock(&st->lock);
	list = malloc((st->ndisks + 1) * sizeof(*list));
	for (uint32_t i = 0; list && i < st->ndisks; i++)
		if (st->disks[i] && !memcmp(st->disks[i]->machine, p->machine, TM_UUID))
			list[(*n)++] = i;
	pthread_rwlock_unlock(&st->lock);
	return list;
}

static int prune(struct prune *p)
{
	uint32_t *disks;
	size_t ndisks, many = 0;
	int ret = gather(p);

	for (size_t i = 0; i < p->n; i++)
		many += p->e[i].aborted || !stays(&p->e[i]);
	if (ret || many < p->st->o.prune_min)
		return ret;
	disks = disks_of(p, &ndisks);
	if (!disks)
		return tm_fail(p->err, ENOMEM, "out of memory");
	ret = index_enter(p->st, p->err);
	if (!ret) {
		p->b = rocksdb_writebatch_create();
		ret = walk(p, disks, ndisks);
		if (!ret)
			ret = delete_records(p);
		rocksdb_writebatch_destroy(p->b);
		index_leave(p->st);
	}
	if (!ret)
		forget(p);
	free(disks);
	return ret;
}

int store_prune(struct store *st, const uint8_t machine[TM_UUID], struct tm_err *err)
{
	struct prune p = {.st = st, .machine = machine, .err = err, .pace.rate = st->o.rate};
	int ret;

	if (atomic_exchange(&st->collecting, 1))
		return 0; /* another time */
	ret = prune(&p);
	free(p.e);
	atomic_store(&st->collecting, 0);
	return ret;
}
