// SPDX-License-Identifier: Apache-2.0
/*
 * Points in use: STORE/open/NAME is a checkpoint of the index and hard links of the packs, so that nothing the store does
 * afterwards can touch them, and their reader needs nothing but that folder.
 */
#include <cjson/cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "server/store/internal.h"

static int check_name(const char *name, struct tm_err *err)
{
	static const char ok[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
	size_t len = strlen(name);

	if (len == 0 || len > 200 || name[0] == '.' || strspn(name, ok) != len)
		return tm_fail(err, EINVAL, "'%.100s' is no name for a point in use", name);
	return 0;
}

/* ---- Making ---- */

static int describe(int dirfd, const struct store_point *p, struct tm_err *err)
{
	static const char *const kinds[] = {"?", "crash", "app", "scan"};
	cJSON *j = cJSON_CreateObject(), *disks = cJSON_AddArrayToObject(j, "disks"), *d;
	char id[37], *text;
	int ret;

	uuid_unparse_lower(p->machine, id);
	cJSON_AddNumberToObject(j, "format", STORE_FORMAT);
	cJSON_AddStringToObject(j, "machine", id);
	cJSON_AddNumberToObject(j, "point", (double)p->seq);
	cJSON_AddStringToObject(j, "kind", kinds[p->kind <= TM_POINT_SCAN ? p->kind : 0]);
	cJSON_AddNumberToObject(j, "cut_ns", (double)p->cut_ns);
	for (uint32_t i = 0; i < p->ndisks; i++) {
		d = cJSON_CreateObject();
		uuid_unparse_lower(p->disks[i].uuid, id);
		cJSON_AddNumberToObject(d, "number", p->disks[i].no);
		cJSON_AddStringToObject(d, "uuid", id);
		cJSON_AddStringToObject(d, "name", p->disks[i].name);
		cJSON_AddNumberToObject(d, "size", (double)p->disks[i].size);
		cJSON_AddItemToArray(disks, d);
	}
	text = cJSON_Print(j);
	ret = text ? replace_file(dirfd, "point.json", text, strlen(text), err)
		   : tm_fail(err, ENOMEM, "out of memory");
	free(text);
	cJSON_Delete(j);
	return ret;
}

static int wanted(const struct store_point *p, uint32_t disk)
{
	if (disk == 0 || !p)
		return 1;
	for (uint32_t i = 0; i < p->ndisks; i++)
		if (p->disks[i].no == disk)
			return 1;
	return 0;
}

static int empty_file(int at, const char *name, struct tm_err *err)
{
	int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return tm_fail_errno(err, "cannot create %s", name);
	close(fd);
	return 0;
}

/* Links the shared packs and the disks' own; a pack that another disk owns cannot hold anything of the point. p NULL: all. */
static int link_packs(struct store *st, int to, const struct store_point *p, struct tm_err *err)
{
	rocksdb_iterator_t *it;
	size_t klen, len;
	uint32_t disk;
	const char *key, *val;
	char name[16];
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	it = index_iter(&st->ix, CF_PACK, 1);
	for (rocksdb_iter_seek_to_first(it); !ret && rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		key = rocksdb_iter_key(it, &klen);
		val = rocksdb_iter_value(it, &len);
		if (klen != 4 || len < sizeof(disk))
			continue;
		memcpy(&disk, val, sizeof(disk));
		pack_name(name, get_be32(key));
		/* One that is gone already is told of when it is read; an empty file says so of all. */
		if (!wanted(p, disk) || !linkat(st->packsfd, name, to, name, 0))
			continue;
		if (errno != ENOENT)
			ret = tm_fail_errno(err, "cannot link pack %s", name);
		else if (!p)
			ret = empty_file(to, name, err);
	}
	if (!ret)
		ret = index_iter_error(it, err);
	rocksdb_iter_destroy(it);
	index_leave(st);
	return ret;
}

static int checkpoint_index(struct store *st, const char *path, struct tm_err *err)
{
	rocksdb_checkpoint_t *c;
	char *msg = NULL;
	int ret = index_enter(st, err);

	if (ret)
		return ret;
	if (index_writable(&st->ix, err)) {
		index_leave(st);
		return -err->code;
	}
	c = rocksdb_checkpoint_object_create(st->ix.db, &msg);
	if (c) {
		rocksdb_checkpoint_create(c, path, 0, &msg);
		rocksdb_checkpoint_object_destroy(c);
	}
	index_leave(st);
	return msg ? index_fail(err, "cannot make a checkpoint", msg) : 0;
}

/* Flushes every file of a folder and the folder. */
static int sync_all(int at, const char *name, struct tm_err *err)
{
	int fd = open_dir(at, name, err), f, ret = 0;
	struct dirent *e;
	DIR *d;

	if (fd < 0)
		return fd;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return tm_fail_errno(err, "cannot read the folder %s", name);
	}
	while (!ret && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		f = openat(fd, e->d_name, O_RDONLY | O_CLOEXEC);
		if (f < 0 || fsync(f))
			ret = tm_fail_errno(err, "cannot flush %s/%s", name, e->d_name);
		if (f >= 0)
			close(f);
	}
	if (!ret)
		ret = sync_dir(fd, name, err);
	closedir(d);
	return ret;
}

/* The index first: packs it refers to are not removed meanwhile (checkpoint_lock), later ones do no harm. Returns the packs' folder. */
static int fill_links(struct store *st, int dirfd, const char *path, const struct store_point *p,
	struct tm_err *err)
{
	char index[4600];
	int packs, ret;

	snprintf(index, sizeof(index), "%s/index", path);
	ret = checkpoint_index(st, index, err);
	if (ret)
		return ret;
	packs = make_dir(dirfd, "packs", err);
	if (packs < 0)
		return packs;
	ret = link_packs(st, packs, p, err);
	if (!ret)
		return packs;
	close(packs);
	return ret;
}

static int fill(struct store *st, int dirfd, const char *path, const struct store_point *p,
	struct tm_err *err)
{
	int packs = fill_links(st, dirfd, path, p, err), lock, ret;

	if (packs < 0)
		return packs;
	ret = sync_dir(packs, "packs", err);
	close(packs);
	if (!ret)
		ret = sync_all(dirfd, "index", err);
	lock = ret ? -1 : openat(dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (!ret && (lock < 0 || fsync(lock)))
		ret = tm_fail_errno(err, "cannot make a lock file");
	if (lock >= 0)
		close(lock);
	return ret ? ret : describe(dirfd, p, err);
}

static int hold(struct store *st, const char *name, int packs, struct tm_err *err)
{
	char path[4400], index[4600];
	int dirfd, fd, ret = remove_tree(st->openfd, name, err);

	if (ret)
		return ret;
	dirfd = make_dir(st->openfd, name, err);
	if (dirfd < 0)
		return dirfd;
	snprintf(path, sizeof(path), "%s/open/%s", st->path, name);
	snprintf(index, sizeof(index), "%s/index", path);
	pthread_mutex_lock(&st->checkpoint_lock);
	fd = packs ? fill_links(st, dirfd, path, NULL, err) : checkpoint_index(st, index, err);
	pthread_mutex_unlock(&st->checkpoint_lock);
	if (fd >= 0) {
		if (packs)
			close(fd);
		return dirfd;
	}
	close(dirfd);
	remove_tree(st->openfd, name, &(struct tm_err){0});
	return fd;
}

int checkpoint_hold(struct store *st, const char *name, struct tm_err *err)
{
	return hold(st, name, 1, err);
}

int checkpoint_hold_index(struct store *st, const char *name, struct tm_err *err)
{
	return hold(st, name, 0, err);
}

static int make(struct store *st, const char *name, const struct store_point *p, struct tm_err *err)
{
	char tmp[256], path[4400];
	int dirfd, ret;

	if (faccessat(st->openfd, name, F_OK, 0) == 0)
		return tm_fail(err, EEXIST, "a point in use is named %s already", name);
	snprintf(tmp, sizeof(tmp), ".%s.new", name);
	snprintf(path, sizeof(path), "%s/open/%s", st->path, tmp);
	ret = remove_tree(st->openfd, tmp, err);
	if (ret)
		return ret;
	dirfd = make_dir(st->openfd, tmp, err);
	if (dirfd < 0)
		return dirfd;
	ret = fill(st, dirfd, path, p, err);
	close(dirfd);
	if (!ret && renameat2(st->openfd, tmp, st->openfd, name, RENAME_NOREPLACE))
		ret = tm_fail_errno(err, "cannot name the point in use %s", name);
	if (!ret)
		return sync_dir(st->openfd, "open", err);
	remove_tree(st->openfd, tmp, &(struct tm_err){0});
	return ret;
}

int store_checkpoint(struct store *st, const uint8_t machine[TM_UUID], uint64_t seq,
	const char *name, char **path, struct tm_err *err)
{
	struct store_view *hold = NULL;
	struct store_point *p;
	int ret = check_name(name, err);

	/* No look at the reserve: it is there for this, points are most needed when all is full. */
	if (!ret)
		ret = store_point_get(st, machine, seq, &p, err);
	if (ret)
		return ret;
	/* What the point sees is kept while the checkpoint is made, should the point be dropped meanwhile. */
	if (p->ndisks)
		ret = store_view_open(st, machine, p->disks[0].no, seq, &hold, err);
	if (!ret) {
		pthread_mutex_lock(&st->checkpoint_lock);
		ret = make(st, name, p, err);
		pthread_mutex_unlock(&st->checkpoint_lock);
	}
	store_view_close(hold);
	store_point_free(p);
	if (!ret && asprintf(path, "%s/open/%s", st->path, name) < 0)
		ret = tm_fail(err, ENOMEM, "out of memory");
	return ret;
}

/* ---- Listing and removing ---- */

/* 1 if a reader has it open. */
static int in_use(int dirfd)
{
	int fd = openat(dirfd, "lock", O_RDONLY | O_CLOEXEC), used;

	if (fd < 0)
		return 0;
	used = flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
	close(fd);
	return used;
}

/* Bytes of files that have no other name. */
static uint64_t own_bytes(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct stat sb;
	uint64_t n = 0;

	while (d && (e = readdir(d)))
		if (!fstatat(fd, e->d_name, &sb, AT_SYMLINK_NOFOLLOW) && S_ISREG(sb.st_mode) &&
			sb.st_nlink == 1)
			n += (uint64_t)sb.st_size;
	if (d)
		closedir(d);
	return n;
}

static int look(int openfd, const char *name, struct store_checkpoint_info *info)
{
	int fd = openat(openfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct tm_err err;
	size_t len;
	char *text;
	cJSON *j;

	memset(info, 0, sizeof(*info));
	snprintf(info->name, sizeof(info->name), "%s", name);
	if (fd < 0)
		return -1;
	if (!slurp(fd, "point.json", 1 << 20, &text, &len, &err)) {
		j = cJSON_Parse(text);
		if (cJSON_IsNumber(cJSON_GetObjectItem(j, "point")))
			info->seq = (uint64_t)cJSON_GetObjectItem(j, "point")->valuedouble;
		if (cJSON_IsString(cJSON_GetObjectItem(j, "machine")))
			uuid_parse(cJSON_GetObjectItem(j, "machine")->valuestring, info->machine);
		cJSON_Delete(j);
		free(text);
	}
	info->bytes = own_bytes(fd, "packs") + own_bytes(fd, "index");
	info->in_use = (uint8_t)in_use(fd);
	close(fd);
	return 0;
}

int store_checkpoints(struct store *st,
	int (*fn)(void *arg, const struct store_checkpoint_info *info), void *arg,
	struct tm_err *err)
{
	int fd = openat(st->openfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;
	struct store_checkpoint_info info;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d)
		return tm_fail_errno(err, "cannot read the folder open");
	while (!ret && (e = readdir(d)))
		if (e->d_name[0] != '.' && !look(fd, e->d_name, &info))
			ret = fn(arg, &info);
	closedir(d);
	return ret;
}

int store_checkpoint_remove(struct store *st, const char *name, int force, struct tm_err *err)
{
	char gone[256];
	int fd, ret = check_name(name, err);

	if (ret)
		return ret;
	fd = openat(st->openfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return tm_fail(err, ENOENT, "no point in use is named %s", name);
	if (!force && in_use(fd))
		ret = tm_fail(err, EBUSY, "the point in use %s has a reader", name);
	close(fd);
	snprintf(gone, sizeof(gone), ".%s.gone", name);
	pthread_mutex_lock(&st->checkpoint_lock);
	if (!ret)
		ret = remove_tree(st->openfd, gone, err);
	if (!ret && renameat(st->openfd, name, st->openfd, gone))
		ret = tm_fail_errno(err, "cannot remove the point in use %s", name);
	if (!ret)
		ret = remove_tree(st->openfd, gone, err);
	if (!ret)
		ret = sync_dir(st->openfd, "open", err);
	pthread_mutex_unlock(&st->checkpoint_lock);
	return ret;
}
