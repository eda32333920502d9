// SPDX-License-Identifier: Apache-2.0
/*
 * Point records.
 */
#include <stdlib.h>

#include "server/store/internal.h"

/* Followed by label, reason, per disk a disk_part and its name, and, where filesystems were frozen, freeze_ms (u16). */
struct point_rec {
	struct tm_epoch_id id, parent;
	int64_t cut_ns, arrival_ns;
	uint64_t run_ns, bytes, digest;
	uint32_t ndisks;
	uint16_t label_len, reason_len;
	uint8_t kind, pinned, bad, pad;
} __attribute__((packed));

struct disk_part {
	uint8_t uuid[TM_UUID];
	uint64_t size;
	uint32_t no;
	uint32_t name_len;
} __attribute__((packed));

void point_key(char key[24], const uint8_t machine[TM_UUID], uint64_t seq)
{
	memcpy(key, machine, TM_UUID);
	put_be64(key + TM_UUID, seq);
}

static void *append(char *at, const void *p, size_t len)
{
	memcpy(at, p, len);
	return at + len;
}

void point_record(rocksdb_writebatch_t *b, struct index *ix, const struct store_point *p)
{
	struct point_rec r = {.id = p->id,
		.parent = p->parent,
		.cut_ns = p->cut_ns,
		.arrival_ns = p->arrival_ns,
		.run_ns = p->run_ns,
		.bytes = p->bytes,
		.digest = p->digest,
		.ndisks = p->ndisks,
		.kind = p->kind,
		.pinned = p->pinned,
		.bad = p->bad};
	size_t room = sizeof(r) + sizeof(p->label) + sizeof(p->reason) + sizeof(p->freeze_ms) +
		      p->ndisks * (sizeof(struct disk_part) + sizeof(p->disks->name));
	char key[24], *val = malloc(room), *at = val;

	if (!val)
		abort(); /* a few KiB: nothing could go on */
	r.label_len = (uint16_t)strnlen(p->label, TM_LABEL_MAX);
	r.reason_len = (uint16_t)strnlen(p->reason, TM_TEXT_MAX);
	at = append(at, &r, sizeof(r));
	at = append(at, p->label, r.label_len);
	at = append(at, p->reason, r.reason_len);
	for (uint32_t i = 0; i < p->ndisks; i++) {
		const struct store_point_disk *d = &p->disks[i];
		struct disk_part part = {.size = d->size, .no = d->no};

		memcpy(part.uuid, d->uuid, TM_UUID);
		part.name_len = (uint32_t)strnlen(d->name, TM_NAME_MAX);
		at = append(at, &part, sizeof(part));
		at = append(at, d->name, part.name_len);
	}
	if (p->freeze_ms)
		at = append(at, &p->freeze_ms, sizeof(p->freeze_ms));
	point_key(key, p->machine, p->seq);
	rocksdb_writebatch_put_cf(b, ix->cf[CF_POINT], key, sizeof(key), val, (size_t)(at - val));
	free(val);
}

/* Takes n bytes off the record; NULL if it is too short. */
static const char *take(const char **at, const char *end, size_t n)
{
	const char *p = *at;

	if ((size_t)(end - p) < n)
		return NULL;
	*at += n;
	return p;
}

static int parse_disks(const char *at, const char *end, struct store_point *p, uint32_t n)
{
	struct disk_part part;
	const char *s;

	p->disks = calloc(n + 1, sizeof(*p->disks));
	if (!p->disks)
		return -ENOMEM;
	for (; p->ndisks < n; p->ndisks++) {
		struct store_point_disk *d = &p->disks[p->ndisks];

		if (!(s = take(&at, end, sizeof(part))))
			return -EBADMSG;
		memcpy(&part, s, sizeof(part));
		if (part.name_len > TM_NAME_MAX || !(s = take(&at, end, part.name_len)))
			return -EBADMSG;
		memcpy(d->uuid, part.uuid, TM_UUID);
		d->size = part.size;
		d->no = part.no;
		memcpy(d->name, s, part.name_len);
	}
	if (at != end && (s = take(&at, end, sizeof(p->freeze_ms))))
		memcpy(&p->freeze_ms, s, sizeof(p->freeze_ms));
	return at == end ? 0 : -EBADMSG;
}

int point_parse(const char *val, size_t len, struct store_point **out, struct tm_err *err)
{
	const char *at = val, *end = val + len, *s;
	struct store_point *p = calloc(1, sizeof(*p));
	struct point_rec r;

	if (!p)
		return tm_fail(err, ENOMEM, "out of memory");
	if (!(s = take(&at, end, sizeof(r))))
		goto bad;
	memcpy(&r, s, sizeof(r));
	if (r.label_len > TM_LABEL_MAX || r.reason_len > TM_TEXT_MAX || r.ndisks > TM_DISKS_MAX)
		goto bad;
	p->id = r.id;
	p->parent = r.parent;
	p->cut_ns = r.cut_ns;
	p->arrival_ns = r.arrival_ns;
	p->run_ns = r.run_ns;
	p->bytes = r.bytes;
	p->digest = r.digest;
	p->kind = r.kind;
	p->pinned = r.pinned;
	p->bad = r.bad;
	if (!(s = take(&at, end, r.label_len)))
		goto bad;
	memcpy(p->label, s, r.label_len);
	if (!(s = take(&at, end, r.reason_len)))
		goto bad;
	memcpy(p->reason, s, r.reason_len);
	if (parse_disks(at, end, p, r.ndisks))
		goto bad;
	*out = p;
	return 0;
bad:
	store_point_free(p);
	return tm_fail(err, EBADMSG, "index: a point record is damaged");
}

void store_point_free(struct store_point *p)
{
	if (p)
		free(p->disks);
	free(p);
}

int point_read(struct index *ix, const uint8_t machine[TM_UUID], uint64_t seq,
	struct store_point **p, struct tm_err *err)
{
	char key[24], *val;
	size_t len;
	int ret;

	point_key(key, machine, seq);
	ret = index_get(ix, CF_POINT, key, sizeof(key), &val, &len, err);
	if (ret <= 0)
		return ret < 0 ? ret
			       : tm_fail(err, ENOENT, "no such point: %llu",
					 (unsigned long long)seq);
	ret = point_parse(val, len, p, err);
	rocksdb_free(val);
	if (ret)
		return ret;
	memcpy((*p)->machine, machine, TM_UUID);
	(*p)->seq = seq;
	return 0;
}

int store_point_get(struct store *st, const uint8_t machine[TM_UUID], uint64_t seq,
	struct store_point **p, struct tm_err *err)
{
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	ret = point_read(&st->ix, machine, seq, p, err);
	index_leave(st);
	return ret;
}

/* Walks one machine's points from `from` up, or from the newest down; fn may take *p (and set it NULL). */
static int walk(struct store *st, const uint8_t machine[TM_UUID], uint64_t from, int down,
	int (*fn)(void *arg, struct store_point **p), void *arg, struct tm_err *err)
{
	rocksdb_iterator_t *it;
	const char *key, *val;
	struct store_point *p;
	char start[24];
	size_t klen, len;
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	it = index_iter(&st->ix, CF_POINT, 1);
	point_key(start, machine, from);
	if (down)
		rocksdb_iter_seek_for_prev(it, start, sizeof(start));
	else
		rocksdb_iter_seek(it, start, sizeof(start));
	while (!ret && rocksdb_iter_valid(it)) {
		key = rocksdb_iter_key(it, &klen);
		if (klen != sizeof(start) || memcmp(key, machine, TM_UUID))
			break;
		val = rocksdb_iter_value(it, &len);
		ret = point_parse(val, len, &p, err);
		if (ret)
			break;
		memcpy(p->machine, machine, TM_UUID);
		p->seq = get_be64(key + TM_UUID);
		ret = fn(arg, &p);
		store_point_free(p);
		if (down)
			rocksdb_iter_prev(it);
		else
			rocksdb_iter_next(it);
	}
	if (!ret)
		ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	index_leave(st);
	return ret;
}

struct visit {
	int (*fn)(void *arg, const struct store_point *p);
	void *arg;
};

static int visit(void *arg, struct store_point **p)
{
	struct visit *v = arg;

	return v->fn(v->arg, *p);
}

int store_points(struct store *st, const uint8_t machine[TM_UUID], uint64_t from,
	int (*fn)(void *arg, const struct store_point *p), void *arg, struct tm_err *err)
{
	struct visit v = {fn, arg};

	return walk(st, machine, from, 0, visit, &v, err);
}

struct newest {
	int app;
	struct store_point *p;
};

static int take_newest(void *arg, struct store_point **p)
{
	struct newest *n = arg;

	if (n->app && (*p)->kind != TM_POINT_APP)
		return 0;
	n->p = *p;
	*p = NULL;
	return 1;
}

int store_point_newest(struct store *st, const uint8_t machine[TM_UUID], int app,
	struct store_point **p, struct tm_err *err)
{
	struct newest n = {.app = app};
	int ret = walk(st, machine, UINT64_MAX, 1, take_newest, &n, err);

	if (ret < 0)
		return ret;
	*p = n.p;
	return n.p ? 0
		   : tm_fail(err, ENOENT, "the machine has no %spoint",
			     app ? "app-consistent " : "");
}

int store_point_pin(struct store *st, const uint8_t machine[TM_UUID], uint64_t seq, int pinned,
	struct tm_err *err)
{
	struct store_point *p;
	rocksdb_writebatch_t *b;
	int ret;

	/* Not between a drop's look at the pins and its deletion. */
	pthread_mutex_lock(&st->points_lock);
	ret = index_enter(st, err);
	if (ret) {
		pthread_mutex_unlock(&st->points_lock);
		return ret;
	}
	ret = point_read(&st->ix, machine, seq, &p, err);
	if (!ret) {
		p->pinned = pinned != 0;
		b = rocksdb_writebatch_create();
		point_record(b, &st->ix, p);
		ret = index_write(&st->ix, b, 1, err);
		rocksdb_writebatch_destroy(b);
		store_point_free(p);
	}
	index_leave(st);
	pthread_mutex_unlock(&st->points_lock);
	return ret;
}

static int check_drop(struct store *st, const uint8_t machine[TM_UUID], uint64_t seq,
	uint64_t newest, uint64_t *bytes, struct tm_err *err)
{
	struct store_point *p;
	int ret = point_read(&st->ix, machine, seq, &p, err);

	if (ret)
		return ret;
	*bytes += p->bytes;
	if (p->pinned)
		ret = tm_fail(err, EPERM, "point %llu is pinned", (unsigned long long)seq);
	else if (seq >= newest)
		ret = tm_fail(err, EPERM, "point %llu is the newest", (unsigned long long)seq);
	store_point_free(p);
	return ret;
}

static int drop_records(struct store *st, const uint8_t machine[TM_UUID], const uint64_t *seqs,
	size_t n, uint64_t newest, uint64_t *bytes, struct tm_err *err)
{
	rocksdb_writebatch_t *b;
	char key[24];
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	b = rocksdb_writebatch_create();
	for (size_t i = 0; !ret && i < n; i++) {
		ret = check_drop(st, machine, seqs[i], newest, bytes, err);
		point_key(key, machine, seqs[i]);
		rocksdb_writebatch_delete_cf(b, st->ix.cf[CF_POINT], key, sizeof(key));
	}
	if (!ret)
		ret = index_write(&st->ix, b, 1, err);
	rocksdb_writebatch_destroy(b);
	index_leave(st);
	return ret;
}

static int ascending(const void *x, const void *y)
{
	const uint64_t *a = x, *b = y;

	return *a < *b ? -1 : *a > *b;
}

int store_points_drop(struct store *st, const uint8_t machine[TM_UUID], const uint64_t *seqs,
	size_t n, struct tm_err *err)
{
	uint64_t *sorted = malloc((n + 1) * sizeof(*sorted)), newest = 0, bytes = 1;
	struct machine *m;
	int ret;

	if (!sorted)
		return tm_fail(err, ENOMEM, "out of memory");
	if (n)
		memcpy(sorted, seqs, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), ascending);
	/* Holds off pins, other drops and the machine's removal, but not commits and puts. */
	pthread_mutex_lock(&st->points_lock);
	pthread_rwlock_rdlock(&st->lock);
	m = machine_find(st, machine);
	if (m && m->npoints)
		newest = m->points[m->npoints - 1];
	pthread_rwlock_unlock(&st->lock);
	ret = newest ? drop_records(st, machine, sorted, n, newest, &bytes, err)
		     : tm_fail(err, ENOENT, "the machine has no points");
	if (!ret) {
		/* Only now may compaction take what these points saw. */
		pthread_rwlock_wrlock(&st->lock);
		machine_points_drop(m, sorted, n);
		m->debt += bytes;
		pthread_rwlock_unlock(&st->lock);
	}
	pthread_mutex_unlock(&st->points_lock);
	free(sorted);
	return ret;
}
