// SPDX-License-Identifier: GPL-2.0-only
/* The saved maps as a file: see save.h. Nothing in it is believed before it is checked. */
#include "save.h"

static bool beyond(u64 first, u64 n, u64 end)
{
	return first > end || n > end - first;
}

enum tmk_restore_doubt tm_save_check(struct tm_save *s, u64 len)
{
	u32 sum, i;
	u64 runs;

	if (len < TM_SAVE_HEADER)
		return TMK_RESTORE_NO_FILE;
	sum = s->sum;
	if (s->head.magic == TMK_MAP_EMPTY || !s->head.magic)
		return TMK_RESTORE_UNCLEAN;
	if (s->head.magic != TMK_MAP_SAVED)
		return TMK_RESTORE_NO_FILE;
	if (s->version != TM_SAVE_VERSION)
		return TMK_RESTORE_NO_FILE;
	if (s->state != TM_SAVE_CLEAN)
		return TMK_RESTORE_UNCLEAN;
	s->sum = 0;
	if (crc32_le(~0, (void *)s, TM_SAVE_HEADER) != sum ||
		s->data_bytes > len - TM_SAVE_HEADER || s->head.disks > TMK_MAX_DISKS ||
		s->tracking.nids > TMK_MAX_IDS)
		return TMK_RESTORE_CHECKSUM;
	if (crc32_le(~0, (void *)tm_save_extents(s), s->data_bytes) != s->data_sum)
		return TMK_RESTORE_CHECKSUM;
	runs = s->data_bytes / sizeof(struct tmk_extent);
	for (i = 0; i < s->head.disks; i++)
		if (beyond(s->disk[i].first_run, s->disk[i].runs, runs) ||
			beyond(s->disk[i].first_witness, s->disk[i].witnesses, runs))
			return TMK_RESTORE_CHECKSUM;
	return TMK_RESTORED;
}

struct tm_map *tm_save_map(const struct tmk_extent *x, u64 n, u64 blocks)
{
	struct tm_map *map = tm_map_new(blocks);
	u64 i;

	for (i = 0; map && i < n; i++)
		if (x[i].start < blocks)
			tm_map_set(map, x[i].start,
				x[i].start + min_t(u64, x[i].count, blocks - x[i].start));
	return map;
}
