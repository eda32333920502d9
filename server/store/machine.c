// SPDX-License-Identifier: Apache-2.0
/*
 * Machines, their disks, notes and heads; the kept points of each in memory, as compaction and views need them.
 */
#include <stdlib.h>

#include "server/store/internal.h"

/* Keys in the meta family: 'd' disk number; 'h' machine (head); 'n' machine (note); "seq", "packs", "next disk" (counters). */

struct disk_rec {
	uint8_t machine[TM_UUID], uuid[TM_UUID];
	uint64_t size;
	uint16_t name_len, serial_len;
} __attribute__((packed));

void head_key(char key[17], const uint8_t machine[TM_UUID])
{
	key[0] = 'h';
	memcpy(key + 1, machine, TM_UUID);
}

struct machine *machine_find(struct store *st, const uint8_t uuid[TM_UUID])
{
	struct machine *m;

	for (m = st->machines; m && memcmp(m->uuid, uuid, TM_UUID); m = m->next)
		;
	return m;
}

struct machine *machine_make(struct store *st, const uint8_t uuid[TM_UUID], struct tm_err *err)
{
	struct machine *m = machine_find(st, uuid);

	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m) {
		tm_fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	memcpy(m->uuid, uuid, TM_UUID);
	m->next = st->machines;
	st->machines = m;
	return m;
}

/* Index of the first kept point >= seq. */
static size_t point_slot(const struct machine *m, uint64_t seq)
{
	size_t lo = 0, hi = m->npoints, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (m->points[mid] < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

uint64_t machine_point_from(const struct machine *m, uint64_t seq)
{
	size_t i = point_slot(m, seq);

	return i < m->npoints ? m->points[i] : NEVER;
}

int machine_point_add(struct machine *m, uint64_t seq, struct tm_err *err)
{
	size_t i = point_slot(m, seq), room;
	uint64_t *grown;

	if (m->npoints == m->room) {
		room = m->room ? m->room * 2 : 64;
		grown = realloc(m->points, room * sizeof(*grown));
		if (!grown)
			return tm_fail(err, ENOMEM, "out of memory");
		m->points = grown;
		m->room = room;
	}
	memmove(m->points + i + 1, m->points + i, (m->npoints - i) * sizeof(*m->points));
	m->points[i] = seq;
	m->npoints++;
	return 0;
}

void machine_points_drop(struct machine *m, const uint64_t *seqs, size_t n)
{
	size_t kept = 0, k = 0;

	for (size_t i = 0; i < m->npoints; i++) {
		while (k < n && seqs[k] < m->points[i])
			k++;
		if (k == n || seqs[k] != m->points[i])
			m->points[kept++] = m->points[i];
	}
	m->npoints = kept;
}

static int disk_room(struct store *st, uint32_t no, struct tm_err *err)
{
	size_t room = no + 64ull, more = room - st->ndisks;
	struct store_disk **disks;
	struct machine **owner;

	if (no < st->ndisks)
		return 0;
	disks = realloc(st->disks, room * sizeof(*disks));
	if (disks)
		st->disks = disks;
	owner = realloc(st->owner, room * sizeof(*owner));
	if (owner)
		st->owner = owner;
	if (!disks || !owner)
		return tm_fail(err, ENOMEM, "out of memory");
	memset(disks + st->ndisks, 0, more * sizeof(*disks));
	memset(owner + st->ndisks, 0, more * sizeof(*owner));
	st->ndisks = (uint32_t)room;
	return 0;
}

static int add_disk(struct store *st, const struct store_disk *d, struct tm_err *err)
{
	struct machine *m = machine_make(st, d->machine, err);
	struct store_disk *copy;

	if (!m || disk_room(st, d->no, err))
		return -err->code;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return tm_fail(err, ENOMEM, "out of memory");
	*copy = *d;
	m->ndisks += st->disks[d->no] == NULL;
	free(st->disks[d->no]);
	st->disks[d->no] = copy;
	st->owner[d->no] = m;
	return 0;
}

static int parse_disk(
	const char *key, const char *val, size_t len, struct store_disk *d, struct tm_err *err)
{
	struct disk_rec r;

	memset(d, 0, sizeof(*d));
	if (len < sizeof(r))
		return tm_fail(err, EBADMSG, "index: a disk record is damaged");
	memcpy(&r, val, sizeof(r));
	if (r.name_len > TM_NAME_MAX || r.serial_len > TM_NAME_MAX ||
		len != sizeof(r) + r.name_len + r.serial_len)
		return tm_fail(err, EBADMSG, "index: a disk record is damaged");
	memcpy(d->machine, r.machine, TM_UUID);
	memcpy(d->uuid, r.uuid, TM_UUID);
	d->no = get_be32(key + 1);
	d->size = r.size;
	memcpy(d->name, val + sizeof(r), r.name_len);
	memcpy(d->serial, val + sizeof(r) + r.name_len, r.serial_len);
	return 0;
}

static int load_record(struct store *st, const char *key, size_t klen, const char *val, size_t len,
	struct tm_err *err)
{
	struct store_disk d;
	struct machine *m;
	struct head_rec h;

	if (klen == 5 && key[0] == 'd')
		return parse_disk(key, val, len, &d, err) ? -err->code : add_disk(st, &d, err);
	if (klen == 9 && !memcmp(key, "next disk", 9) && len == 4)
		memcpy(&st->next_disk, val, 4);
	if (klen != 1 + TM_UUID || (key[0] != 'h' && key[0] != 'n'))
		return 0;
	m = machine_make(st, (const uint8_t *)key + 1, err);
	if (!m)
		return -err->code;
	if (key[0] != 'h')
		return 0;
	if (len != sizeof(h))
		return tm_fail(err, EBADMSG, "index: a head record is damaged");
	memcpy(&h, val, sizeof(h));
	m->has_head = 1;
	m->debt = 1; /* what an earlier process left is not known */
	m->head = h.id;
	m->head_seq = h.seq;
	m->head_arrival_ns = h.arrival_ns;
	return 0;
}

static int load_points(struct store *st, struct tm_err *err)
{
	rocksdb_iterator_t *it = index_iter(&st->ix, CF_POINT, 1);
	struct machine *m = NULL;
	const char *key;
	size_t klen;
	int ret = 0;

	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		if (klen != TM_UUID + 8)
			continue;
		if (!m || memcmp(m->uuid, key, TM_UUID))
			m = machine_make(st, (const uint8_t *)key, err);
		ret = m ? machine_point_add(m, get_be64(key + TM_UUID), err) : -err->code;
	}
	if (!ret)
		ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	return ret;
}

int machines_load(struct store *st, struct tm_err *err)
{
	rocksdb_iterator_t *it = index_iter(&st->ix, CF_META, 1);
	const char *key, *val;
	size_t klen, len;
	int ret = 0;

	st->next_disk = 1;
	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		ret = load_record(st, key, klen, val, len, err);
	}
	if (!ret)
		ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	for (uint32_t i = st->next_disk; i < st->ndisks; i++)
		if (st->disks[i])
			st->next_disk = i + 1;
	return ret ? ret : load_points(st, err);
}

void machines_free(struct store *st)
{
	struct machine *m;

	while ((m = st->machines)) {
		st->machines = m->next;
		free(m->points);
		free(m);
	}
	for (uint32_t i = 0; i < st->ndisks; i++)
		free(st->disks[i]);
	free(st->disks);
	free(st->owner);
}

/* Writes one record, durably. */
static int put_meta(struct store *st, const void *key, size_t klen, const void *val, size_t len,
	struct tm_err *err)
{
	rocksdb_writebatch_t *b;
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	b = rocksdb_writebatch_create();
	rocksdb_writebatch_put_cf(b, st->ix.cf[CF_META], key, klen, val, len);
	ret = index_write(&st->ix, b, 1, err);
	rocksdb_writebatch_destroy(b);
	index_leave(st);
	return ret;
}

static int write_disk(struct store *st, const struct store_disk *d, struct tm_err *err)
{
	struct disk_rec r = {.size = d->size};
	char key[5] = "d", val[sizeof(r) + 2 * TM_NAME_MAX];

	put_be32(key + 1, d->no);
	memcpy(r.machine, d->machine, TM_UUID);
	memcpy(r.uuid, d->uuid, TM_UUID);
	r.name_len = (uint16_t)strnlen(d->name, TM_NAME_MAX);
	r.serial_len = (uint16_t)strnlen(d->serial, TM_NAME_MAX);
	memcpy(val, &r, sizeof(r));
	memcpy(val + sizeof(r), d->name, r.name_len);
	memcpy(val + sizeof(r) + r.name_len, d->serial, r.serial_len);
	return put_meta(st, key, sizeof(key), val, sizeof(r) + r.name_len + r.serial_len, err);
}

static int same_disk(const struct store_disk *a, const struct store_disk *b)
{
	return a->size == b->size && !strcmp(a->name, b->name) && !strcmp(a->serial, b->serial);
}

int store_disk_register(struct store *st, struct store_disk *d, struct tm_err *err)
{
	const struct store_disk *old = NULL;
	int ret = 0;

	if (d->size > TM_DISK_MAX)
		return tm_fail(err, EINVAL, "a disk of %llu bytes is too large",
			(unsigned long long)d->size);
	d->name[TM_NAME_MAX] = d->serial[TM_NAME_MAX] = 0;
	pthread_rwlock_wrlock(&st->lock);
	for (uint32_t i = 0; !old && i < st->ndisks; i++)
		if (st->disks[i] && !memcmp(st->disks[i]->machine, d->machine, TM_UUID) &&
			!memcmp(st->disks[i]->uuid, d->uuid, TM_UUID))
			old = st->disks[i];
	d->no = old ? old->no : st->next_disk;
	if (!old || !same_disk(old, d)) {
		ret = write_disk(st, d, err);
		if (!ret)
			ret = add_disk(st, d, err);
		if (!ret && d->no == st->next_disk)
			st->next_disk++;
	}
	pthread_rwlock_unlock(&st->lock);
	return ret;
}

int store_disks(struct store *st, const uint8_t *machine,
	int (*fn)(void *arg, const struct store_disk *d), void *arg, struct tm_err *err)
{
	int ret = 0;

	pthread_rwlock_rdlock(&st->lock);
	for (uint32_t i = 0; !ret && i < st->ndisks; i++)
		if (st->disks[i] && (!machine || !memcmp(st->disks[i]->machine, machine, TM_UUID)))
			ret = fn(arg, st->disks[i]);
	pthread_rwlock_unlock(&st->lock);
	return ret;
}

int store_machines(struct store *st, int (*fn)(void *arg, const uint8_t machine[TM_UUID]),
	void *arg, struct tm_err *err)
{
	int ret = 0;

	pthread_rwlock_rdlock(&st->lock);
	for (struct machine *m = st->machines; !ret && m; m = m->next)
		ret = fn(arg, m->uuid);
	pthread_rwlock_unlock(&st->lock);
	return ret;
}

int store_note_set(struct store *st, const uint8_t machine[TM_UUID], const void *note, size_t len,
	struct tm_err *err)
{
	char key[1 + TM_UUID] = "n";
	struct machine *m;

	if (len > 64 << 10)
		return tm_fail(err, EINVAL, "a note of %zu bytes is too long", len);
	memcpy(key + 1, machine, TM_UUID);
	pthread_rwlock_wrlock(&st->lock);
	m = machine_make(st, machine, err);
	pthread_rwlock_unlock(&st->lock);
	return m ? put_meta(st, key, sizeof(key), note, len, err) : -err->code;
}

int store_note_get(struct store *st, const uint8_t machine[TM_UUID], char **note, size_t *len,
	struct tm_err *err)
{
	char key[1 + TM_UUID] = "n", *val;
	int ret;

	memcpy(key + 1, machine, TM_UUID);
	if (index_enter(st, err))
		return -err->code;
	ret = index_get(&st->ix, CF_META, key, sizeof(key), &val, len, err);
	index_leave(st);
	if (ret <= 0)
		return ret < 0 ? ret : tm_fail(err, ENOENT, "the machine has no note");
	*note = malloc(*len + 1);
	if (*note) {
		memcpy(*note, val, *len);
		(*note)[*len] = 0;
	}
	rocksdb_free(val);
	return *note ? 0 : tm_fail(err, ENOMEM, "out of memory");
}

int store_head(
	struct store *st, const uint8_t machine[TM_UUID], struct store_head *h, struct tm_err *err)
{
	struct machine *m;
	int ret = 0;

	pthread_rwlock_rdlock(&st->lock);
	m = machine_find(st, machine);
	if (m && m->has_head) {
		h->id = m->head;
		h->seq = m->head_seq;
		h->arrival_ns = m->head_arrival_ns;
		h->point = m->npoints ? m->points[m->npoints - 1] : 0;
	} else {
		ret = tm_fail(err, ENOENT, "nothing of this machine is committed yet");
	}
	pthread_rwlock_unlock(&st->lock);
	return ret;
}
