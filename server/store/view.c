// SPDX-License-Identifier: Apache-2.0
/*
 * Opening views: of the running store, and of a checkpoint folder without it.
 */
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "server/store/internal.h"

int view_visible(struct store_view *v, const struct vis *vis, size_t n, struct tm_err *err)
{
	v->visible = malloc((n + 1) * sizeof(*v->visible));
	if (!v->visible)
		return tm_fail(err, ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		if (vis[i].at <= v->seq && (vis[i].disk == 0 || vis[i].disk == v->disk))
			v->visible[v->nvisible++] = vis[i].seq;
	return 0;
}

static struct store_view *view_new(struct tm_err *err)
{
	struct store_view *v = calloc(1, sizeof(*v));

	if (!v) {
		tm_fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	v->packsfd = v->lockfd = -1;
	pthread_mutex_init(&v->lock, NULL);
	return v;
}

/* st->lock held. Size and membership come from the point, or from the disk's record for the newest state. */
static int locate(struct store *st, struct store_view *v, uint64_t seq, struct tm_err *err)
{
	struct machine *m = machine_find(st, v->machine);
	struct store_point *p;
	int ret;

	if (!m || v->disk >= st->ndisks || !st->disks[v->disk] ||
		memcmp(st->disks[v->disk]->machine, v->machine, TM_UUID))
		return tm_fail(err, ENOENT, "the machine has no disk %u", v->disk);
	if (seq == 0) {
		v->seq = m->has_head ? m->head_seq : 0;
		v->size = st->disks[v->disk]->size;
		return m->has_head
			       ? 0
			       : tm_fail(err, ENOENT, "nothing of this machine is committed yet");
	}
	if (machine_point_from(m, seq) != seq)
		return tm_fail(err, ENOENT, "no such point: %llu", (unsigned long long)seq);
	v->seq = seq;
	ret = index_enter(st, err);
	if (!ret) {
		ret = point_read(&st->ix, v->machine, seq, &p, err);
		index_leave(st);
	}
	if (ret)
		return ret;
	ret = -ENOENT;
	for (uint32_t i = 0; i < p->ndisks; i++)
		if (p->disks[i].no == v->disk) {
			v->size = p->disks[i].size;
			ret = 0;
		}
	store_point_free(p);
	return ret ? tm_fail(err, ENOENT, "disk %u is not part of point %llu", v->disk,
			     (unsigned long long)seq)
		   : 0;
}

int store_view_open(struct store *st, const uint8_t machine[TM_UUID], uint32_t disk_no,
	uint64_t seq, struct store_view **out, struct tm_err *err)
{
	struct store_view *v = view_new(err);
	int ret;

	if (!v)
		return -err->code;
	v->ix = &st->ix;
	v->packs = &st->packs;
	memcpy(v->machine, machine, TM_UUID);
	v->disk = disk_no;
	pthread_rwlock_wrlock(&st->lock);
	ret = locate(st, v, seq, err);
	if (!ret)
		ret = view_visible(v, st->vis, st->nvis, err);
	if (!ret) {
		/* In the list before the lock is given up: what it sees is kept from here on. */
		v->st = st;
		v->next = st->views;
		st->views = v;
	}
	pthread_rwlock_unlock(&st->lock);
	if (ret)
		store_view_close(v);
	else
		*out = v;
	return ret;
}

void store_view_close(struct store_view *v)
{
	struct store_view **pp;

	if (!v)
		return;
	if (v->st) {
		pthread_rwlock_wrlock(&v->st->lock);
		for (pp = &v->st->views; *pp != v; pp = &(*pp)->next)
			;
		*pp = v->next;
		pthread_rwlock_unlock(&v->st->lock);
	}
	readers_free(v);
	if (v->packsfd >= 0) {
		packs_exit(v->packs);
		index_close(v->ix);
		free(v->packs);
		free(v->ix);
		close(v->packsfd);
	}
	if (v->lockfd >= 0)
		close(v->lockfd);
	pthread_mutex_destroy(&v->lock);
	free(v->visible);
	free(v);
}

uint64_t store_view_size(const struct store_view *v)
{
	return v->size;
}

/* ---- Without the store ---- */

static int matches(const cJSON *d, const char *disk)
{
	const cJSON *no = cJSON_GetObjectItem(d, "number"), *id = cJSON_GetObjectItem(d, "uuid");
	const cJSON *name = cJSON_GetObjectItem(d, "name");
	char number[16];

	if (!cJSON_IsNumber(no) || !cJSON_IsString(id) || !cJSON_IsString(name))
		return 0;
	snprintf(number, sizeof(number), "%.0f", no->valuedouble);
	return !strcmp(disk, number) || !strcasecmp(disk, id->valuestring) ||
	       !strcmp(disk, name->valuestring);
}

static int read_description(
	struct store_view *v, const cJSON *j, const char *disk, struct tm_err *err)
{
	const cJSON *seq = cJSON_GetObjectItem(j, "point"), *d, *size;

	if (!cJSON_IsNumber(seq) || !cJSON_IsArray(cJSON_GetObjectItem(j, "disks")))
		return tm_fail(err, EBADMSG, "point.json is damaged");
	v->seq = (uint64_t)seq->valuedouble;
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(j, "disks")) {
		if (!matches(d, disk))
			continue;
		size = cJSON_GetObjectItem(d, "size");
		v->disk = (uint32_t)cJSON_GetObjectItem(d, "number")->valuedouble;
		v->size = cJSON_IsNumber(size) ? (uint64_t)size->valuedouble : 0;
		return 0;
	}
	return tm_fail(err, ENOENT, "the point has no disk %s", disk);
}

static int load_visible(struct store_view *v, struct tm_err *err)
{
	rocksdb_iterator_t *it = index_iter(v->ix, CF_ATTEMPT, 1);
	struct vis *vis = NULL, *grown;
	struct attempt_rec r;
	size_t n = 0, room = 0, klen, len;
	const char *key, *val;
	int ret = 0;

	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != 8 || len < sizeof(r))
			continue;
		memcpy(&r, val, sizeof(r));
		if (n == room) {
			room = room ? room * 2 : 256;
			grown = realloc(vis, room * sizeof(*vis));
			if (!grown) {
				ret = tm_fail(err, ENOMEM, "out of memory");
				break;
			}
			vis = grown;
		}
		vis[n++] = (struct vis){get_be64(key),
			r.state == AT_COMMITTED ? r.visible_at : NEVER, r.disk, VIS_ENDED};
	}
	if (!ret)
		ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	if (!ret)
		ret = view_visible(v, vis, n, err);
	free(vis);
	return ret;
}

static int open_parts(
	struct store_view *v, int dirfd, const char *dir, uint64_t cache_bytes, struct tm_err *err)
{
	struct index_conf conf = {.cache_bytes = cache_bytes ? cache_bytes : 64ull << 20,
		.buffer_bytes = 8 << 20,
		.read_only = 1};
	char path[4096];

	v->ix = calloc(1, sizeof(*v->ix));
	v->packs = calloc(1, sizeof(*v->packs));
	if (!v->ix || !v->packs)
		return tm_fail(err, ENOMEM, "out of memory");
	snprintf(path, sizeof(path), "%s/index", dir);
	if (index_open(v->ix, path, &conf, err))
		return -err->code;
	v->packsfd = open_dir(dirfd, "packs", err);
	if (v->packsfd < 0) {
		index_close(v->ix);
		return v->packsfd;
	}
	packs_init(v->packs, v->packsfd, 1);
	return load_visible(v, err);
}

static int describe(struct store_view *v, int dirfd, const char *disk, struct tm_err *err)
{
	char *text;
	size_t len;
	cJSON *j;
	int ret = slurp(dirfd, "point.json", 1 << 20, &text, &len, err);

	if (ret)
		return ret;
	j = cJSON_Parse(text);
	ret = read_description(v, j, disk, err);
	cJSON_Delete(j);
	free(text);
	return ret;
}

int store_view_check_dir(const char *dir, const char *disk, struct tm_err *err)
{
	struct store_view v = {0};
	int fd = open_dir(AT_FDCWD, dir, err), ret;

	if (fd < 0)
		return fd;
	ret = describe(&v, fd, disk, err);
	close(fd);
	return ret;
}

int store_view_open_dir(const char *dir, const char *disk, uint64_t cache_bytes,
	struct store_view **out, struct tm_err *err)
{
	struct store_view *v = view_new(err);
	int dirfd, ret;

	if (!v)
		return -err->code;
	dirfd = open_dir(AT_FDCWD, dir, err);
	ret = dirfd < 0 ? dirfd : describe(v, dirfd, disk, err);
	if (!ret) {
		/* Tells the server that somebody reads; ends with the process. */
		v->lockfd = openat(dirfd, "lock", O_RDONLY | O_CLOEXEC);
		if (v->lockfd < 0 || flock(v->lockfd, LOCK_SH | LOCK_NB))
			ret = tm_fail_errno(err, "cannot lock %s", dir);
	}
	if (!ret)
		ret = open_parts(v, dirfd, dir, cache_bytes, err);
	if (dirfd >= 0)
		close(dirfd);
	if (ret && v->packsfd < 0) {
		free(v->ix);
		free(v->packs);
	}
	if (ret)
		store_view_close(v);
	else
		*out = v;
	return ret;
}
