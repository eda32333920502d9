// SPDX-License-Identifier: GPL-2.0-only
/* RANGES and DRAIN: what a frozen epoch holds, and taking it over. Under tm_mutex. */
#include <linux/bitmap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include "tidemark.h"

int tm_ranges(struct tmk_ranges *arg)
{
	struct tm_disk *d = tm_disk_get(arg->disk);
	struct tmk_extent __user *out = u64_to_user_ptr(arg->extents);
	struct tm_map *map;
	bool is_frozen;
	u64 end, n;
	int err;

	if (!d)
		return -ENODEV;
	if (!arg->count || arg->count > TMK_MAX_EXTENTS)
		return -EINVAL;
	err = tm_epoch_map(&arg->id, d, &map, &is_frozen);
	if (err)
		return err;
	if (is_frozen && !tm_settled(d))
		return -EAGAIN;
	end = tm_disk_blocks(d);
	arg->done = 0;
	for (arg->n = 0; arg->n < arg->count; arg->n++) {
		struct tmk_extent x;

		n = tm_map_run(map, NULL, &arg->cursor, end);
		if (!n)
			break;
		x.start = arg->cursor;
		x.count = n;
		if (copy_to_user(&out[arg->n], &x, sizeof(x)))
			return -EFAULT;
		arg->cursor += n;
	}
	arg->done = !tm_map_any(map, NULL, arg->cursor, end);
	if (is_frozen && tm_broken())
		return -ESTALE;
	return 0;
}

/* A before-image in the range that has not been copied yet. */
static struct tm_image *uncopied(struct tm_disk *d, u64 first, u64 end)
{
	struct tm_image *image = NULL;

	for (; d->nimages && first < end; first++) {
		image = tm_image_find(d, first);
		if (image && !image->copied)
			return image;
	}
	return NULL;
}

static int copy_one(struct tmk_drain *arg, struct tm_image *image, unsigned long *bad)
{
	u64 at = image->block - arg->start;
	void __user *to = u64_to_user_ptr(arg->buffer + at * TMK_BLOCK);

	if (image->unreadable) {
		__set_bit(at, bad);
		arg->nbad++;
	}
	if (copy_to_user(to, page_address(image->page), TMK_BLOCK))
		return -EFAULT;
	arg->patched++;
	return 0;
}

/* Under d->lock: the range is drained; its images are gathered for freeing. */
static void release_range(struct tm_disk *d, struct tm_map *map, struct tm_map *kept, u64 first,
	u64 end, struct list_head *dead)
{
	for (; first < end; first++) {
		struct tm_image *image;

		if (!tm_map_test(map, first))
			continue;
		image = d->nimages ? tm_image_find(d, first) : NULL;
		if (image) {
			tm_image_unhash(d, image);
			list_add(&image->list, dead);
		} else if (tm_map_test(kept, first) && !tm_off(TM_OFF_BUSY)) {
			continue; /* before */
		}
		tm_map_set(kept, first, first + 1);
		d->undrained -= d->undrained ? 1 : 0;
	}
}

static void free_images(struct list_head *dead)
{
	struct tm_image *image, *next;

	list_for_each_entry_safe (image, next, dead, list)
		tm_image_free(image);
}

/* Forgets what an attempt has copied when the attempt fails. */
static void uncopy(struct tm_disk *d, u64 first, u64 end)
{
	struct tm_image *image;

	spin_lock_irq(&d->lock);
	for (; d->nimages && first < end; first++) {
		image = tm_image_find(d, first);
		if (image)
			image->copied = false;
	}
	spin_unlock_irq(&d->lock);
}

/*
 * Copies without the lock, and releases only when nothing new has been published meanwhile. A preservation that is
 * going on need not be waited for: its write is not issued before its image is published, and publishing looks at
 * "kept" again (NO_DRWAIT). Images stay while we copy: only DRAIN, commit and abort take them, all under tm_mutex.
 */
static int drain(struct tm_disk *d, struct tmk_drain *arg, struct tm_map *map, unsigned long *bad)
{
	u64 end = arg->start + arg->count, at = arg->start;
	struct tm_map *kept = tm_kept(d);
	struct tm_image *image;
	LIST_HEAD(dead);
	int err;

	if (!tm_map_prepare(kept, arg->start, end))
		return -ENOMEM;
	for (;;) {
		spin_lock_irq(&d->lock);
		image = uncopied(d, at, end);
		if (!image) /* published behind us? */
			image = uncopied(d, arg->start, at);
		if (!image && !(arg->nbad && !arg->bad)) {
			release_range(d, map, kept, arg->start, end, &dead);
			spin_unlock_irq(&d->lock);
			break;
		}
		if (image) {
			image->copied = true;
			at = image->block + 1;
		}
		spin_unlock_irq(&d->lock);
		err = image ? copy_one(arg, image, bad) : -EIO;
		if (err) {
			uncopy(d, arg->start, end);
			return err;
		}
	}
	free_images(&dead);
	return tm_broken() ? -ESTALE : 0;
}

int tm_drain(struct tmk_drain *arg)
{
	struct tm_disk *d = tm_disk_get(arg->disk);
	unsigned long *bad;
	struct tm_map *map;
	bool is_frozen;
	size_t bytes;
	int err;

	if (!d)
		return -ENODEV;
	if (!arg->count || arg->count > TMK_MAX_DRAIN || arg->start > tm_disk_blocks(d) ||
		arg->count > tm_disk_blocks(d) - arg->start)
		return -EINVAL;
	err = tm_epoch_map(&arg->id, d, &map, &is_frozen);
	if (err)
		return err;
	if (!is_frozen)
		return 0; /* all of it is drained */
	if (!arg->buffer && tm_frozen_preserved())
		return -EINVAL;
	if (!tm_settled(d))
		return -EAGAIN;
	arg->patched = 0;
	arg->nbad = 0;
	bytes = DIV_ROUND_UP(arg->count, 8);
	bad = bitmap_zalloc(arg->count, GFP_KERNEL);
	if (!bad)
		return -ENOMEM;
	/* The map of bad blocks is tried before anything is released; it is written for good after. */
	if (arg->bad && copy_to_user(u64_to_user_ptr(arg->bad), bad, bytes))
		err = -EFAULT;
	if (!err)
		err = drain(d, arg, map, bad);
	if (!err && arg->nbad && copy_to_user(u64_to_user_ptr(arg->bad), bad, bytes))
		err = -EFAULT;
	if (err == -EFAULT && arg->nbad)
		tm_break(
			TM_BREAK_ERROR); /* released, but its reader does not know which blocks are bad */
	bitmap_free(bad);
	return err;
}
