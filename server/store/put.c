// SPDX-License-Identifier: Apache-2.0
/*
 * The way in: cells of a put go to a pack as they are, what the index must know of them is kept with the attempt.
 */
#include <stdlib.h>

#include "server/store/internal.h"

/* Blocks in one item of zeros, at most: its index entries stay a few MiB. */
#define ZERO_RUN (1u << 18)

/* Looks at the form of all cells before anything is written; tells whether any has data. */
static int scan(const char *p, size_t len, int *data, struct tm_err *err)
{
	const char *end = p + len;
	struct tm_cell c;

	*data = 0;
	for (; p < end; p += sizeof(c) + c.len) {
		if ((size_t)(end - p) < sizeof(c))
			return tm_fail(err, EBADMSG, "put: cut short within a cell");
		memcpy(&c, p, sizeof(c));
		if (c.codec > TM_CODEC_BAD || c.len > (size_t)(end - p) - sizeof(c) ||
			c.count == 0 || c.block > TM_DISK_MAX / TM_BLOCK)
			return tm_fail(err, EBADMSG, "put: malformed cell");
		if (c.codec >= TM_CODEC_ZERO
				? c.len != 0
				: (c.count != 1 && c.count != TM_CHUNK_BLOCKS) ||
					  (c.count == TM_CHUNK_BLOCKS && c.block % TM_CHUNK_BLOCKS))
			return tm_fail(err, EBADMSG, "put: malformed cell");
		if (c.codec == TM_CODEC_BAD && c.count > STORE_BAD_MAX)
			return tm_fail(
				err, E2BIG, "put: %u unreadable blocks in one cell", c.count);
		*data |= c.codec < TM_CODEC_ZERO;
	}
	return 0;
}

static int add_item(struct load *l, const struct item *item, struct tm_err *err)
{
	struct item *last = l->nitems ? &l->items[l->nitems - 1] : NULL, *grown;
	size_t room = l->room ? l->room * 2 : 64;

	/* Zero blocks come in long runs of cells: one item. */
	if (item->loc.codec == TM_CODEC_ZERO) {
		l->zero_chunks += item->count / TM_CHUNK_BLOCKS + 1;
		if (last && last->loc.codec == TM_CODEC_ZERO && last->disk == item->disk &&
			last->block + last->count == item->block &&
			last->count + (uint64_t)item->count <= ZERO_RUN) {
			last->count += item->count;
			return 0;
		}
	}
	if (l->nitems == l->room) {
		grown = realloc(l->items, room * sizeof(*grown));
		if (!grown)
			return tm_fail(err, ENOMEM, "out of memory");
		l->items = grown;
		l->room = room;
	}
	l->items[l->nitems++] = *item;
	return 0;
}

/* Keeps the reference to the pack that came with the append, or gives it back if the attempt has one. */
static int touch(
	struct store *st, struct load *l, struct pack *p, uint64_t mark, struct tm_err *err)
{
	struct touched *t, *grown;

	for (t = l->touched; t < l->touched + l->ntouched && t->pack != p; t++)
		;
	if (t < l->touched + l->ntouched) {
		pack_put(&st->packs, p);
	} else {
		grown = realloc(l->touched, (l->ntouched + 1) * sizeof(*grown));
		if (!grown) {
			pack_put(&st->packs, p);
			return tm_fail(err, ENOMEM, "out of memory");
		}
		l->touched = grown;
		t = grown + l->ntouched++;
		*t = (struct touched){.pack = p};
	}
	if (t->mark < mark)
		t->mark = mark;
	return 0;
}

/*
 * Too many items in memory: makes index entries of them now, invisible until the commit. A piece's packs are flushed first, because its
 * entries outlive a crash; an epoch's don't.
 */
static int spill(struct store *st, struct attempt *a, struct tm_err *err)
{
	rocksdb_writebatch_t *b;
	int ret = 0, any;

	/* A part on its way is older: it must not overwrite this. */
	while (a->pending)
		pthread_cond_wait(&a->idle, &a->lock);
	if (is_piece(a->kind))
		ret = load_sync(st, &a->cur, err);
	if (!ret && !is_piece(a->kind)) {
		pthread_rwlock_wrlock(&st->lock);
		ret = vis_set(st, a->seq, NEVER, 0, VIS_WHOLE, err);
		pthread_rwlock_unlock(&st->lock);
	}
	load_stand(st, a, &a->cur);
	if (ret || index_enter(st, err))
		return -err->code;
	b = rocksdb_writebatch_create();
	ret = load_entries(st, a, &a->cur, b, 1, err);
	any = rocksdb_writebatch_count(b) > 0;
	if (!a->spilled && !is_piece(a->kind))
		attempt_record(b, &st->ix, a, AT_OPEN, NEVER);
	if (is_piece(a->kind))
		load_pack_records(st, &a->cur, b);
	if (!ret && any)
		ret = index_write(&st->ix, b, 0, err);
	rocksdb_writebatch_destroy(b);
	index_leave(st);
	if (ret)
		return ret;
	a->spilled |= any;
	/* The packs of an epoch are still to be flushed at its commit. */
	a->cur.nitems = 0;
	a->cur.zero_chunks = 0;
	return 0;
}

static int maybe_spill(struct store *st, struct attempt *a, struct tm_err *err)
{
	if (a->cur.nitems + a->cur.zero_chunks / 4 <= st->o.items_max)
		return 0;
	return spill(st, a, err);
}

/* All cells of a put become items; a huge run of zeros is cut, so that no step needs much memory. */
static int add_items(struct store *st, struct attempt *a, uint32_t disk, const char *cells,
	size_t len, uint32_t pack, uint32_t off, struct tm_err *err)
{
	const char *p = cells, *end = cells + len;
	struct tm_cell c;
	struct item it;
	int ret = 0;

	while (!ret && p < end) {
		memcpy(&c, p, sizeof(c));
		it = (struct item){.block = c.block,
			.count = c.count,
			.disk = disk,
			.loc = {.pack = pack,
				.off = off + (uint32_t)(p - cells),
				.len = c.len,
				.codec = c.codec,
				.sum = c.plain_sum}};
		a->bad |= c.codec == TM_CODEC_BAD;
		while (!ret && c.codec == TM_CODEC_ZERO && c.count > ZERO_RUN) {
			it.block = c.block;
			it.count = (uint32_t)(ZERO_RUN - c.block % TM_CHUNK_BLOCKS);
			c.block += it.count;
			c.count -= it.count;
			ret = add_item(&a->cur, &it, err);
			if (!ret)
				ret = maybe_spill(st, a, err);
			it.block = c.block;
			it.count = c.count;
		}
		if (!ret)
			ret = add_item(&a->cur, &it, err);
		if (!ret)
			ret = maybe_spill(st, a, err);
		p += sizeof(c) + c.len;
	}
	return ret;
}

/* The pack owner for this put: a disk that brings much in one attempt, and all pieces, go to packs of their own. */
static uint32_t owner(struct store *st, struct attempt *a, uint32_t disk, size_t len)
{
	struct own *o, *grown;
	uint32_t own = 0;

	if (is_piece(a->kind))
		return disk;
	pthread_mutex_lock(&a->lock);
	for (o = a->own; o < a->own + a->nown && o->disk != disk; o++)
		;
	if (o == a->own + a->nown) {
		grown = realloc(a->own, (a->nown + 1) * sizeof(*grown));
		if (grown) {
			a->own = grown;
			o = grown + a->nown++;
			*o = (struct own){.disk = disk};
		} else {
			o = NULL; /* only a matter of placement */
		}
	}
	if (o && (o->bytes += len) > (uint64_t)st->o.own_pack_mib << 20)
		own = disk;
	pthread_mutex_unlock(&a->lock);
	return own;
}

static int enter(struct attempt *a, uint32_t disk_no, struct tm_err *err)
{
	int ret = 0;

	pthread_mutex_lock(&a->lock);
	if (a->closing)
		ret = tm_fail(err, ESTALE, "attempt %llu has ended", (unsigned long long)a->seq);
	else if (a->failed)
		ret = tm_fail(err, EIO, "attempt %llu failed earlier", (unsigned long long)a->seq);
	else if (is_piece(a->kind) && disk_no != a->disk)
		ret = tm_fail(
			err, EINVAL, "attempt %llu is of another disk", (unsigned long long)a->seq);
	else
		a->inflight++;
	pthread_mutex_unlock(&a->lock);
	return ret;
}

static int check_disk(struct store *st, struct attempt *a, uint32_t disk_no, struct tm_err *err)
{
	int ok;

	pthread_rwlock_rdlock(&st->lock);
	ok = disk_no < st->ndisks && st->disks[disk_no] &&
	     !memcmp(st->disks[disk_no]->machine, a->machine, TM_UUID);
	pthread_rwlock_unlock(&st->lock);
	return ok ? 0 : tm_fail(err, ENOENT, "the machine has no disk %u", disk_no);
}

static int put_locked(struct store *st, struct attempt *a, uint32_t disk_no, const void *cells,
	size_t len, struct pack *p, uint32_t off, uint64_t mark, struct tm_err *err)
{
	int ret = p ? touch(st, &a->cur, p, mark, err) : 0;

	a->bytes += len;
	return ret ? ret : add_items(st, a, disk_no, cells, len, p ? p->no : 0, off, err);
}

int store_put(struct store *st, uint64_t seq, uint32_t disk_no, const void *cells, size_t len,
	struct tm_err *err)
{
	struct attempt *a;
	struct pack *p = NULL;
	uint32_t off = 0;
	uint64_t mark = 0;
	int data, appended, ret;

	if (len > 64u << 20)
		return tm_fail(err, EINVAL, "put: %zu bytes are too many", len);
	if (scan(cells, len, &data, err) || store_space(st, err))
		return -err->code;
	st->space_put += len;
	a = attempt_get(st, seq);
	if (!a)
		return tm_fail(err, ESTALE, "attempt %llu is unknown or has ended",
			(unsigned long long)seq);
	ret = check_disk(st, a, disk_no, err);
	if (!ret)
		ret = enter(a, disk_no, err);
	if (ret) {
		attempt_put(st, a);
		return ret;
	}
	if (data)
		ret = packs_append(&st->packs, owner(st, a, disk_no, len), 0, disk_no, seq, cells,
			len, &p, &off, &mark, err);
	appended = !ret;
	pthread_mutex_lock(&a->lock);
	if (!ret)
		ret = put_locked(st, a, disk_no, cells, len, p, off, mark, err);
	/* Not written at all: may be put again. Half taken in: no longer known what it holds. */
	if (ret && (appended || ret != -ENOSPC))
		a->failed = 1;
	if (--a->inflight == 0)
		pthread_cond_broadcast(&a->idle);
	pthread_mutex_unlock(&a->lock);
	attempt_put(st, a);
	return ret;
}
