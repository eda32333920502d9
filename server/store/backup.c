// SPDX-License-Identifier: Apache-2.0
/*
 * Copying the running store. A checkpoint of the index and links of all packs hold one moment of it, as for a point in use; what is
 * copied comes from there, without any lock of the store.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/file.h"
#include "common/units.h"
#include "server/store/manifest.h"

#define HOLD  ".backup"
#define SPARE (16ull << 20) /* left free where the copy goes */

struct work {
	struct store *st;
	const char *dir;
	const struct backup_opts *o;
	struct backup_result *r;
	struct manifest old, made;
	struct partial part;
	struct copier c;
	int dirfd, lockfd, packsfd; /* where it goes */
	int genfd;
	char gen[24];
	int holdfd, fromfd; /* what is held, its packs */
	struct tm_err *err;
};

/* ---- Where it goes ---- */

static int outside(struct work *w)
{
	char *store = realpath(w->st->path, NULL), *dir = realpath(w->dir, NULL);
	size_t len = store ? strlen(store) : 0;
	int ret = 0;

	if (!store || !dir)
		ret = tm_fail_errno(w->err, "cannot find the way to %s", w->dir);
	else if (!strncmp(dir, store, len) && (dir[len] == '/' || !dir[len]))
		ret = tm_fail(w->err, EINVAL,
			"%s is inside the store: name a folder on another disk", w->dir);
	free(store);
	free(dir);
	return ret;
}

/* The folder `name` below `at`, to be walked; NULL with err. closedir() also closes what dirfd() gives. */
static DIR *list(int at, const char *name, const char *what, struct tm_err *err)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		tm_fail_errno(err, "cannot read the folder %s", what);
		if (fd >= 0)
			close(fd);
	}
	return d;
}

/* 1: another entry; 0: no more; an error is not taken for the end: what it hides would be missing in the copy. */
static int next(DIR *d, struct dirent **e, const char *what, struct tm_err *err)
{
	errno = 0;
	*e = readdir(d);
	if (!*e && errno)
		return tm_fail_errno(err, "cannot read the folder %s", what);
	return *e != NULL;
}

static int empty(int fd, const char *name, struct tm_err *err)
{
	DIR *d = list(fd, ".", name, err);
	struct dirent *e;
	int n = 0, got;

	if (!d)
		return -err->code;
	while ((got = next(d, &e, name, err)) > 0)
		/* The lock alone is of a backup that ended before it began. */
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "lock");
	closedir(d);
	if (got < 0)
		return got;
	return n ? tm_fail(err, EEXIST, "%s is not empty and holds no backup: name another folder",
			   name)
		 : 0;
}

static int open_target(struct work *w)
{
	int made = mkdir(w->dir, 0700) == 0;

	if (made) {
		if (tm_fsync_parent(w->dir, w->err))
			return -w->err->code;
	} else if (errno != EEXIST) {
		return tm_fail_errno(
			w->err, "cannot make the folder %s as the server's user", w->dir);
	}
	w->dirfd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->dirfd < 0)
		return tm_fail_errno(w->err, "cannot open %s as the server's user", w->dir);
	if (outside(w)) {
		if (made)
			rmdir(w->dir);
		return -w->err->code;
	}
	if (faccessat(w->dirfd, MANIFEST, F_OK, 0) && empty(w->dirfd, w->dir, w->err))
		return -w->err->code;
	w->lockfd = openat(w->dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (w->lockfd < 0)
		return tm_fail_errno(w->err, "cannot write to %s as the server's user", w->dir);
	if (flock(w->lockfd, LOCK_EX | LOCK_NB))
		return tm_fail(w->err, EBUSY, "%s is being written to by another backup", w->dir);
	return 0;
}

/* Removes the packs that neither the finished copy names nor, `part`, the next will want. */
static int clean_packs(struct work *w, const struct manifest *m, const struct manifest *part)
{
	DIR *d = list(w->packsfd, ".", "packs of the backup", w->err);
	struct dirent *e;
	char name[300];
	int ret = 0;

	if (!d)
		return -w->err->code;
	while (!ret && (e = readdir(d))) {
		snprintf(name, sizeof(name), "packs/%s", e->d_name);
		if (e->d_name[0] != '.' && !manifest_find(m, name, 0) &&
			!manifest_find(part, name, 0) && unlinkat(w->packsfd, e->d_name, 0))
			ret = tm_fail_errno(w->err, "cannot remove %s of the backup", name);
	}
	closedir(d);
	return ret;
}

/* Removes what the finished copy does not need: of one that was broken off, or of the one before. */
static int clean(struct work *w, const struct manifest *m, const struct manifest *part)
{
	DIR *d = list(w->dirfd, ".", w->dir, w->err);
	struct dirent *e;
	char keep[24];
	int ret = 0;

	if (!d)
		return -w->err->code;
	snprintf(keep, sizeof(keep), "%llu", (unsigned long long)m->generation);
	while (!ret && (e = readdir(d)))
		if (strspn(e->d_name, "0123456789") == strlen(e->d_name) && strcmp(e->d_name, keep))
			ret = remove_tree(w->dirfd, e->d_name, w->err);
	closedir(d);
	return ret ? ret : clean_packs(w, m, part);
}

/* What is there already; a folder without a copy is marked as ours before anything else comes into it. */
static int look_at_target(struct work *w)
{
	int ret = manifest_read(w->dirfd, MANIFEST, &w->old, w->err);

	if (ret == -ENOENT) {
		memcpy(w->old.store, w->st->uuid, TM_UUID);
		ret = manifest_write(w->dirfd, MANIFEST, &w->old, w->err);
	}
	if (ret)
		return ret;
	if (memcmp(w->old.store, w->st->uuid, TM_UUID))
		return tm_fail(w->err, EEXIST,
			"%s holds the backup of another store: name another folder", w->dir);
	w->packsfd = make_dir(w->dirfd, "packs", w->err);
	if (w->packsfd < 0)
		return w->packsfd;
	memcpy(w->made.store, w->st->uuid, TM_UUID);
	w->made.generation = w->old.generation + 1;
	snprintf(w->gen, sizeof(w->gen), "%llu", (unsigned long long)w->made.generation);
	partial_read(&w->part, w->dirfd, w->st->uuid);
	return clean(w, &w->old, &w->part.was);
}

/* ---- What is to be copied ---- */

static void count_points(struct work *w)
{
	pthread_rwlock_rdlock(&w->st->lock);
	for (struct machine *m = w->st->machines; m; m = m->next)
		w->made.points += m->npoints;
	pthread_rwlock_unlock(&w->st->lock);
}

/*
 * The catalog before the index: of the two it must be the older one, for it names epochs under way, which the index then knows, and never
 * calls something done that the index does not hold. Packs are sealed, so that most of them are copied for the last time.
 */
static int hold(struct work *w)
{
	char path[4400];
	int ret = 0;

	w->genfd = make_dir(w->dirfd, w->gen, w->err);
	if (w->genfd < 0)
		return w->genfd;
	snprintf(path, sizeof(path), "%s/%s", w->dir, w->gen);
	if (w->o->extra)
		ret = w->o->extra(w->o->arg, path, w->err);
	if (!ret)
		ret = identity_write(w->genfd, w->st->uuid, w->st->incarnation, w->err);
	if (ret)
		return ret;
	packs_seal(&w->st->packs, 0);
	w->holdfd = checkpoint_hold(w->st, HOLD, w->err);
	if (w->holdfd < 0)
		return w->holdfd;
	count_points(w);
	w->fromfd = open_dir(w->holdfd, "packs", w->err);
	return w->fromfd < 0 ? w->fromfd : 0;
}

/* A pack of the store and where it goes. */
struct piece {
	char from[16], to[64];
	uint64_t size;
	const struct copied *old; /* there already */
	uint8_t final;
};

/*
 * What tells this pack from any other with its number: its header, which has a random part. What is missing or has no sound header is
 * not as it was written: a copy that was made before is kept rather than replaced.
 */
static int describe(struct work *w, const char *name, uint32_t no, struct piece *p)
{
	struct pack_header h = {.nonce = 0};
	struct stat sb;
	struct tm_err why;
	int fd = openat(w->fromfd, name, O_RDONLY | O_CLOEXEC), held, sound;
	char to[64];

	if (fd < 0 || fstat(fd, &sb)) {
		tm_fail_errno(w->err, "cannot look at pack %s", name);
		if (fd >= 0)
			close(fd);
		return -w->err->code;
	}
	/* Asked before it is copied: what nobody holds now never changes again. */
	held = pack_held(&w->st->packs, no);
	sound = !read_full(fd, &h, sizeof(h), 0, &why) && !memcmp(h.magic, "TMPACK1\n", 8) &&
		h.sum == XXH3_64bits(&h, offsetof(struct pack_header, sum));
	close(fd);
	memset(p, 0, sizeof(*p));
	snprintf(p->from, sizeof(p->from), "%s", name);
	p->size = (uint64_t)sb.st_size;
	p->final = sound && !held && h.nonce;
	if (!sound)
		h.sum = 0;
	snprintf(p->to, sizeof(p->to), p->final ? "packs/%s-%016llx" : "packs/%s-%016llx-%s", name,
		(unsigned long long)h.sum, w->gen);
	snprintf(to, sizeof(to), "packs/%s-", name);
	p->old = sound ? manifest_find(&w->old, p->to, 0) : manifest_find(&w->old, to, 1);
	if (p->old && !p->old->final)
		p->old = NULL;
	if (!p->old && p->final)
		p->old = partial_find(&w->part, p->to);
	w->r->damaged += !sound;
	if (!sound && !w->r->first_damaged[0])
		snprintf(w->r->first_damaged, sizeof(w->r->first_damaged), "%s", name);
	return 0;
}

/* Is the old copy still there, as long as it was? */
static int still_there(struct work *w, const struct copied *f)
{
	struct stat sb;

	return !fstatat(w->dirfd, f->name, &sb, AT_SYMLINK_NOFOLLOW) && S_ISREG(sb.st_mode) &&
	       (uint64_t)sb.st_size == f->size;
}

/* Calls fn for each file of a folder that is held. */
static int each(struct work *w, int at, const char *folder,
	int (*fn)(struct work *w, int fd, const char *name))
{
	DIR *d = list(at, folder, folder, w->err);
	struct dirent *e;
	int ret = 0, got = 0;

	if (!d)
		return -w->err->code;
	while (!ret && (got = next(d, &e, folder, w->err)) > 0)
		if (e->d_name[0] != '.')
			ret = fn(w, dirfd(d), e->d_name);
	closedir(d);
	return ret ? ret : got;
}

static int plan_pack(struct work *w, int fd, const char *name)
{
	struct piece p;
	uint32_t no;

	if (!pack_number(name, &no))
		return 0;
	if (describe(w, name, no, &p))
		return -w->err->code;
	if (!p.old || !still_there(w, p.old))
		w->c.total += p.size;
	else if (partial_find(&w->part, p.old->name))
		return partial_keep(&w->part, p.old, w->err);
	return 0;
}

static int plan_file(struct work *w, int fd, const char *name)
{
	struct stat sb;

	if (fstatat(fd, name, &sb, AT_SYMLINK_NOFOLLOW))
		return tm_fail_errno(w->err, "cannot look at %s", name);
	w->c.total += S_ISREG(sb.st_mode) ? (uint64_t)sb.st_size : 0;
	return 0;
}

static int plan(struct work *w)
{
	char need[TM_TEXT_ROOM], room[TM_TEXT_ROOM];
	uint64_t left;

	if (each(w, w->holdfd, "index", plan_file) || each(w, w->holdfd, "packs", plan_pack))
		return -w->err->code;
	/* What was left of a broken copy and is not wanted any more must not take the room. */
	manifest_sort(&w->part.now);
	if (clean_packs(w, &w->old, &w->part.now))
		return -w->err->code;
	left = free_bytes(w->dirfd);
	w->r->damaged = 0;
	if (left >= w->c.total + SPARE)
		return 0;
	return tm_fail(w->err, ENOSPC, "%s has room for %s, the backup needs %s: make room", w->dir,
		tm_size_format(left, room), tm_size_format(w->c.total + SPARE, need));
}

/* ---- Copying ---- */

static int add(struct work *w, const char *name, uint64_t size, uint64_t sum, int final)
{
	w->r->bytes += size;
	return manifest_add(&w->made, name, size, sum, final, w->err);
}

static int copy_pack(struct work *w, int fd, const char *name)
{
	uint64_t size, sum;
	struct piece p;
	uint32_t no;

	if (!pack_number(name, &no))
		return 0;
	if (describe(w, name, no, &p))
		return -w->err->code;
	if (!p.old && !p.size)
		return 0; /* missing: the place says so, there is nothing to copy */
	w->r->packs++;
	if (p.old && still_there(w, p.old))
		return add(w, p.old->name, p.old->size, p.old->sum, 1);
	if (copier_file(&w->c, fd, name, w->dirfd, p.to, &size, &sum, w->err))
		return -w->err->code;
	w->r->copied_bytes += size;
	if (p.final && partial_add(&w->part, w->dirfd, w->packsfd,
			       &(struct copied){.name = p.to, .size = size, .sum = sum}, w->err))
		return -w->err->code;
	return add(w, p.to, size, sum, p.final);
}

static int copy_index(struct work *w, int fd, const char *name)
{
	char to[400];
	uint64_t size, sum;

	snprintf(to, sizeof(to), "%s/index/%s", w->gen, name);
	if (copier_file(&w->c, fd, name, w->dirfd, to, &size, &sum, w->err))
		return -w->err->code;
	w->r->copied_bytes += size;
	return add(w, to, size, sum, 0);
}

/* What is in the copy's own folder already: flushed and summed. */
static int note_in(struct work *w, int at, const char *folder, const char *prefix)
{
	DIR *d = list(at, folder, folder, w->err);
	struct dirent *e;
	struct stat sb;
	uint64_t size, sum;
	char name[400];
	int fd, ret = 0, got = 0;

	if (!d)
		return -w->err->code;
	fd = dirfd(d);
	while (!ret && (got = next(d, &e, folder, w->err)) > 0) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%.200s", prefix, e->d_name);
		if (fstatat(fd, e->d_name, &sb, AT_SYMLINK_NOFOLLOW))
			ret = tm_fail_errno(w->err, "cannot look at %s", name);
		else if (S_ISDIR(sb.st_mode))
			ret = note_in(w, fd, e->d_name, name);
		else
			ret = copier_file(&w->c, fd, e->d_name, -1, NULL, &size, &sum, w->err);
		if (!ret && !S_ISDIR(sb.st_mode)) {
			w->r->copied_bytes += size;
			ret = add(w, name, size, sum, 0);
		}
	}
	if (!ret)
		ret = got < 0 ? got : sync_dir(fd, prefix, w->err);
	closedir(d);
	return ret;
}

static int copy_all(struct work *w)
{
	int fd, ret = note_in(w, w->dirfd, w->gen, w->gen);

	if (ret)
		return ret;
	w->c.total += w->c.done;
	fd = make_dir(w->genfd, "index", w->err);
	if (fd < 0)
		return fd;
	ret = each(w, w->holdfd, "index", copy_index);
	if (!ret)
		ret = each(w, w->holdfd, "packs", copy_pack);
	if (!ret)
		ret = sync_dir(fd, "index", w->err);
	close(fd);
	if (!ret)
		ret = sync_dir(w->packsfd, "packs", w->err);
	if (!ret)
		ret = sync_dir(w->genfd, w->gen, w->err);
	return ret ? ret : sync_dir(w->dirfd, w->dir, w->err);
}

static int run(struct work *w)
{
	struct tm_err first, ignored;
	int ret = hold(w);

	if (!ret)
		ret = plan(w);
	if (!ret)
		ret = copy_all(w);
	if (!ret)
		ret = manifest_write(w->dirfd, MANIFEST, &w->made, w->err);
	/* From here on the new one counts; what of the old can't be removed now is removed by the next. */
	first = *w->err;
	partial_end(&w->part, w->dirfd, w->packsfd, !ret);
	manifest_sort(&w->part.now);
	clean(w, ret ? &w->old : &w->made, ret ? &w->part.now : &w->made);
	*w->err = first;
	remove_tree(w->st->openfd, HOLD, &ignored);
	return ret;
}

int store_backup(struct store *st, const char *dir, const struct backup_opts *o,
	struct backup_result *r, struct tm_err *err)
{
	static const struct backup_opts none;
	struct work w = {.st = st, .dir = dir, .o = o ? o : &none, .r = r, .err = err};
	int ret;

	memset(r, 0, sizeof(*r));
	w.dirfd = w.lockfd = w.packsfd = w.genfd = w.holdfd = w.fromfd = -1;
	if (atomic_exchange(&st->copying, 1))
		return tm_fail(err, EBUSY, "a backup of the store is under way already");
	ret = copier_init(&w.c, w.o, err);
	if (!ret)
		ret = open_target(&w);
	if (!ret)
		ret = look_at_target(&w);
	if (!ret)
		ret = run(&w);
	r->points = w.made.points;
	for (int *fd = (int[]){w.fromfd, w.holdfd, w.genfd, w.packsfd, w.lockfd, w.dirfd, -2};
		*fd != -2; fd++)
		if (*fd >= 0)
			close(*fd);
	copier_exit(&w.c);
	manifest_free(&w.old);
	manifest_free(&w.made);
	partial_free(&w.part);
	atomic_store(&st->copying, 0);
	return ret;
}
