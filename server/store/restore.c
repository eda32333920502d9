// SPDX-License-Identifier: Apache-2.0
/* Putting a copy back: into an empty folder, every file looked at, the store's description last. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "common/units.h"
#include "server/store/manifest.h"

#define LAST "store.json"

struct restore {
	const char *dir;
	struct backup_result *r;
	struct manifest m;
	struct copier c;
	int fromfd, dirfd;
	char gen[24];
	struct tm_err *err;
};

/* Where a file of the copy belongs in the store; -EBADMSG if nowhere. */
static int place(struct restore *t, const char *name, char *to, size_t room)
{
	size_t len = strlen(t->gen);
	uint32_t no;

	if (!strncmp(name, "packs/", 6)) {
		snprintf(to, room, "packs/%.8s", name + 6);
		if (strlen(to) == 14 && pack_number(to + 6, &no))
			return 0;
	} else if (!strncmp(name, t->gen, len) && name[len] == '/') {
		snprintf(to, room, "%s", name + len + 1);
		return 0;
	}
	return tm_fail(t->err, EBADMSG, MANIFEST " names %.100s, which belongs nowhere", name);
}

/* The folder of a file of the store, made if it is absent. */
static int folder_of(struct restore *t, const char *to)
{
	char folder[400];
	const char *slash = strrchr(to, '/');
	int fd;

	if (!slash)
		return 0;
	snprintf(folder, sizeof(folder), "%.*s", (int)(slash - to), to);
	if (strchr(folder, '/'))
		return tm_fail(t->err, EBADMSG, MANIFEST " names %.100s, which is too deep", to);
	fd = make_dir(t->dirfd, folder, t->err);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int put_back(struct restore *t, const struct copied *f)
{
	uint64_t size, sum;
	char to[420];
	int pack;

	if (place(t, f->name, to, sizeof(to)) || folder_of(t, to) ||
		copier_file(&t->c, t->fromfd, f->name, t->dirfd, to, &size, &sum, t->err))
		return -t->err->code;
	pack = !strncmp(to, "packs/", 6);
	t->r->packs += pack;
	t->r->bytes += size;
	t->r->copied_bytes += size;
	if (size == f->size && sum == f->sum)
		return 0;
	if (!pack)
		return tm_fail(t->err, EBADMSG, "the backup is damaged: %s is not as it was copied",
			f->name);
	/* Its cells have sums of their own: those that are sound are worth having. */
	if (!t->r->damaged++)
		snprintf(t->r->first_damaged, sizeof(t->r->first_damaged), "%.250s", f->name);
	return 0;
}

static int room_for(struct restore *t)
{
	char need[TM_TEXT_ROOM], room[TM_TEXT_ROOM];
	uint64_t total = 16u << 20, left = free_bytes(t->dirfd);

	for (size_t i = 0; i < t->m.n; i++)
		total += t->m.file[i].size;
	if (left >= total)
		return 0;
	return tm_fail(t->err, ENOSPC, "%s has room for %s, the store needs %s", t->dir,
		tm_size_format(left, room), tm_size_format(total, need));
}

static int sync_folders(struct restore *t)
{
	static const char *const names[] = {"packs", "index", "open", "overlays", "lost+found"};
	int fd, ret = 0;

	for (size_t i = 0; !ret && i < sizeof(names) / sizeof(names[0]); i++) {
		fd = make_dir(t->dirfd, names[i], t->err);
		ret = fd < 0 ? fd : sync_dir(fd, names[i], t->err);
		if (fd >= 0)
			close(fd);
	}
	/* What the daemon had added, wherever it lies. */
	for (size_t i = 0; !ret && i < t->m.n; i++) {
		char to[420], *slash;

		ret = place(t, t->m.file[i].name, to, sizeof(to));
		slash = ret ? NULL : strchr(to, '/');
		if (!slash || !strncmp(to, "packs/", 6) || !strncmp(to, "index/", 6))
			continue;
		*slash = 0;
		fd = open_dir(t->dirfd, to, t->err);
		ret = fd < 0 ? fd : sync_dir(fd, to, t->err);
		if (fd >= 0)
			close(fd);
	}
	return ret ? ret : sync_dir(t->dirfd, t->dir, t->err);
}

static int run(struct restore *t)
{
	const struct copied *last;
	char name[64];
	int ret = room_for(t);

	snprintf(name, sizeof(name), "%s/" LAST, t->gen);
	last = manifest_find(&t->m, name, 0);
	if (!ret && !last)
		ret = tm_fail(t->err, EBADMSG, MANIFEST " names no " LAST);
	for (size_t i = 0; !ret && i < t->m.n; i++)
		if (&t->m.file[i] != last)
			ret = put_back(t, &t->m.file[i]);
	if (!ret)
		ret = sync_folders(t);
	/* Only a whole store has its description. */
	if (!ret)
		ret = put_back(t, last);
	return ret ? ret : sync_dir(t->dirfd, t->dir, t->err);
}

static int open_both(struct restore *t, const char *from)
{
	struct dirent *e;
	DIR *d;
	int n = 0;

	t->fromfd = open_dir(AT_FDCWD, from, t->err);
	if (t->fromfd < 0)
		return t->fromfd;
	if (manifest_read(t->fromfd, MANIFEST, &t->m, t->err))
		return tm_wrap(t->err, "%s is no backup", from);
	if (!t->m.generation)
		return tm_fail(t->err, ENOENT, "%s holds no finished backup", from);
	snprintf(t->gen, sizeof(t->gen), "%llu", (unsigned long long)t->m.generation);
	if (mkdir(t->dir, 0700) == 0) {
		if (tm_fsync_parent(t->dir, t->err))
			return -t->err->code;
	} else if (errno != EEXIST) {
		return tm_fail_errno(t->err, "cannot make the folder %s", t->dir);
	}
	d = opendir(t->dir);
	if (!d)
		return tm_fail_errno(t->err, "cannot read the folder %s", t->dir);
	while ((e = readdir(d)))
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	if (n)
		return tm_fail(t->err, EEXIST,
			"%s is not empty: move away what is there, so that nothing of it is lost or mixed",
			t->dir);
	t->dirfd = open_dir(AT_FDCWD, t->dir, t->err);
	return t->dirfd < 0 ? t->dirfd : 0;
}

int store_restore(const char *from, const char *dir, struct backup_result *r, struct tm_err *err)
{
	struct restore t = {.dir = dir, .r = r, .fromfd = -1, .dirfd = -1, .err = err};
	int ret;

	memset(r, 0, sizeof(*r));
	ret = copier_init(&t.c, NULL, err);
	if (!ret)
		ret = open_both(&t, from);
	if (!ret)
		ret = run(&t);
	r->points = t.m.points;
	if (t.fromfd >= 0)
		close(t.fromfd);
	if (t.dirfd >= 0)
		close(t.dirfd);
	copier_exit(&t.c);
	manifest_free(&t.m);
	return ret;
}
