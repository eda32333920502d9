// SPDX-License-Identifier: Apache-2.0
/*
 * What compaction may drop.
 *
 * Of one unit the entries come newest first. An entry becomes visible at `at` (its seq, or for a conditional one the commit that took it)
 * and is superseded at the lowest `at` of the newer ones that came by: it is seen by the points from its own `at` up to that. If
 * no kept point and no open view lies there, nobody will ever read it. What has nothing newer is kept: the newest state needs it.
 */
#include <stdlib.h>

#include "server/store/internal.h"

struct filter {
	struct store *st;
	char prefix[PREFIX_LEN];
	uint64_t superseded; /* NEVER: nothing newer yet */
	int any;
};

int epoch_unpublished(const struct machine *m, uint64_t at)
{
	return !m->has_head || at > m->head_seq;
}

int points_need(struct store *st, const struct machine *m, uint64_t from, uint64_t to)
{
	if (to == NEVER || machine_point_from(m, from) < to)
		return 1;
	/* The head's state is what nothing supersedes, except for what was committed since a view of it was opened. */
	for (const struct store_view *v = st->views; v; v = v->next)
		if (v->seq >= from && v->seq < to && !memcmp(v->machine, m->uuid, TM_UUID))
			return 1;
	return 0;
}

/* 1 = drop. st->lock held. */
static int judge(struct filter *f, const char *key, const struct loc *l)
{
	struct store *st = f->st;
	uint32_t disk = key_disk(key);
	uint64_t at = key_seq(key);
	const struct vis *v;
	const struct machine *m;

	if (disk >= st->ndisks || !st->disks[disk])
		return 1; /* of a machine that was removed */
	if (l->flags & LOC_COND) {
		v = vis_find(st->vis, st->nvis, at);
		/* Not committed: kept while it can be, dropped when it was aborted. */
		if (v && v->at == NEVER)
			return v->state == VIS_ENDED;
		if (!v)
			return 0;
		at = v->at;
	}
	m = st->owner[disk];
	if (epoch_unpublished(m, at))
		return 0;
	if (points_need(st, m, at, f->superseded)) {
		if (at < f->superseded)
			f->superseded = at;
		return 0;
	}
	return 1;
}

static unsigned char filter_entry(void *state, int level, const char *key, size_t klen,
	const char *val, size_t len, char **new_val, size_t *new_len, unsigned char *changed)
{
	struct filter *f = state;
	struct loc l;
	int drop;

	*changed = 0;
	if (klen != KEY_LEN || len != sizeof(l))
		return 0;
	memcpy(&l, val, sizeof(l));
	if (!f->any || memcmp(f->prefix, key, PREFIX_LEN)) {
		memcpy(f->prefix, key, PREFIX_LEN);
		f->superseded = NEVER;
		f->any = 1;
	}
	/* RocksDB compacts as soon as it is open, but what is not loaded yet must not look like what is gone. */
	if (!atomic_load(&f->st->loaded))
		return 0;
	/* Never waits: whoever holds the lock may be waiting for compaction. What is kept now goes another time. */
	if (pthread_rwlock_tryrdlock(&f->st->lock)) {
		f->any = 0;
		return 0;
	}
	drop = judge(f, key, &l);
	pthread_rwlock_unlock(&f->st->lock);
	if (drop)
		ledger_drop(&f->st->ledger, &l);
	return (unsigned char)drop;
}

static const char *name(void *state)
{
	return "tidemark";
}

static rocksdb_compactionfilter_t *create(void *st, rocksdb_compactionfiltercontext_t *context)
{
	struct filter *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL; /* RocksDB then keeps everything */
	f->st = st;
	return rocksdb_compactionfilter_create(f, free, filter_entry, name);
}

static void nothing(void *st)
{
}

rocksdb_compactionfilterfactory_t *filter_factory(void *st)
{
	return rocksdb_compactionfilterfactory_create(st, nothing, create, name);
}
