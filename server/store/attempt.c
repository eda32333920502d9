// SPDX-License-Identifier: Apache-2.0
/*
 * Attempts: numbers, the table of open ones, what was put into each until it becomes index entries.
 */
#include <stdlib.h>

#include "server/store/internal.h"

#define SEQ_STEP   1024u
#define RANGES_MAX 4096u /* of a progress record; what does not fit is only sent twice */

/* ---- When conditional entries are visible ---- */

const struct vis *vis_find(const struct vis *vis, size_t n, uint64_t seq)
{
	size_t lo = 0, hi = n, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (vis[mid].seq < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < n && vis[lo].seq == seq ? &vis[lo] : NULL;
}

int vis_set(struct store *st, uint64_t seq, uint64_t at, uint32_t disk, enum vis_state state,
	struct tm_err *err)
{
	struct vis *v = (struct vis *)vis_find(st->vis, st->nvis, seq), *grown;
	size_t i = st->nvis;

	if (!v) {
		grown = realloc(st->vis, (st->nvis + 1) * sizeof(*grown));
		if (!grown)
			return tm_fail(err, ENOMEM, "out of memory");
		st->vis = grown;
		while (i > 0 && grown[i - 1].seq > seq)
			i--;
		memmove(grown + i + 1, grown + i, (st->nvis - i) * sizeof(*grown));
		st->nvis++;
		v = grown + i;
	}
	*v = (struct vis){.seq = seq, .at = at, .disk = disk, .state = (uint8_t)state};
	return 0;
}

/* ---- The table ---- */

static struct attempt *table_find(struct store *st, uint64_t seq)
{
	struct attempt *a;

	for (a = st->attempts; a && a->seq != seq; a = a->next)
		;
	return a;
}

struct attempt *attempt_get(struct store *st, uint64_t seq)
{
	struct attempt *a;

	pthread_rwlock_wrlock(&st->lock);
	a = table_find(st, seq);
	if (a)
		a->refs++;
	pthread_rwlock_unlock(&st->lock);
	return a;
}

static void attempt_free(struct store *st, struct attempt *a)
{
	load_free(st, &a->cur);
	pthread_mutex_destroy(&a->lock);
	pthread_cond_destroy(&a->idle);
	free(a->own);
	free(a->done);
	free(a);
}

void attempt_put(struct store *st, struct attempt *a)
{
	int refs;

	pthread_rwlock_wrlock(&st->lock);
	refs = --a->refs;
	pthread_rwlock_unlock(&st->lock);
	if (refs == 0)
		attempt_free(st, a);
}

void attempt_remove(struct store *st, struct attempt *a)
{
	struct attempt **pp;
	int found;

	pthread_rwlock_wrlock(&st->lock);
	for (pp = &st->attempts; *pp && *pp != a; pp = &(*pp)->next)
		;
	found = *pp != NULL;
	if (found)
		*pp = a->next;
	pthread_rwlock_unlock(&st->lock);
	if (!found)
		return;
	if (is_piece(a->kind))
		packs_seal(&st->packs, a->disk);
	attempt_put(st, a);
}

void attempts_free(struct store *st)
{
	struct attempt *a;

	while ((a = st->attempts)) {
		st->attempts = a->next;
		attempt_free(st, a);
	}
}

void load_free(struct store *st, struct load *l)
{
	for (size_t i = 0; i < l->ntouched; i++)
		pack_put(&st->packs, l->touched[i].pack);
	free(l->touched);
	free(l->items);
	memset(l, 0, sizeof(*l));
}

int load_sync(struct store *st, const struct load *l, struct tm_err *err)
{
	for (size_t i = 0; i < l->ntouched; i++)
		if (pack_sync(&st->packs, l->touched[i].pack, l->touched[i].mark, err))
			return -err->code;
	return 0;
}

int ranges_add(struct tm_range **r, size_t *n, struct tm_range add, struct tm_err *err)
{
	struct tm_range *v = realloc(*r, (*n + 1) * sizeof(*v));
	uint64_t end = add.block + add.count;
	size_t i = *n, j;

	if (!v)
		return tm_fail(err, ENOMEM, "out of memory");
	*r = v;
	while (i > 0 && v[i - 1].block + v[i - 1].count >= add.block)
		i--;
	/* v[i..j) touch or overlap what is added. */
	for (j = i; j < *n && v[j].block <= end; j++) {
		if (v[j].block < add.block)
			add.block = v[j].block;
		if (v[j].block + v[j].count > end)
			end = v[j].block + v[j].count;
	}
	add.count = end - add.block;
	memmove(v + i + 1, v + j, (*n - j) * sizeof(*v));
	v[i] = add;
	*n = *n + 1 - (j - i);
	return 0;
}

int attempt_close(struct attempt *a, struct tm_err *err)
{
	int ret = 0;

	pthread_mutex_lock(&a->lock);
	if (a->closing)
		ret = tm_fail(err, ESTALE, "attempt %llu has ended", (unsigned long long)a->seq);
	a->closing = 1;
	while (!ret && (a->inflight || a->pending))
		pthread_cond_wait(&a->idle, &a->lock);
	pthread_mutex_unlock(&a->lock);
	return ret;
}

void attempt_reopen(struct attempt *a)
{
	pthread_mutex_lock(&a->lock);
	a->closing = 0;
	pthread_mutex_unlock(&a->lock);
}

/* ---- Records ---- */

void attempt_record(rocksdb_writebatch_t *b, struct index *ix, const struct attempt *a, int state,
	uint64_t visible_at)
{
	struct attempt_rec r = {.state = (uint8_t)state,
		.kind = a->kind,
		.complete = a->complete,
		.bad = a->bad,
		.disk = a->disk,
		.visible_at = visible_at,
		.parts = a->parts};
	const char *vals[2] = {(char *)&r, (char *)a->done};
	size_t lens[2] = {sizeof(r), 0}, klen = 8;
	char key[8];
	const char *keys[1] = {key};

	/* Progress matters only as long as the attempt can be resumed. */
	if (state == AT_OPEN)
		r.nranges = (uint32_t)(a->ndone < RANGES_MAX ? a->ndone : RANGES_MAX);
	lens[1] = r.nranges * sizeof(struct tm_range);
	memcpy(r.machine, a->machine, TM_UUID);
	memcpy(r.tracking, a->tracking, TM_UUID);
	put_be64(key, a->seq);
	rocksdb_writebatch_putv_cf(
		b, ix->cf[CF_ATTEMPT], 1, keys, &klen, r.nranges ? 2 : 1, vals, lens);
}

static struct attempt *attempt_new(struct store *st, uint64_t seq, int kind)
{
	struct attempt *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->seq = seq;
	a->kind = (uint8_t)kind;
	a->refs = 1;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->idle, NULL);
	return a;
}

static int load_one(struct store *st, uint64_t seq, const char *val, size_t len,
	rocksdb_writebatch_t *b, struct tm_err *err)
{
	struct attempt_rec r;
	struct attempt *a;
	enum vis_state state;

	if (len < sizeof(r))
		return tm_fail(err, EBADMSG, "index: an attempt record is damaged");
	memcpy(&r, val, sizeof(r));
	if (r.nranges > RANGES_MAX || len != sizeof(r) + r.nranges * sizeof(struct tm_range))
		return tm_fail(err, EBADMSG, "index: an attempt record is damaged");
	state = r.state != AT_OPEN || !is_piece(r.kind) ? VIS_ENDED
		: r.complete                            ? VIS_WHOLE
							: VIS_OPEN;
	if (vis_set(st, seq, r.state == AT_COMMITTED ? r.visible_at : NEVER, r.disk, state, err))
		return -err->code;
	if (r.state != AT_OPEN)
		return 0;
	a = attempt_new(st, seq, r.kind);
	if (!a)
		return tm_fail(err, ENOMEM, "out of memory");
	a->disk = r.disk;
	a->parts = r.parts;
	a->complete = r.complete;
	a->bad = r.bad;
	a->spilled = 1;
	memcpy(a->machine, r.machine, TM_UUID);
	memcpy(a->tracking, r.tracking, TM_UUID);
	if (!is_piece(r.kind)) {
		/* An epoch cut off by a crash: its entries stay invisible until compaction takes them. */
		attempt_record(b, &st->ix, a, AT_ABORTED, NEVER);
		attempt_free(st, a);
		return 0;
	}
	a->ndone = r.nranges;
	a->done = malloc((r.nranges + 1) * sizeof(*a->done));
	if (!a->done) {
		attempt_free(st, a);
		return tm_fail(err, ENOMEM, "out of memory");
	}
	memcpy(a->done, val + sizeof(r), r.nranges * sizeof(*a->done));
	a->next = st->attempts;
	st->attempts = a;
	return 0;
}

int attempts_load(struct store *st, struct tm_err *err)
{
	rocksdb_iterator_t *it = index_iter(&st->ix, CF_ATTEMPT, 1);
	rocksdb_writebatch_t *b = rocksdb_writebatch_create();
	const char *key, *val;
	size_t klen, len;
	int ret = 0;

	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		ret = klen == 8 ? load_one(st, get_be64(key), val, len, b, err) : 0;
	}
	if (!ret)
		ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	if (!ret && rocksdb_writebatch_count(b))
		ret = index_write(&st->ix, b, 1, err);
	rocksdb_writebatch_destroy(b);
	return ret;
}

/* ---- Begin, resume, list, forget, abort ---- */

/* st->lock held for writing. The high-water mark is durable before a number below it is given out. */
static int next_seq(struct store *st, uint64_t *seq, struct tm_err *err)
{
	uint64_t mark = st->next_seq + SEQ_STEP;
	rocksdb_writebatch_t *b;
	int ret;

	if (st->next_seq >= st->reserved_seq) {
		if (index_enter(st, err))
			return -err->code;
		b = rocksdb_writebatch_create();
		rocksdb_writebatch_put_cf(
			b, st->ix.cf[CF_META], "seq", 3, (char *)&mark, sizeof(mark));
		ret = index_write(&st->ix, b, 1, err);
		rocksdb_writebatch_destroy(b);
		index_leave(st);
		if (ret)
			return ret;
		st->reserved_seq = mark;
	}
	*seq = st->next_seq++;
	return 0;
}

static int record_begin(struct store *st, struct attempt *a, struct tm_err *err)
{
	rocksdb_writebatch_t *b;
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	b = rocksdb_writebatch_create();
	attempt_record(b, &st->ix, a, AT_OPEN, NEVER);
	ret = index_write(&st->ix, b, 1, err);
	rocksdb_writebatch_destroy(b);
	index_leave(st);
	return ret;
}

static int begin_piece(struct store *st, struct attempt *a, uint32_t disk_no,
	const uint8_t *tracking, struct tm_err *err)
{
	if (disk_no >= st->ndisks || !st->disks[disk_no] ||
		memcmp(st->disks[disk_no]->machine, a->machine, TM_UUID))
		return tm_fail(err, ENOENT, "the machine has no disk %u", disk_no);
	a->disk = disk_no;
	memcpy(a->tracking, tracking, TM_UUID);
	if (record_begin(st, a, err))
		return -err->code;
	return vis_set(st, a->seq, NEVER, disk_no, VIS_OPEN, err);
}

int store_attempt_begin(struct store *st, const uint8_t machine[TM_UUID], int kind,
	uint32_t disk_no, const uint8_t *tracking, uint64_t *seq, struct tm_err *err)
{
	struct attempt *a;
	int ret;

	if (kind < TM_ATTEMPT_EPOCH || kind > TM_ATTEMPT_CATCHUP)
		return tm_fail(err, EINVAL, "unknown kind of attempt %d", kind);
	if (store_space(st, err))
		return -err->code;
	a = attempt_new(st, 0, kind);
	if (!a)
		return tm_fail(err, ENOMEM, "out of memory");
	memcpy(a->machine, machine, TM_UUID);
	pthread_rwlock_wrlock(&st->lock);
	ret = machine_make(st, machine, err) ? next_seq(st, &a->seq, err) : -err->code;
	if (!ret && is_piece(kind))
		ret = begin_piece(st, a, disk_no, tracking, err);
	if (!ret) {
		a->next = st->attempts;
		st->attempts = a;
		*seq = a->seq;
	}
	pthread_rwlock_unlock(&st->lock);
	if (ret)
		attempt_free(st, a);
	return ret;
}

int store_attempt_resume(struct store *st, uint32_t disk_no, int kind,
	const uint8_t tracking[TM_UUID], uint64_t *seq, struct store_range **done, size_t *ndone,
	uint32_t *next_part, struct tm_err *err)
{
	struct attempt *a, *best = NULL;

	pthread_rwlock_wrlock(&st->lock);
	for (a = st->attempts; a; a = a->next)
		if (is_piece(a->kind) && a->kind == kind && a->disk == disk_no &&
			!memcmp(a->tracking, tracking, TM_UUID) && (!best || best->seq < a->seq))
			best = a;
	if (best)
		best->refs++;
	pthread_rwlock_unlock(&st->lock);
	if (!best)
		return tm_fail(err, ENOENT, "nothing to resume for disk %u", disk_no);
	pthread_mutex_lock(&best->lock);
	*seq = best->seq;
	*next_part = best->parts;
	*ndone = best->ndone;
	*done = malloc((best->ndone + 1) * sizeof(**done));
	if (*done && best->ndone)
		memcpy(*done, best->done, best->ndone * sizeof(**done));
	pthread_mutex_unlock(&best->lock);
	attempt_put(st, best);
	return *done ? 0 : tm_fail(err, ENOMEM, "out of memory");
}

int store_attempts(struct store *st, int (*fn)(void *arg, const struct store_attempt_info *a),
	void *arg, struct tm_err *err)
{
	struct store_attempt_info info;
	int ret = 0;

	pthread_rwlock_rdlock(&st->lock);
	for (struct attempt *a = st->attempts; !ret && a; a = a->next) {
		info = (struct store_attempt_info){.seq = a->seq,
			.disk_no = a->disk,
			.parts = a->parts,
			.bytes = a->bytes,
			.kind = a->kind,
			.complete = a->complete};
		memcpy(info.machine, a->machine, TM_UUID);
		memcpy(info.tracking, a->tracking, TM_UUID);
		ret = fn(arg, &info);
	}
	pthread_rwlock_unlock(&st->lock);
	return ret;
}

static struct attempt *get_open(struct store *st, uint64_t seq, struct tm_err *err)
{
	struct attempt *a = attempt_get(st, seq);

	if (!a)
		tm_fail(err, ESTALE, "attempt %llu is unknown or has ended",
			(unsigned long long)seq);
	return a;
}

int store_forget(struct store *st, uint64_t seq, struct tm_err *err)
{
	struct attempt *a = get_open(st, seq, err);
	int ret;

	if (!a)
		return -err->code;
	ret = attempt_close(a, err);
	if (!ret) {
		if (!is_piece(a->kind) && a->spilled)
			ret = tm_fail(err, ESTALE, "attempt %llu is too far to be begun anew",
				(unsigned long long)seq);
		else
			load_free(st, &a->cur);
		attempt_reopen(a);
	}
	attempt_put(st, a);
	return ret;
}

int store_abort(struct store *st, uint64_t seq, struct tm_err *err)
{
	struct attempt *a = get_open(st, seq, err);
	rocksdb_writebatch_t *b;
	struct machine *m;
	int ret;

	if (!a)
		return -err->code;
	ret = attempt_close(a, err);
	if (ret) {
		attempt_put(st, a);
		return ret;
	}
	attempt_remove(st, a);
	if (is_piece(a->kind) || a->spilled) {
		ret = index_enter(st, err);
		if (!ret) {
			b = rocksdb_writebatch_create();
			attempt_record(b, &st->ix, a, AT_ABORTED, NEVER);
			ret = index_write(&st->ix, b, is_piece(a->kind), err);
			rocksdb_writebatch_destroy(b);
			index_leave(st);
		}
		pthread_rwlock_wrlock(&st->lock);
		if (!ret)
			ret = vis_set(st, a->seq, NEVER, a->disk, VIS_ENDED, err);
		m = machine_find(st, a->machine);
		if (m)
			m->debt += a->bytes + 1;
		pthread_rwlock_unlock(&st->lock);
	}
	attempt_put(st, a);
	return ret;
}
