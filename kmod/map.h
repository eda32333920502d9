/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The dirty map: a sparse set of block numbers. Pure: no block-layer types; tests/unit/test-map.c compiles the same
 * source in user space.
 *
 * A leaf is one page (32768 blocks), a middle page holds 512 leaves, the root holds the middle pages. Pages appear
 * with the first bit set in them. Setting never fails: where no page can be had, the slot is made "all set". Blocks
 * past the root's reach share one flag. Bits are never cleared; a map is emptied by dropping it.
 *
 * Setting and testing take no lock and may run at the same time, from any context. Freeing needs everybody out (in
 * the module: after a grace period).
 */
#ifndef TM_MAP_H
#define TM_MAP_H

#include "mapenv.h"

#define TM_LEAF_SHIFT 15 /* blocks in a leaf: 2^15 */
#define TM_MID_SHIFT  9  /* leaves in a middle page: 2^9 */
#define TM_LEAF_BITS  (1UL << TM_LEAF_SHIFT)
#define TM_MID_SLOTS  (1UL << TM_MID_SHIFT)

struct tm_map {
	unsigned long roots; /* slots of root[] */
	unsigned int beyond; /* some block past the root's reach is set: all of them are */
	void *root[];        /* NULL, TM_ALL, or a page of TM_MID_SLOTS pointers to leaves */
};

/* A map for blocks 0 .. blocks-1, with room for growth; NULL without memory. May sleep. */
struct tm_map *tm_map_new(u64 blocks);
void tm_map_free(struct tm_map *m);

/* Sets blocks first .. end-1. */
void tm_map_set(struct tm_map *m, u64 first, u64 end);

/* Has pages ready for first .. end-1, so that setting bits there sets no others; false without memory. */
bool tm_map_prepare(struct tm_map *m, u64 first, u64 end);

bool tm_map_test(const struct tm_map *m, u64 block);

/* Is a block of first .. end-1 in m and not in except? except may be NULL. */
bool tm_map_any(const struct tm_map *m, const struct tm_map *except, u64 first, u64 end);

/*
 * The first run of blocks that are in m and not in except (may be NULL), within *first .. end-1: its start is put in
 * *first, its length returned; 0: none.
 */
u64 tm_map_run(const struct tm_map *m, const struct tm_map *except, u64 *first, u64 end);

/* How many of the blocks 0 .. end-1 are set. */
u64 tm_map_count(const struct tm_map *m, u64 end);

/* Adds the blocks of src below end to dst. */
void tm_map_merge(struct tm_map *dst, const struct tm_map *src, u64 end);

/* Memory taken, bytes. */
u64 tm_map_bytes(const struct tm_map *m);

#endif
