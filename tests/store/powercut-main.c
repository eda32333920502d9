// SPDX-License-Identifier: Apache-2.0
/*
 * powercut OUT ACKS EVERY MAX SEED [--lie] -- MOUNTPOINT [FUSE-OPTIONS]
 *
 * Serves an empty filesystem at MOUNTPOINT. At every EVERY-th flush (at random before or after it takes effect) it leaves in OUT/N what a
 * power cut at this moment might leave, and in OUT/N.acks a copy of the file ACKS as it is now; at most MAX times. --lie: flushes
 * do nothing, to see that the test notices.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/store/powercut.h"

static struct node *root;
static uint64_t next_ino = 2;
static const char *out, *acks;
static unsigned long every, max_cuts, flushes, cuts;
static unsigned seed;
static int lie;

/* ---- The tree ---- */

static struct node *node_new(mode_t mode)
{
	struct node *n = calloc(1, sizeof(*n));

	if (!n)
		abort();
	n->mode = mode;
	n->ino = next_ino++;
	n->links = 1;
	return n;
}

/* The node of a path; its folder and last name too if wanted. */
static struct node *walk(const char *path, struct node **dir, const char **last)
{
	struct node *n = root, *parent = root;
	const char *p = path, *name = "", *end;
	char part[256];
	long i;

	while (*p == '/' && p[1]) {
		if (!n || !S_ISDIR(n->mode))
			return NULL;
		name = p + 1;
		end = strchrnul(name, '/');
		snprintf(part, sizeof(part), "%.*s", (int)(end - name), name);
		parent = n;
		i = entry_find(n->names, n->nnames, part);
		n = i < 0 ? NULL : n->names[i].node;
		p = end;
	}
	if (dir) {
		*dir = parent;
		*last = name;
	}
	return n;
}

static void change(struct node *dir, const char *name, struct node *node, const char *and_gone)
{
	struct change c = {.node = node};

	snprintf(c.name, sizeof(c.name), "%s", name);
	snprintf(c.and_gone, sizeof(c.and_gone), "%s", and_gone ? and_gone : "");
	entry_apply(&dir->names, &dir->nnames, &c);
	dir->changes = grow(dir->changes, dir->nchanges, sizeof(c));
	dir->changes[dir->nchanges++] = c;
}

/* ---- Flushes and cuts ---- */

static void copy_acks(const char *to)
{
	char cmd[9000];

	snprintf(cmd, sizeof(cmd), "cp '%s' '%s' 2>/dev/null || : >'%s'", acks, to, to);
	if (system(cmd))
		abort();
}

static void leave_one(void)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%04lu.acks", out, cuts);
	copy_acks(path);
	snprintf(path, sizeof(path), "%s/%04lu", out, cuts++);
	cut(root, path, &seed);
}

static void make_sure(struct node *n)
{
	if (lie)
		return;
	if (S_ISDIR(n->mode)) {
		n->nsure = 0;
		for (size_t i = 0; i < n->nnames; i++) {
			n->sure_names = grow(n->sure_names, n->nsure, sizeof(*n->sure_names));
			n->sure_names[n->nsure++] = n->names[i];
		}
		n->nchanges = 0;
		return;
	}
	n->sure = realloc(n->sure, n->size + 1);
	if (!n->sure)
		abort();
	if (n->size)
		memcpy(n->sure, n->data, n->size);
	n->sure_size = n->size;
	for (size_t i = 0; i < n->nwrites; i++)
		free(n->writes[i].data);
	n->nwrites = 0;
}

static void flush(struct node *n)
{
	int now = ++flushes % every == 0 && cuts < max_cuts, before = rand_r(&seed) % 2;

	if (now && before)
		leave_one();
	make_sure(n);
	if (now && !before)
		leave_one();
}

/* ---- Operations ---- */

static void stat_of(const struct node *n, struct stat *sb)
{
	memset(sb, 0, sizeof(*sb));
	sb->st_ino = n->ino;
	sb->st_mode = n->mode;
	sb->st_nlink = n->links;
	sb->st_size = (off_t)n->size;
	sb->st_blocks = (blkcnt_t)(n->size + 511) / 512;
	sb->st_blksize = 4096;
	sb->st_uid = getuid();
	sb->st_gid = getgid();
}

static struct node *of(const char *path, struct fuse_file_info *fi)
{
	return fi && fi->fh ? (struct node *)(uintptr_t)fi->fh : walk(path, NULL, NULL);
}

static int pc_getattr(const char *path, struct stat *sb, struct fuse_file_info *fi)
{
	struct node *n = of(path, fi);

	if (!n)
		return -ENOENT;
	stat_of(n, sb);
	return 0;
}

static int pc_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t off,
	struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
	struct node *d = walk(path, NULL, NULL);

	if (!d)
		return -ENOENT;
	fill(buf, ".", NULL, 0, 0);
	fill(buf, "..", NULL, 0, 0);
	for (size_t i = 0; i < d->nnames; i++)
		fill(buf, d->names[i].name, NULL, 0, 0);
	return 0;
}

static struct node *make(const char *path, mode_t mode)
{
	const char *name;
	struct node *dir, *n;

	if (walk(path, &dir, &name))
		return NULL;
	n = node_new(mode);
	change(dir, name, n, NULL);
	return n;
}

static int pc_mkdir(const char *path, mode_t mode)
{
	return make(path, S_IFDIR | mode) ? 0 : -EEXIST;
}

static int pc_open(const char *path, struct fuse_file_info *fi)
{
	struct node *n = walk(path, NULL, NULL);

	if (!n)
		return -ENOENT;
	n->opens++;
	fi->fh = (uintptr_t)n;
	return 0;
}

static int pc_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	struct node *n = make(path, S_IFREG | mode);

	if (!n)
		return -EEXIST;
	n->opens++;
	fi->fh = (uintptr_t)n;
	return 0;
}

static int pc_read(const char *path, char *buf, size_t len, off_t off, struct fuse_file_info *fi)
{
	struct node *n = of(path, fi);

	if ((uint64_t)off >= n->size)
		return 0;
	if (len > n->size - (uint64_t)off)
		len = n->size - (uint64_t)off;
	memcpy(buf, n->data + off, len);
	return (int)len;
}

static void resize(struct node *n, uint64_t size)
{
	if (size > n->room) {
		n->room = size * 2;
		n->data = realloc(n->data, n->room);
		if (!n->data)
			abort();
	}
	if (size > n->size)
		memset(n->data + n->size, 0, size - n->size);
	n->size = size;
}

static void remember(struct node *n, uint64_t off, const char *data, size_t len)
{
	struct write w = {.off = off, .len = len};

	if (data) {
		w.data = malloc(len);
		if (!w.data)
			abort();
		memcpy(w.data, data, len);
	}
	n->writes = grow(n->writes, n->nwrites, sizeof(w));
	n->writes[n->nwrites++] = w;
}

static int pc_write(
	const char *path, const char *buf, size_t len, off_t off, struct fuse_file_info *fi)
{
	struct node *n = of(path, fi);

	if ((uint64_t)off + len > n->size)
		resize(n, (uint64_t)off + len);
	memcpy(n->data + off, buf, len);
	remember(n, (uint64_t)off, buf, len);
	return (int)len;
}

static int pc_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	struct node *n = of(path, fi);

	if (!n)
		return -ENOENT;
	resize(n, (uint64_t)size);
	remember(n, (uint64_t)size, NULL, 0);
	return 0;
}

/* Nodes are kept for good: a cut may still find them under a name that is certain. */
static int pc_unlink(const char *path)
{
	const char *name;
	struct node *dir, *n = walk(path, &dir, &name);

	if (!n)
		return -ENOENT;
	if (S_ISDIR(n->mode) && n->nnames)
		return -ENOTEMPTY;
	n->links--;
	change(dir, name, NULL, NULL);
	return 0;
}

static int pc_link(const char *from, const char *to)
{
	struct node *n = walk(from, NULL, NULL), *dir;
	const char *name;

	if (!n)
		return -ENOENT;
	if (walk(to, &dir, &name))
		return -EEXIST;
	n->links++;
	change(dir, name, n, NULL);
	return 0;
}

static int pc_rename(const char *from, const char *to, unsigned flags)
{
	const char *old, *new;
	struct node *fdir, *tdir, *n = walk(from, &fdir, &old), *there;

	if (!n)
		return -ENOENT;
	there = walk(to, &tdir, &new);
	if (there && flags)
		return -EEXIST;
	if (there)
		there->links--;
	change(tdir, new, n, fdir == tdir ? old : NULL);
	if (fdir != tdir)
		change(fdir, old, NULL, NULL);
	return 0;
}

static int pc_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
	flush(of(path, fi));
	return 0;
}

static int pc_statfs(const char *path, struct statvfs *sv)
{
	memset(sv, 0, sizeof(*sv));
	sv->f_bsize = sv->f_frsize = 4096;
	sv->f_blocks = sv->f_bfree = sv->f_bavail = 1 << 24;
	sv->f_namemax = 255;
	return 0;
}

static int pc_utimens(const char *path, const struct timespec tv[2], struct fuse_file_info *fi)
{
	return 0;
}

static int pc_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	return 0;
}

static const struct fuse_operations ops = {
	.getattr = pc_getattr,
	.readdir = pc_readdir,
	.mkdir = pc_mkdir,
	.rmdir = pc_unlink,
	.open = pc_open,
	.create = pc_create,
	.read = pc_read,
	.write = pc_write,
	.truncate = pc_truncate,
	.unlink = pc_unlink,
	.link = pc_link,
	.rename = pc_rename,
	.fsync = pc_fsync,
	.fsyncdir = pc_fsync,
	.statfs = pc_statfs,
	.utimens = pc_utimens,
	.chmod = pc_chmod,
};

int main(int argc, char **argv)
{
	int i = 6;

	if (argc < 8) {
		fprintf(stderr,
			"usage: powercut OUT ACKS EVERY MAX SEED [--lie] -- MOUNTPOINT ...\n");
		return 2;
	}
	out = argv[1];
	acks = argv[2];
	every = strtoul(argv[3], NULL, 10);
	max_cuts = strtoul(argv[4], NULL, 10);
	seed = (unsigned)strtoul(argv[5], NULL, 10);
	if (!every)
		return 2;
	if (!strcmp(argv[i], "--lie")) {
		lie = 1;
		i++;
	}
	root = node_new(S_IFDIR | 0700);
	argv[i] = argv[0];
	return fuse_main(argc - i, argv + i, &ops, NULL);
}
