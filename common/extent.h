/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sets of blocks as extents: sorted, disjoint, neighbours merged. 16 bytes per extent; adding or removing anywhere costs O(log n)
 * and the move of one leaf. Not thread safe.
 */
#ifndef TM_EXTENT_H
#define TM_EXTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_extent {
	uint64_t start, count;
};

struct tm_extent_leaf;

struct tm_extents {
	struct tm_extent_leaf **leaf; /* in order; none is empty */
	size_t leaves, room;
	size_t n;        /* extents */
	uint64_t blocks; /* in all of them */
};

/* All zero is an empty set. */
void tm_extents_init(struct tm_extents *s);
void tm_extents_clear(struct tm_extents *s); /* frees; the set is empty and usable */

/* Adds or removes [start, start + count). 0 or -ENOMEM (the set is as before), -EINVAL if it ends beyond 2^63. count 0 does nothing. */
int tm_extents_add(struct tm_extents *s, uint64_t start, uint64_t count);
int tm_extents_remove(struct tm_extents *s, uint64_t start, uint64_t count);

/* Adds all of `from`. On -ENOMEM part may have been added. */
int tm_extents_merge(struct tm_extents *s, const struct tm_extents *from);

bool tm_extents_has(const struct tm_extents *s, uint64_t block);
bool tm_extents_covers(const struct tm_extents *s, uint64_t start, uint64_t count);

/*
 * The first part of the set at or after `from`: *out begins at from or later. False if there is none. The way to iterate, also
 * while the set changes:   for (at = 0; tm_extents_next(s, at, &e); at = e.start + e.count)
 */
bool tm_extents_next(const struct tm_extents *s, uint64_t from, struct tm_extent *out);

/* The first gap at or after `from`, up to `end`: what is not in the set. */
bool tm_extents_next_gap(
	const struct tm_extents *s, uint64_t from, uint64_t end, struct tm_extent *out);

/* Bytes of memory that the set holds. */
size_t tm_extents_memory(const struct tm_extents *s);

#endif
