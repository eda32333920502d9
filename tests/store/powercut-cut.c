// SPDX-License-Identifier: Apache-2.0
#include "tests/store/powercut.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE  512u
#define HIDDEN ".fuse_hidden"

void *grow(void *p, size_t n, size_t size)
{
	/* To the next power of two each time one is reached. */
	if (n & (n - 1))
		return p;
	p = realloc(p, (n ? 2 * n : 1) * size);
	if (!p)
		abort();
	return p;
}

long entry_find(const struct entry *e, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(e[i].name, name))
			return (long)i;
	return -1;
}

static void entry_remove(struct entry *e, size_t *n, const char *name)
{
	long i = entry_find(e, *n, name);

	if (i >= 0)
		e[i] = e[--*n];
}

void entry_apply(struct entry **e, size_t *n, const struct change *c)
{
	if (c->and_gone[0])
		entry_remove(*e, n, c->and_gone);
	entry_remove(*e, n, c->name);
	if (!c->node)
		return;
	*e = grow(*e, *n, sizeof(**e));
	memcpy((*e)[*n].name, c->name, sizeof(c->name));
	(*e)[(*n)++].node = c->node;
}

struct luck {
	unsigned *seed;
	unsigned how; /* 0 nothing uncertain survives, 1 all of it, else any */
};

static int survives(const struct luck *l)
{
	return l->how == 1 || (l->how > 1 && rand_r(l->seed) % 2);
}

static void leave_file(const struct node *f, const char *path, const struct luck *l)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || pwrite(fd, f->sure, f->sure_size, 0) != (ssize_t)f->sure_size)
		abort();
	for (size_t i = 0; i < f->nwrites; i++) {
		const struct write *w = &f->writes[i];

		if (!w->data) {
			if (survives(l) && ftruncate(fd, (off_t)w->off))
				abort();
			continue;
		}
		for (uint64_t at = 0; at < w->len; at += PIECE) {
			uint64_t n = w->len - at < PIECE ? w->len - at : PIECE;

			if (survives(l) &&
				pwrite(fd, w->data + at, n, (off_t)(w->off + at)) != (ssize_t)n)
				abort();
		}
	}
	close(fd);
}

static void leave(const struct node *n, const char *path, const struct luck *l);

static void leave_folder(const struct node *d, const char *path, const struct luck *l)
{
	struct entry *e = NULL;
	size_t n = 0, keep;
	char sub[4096];

	for (size_t i = 0; i < d->nsure; i++) {
		e = grow(e, n, sizeof(*e));
		e[n++] = d->sure_names[i];
	}
	keep = l->how == 0   ? 0
	       : l->how == 1 ? d->nchanges
			     : (size_t)rand_r(l->seed) % (d->nchanges + 1);
	for (size_t i = 0; i < keep; i++)
		entry_apply(&e, &n, &d->changes[i]);
	if (mkdir(path, 0700))
		abort();
	for (size_t i = 0; i < n; i++) {
		/* libfuse's name for what was removed while a release was still on its way. */
		if (!strncmp(e[i].name, HIDDEN, strlen(HIDDEN)))
			continue;
		snprintf(sub, sizeof(sub), "%s/%s", path, e[i].name);
		leave(e[i].node, sub, l);
	}
	free(e);
}

static void leave(const struct node *n, const char *path, const struct luck *l)
{
	if (S_ISDIR(n->mode))
		leave_folder(n, path, l);
	else
		leave_file(n, path, l);
}

void cut(const struct node *root, const char *path, unsigned *seed)
{
	struct luck l = {seed, (unsigned)rand_r(seed) % 4};

	leave(root, path, &l);
}
