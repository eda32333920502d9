// SPDX-License-Identifier: GPL-2.0-only
/* Takes a saved map back: see save.h. Every doubt ends in "no". Under tm_mutex. */
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "save.h"
#include "tidemark.h"

#define LEN_MAX (1ULL << 30)

static int no(struct tmk_restore *arg, enum tmk_restore_doubt why)
{
	arg->reason = why;
	return -EINVAL;
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
	struct tmk_extent *x = tm_save_extents(s);
	enum tmk_restore_doubt why = TMK_RESTORE_NO_DISK;
	u64 print;
	u32 i;

	for (i = 0; i < s->head.disks; i++) {
		struct tm_save_disk *sd = &s->disk[i];

		if (sd->sectors != d->sectors)
			continue;
		why = TMK_RESTORE_FOREIGN;
		*map = tm_save_map(x + sd->first_run, sd->runs, tm_disk_blocks(d));
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
	enum tmk_restore_doubt why = tm_save_check(s, arg->len);
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
