/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The saved maps as they lie on a disk: a header of TM_SAVE_HEADER bytes, then the dirty runs of all disks as struct
 * tmk_extent. Native byte order: they are read where they were written.
 *
 * They hold if the header says clean, all sums are right, and the fingerprint (samples of the disk's ends, of the places
 * that user space named, and of what was written last) is that of the disk now, before anything was written to it. User
 * space makes the file an empty one again and flushes, before it restores: a map is used once.
 *
 * Pure as map.h is: tests/fuzz/fuzz-saved.c compiles saved.c in user space.
 */
#ifndef TM_SAVE_H
#define TM_SAVE_H

#include "../common/tidemark_abi.h"
#include "map.h"

#define TM_SAVE_VERSION 2
#define TM_SAVE_CLEAN   1
#define TM_SAVE_HEADER  12288
#define TM_SAMPLE_ENDS  64   /* blocks at either end */
#define TM_SAMPLE_DIRTY 1024 /* of the dirty ones, evenly */

/* What is known of the line of epochs. */
struct tm_tracking {
	u8 uuid[16];
	struct tmk_id acked;
	u64 last_cut;
	u32 nids, pad;
	struct tmk_id ids[TMK_MAX_IDS];
};

struct tm_save_disk {
	u8 tracking[16];
	u64 sectors, fingerprint;
	u64 first_run, runs;
	u64 first_witness; /* extents behind the runs */
	u32 witnesses;
	u32 doubt;
	u64 activity[2]; /* place and size of an activity log, when there is one */
};

struct tm_save {
	struct tmk_map_head head;
	u32 version, state;
	u64 generation;
	u64 data_bytes;
	u32 data_sum, reserved;
	struct tm_tracking tracking;
	u32 pad, sum; /* of the header with sum = 0 */
	struct tm_save_disk disk[TMK_MAX_DISKS];
};

/* Is the file, of len bytes, whole? Where it is, all counts and places in it are sound. Overwrites its sum. */
enum tmk_restore_doubt tm_save_check(struct tm_save *s, u64 len);
/* Its extents. */
static inline struct tmk_extent *tm_save_extents(struct tm_save *s)
{
	return (void *)((char *)s + TM_SAVE_HEADER);
}
/*
 * Runs as a map of a disk with so many blocks: what is saved and restored, which may be coarser than what was dirty. NULL
 * without memory.
 */
struct tm_map *tm_save_map(const struct tmk_extent *x, u64 n, u64 blocks);

#ifdef __KERNEL__
struct tm_disk;
int tm_fingerprint(struct tm_disk *d, const struct tm_map *map, const struct tmk_extent *witness,
	u32 witnesses, u64 *print);
#endif

#endif
