// SPDX-License-Identifier: Apache-2.0
/*
 * The index forgets what nobody sees: the squash pass, then the engine's compaction with our filter, disk by disk.
 */
#include <stdlib.h>

#include "server/store/internal.h"
#include "server/store/space.h"

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

/* The machine's disks one by one; NULL: all. A nonzero answer ends it and is returned. */
static int each_disk(struct store *st, const uint8_t *machine,
	int (*fn)(struct store *st, uint32_t no, void *arg, struct tm_err *err), void *arg,
	struct tm_err *err)
{
	uint32_t ndisks, i;
	int ret = 0, mine;

	pthread_rwlock_rdlock(&st->lock);
	ndisks = st->ndisks;
	pthread_rwlock_unlock(&st->lock);
	for (i = 1; !ret && i < ndisks && !atomic_load(&st->interrupted); i++) {
		pthread_rwlock_rdlock(&st->lock);
		mine = st->disks[i] &&
		       (!machine || !memcmp(st->disks[i]->machine, machine, TM_UUID));
		pthread_rwlock_unlock(&st->lock);
		if (mine)
			ret = fn(st, i, arg, err);
	}
	return ret;
}

static int squash_and_compact(struct store *st, uint32_t no, void *arg, struct tm_err *err)
{
	struct squash *q = squash_begin(st, no, err);
	int ret = q ? squash_end(q) : -err->code;

	return ret ? ret : compact_disk(st, no, err);
}

/* What is dropped while it works may come too late for it. */
static void settle_debt(struct store *st, const uint8_t *machine, int done)
{
	pthread_rwlock_wrlock(&st->lock);
	for (struct machine *m = st->machines; m; m = m->next) {
		if (machine && memcmp(m->uuid, machine, TM_UUID))
			continue;
		if (done)
			m->debt -= m->settling;
		m->settling = done ? 0 : m->debt;
	}
	pthread_rwlock_unlock(&st->lock);
}

/* The n-th machine: 1 and its UUID, or 0. */
static int nth_machine(struct store *st, size_t n, uint8_t uuid[TM_UUID])
{
	const struct machine *m;

	pthread_rwlock_rdlock(&st->lock);
	for (m = st->machines; m && n; m = m->next)
		n--;
	if (m)
		memcpy(uuid, m->uuid, TM_UUID);
	pthread_rwlock_unlock(&st->lock);
	return m != NULL;
}

/* Machines that come or go meanwhile are met twice or missed: another time. */
static int prune_all(struct store *st, const uint8_t *machine, struct tm_err *err)
{
	uint8_t uuid[TM_UUID];
	int ret = 0;

	if (machine)
		return store_prune(st, machine, err);
	for (size_t i = 0; !ret && !atomic_load(&st->interrupted) && nth_machine(st, i, uuid); i++)
		ret = store_prune(st, uuid, err);
	return ret;
}

int store_compact(struct store *st, const uint8_t *machine, struct tm_err *err)
{
	int ret;

	if (atomic_exchange(&st->compacting, 1))
		return tm_fail(err, EBUSY, "the index is being compacted already");
	settle_debt(st, machine, 0);
	ret = each_disk(st, machine, squash_and_compact, NULL, err);
	if (!ret)
		ret = prune_all(st, machine, err);
	if (!ret && !atomic_load(&st->interrupted))
		settle_debt(st, machine, 1);
	atomic_store(&st->compacting, 0);
	return ret;
}

static int add_size(struct store *st, uint32_t no, void *arg, struct tm_err *err)
{
	char from[4], to[4], *msg = NULL;
	const char *begin[1] = {from}, *end[1] = {to};
	const size_t len[1] = {4};
	uint64_t size;
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	put_be32(from, no);
	put_be32(to, no + 1);
	for (enum cf cf = CF_CHUNK; !msg && cf <= CF_BLOCK; cf++) {
		rocksdb_approximate_sizes_cf(
			st->ix.db, st->ix.cf[cf], 1, begin, len, end, len, &size, &msg);
		if (!msg)
			*(uint64_t *)arg += size;
	}
	index_leave(st);
	return msg ? index_fail(err, "cannot tell the size", msg) : 0;
}

int store_debt(struct store *st, const uint8_t machine[TM_UUID], uint64_t *debt, uint64_t *cost,
	struct tm_err *err)
{
	const struct machine *m;

	*cost = 0;
	pthread_rwlock_rdlock(&st->lock);
	m = machine_find(st, machine);
	*debt = m ? m->debt : 0;
	pthread_rwlock_unlock(&st->lock);
	return *debt ? each_disk(st, machine, add_size, cost, err) : 0;
}
