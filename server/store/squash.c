// SPDX-License-Identifier: Apache-2.0
/*
 * What one family still holds under newer versions of the other. The compaction filter sees one family at a time; this pass walks
 * both side by side and deletes what no kept point, no view and not the newest state sees, taking both into account.
 *
 * What an attempt has spilled may change until it ends: a chunk that comes again takes the blocks over it out of the index. The
 * iterators show such entries as they once were, so they count only if the attempt had ended before the iterators were made, even if
 * it is committed by the time they are looked at. Else a chunk could be taken for hidden by blocks that are gone.
 */
#include <stdlib.h>

#include "server/store/internal.h"

#define BATCH        4096     /* deletions in one write */
#define VERSIONS_MAX 1000000u /* of one chunk: bounds the memory; a chunk with more is left alone */

struct version {
	uint64_t seq, at; /* at: NEVER if not visible */
	uint32_t pack;    /* where its cell lies; len 0: nowhere */
	uint16_t len;
	uint8_t which; /* 0 to 3: a block; 4: the whole chunk */
	uint8_t gone;  /* not visible and never will be */
};

struct squash {
	struct store *st;
	uint32_t disk;
	struct vis *vis; /* as of before the iterators */
	size_t nvis;
	rocksdb_iterator_t *chunk, *block;
	rocksdb_writebatch_t *b;
	struct pace pace;
	struct version *v;
	size_t n, room;
	int too_many;
	struct tm_err *err;
};

/* Where the iterator stands: 1 and the unit if it is still in the disk. */
static int unit_at(const struct squash *q, rocksdb_iterator_t *it, uint64_t *unit)
{
	const char *key;
	size_t len;

	if (!rocksdb_iter_valid(it))
		return 0;
	key = rocksdb_iter_key(it, &len);
	*unit = key_unit(key);
	return len == KEY_LEN && key_disk(key) == q->disk;
}

static void seek(const struct squash *q, rocksdb_iterator_t *it, uint64_t unit)
{
	char key[KEY_LEN];

	key_make(key, q->disk, unit, UINT64_MAX);
	rocksdb_iter_seek(it, key, sizeof(key));
}

static int add(struct squash *q, rocksdb_iterator_t *it, uint8_t which)
{
	struct version *grown;
	struct loc l;
	size_t len;

	if (q->n == VERSIONS_MAX)
		q->too_many = 1;
	if (q->too_many)
		return 0;
	if (q->n == q->room) {
		q->room = q->room ? q->room * 2 : 256;
		grown = realloc(q->v, q->room * sizeof(*grown));
		if (!grown)
			return tm_fail(q->err, ENOMEM, "out of memory");
		q->v = grown;
	}
	memcpy(&l, rocksdb_iter_value(it, &len), sizeof(l));
	/* The flags for now: look_up() makes of them what they mean. */
	q->v[q->n++] = (struct version){.seq = key_seq(rocksdb_iter_key(it, &len)),
		.which = which,
		.pack = l.pack,
		.len = loc_has_data(&l) ? l.len : 0,
		.gone = l.flags};
	return pace_pay(q->st, &q->pace, KEY_LEN + sizeof(l), q->err);
}

/* All versions of one chunk, of both families. Both iterators end up behind it. */
static int gather(struct squash *q, uint64_t chunk)
{
	uint64_t unit, first = chunk * TM_CHUNK_BLOCKS;
	int ret = 0;

	q->n = 0;
	q->too_many = 0;
	for (; !ret && unit_at(q, q->chunk, &unit) && unit == chunk; rocksdb_iter_next(q->chunk))
		ret = add(q, q->chunk, TM_CHUNK_BLOCKS);
	for (; !ret && unit_at(q, q->block, &unit) && unit < first + TM_CHUNK_BLOCKS;
		rocksdb_iter_next(q->block))
		ret = add(q, q->block, (uint8_t)(unit - first));
	return ret;
}

/* Newest first; of the same attempt the block stands over the chunk. */
static int newest_first(const void *x, const void *y)
{
	const struct version *a = x, *b = y;

	if (a->seq != b->seq)
		return a->seq > b->seq ? -1 : 1;
	return (a->which == TM_CHUNK_BLOCKS) - (b->which == TM_CHUNK_BLOCKS);
}

static void look_up(const struct squash *q, struct version *v)
{
	const struct vis *vis;
	int cond = v->gone & LOC_COND;

	v->gone = 0;
	v->at = v->seq;
	if (!cond) {
		if (epoch_unpublished(q->st->owner[q->disk], v->at))
			v->at = NEVER;
		return;
	}
	vis = vis_find(q->vis, q->nvis, v->seq);
	v->at = vis ? vis->at : NEVER;
	v->gone = vis && vis->at == NEVER && vis->state == VIS_ENDED;
}

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void forget(struct squash *q, uint64_t chunk, const struct version *v)
{
	enum cf cf = v->which == TM_CHUNK_BLOCKS ? CF_CHUNK : CF_BLOCK;
	char key[KEY_LEN];

	key_make(key, q->disk, cf == CF_CHUNK ? chunk : chunk * TM_CHUNK_BLOCKS + v->which, v->seq);
	rocksdb_writebatch_delete_cf(q->b, q->st->ix.cf[cf], key, sizeof(key));
	if (v->len)
		ledger_dead(&q->st->ledger, v->pack, sizeof(struct tm_cell) + v->len);
}

/* st->lock held. From the newest on: when did something newer of this block, or of all of the chunk, become visible? */
static void judge(struct squash *q, uint64_t chunk)
{
	const struct machine *m = q->st->owner[q->disk];
	uint64_t block[TM_CHUNK_BLOCKS] = {NEVER, NEVER, NEVER, NEVER}, whole = NEVER, until;

	for (size_t i = 0; i < q->n; i++) {
		struct version *v = &q->v[i];

		look_up(q, v);
		if (v->gone)
			forget(q, chunk, v);
		if (v->at == NEVER)
			continue;
		if (v->which < TM_CHUNK_BLOCKS) {
			until = min(block[v->which], whole);
			block[v->which] = min(block[v->which], v->at);
		} else {
			/* It is seen as long as one of its blocks is. */
			until = 0;
			for (int k = 0; k < (int)TM_CHUNK_BLOCKS; k++)
				until = block[k] > until ? block[k] : until;
			until = min(until, whole);
			whole = min(whole, v->at);
		}
		if (!points_need(q->st, m, v->at, until))
			forget(q, chunk, v);
	}
}

static int flush(struct squash *q, int least)
{
	int ret = 0;

	/* Not synced: what comes back after a crash is only deleted once more. */
	if (rocksdb_writebatch_count(q->b) >= least) {
		ret = index_write(&q->st->ix, q->b, 0, q->err);
		rocksdb_writebatch_clear(q->b);
	}
	return ret;
}

static int squash_chunk(struct squash *q, uint64_t chunk)
{
	int ret = gather(q, chunk);

	if (ret || q->too_many || !q->n)
		return ret;
	qsort(q->v, q->n, sizeof(*q->v), newest_first);
	if (!store_peek(q->st))
		return 0; /* another time */
	if (q->disk < q->st->ndisks && q->st->disks[q->disk])
		judge(q, chunk);
	pthread_rwlock_unlock(&q->st->lock);
	return flush(q, BATCH);
}

/* Only chunks that both families hold: the filter does the rest. */
static int walk(struct squash *q)
{
	uint64_t c, b;
	int ret = 0;

	seek(q, q->chunk, 0);
	seek(q, q->block, 0);
	while (!ret && unit_at(q, q->chunk, &c) && unit_at(q, q->block, &b)) {
		b /= TM_CHUNK_BLOCKS;
		if (c < b)
			seek(q, q->chunk, b);
		else if (b < c)
			seek(q, q->block, c * TM_CHUNK_BLOCKS);
		else if (!(ret = store_ending(q->st, q->err)))
			ret = squash_chunk(q, c);
	}
	return ret ? ret : flush(q, 1);
}

/* Before the iterators are made, and before the index lock is taken. */
static int snapshot(struct squash *q)
{
	struct store *st = q->st;

	pthread_rwlock_rdlock(&st->lock);
	q->vis = malloc((st->nvis + 1) * sizeof(*q->vis));
	if (q->vis && st->nvis)
		memcpy(q->vis, st->vis, st->nvis * sizeof(*q->vis));
	q->nvis = st->nvis;
	pthread_rwlock_unlock(&st->lock);
	return q->vis ? 0 : tm_fail(q->err, ENOMEM, "out of memory");
}

struct squash *squash_begin(struct store *st, uint32_t disk, struct tm_err *err)
{
	struct squash *q = calloc(1, sizeof(*q));

	if (!q) {
		tm_fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	q->st = st;
	q->disk = disk;
	q->err = err;
	q->pace.rate = st->o.rate;
	if (snapshot(q) || index_enter(st, err)) {
		free(q->vis);
		free(q);
		return NULL;
	}
	q->chunk = index_iter(&st->ix, CF_CHUNK, 1);
	q->block = index_iter(&st->ix, CF_BLOCK, 1);
	q->b = rocksdb_writebatch_create();
	return q;
}

int squash_end(struct squash *q)
{
	int ret = walk(q);

	if (!ret)
		ret = index_iter_error(q->chunk, q->err);
	if (!ret)
		ret = index_iter_error(q->block, q->err);
	rocksdb_writebatch_destroy(q->b);
	rocksdb_iter_destroy(q->chunk);
	rocksdb_iter_destroy(q->block);
	index_leave(q->st);
	free(q->v);
	free(q->vis);
	free(q);
	return ret;
}
