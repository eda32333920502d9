// SPDX-License-Identifier: Apache-2.0
/*
 * Forgetting a machine.
 */
#include <stdlib.h>

#include "server/store/internal.h"

static int busy(struct store *st, const uint8_t machine[TM_UUID], struct tm_err *err)
{
	for (struct attempt *a = st->attempts; a; a = a->next)
		if (!memcmp(a->machine, machine, TM_UUID))
			return tm_fail(err, EBUSY, "attempt %llu of the machine is open",
				(unsigned long long)a->seq);
	for (struct store_view *v = st->views; v; v = v->next)
		if (!memcmp(v->machine, machine, TM_UUID))
			return tm_fail(err, EBUSY, "a disk of the machine is being read");
	return 0;
}

static void forget_disk(struct store *st, rocksdb_writebatch_t *b, uint32_t no)
{
	char from[4], to[4], key[5] = "d";

	put_be32(from, no);
	put_be32(to, no + 1);
	put_be32(key + 1, no);
	rocksdb_writebatch_delete_cf(b, st->ix.cf[CF_META], key, sizeof(key));
	rocksdb_writebatch_delete_range_cf(b, st->ix.cf[CF_CHUNK], from, 4, to, 4);
	rocksdb_writebatch_delete_range_cf(b, st->ix.cf[CF_BLOCK], from, 4, to, 4);
}

static int forget_records(struct store *st, const uint8_t machine[TM_UUID], struct tm_err *err)
{
	rocksdb_writebatch_t *b = rocksdb_writebatch_create();
	char from[24], to[25], key[1 + TM_UUID];
	int ret;

	point_key(from, machine, 0);
	point_key(to, machine, UINT64_MAX);
	to[24] = 0; /* behind the last */
	rocksdb_writebatch_delete_range_cf(
		b, st->ix.cf[CF_POINT], from, sizeof(from), to, sizeof(to));
	head_key(key, machine);
	rocksdb_writebatch_delete_cf(b, st->ix.cf[CF_META], key, sizeof(key));
	key[0] = 'n';
	rocksdb_writebatch_delete_cf(b, st->ix.cf[CF_META], key, sizeof(key));
	/* The highest number may go: it must not come back for another disk. */
	rocksdb_writebatch_put_cf(b, st->ix.cf[CF_META], "next disk", 9, (char *)&st->next_disk,
		sizeof(st->next_disk));
	for (uint32_t i = 0; i < st->ndisks; i++)
		if (st->disks[i] && !memcmp(st->disks[i]->machine, machine, TM_UUID))
			forget_disk(st, b, i);
	ret = index_write(&st->ix, b, 1, err);
	rocksdb_writebatch_destroy(b);
	return ret;
}

static void forget_memory(struct store *st, const uint8_t machine[TM_UUID])
{
	struct machine **pp, *m;

	for (uint32_t i = 0; i < st->ndisks; i++)
		if (st->disks[i] && !memcmp(st->disks[i]->machine, machine, TM_UUID)) {
			packs_seal(&st->packs, i);
			free(st->disks[i]);
			st->disks[i] = NULL;
			st->owner[i] = NULL;
		}
	for (pp = &st->machines; (m = *pp); pp = &m->next)
		if (!memcmp(m->uuid, machine, TM_UUID)) {
			*pp = m->next;
			free(m->points);
			free(m);
			return;
		}
}

int store_machine_remove(struct store *st, const uint8_t machine[TM_UUID], struct tm_err *err)
{
	int ret;

	pthread_mutex_lock(&st->points_lock);
	pthread_rwlock_wrlock(&st->lock);
	if (!machine_find(st, machine))
		ret = tm_fail(err, ENOENT, "no such machine");
	else
		ret = busy(st, machine, err);
	if (!ret && !(ret = index_enter(st, err))) {
		ret = forget_records(st, machine, err);
		index_leave(st);
		if (!ret)
			forget_memory(st, machine);
		ledger_unsure(&st->ledger);
	}
	pthread_rwlock_unlock(&st->lock);
	pthread_mutex_unlock(&st->points_lock);
	return ret;
}
