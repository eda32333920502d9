// SPDX-License-Identifier: Apache-2.0
/*
 * Reading the engine's own files again. The running index answers from its caches and keeps files open that are long gone from the disk;
 * so a checkpoint is opened for reading and walked from end to end, each family. Where a file is damaged the walk goes on behind the last key
 * that it may hold.
 */
#include <stdlib.h>
#include <unistd.h>

#include "server/store/internal.h"
#include "server/store/space.h"

#define HOLD  ".scrub"
#define CACHE (4u << 20)
#define TELL  65536u /* keys between two calls of go_on */

struct verify {
	struct store *st;
	struct index ix;
	const rocksdb_livefiles_t *files;
	rocksdb_readoptions_t *ro;
	struct pace pace;
	uint64_t keys;
	int (*go_on)(void *arg, uint64_t keys);
	void (*fn)(void *arg, const struct store_damage *d);
	void *arg;
	int untold; /* for want of memory */
	struct tm_err *err;
};

/* The process lacks something: that says nothing of the files. */
static int is_shortage(const char *msg)
{
	return strstr(msg, "Too many open files") || strstr(msg, "Cannot allocate memory");
}

/* ---- Telling of it ---- */

/* Every kept point of the machine, and its newest state: which versions are lost cannot be read any more. st->lock held. */
static void all_points(const struct machine *m, struct store_damage *d)
{
	memcpy(d->machine, m->uuid, TM_UUID);
	d->first_point = m->npoints ? m->points[0] : 0;
	d->last_point = m->npoints ? m->points[m->npoints - 1] : 0;
	d->in_head = 1;
}

static void tell_machines(struct verify *v, const char *why)
{
	struct store_damage *list = NULL;
	size_t n = 0;

	pthread_rwlock_rdlock(&v->st->lock);
	for (const struct machine *m = v->st->machines; m; m = m->next)
		n++;
	list = calloc(n + 1, sizeof(*list));
	n = 0;
	v->untold |= !list;
	for (const struct machine *m = v->st->machines; list && m; m = m->next) {
		all_points(m, &list[n]);
		snprintf(list[n++].why, sizeof(list->why), "%.150s", why);
	}
	pthread_rwlock_unlock(&v->st->lock);
	for (size_t i = 0; i < n; i++)
		v->fn(v->arg, &list[i]);
	free(list);
}

/* From unit to unit of both ends; of disks between them all. */
static void tell_disk(struct verify *v, enum cf cf, uint32_t no, const char *from, const char *to,
	const char *why)
{
	uint64_t n = cf == CF_CHUNK ? TM_CHUNK_BLOCKS : 1, end;
	struct store_damage d = {.disk_no = no};
	int known;

	pthread_rwlock_rdlock(&v->st->lock);
	known = no < v->st->ndisks && v->st->disks[no];
	if (known) {
		all_points(v->st->owner[no], &d);
		end = (v->st->disks[no]->size + TM_BLOCK - 1) / TM_BLOCK;
		d.block = from && key_disk(from) == no ? key_unit(from) * n : 0;
		if (to && key_disk(to) == no)
			end = (key_unit(to) + 1) * n;
		d.count = end > d.block ? end - d.block : 1;
	}
	pthread_rwlock_unlock(&v->st->lock);
	snprintf(d.why, sizeof(d.why), "%.150s", why);
	if (known)
		v->fn(v->arg, &d);
}

static void tell_keys(
	struct verify *v, enum cf cf, const char *from, const char *to, const char *why)
{
	uint32_t first = from ? key_disk(from) : 0, last = to ? key_disk(to) : UINT32_MAX, ndisks;

	pthread_rwlock_rdlock(&v->st->lock);
	ndisks = v->st->ndisks;
	pthread_rwlock_unlock(&v->st->lock);
	for (uint32_t no = first; no <= last && no < ndisks; no++)
		tell_disk(v, cf, no, from, to, why);
}

/* ---- The walk ---- */

/* Which file the engine's message names: its place in the list, or -1. */
static int named(const struct verify *v, const char *msg)
{
	for (int i = 0; i < rocksdb_livefiles_count(v->files); i++)
		if (strstr(msg, rocksdb_livefiles_name(v->files, i)))
			return i;
	return -1;
}

/*
 * Tells of the file and gives the key behind its last one, from where the walk goes on; `at`, the last key that could be read, bounds what is
 * touched from below. 0: the walk would come no further, or the engine names no file.
 */
static int skip_file(struct verify *v, enum cf cf, const char *msg, const char *at, char *next)
{
	const char *small = NULL, *large = NULL, *name = msg;
	char why[200], behind[KEY_LEN];
	size_t slen = 0, llen = 0;
	int i = named(v, msg);

	if (i >= 0) {
		small = rocksdb_livefiles_smallestkey(v->files, i, &slen);
		large = rocksdb_livefiles_largestkey(v->files, i, &llen);
		name = rocksdb_livefiles_name(v->files, i);
	}
	snprintf(why, sizeof(why), "index file %.40s: %.100s", name + (name[0] == '/'), msg);
	if (cf != CF_CHUNK && cf != CF_BLOCK) {
		tell_machines(v, why);
		return 0;
	}
	if (slen != KEY_LEN || llen != KEY_LEN) {
		tell_keys(v, cf, at, NULL, why);
		return 0;
	}
	/* What lies before was read, of this file too. */
	tell_keys(v, cf, at && memcmp(at, small, KEY_LEN) > 0 ? at : small, large, why);
	memcpy(behind, large, KEY_LEN);
	for (int k = KEY_LEN - 1; k >= 0 && ++behind[k] == 0; k--)
		;
	if (memcmp(behind, next, KEY_LEN) <= 0)
		return 0;
	memcpy(next, behind, KEY_LEN);
	return 1;
}

static int step(struct verify *v, rocksdb_iterator_t *it, char *at, int *have)
{
	size_t klen, len;
	const char *key = rocksdb_iter_key(it, &klen);

	rocksdb_iter_value(it, &len);
	if (klen == KEY_LEN) {
		memcpy(at, key, KEY_LEN);
		*have = 1;
	}
	if (++v->keys % TELL == 0 && v->go_on(v->arg, v->keys))
		return tm_fail(v->err, ECANCELED, "interrupted");
	return pace_pay(v->st, &v->pace, klen + len, v->err);
}

static int walk(struct verify *v, enum cf cf)
{
	char at[KEY_LEN], next[KEY_LEN] = {0}, *msg;
	size_t from = 0;
	int ret = 0, have = 0, again = 1;

	while (!ret && again) {
		rocksdb_iterator_t *it = rocksdb_create_iterator_cf(v->ix.db, v->ro, v->ix.cf[cf]);

		msg = NULL;
		for (rocksdb_iter_seek(it, next, from); !ret && rocksdb_iter_valid(it);
			rocksdb_iter_next(it))
			ret = step(v, it, at, &have);
		if (!ret)
			rocksdb_iter_get_error(it, &msg);
		rocksdb_iter_destroy(it);
		if (msg && is_shortage(msg))
			return index_fail(v->err, "cannot read it", msg);
		again = msg && skip_file(v, cf, msg, have ? at : NULL, next);
		from = KEY_LEN;
		have = 0;
		rocksdb_free(msg);
	}
	return ret;
}

static int verify(struct verify *v)
{
	struct index_conf conf = {.cache_bytes = CACHE, .buffer_bytes = 1 << 20, .read_only = 1};
	char path[4400];
	int ret;

	snprintf(path, sizeof(path), "%s/open/" HOLD "/index", v->st->path);
	ret = index_open(&v->ix, path, &conf, v->err);
	if (ret && is_shortage(v->err->msg))
		return ret;
	if (ret) {
		tell_machines(v, v->err->msg);
		return 0;
	}
	v->files = rocksdb_livefiles(v->ix.db);
	v->ro = rocksdb_readoptions_create();
	rocksdb_readoptions_set_total_order_seek(v->ro, 1);
	rocksdb_readoptions_set_fill_cache(v->ro, 0);
	for (int cf = 0; !ret && cf < CF_N; cf++)
		ret = walk(v, (enum cf)cf);
	rocksdb_readoptions_destroy(v->ro);
	rocksdb_livefiles_destroy(v->files);
	index_close(&v->ix);
	return ret;
}

/* Long paths come first in the engine's messages, the file's name last. */
static void tell_lost(struct verify *v, const char *msg)
{
	size_t len = strlen(msg);
	char why[160];

	snprintf(why, sizeof(why), "index: ...%s", msg + (len > 130 ? len - 130 : 0));
	tell_machines(v, why);
}

int store_verify_index(struct store *st, uint64_t rate, int (*go_on)(void *arg, uint64_t keys),
	void (*fn)(void *arg, const struct store_damage *d), void *arg, struct tm_err *err)
{
	struct verify v = {
		.st = st, .pace.rate = rate, .go_on = go_on, .fn = fn, .arg = arg, .err = err};
	int fd, ret = store_space(st, err);

	/* A checkpoint writes. */
	if (ret)
		return ret;
	if (atomic_exchange(&st->verifying, 1))
		return tm_fail(err, EBUSY, "the index is being verified already");
	fd = checkpoint_hold_index(st, HOLD, err);
	if (fd >= 0) {
		close(fd);
		ret = verify(&v);
	} else if (fd == -ENOSPC || is_shortage(err->msg) ||
		   store_ending(st, &(struct tm_err){0})) {
		ret = fd; /* it is open for reading only, or about to be closed */
	} else {
		tell_lost(&v, err->msg); /* a file cannot be linked: it is gone */
		ret = 0;
	}
	if (!ret && v.untold)
		ret = tm_fail(
			err, ENOMEM, "out of memory for what is damaged: see nothing as verified");
	remove_tree(st->openfd, HOLD, &(struct tm_err){0});
	atomic_store(&st->verifying, 0);
	return ret;
}
