// SPDX-License-Identifier: GPL-2.0-only
/* Takes a saved map back: see save.h. Every doubt ends in "no". Under tm_mutex. */
#include <linux/crc32.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "save.h"

#define LEN_MAX (1ULL << 30)

static int no(struct tmk_restore *arg, enum tmk_restore_doubt why)
{
	arg->reason = why;
	return -EINVAL;
}

static bool beyond(u64 first, u64 n, u64 end)
{
	return first > end || n > end - first;
}

/* Is the file whole? */
static enum tmk_restore_doubt check_file(struct tm_save *s, u64 len)
{
	u32 sum = s->sum, i;
	u64 runs;

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
		s->data_bytes > len - TM_SAVE_HEADER || s->head.disks > TMK_MAX_DISKS)
		return TMK_RESTORE_CHECKSUM;
	if (crc32_le(~0, (void *)s + TM_SAVE_HEADER, s->data_bytes) != s->data_sum)
		return TMK_RESTORE_CHECKSUM;
	runs = s->data_bytes / sizeof(struct tmk_extent);
	for (i = 0; i < s->head.disks; i++)
		if (beyond(s->disk[i].first_run, s->disk[i].runs, runs) ||
			beyond(s->disk[i].first_witness, s->disk[i].witnesses, runs))
			return TMK_RESTORE_CHECKSUM;
	return TMK_RESTORED;
}

struct tm_map *tm_save_map(const struct tmk_extent *x, u64 n, struct tm_disk *d)
{
	struct tm_map *map = tm_map_new(tm_disk_blocks(d));
	u64 i, end = tm_disk_blocks(d);

	for (i = 0; map && i < n; i++)
		if (x[i].start < end)
			tm_map_set(map, x[i].start, x[i].start + min(x[i].count, end - x[i].start));
	return map;
}

static u64 writes_of(struct tm_disk *d)
{
	u64 n = 0;
	int cpu;

	for_each_possible_cpu (cpu)
		n += per_cpu_ptr(d->cpu, cpu)->writes;
	return n;
}

/* The saved disk that this one is: same size, same content in every sample. */
static enum tmk_restore_doubt find(
	struct tm_save *s, struct tm_disk *d, struct tm_save_disk **out, struct tm_map **map)
{
	struct tmk_extent *x = (void *)s + TM_SAVE_HEADER;
	enum tmk_restore_doubt why = TMK_RESTORE_NO_DISK;
	u64 print;
	u32 i;

	for (i = 0; i < s->head.disks; i++) {
		struct tm_save_disk *sd = &s->disk[i];

		if (sd->sectors != d->sectors)
			continue;
		why = TMK_RESTORE_FOREIGN;
		*map = tm_save_map(x + sd->first_run, sd->runs, d);
		if (*map &&
			!tm_fingerprint(d, *map, x + sd->first_witness, sd->witnesses, &print) &&
			print == sd->fingerprint) {
			*out = sd;
			return sd->doubt ? TMK_RESTORE_DOUBT : TMK_RESTORED;
		}
		tm_map_free(*map);
		*map = NULL;
	}
	return why;
}

static int restore(struct tm_save *s, struct tm_disk *d, struct tmk_restore *arg)
{
	enum tmk_restore_doubt why = check_file(s, arg->len);
	struct tm_save_disk *sd = NULL;
	struct tm_map *map = NULL, *mine;

	if (!why)
		why = find(s, d, &sd, &map);
	if (!why && writes_of(d))
		why = TMK_RESTORE_LATE;
	if (!why && tm_tracking_restore(&s->tracking))
		why = TMK_RESTORE_LATE;
	if (!why) {
		mine = rcu_dereference_protected(
			d->map[tm_epoch_of(tm_word) % TM_MAPS], lockdep_is_held(&tm_mutex));
		tm_map_merge(mine, map, tm_disk_blocks(d));
		arg->dirty = tm_map_count(map, tm_disk_blocks(d));
		memcpy(d->tracking, sd->tracking, sizeof(d->tracking));
		d->restored = true;
		atomic_andnot(TMK_DOUBT_FRESH, &d->doubt);
	}
	tm_map_free(map);
	return why ? no(arg, why) : 0;
}

int tm_restore(struct tmk_restore *arg)
{
	struct tm_disk *d = tm_disk_get(arg->disk);
	struct tm_save *s;
	int err;

	arg->reason = TMK_RESTORED;
	arg->dirty = 0;
	if (!d)
		return -ENODEV;
	if (arg->len < TM_SAVE_HEADER || arg->len > LEN_MAX)
		return no(arg, TMK_RESTORE_NO_FILE);
	if (d->restored || writes_of(d))
		return no(arg, TMK_RESTORE_LATE);
	s = vmalloc(arg->len);
	if (!s)
		return -ENOMEM;
	err = copy_from_user(s, u64_to_user_ptr(arg->data), arg->len) ? -EFAULT
								      : restore(s, d, arg);
	vfree(s);
	return err;
}
