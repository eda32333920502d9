/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A filesystem in memory that remembers, beside what is there, what is certain to be there after a power cut.
 *
 * A file's bytes are certain when it was flushed; a name is certain when its folder was flushed, whatever happened to the file. What is
 * not certain may be there or not: of a file's later writes any 512-byte pieces, of a folder's later changes any first few.
 */
#ifndef POWERCUT_H
#define POWERCUT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct node;

struct entry {
	char name[256];
	struct node *node;
};

/* A change of a folder: name now means node (NULL: nothing). `and_gone`: the same change takes this name away (rename). */
struct change {
	char name[256], and_gone[256];
	struct node *node;
};

struct write {
	uint64_t off, len; /* data NULL: the file is cut to off */
	char *data;
};

struct node {
	mode_t mode;
	uint64_t ino;
	unsigned links, opens;
	/* files */
	char *data, *sure;
	uint64_t size, room, sure_size;
	struct write *writes;
	size_t nwrites;
	/* folders */
	struct entry *names, *sure_names;
	size_t nnames, nsure;
	struct change *changes;
	size_t nchanges;
};

void *grow(void *p, size_t n, size_t size);
/* The entry of this name in a list, or -1. */
long entry_find(const struct entry *e, size_t n, const char *name);
void entry_apply(struct entry **e, size_t *n, const struct change *c);
/* Writes to `path` what a power cut now might leave of the tree; how: drawn from *seed. */
void cut(const struct node *root, const char *path, unsigned *seed);

#endif
