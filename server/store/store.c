// SPDX-License-Identifier: Apache-2.0
/*
 * Making, opening and closing a store; its lock, its space.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "server/store/internal.h"

int store_create(const char *dir, struct tm_err *err)
{
	static const char *const sub[] = {"packs", "index", "open", "overlays", "lost+found"};
	struct index ix;
	struct index_conf conf = {.cache_bytes = 1 << 20, .buffer_bytes = 1 << 20, .create = 1};
	char path[4096];
	uuid_t id;
	int fd, ret = 0, s;

	fd = make_dir(AT_FDCWD, dir, err);
	if (fd < 0)
		return fd;
	if (faccessat(fd, "store.json", F_OK, 0) == 0) {
		close(fd);
		return tm_fail(err, EEXIST, "%s holds a store already", dir);
	}
	for (size_t i = 0; !ret && i < sizeof(sub) / sizeof(sub[0]); i++) {
		s = make_dir(fd, sub[i], err);
		ret = s < 0 ? s : 0;
		if (s >= 0)
			close(s);
	}
	snprintf(path, sizeof(path), "%s/index", dir);
	if (!ret && !(ret = index_open(&ix, path, &conf, err)))
		index_close(&ix);
	/* The store's own name, in a folder that is not ours. */
	s = ret ? -1 : open_dir(fd, "..", err);
	if (!ret)
		ret = s < 0 ? s : sync_dir(s, "above the store", err);
	if (s >= 0)
		close(s);
	/* Last: only a whole store has its description. */
	uuid_generate(id);
	if (!ret)
		ret = identity_write(fd, id, 0, err);
	close(fd);
	return ret;
}

static int lock_store(struct store *st, struct tm_err *err)
{
	st->lockfd = openat(st->rootfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (st->lockfd < 0)
		return tm_fail_errno(err, "cannot open %s/lock", st->path);
	if (flock(st->lockfd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return tm_fail(err, EBUSY, "the store %s is in use by another process", st->path);
	return tm_fail_errno(err, "cannot lock %s", st->path);
}

static int reserve_packs(void *arg, uint32_t no, struct tm_err *err)
{
	struct store *st = arg;
	rocksdb_writebatch_t *b;
	uint64_t v = no;
	int ret;

	/* The packs' lock is held: against the order, so it never waits. */
	if (pthread_rwlock_tryrdlock(&st->index_lock))
		return tm_fail(err, EIO, "the index is being opened again after an error");
	if (index_writable(&st->ix, err)) {
		index_leave(st);
		return -err->code;
	}
	b = rocksdb_writebatch_create();
	rocksdb_writebatch_put_cf(b, st->ix.cf[CF_META], "packs", 5, (char *)&v, sizeof(v));
	ret = index_write(&st->ix, b, 1, err);
	rocksdb_writebatch_destroy(b);
	index_leave(st);
	return ret;
}

static int load_counter(struct store *st, const char *name, uint64_t *v, struct tm_err *err)
{
	char *val;
	size_t len;
	int ret = index_get(&st->ix, CF_META, name, strlen(name), &val, &len, err);

	*v = 1;
	if (ret <= 0)
		return ret;
	if (len != sizeof(*v))
		ret = tm_fail(err, EBADMSG, "index: the counter %s is damaged", name);
	else
		memcpy(v, val, sizeof(*v)), ret = 0;
	rocksdb_free(val);
	return ret;
}

/* Is it one of ours (or an empty one, whose header a crash prevented)? */
static int our_pack(struct store *st, const char *name, struct tm_err *err)
{
	struct pack_header h = {0};
	struct stat sb;
	int fd = openat(st->packsfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), ours;

	if (fd < 0 || fstat(fd, &sb)) {
		tm_fail_errno(err, "cannot look at pack %s", name);
		if (fd >= 0)
			close(fd);
		return -err->code;
	}
	ours = S_ISREG(sb.st_mode);
	if (ours && sb.st_size >= (off_t)sizeof(h) && !read_full(fd, &h, sizeof(h), 0, err))
		ours = (!memcmp(h.magic, "TMPACK1\n", 8) && !memcmp(h.uuid, st->uuid, TM_UUID)) ||
		       h.magic[0] == 0;
	close(fd);
	return ours;
}

/*
 * A pack without a record holds nothing that was ever made durable: a crash's leftover, removed. What is no pack of this store is moved
 * away, never deleted.
 */
static int sweep_pack(struct store *st, const char *name, uint64_t *max, struct tm_err *err)
{
	uint32_t no = 0;
	char key[4], *val;
	size_t len;
	int ret;

	ret = pack_number(name, &no) ? our_pack(st, name, err) : 0;
	if (ret < 0)
		return ret;
	if (ret == 0)
		return to_lost_found(st->rootfd, st->packsfd, "packs", name, err);
	if (no > *max)
		*max = no;
	put_be32(key, no);
	ret = index_get(&st->ix, CF_PACK, key, sizeof(key), &val, &len, err);
	if (ret < 0)
		return ret;
	if (ret > 0)
		rocksdb_free(val);
	else if (unlinkat(st->packsfd, name, 0))
		return tm_fail_errno(err, "cannot remove pack %s", name);
	return 0;
}

static int sweep(struct store *st, int fd, int open, uint64_t *max, struct tm_err *err)
{
	struct dirent *e;
	struct stat sb;
	int ret = 0, dup = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = dup < 0 ? NULL : fdopendir(dup);

	if (!d)
		return tm_fail_errno(err, "cannot read %s", open ? "open" : "packs");
	while (!ret && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (!open)
			ret = sweep_pack(st, e->d_name, max, err);
		else if (e->d_name[0] == '.')
			ret = remove_tree(fd, e->d_name, err); /* a checkpoint not finished */
		else if (fstatat(fd, e->d_name, &sb, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(sb.st_mode))
			ret = to_lost_found(st->rootfd, fd, "open", e->d_name, err);
	}
	closedir(d);
	return ret;
}

static int open_packs(struct store *st, struct tm_err *err)
{
	uint64_t max = 0, next;

	if (load_counter(st, "packs", &next, err) || sweep(st, st->packsfd, 0, &max, err) ||
		sweep(st, st->openfd, 1, &max, err))
		return -err->code;
	if (next <= max)
		next = max + 1;
	if (next > UINT32_MAX - 100000)
		return tm_fail(err, EOVERFLOW, "the store has used up its pack numbers");
	packs_init(&st->packs, st->packsfd, 0);
	st->packs.max = st->o.pack_bytes;
	st->packs.next_no = st->packs.reserved_no = (uint32_t)next;
	st->packs.incarnation = st->incarnation;
	st->packs.reserve = reserve_packs;
	st->packs.arg = st;
	memcpy(st->packs.uuid, st->uuid, TM_UUID);
	return 0;
}

static void defaults(struct store_opts *o, const struct store_opts *given)
{
	if (given)
		*o = *given;
	if (!o->cache_bytes)
		o->cache_bytes = 64ull << 20;
	if (!o->buffer_bytes)
		o->buffer_bytes = 64ull << 20;
	if (!o->reserve_bytes)
		o->reserve_bytes = 256ull << 20;
	if (!o->pack_bytes || o->pack_bytes > 1ull << 30)
		o->pack_bytes = 1ull << 30;
	if (!o->items_max)
		o->items_max = 65536;
	if (!o->prune_min)
		o->prune_min = 4096;
	if (!o->own_pack_mib)
		o->own_pack_mib = 16;
}

/*
 * The store's files were copied here: it may be an older state of a store that has given out numbers since. The clock takes the counter
 * past these (8,192 a second since 2024), so that no number means two attempts; only a wrong clock could make it fail, and the size of
 * the step below makes that unlikely. Durable before the identity that says that this was done.
 */
static int skip_numbers(struct store *st, uint64_t *next, struct tm_err *err)
{
	int64_t since = (int64_t)time(NULL) - 1704067200;
	uint64_t by_clock = since > 0 ? (uint64_t)since << 13 : 0;
	rocksdb_writebatch_t *b;
	int ret;

	/* A store without attempts has nothing to be confused with. */
	if (*next == 1)
		return 0;
	*next = by_clock > *next ? by_clock : *next + (1ull << 32);
	b = rocksdb_writebatch_create();
	rocksdb_writebatch_put_cf(b, st->ix.cf[CF_META], "seq", 3, (char *)next, sizeof(*next));
	ret = index_write(&st->ix, b, 1, err);
	rocksdb_writebatch_destroy(b);
	return ret;
}

static int open_steps(struct store *st, struct tm_err *err)
{
	uint64_t next;

	st->rootfd = open_dir(AT_FDCWD, st->path, err);
	if (st->rootfd < 0 || lock_store(st, err) || identity_read(st, err))
		return -err->code;
	ballast_give(st);
	st->packsfd = open_dir(st->rootfd, "packs", err);
	if (st->packsfd < 0)
		return -err->code;
	st->openfd = open_dir(st->rootfd, "open", err);
	if (st->openfd < 0)
		return -err->code;
	st->incarnation++;
	if (store_index_open(st, 0, err) || load_counter(st, "seq", &next, err) ||
		(st->moved && skip_numbers(st, &next, err)) ||
		identity_write(st->rootfd, st->uuid, st->incarnation, err))
		return -err->code;
	st->next_seq = st->reserved_seq = next;
	if (machines_load(st, err) || attempts_load(st, err) || open_packs(st, err))
		return -err->code;
	atomic_store(&st->loaded, 1);
	return committer_start(st, err);
}

int store_open(
	const char *dir, const struct store_opts *opts, struct store **out, struct tm_err *err)
{
	struct store *st = calloc(1, sizeof(*st));
	pthread_rwlockattr_t attr;

	*out = NULL;
	if (!st || !(st->path = strdup(dir))) {
		free(st);
		return tm_fail(err, ENOMEM, "out of memory");
	}
	defaults(&st->o, opts);
	st->rootfd = st->packsfd = st->openfd = st->lockfd = -1;
	pthread_rwlockattr_init(&attr);
	/* A commit must not starve behind a stream of readers. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&st->lock, &attr);
	pthread_rwlock_init(&st->index_lock, NULL);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&st->points_lock, NULL);
	pthread_mutex_init(&st->checkpoint_lock, NULL);
	pthread_mutex_init(&st->info_lock, NULL);
	pthread_mutex_init(&st->ledger.lock, NULL);
	pthread_mutex_init(&st->queue_lock, NULL);
	pthread_cond_init(&st->queue_cond, NULL);
	st->queue_tail = &st->queue;
	if (open_steps(st, err)) {
		store_close(st);
		return -err->code;
	}
	*out = st;
	return 0;
}

void store_close(struct store *st)
{
	if (!st)
		return;
	committer_stop(st);
	atomic_store(&st->loaded, 0);
	attempts_free(st);
	if (st->packs.arg)
		packs_exit(&st->packs);
	index_close(&st->ix);
	/* Nobody is left, but the filter's last look at these was under the lock. */
	pthread_rwlock_wrlock(&st->lock);
	machines_free(st);
	free(st->vis);
	pthread_rwlock_unlock(&st->lock);
	ledger_free(&st->ledger);
	for (int *fd = (int[]){st->packsfd, st->openfd, st->lockfd, st->rootfd, -2}; *fd != -2;
		fd++)
		if (*fd >= 0)
			close(*fd);
	pthread_rwlock_destroy(&st->lock);
	pthread_rwlock_destroy(&st->index_lock);
	pthread_mutex_destroy(&st->points_lock);
	pthread_mutex_destroy(&st->checkpoint_lock);
	pthread_mutex_destroy(&st->info_lock);
	pthread_mutex_destroy(&st->queue_lock);
	pthread_cond_destroy(&st->queue_cond);
	free(st->path);
	free(st);
}

int store_peek(struct store *st)
{
	for (int i = 0; i < 200; i++) {
		if (!pthread_rwlock_tryrdlock(&st->lock))
			return 1;
		usleep(500);
	}
	return 0;
}

int store_space(struct store *st, struct tm_err *err)
{
	struct timespec ts;
	uint64_t now;

	if (st->o.reserve_bytes == UINT64_MAX)
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000 + 1;
	/* Asking the filesystem for each frame would cost: a tenth of a second and a part of the reserve later it is asked again. */
	if (now > st->space_checked_ms + 100 || st->space_put > st->o.reserve_bytes / 8 ||
		atomic_load(&st->full)) {
		st->space_checked_ms = now;
		st->space_put = 0;
		atomic_store(&st->full, free_bytes(st->rootfd) < st->o.reserve_bytes);
	}
	if (!atomic_load(&st->full))
		return 0;
	return tm_fail(err, ENOSPC, "the store is below its reserve of %llu MiB free space",
		(unsigned long long)st->o.reserve_bytes >> 20);
}

/* A large store has many packs and the caller may ask each second: looked at every ten. */
static void pack_totals(struct store *st, struct store_info *info)
{
	int dup = openat(st->packsfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = dup < 0 ? NULL : fdopendir(dup);
	struct dirent *e;
	struct stat sb;
	uint32_t no;

	while (d && (e = readdir(d)))
		if (pack_number(e->d_name, &no) && !fstatat(st->packsfd, e->d_name, &sb, 0)) {
			info->packs++;
			info->pack_bytes += (uint64_t)sb.st_size;
		}
	if (d)
		closedir(d);
}

void store_io(struct store *st, struct store_io *io)
{
	struct tm_err none;

	memset(io, 0, sizeof(*io));
	io->packs = st->packs.written;
	if (index_enter(st, &none))
		return;
	index_io(&st->ix, io);
	index_leave(st);
}

int store_info(struct store *st, struct store_info *info, struct tm_err *err)
{
	struct timespec now;
	uint64_t v;

	clock_gettime(CLOCK_MONOTONIC, &now);
	memset(info, 0, sizeof(*info));
	memcpy(info->uuid, st->uuid, TM_UUID);
	info->incarnation = st->incarnation;
	info->free_bytes = free_bytes(st->rootfd);
	info->full = st->o.reserve_bytes != UINT64_MAX && info->free_bytes < st->o.reserve_bytes;
	pthread_mutex_lock(&st->info_lock);
	if (!st->info_s || now.tv_sec >= st->info_s + 10) {
		pack_totals(st, info);
		st->info_packs = info->packs;
		st->info_bytes = info->pack_bytes;
		st->info_s = now.tv_sec;
	}
	info->packs = st->info_packs;
	info->pack_bytes = st->info_bytes;
	pthread_mutex_unlock(&st->info_lock);
	pthread_rwlock_rdlock(&st->index_lock);
	info->failed = (uint8_t)atomic_load(&st->index_failed);
	if (info->failed)
		snprintf(info->why, sizeof(info->why), "%s", st->reopening.why.msg);
	pthread_rwlock_unlock(&st->index_lock);
	if (index_enter(st, err))
		return 0;
	for (int i = 0; i < CF_N; i++)
		if (!rocksdb_property_int_cf(
			    st->ix.db, st->ix.cf[i], "rocksdb.total-sst-files-size", &v))
			info->index_bytes += v;
	index_leave(st);
	return 0;
}
