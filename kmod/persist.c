// SPDX-License-Identifier: GPL-2.0-only
/*
 * The maps across a reboot, in a preallocated file whose place on a disk user space has registered.
 *
 * Saving (reboot notifier, after everybody else's): all epochs are aborted, all writes held, those in flight waited
 * for; the maps and then, with a flush before and after, the header are written. From then on the first held write
 * to any disk spoils the file before it is let go: what is on the disk then is more than the map knows. A file without
 * maps in it holds marked blocks, and only such blocks are ever written to: should the file have moved or gone without
 * our knowing, nobody else's blocks are hit.
 * Restoring: see save.h. All of it is under tm_mutex but the spoiling.
 */
#include <linux/delay.h>
#include <linux/rculist.h>
#include <linux/reboot.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "save.h"
#include "tidemark.h"

#define DRAIN_MS 10000 /* for writes in flight at shutdown */

static struct {
	struct tm_disk *disk; /* NULL: no file is registered */
	struct tmk_extent *extents;
	u32 count;
	u64 blocks;
	u64 saved; /* blocks that hold maps */
	u64 generation;
	u8 id[16]; /* as found in its blocks */
	/* To spoil it with: that must not fail for want of memory, or a write would go on past a file that is good. */
	struct tmk_map_block *empty;
} file;
static bool stopping;            /* the system goes down */
static bool tm_saved;            /* the file is good as long as no write goes on */
static DEFINE_MUTEX(spoil_lock); /* the worker's way into the file */

bool tm_shutting_down(void)
{
	return READ_ONCE(stopping);
}

/* Reads or writes one page at a block of the disk itself, past the hook. */
static int page_io(struct tm_disk *d, u64 block, void *page, tm_opf_t opf)
{
	struct bio *bio = tm_bio_alloc(tm_bdev_of(&d->bdev), 1, opf, &tm_own_bios);
	u64 sectors = get_capacity(d->gd);
	unsigned int bytes;
	int err;

	bytes = block * TM_SECTORS < sectors
			? min_t(u64, sectors - block * TM_SECTORS, TM_SECTORS) << SECTOR_SHIFT
			: 0;
	bio->bi_iter.bi_sector = block * TM_SECTORS;
	err = -EIO;
	if (bytes && bio_add_page(bio, virt_to_page(page), bytes, 0) == bytes)
		err = submit_bio_wait(bio);
	bio_put(bio);
	return err;
}

/* The place of the file's n-th block. */
static u64 file_block(u64 n)
{
	u32 i;

	for (i = 0; i < file.count; n -= file.extents[i++].count)
		if (n < file.extents[i].count)
			return file.extents[i].start + n;
	return ~0ULL;
}

static u32 page_sum(u32 seed, const void *page)
{
	return crc32_le(seed, page, PAGE_SIZE);
}

/* One sample of a disk's content, if it can be read; unreadable ones count as such. */
static void sample(struct tm_disk *d, u64 block, void *page, u32 sum[2])
{
	memset(page, 0, PAGE_SIZE);
	if (page_io(d, block, page, REQ_OP_READ | REQ_SYNC))
		memset(page, 0xff, PAGE_SIZE);
	sum[0] = page_sum(sum[0] ^ (u32)block, page);
	sum[1] = page_sum(~sum[1] ^ (u32)(block >> 32), page);
}

/*
 * The blocks written last are where a file system's own notes of being mounted are; the one behind each run is where a
 * log goes on.
 */
static void sample_dirty(struct tm_disk *d, const struct tm_map *map, void *page, u32 sum[2])
{
	u64 blocks = tm_disk_blocks(d), step = tm_map_count(map, blocks) / TM_SAMPLE_DIRTY + 1;
	u64 at = 0, i = 0, b, n;

	for (; (n = tm_map_run(map, NULL, &at, blocks)) && i < TM_SAMPLE_DIRTY; at += n) {
		for (b = at; b < at + n && i < TM_SAMPLE_DIRTY; b += step, i++)
			sample(d, b, page, sum);
		if (at + n < blocks)
			sample(d, at + n, page, sum);
	}
}

int tm_fingerprint(struct tm_disk *d, const struct tm_map *map, const struct tmk_extent *witness,
	u32 witnesses, u64 *print)
{
	u64 blocks = tm_disk_blocks(d), i, b, room = TMK_MAX_WITNESS;
	void *page = (void *)get_zeroed_page(GFP_KERNEL);
	u32 sum[2] = {1, 2};

	if (!page)
		return -ENOMEM;
	for (i = 0; i < TM_SAMPLE_ENDS && i < blocks; i++) {
		sample(d, i, page, sum);
		sample(d, blocks - 1 - i, page, sum);
	}
	for (i = 0; i < witnesses; i++)
		for (b = 0; b < witness[i].count && room; b++, room--)
			sample(d, witness[i].start + b, page, sum);
	sample_dirty(d, map, page, sum);
	free_page((unsigned long)page);
	*print = (u64)sum[1] << 32 | sum[0];
	return 0;
}

static struct tm_map *active(struct tm_disk *d)
{
	return rcu_dereference_protected(
		d->map[tm_epoch_of(tm_word) % TM_MAPS], lockdep_is_held(&tm_mutex));
}

/* Runs of the map, rounded outwards to 2^shift blocks; out may be NULL. */
static u64 runs_of(struct tm_disk *d, unsigned int shift, struct tmk_extent *out, u64 room)
{
	u64 end = tm_disk_blocks(d), at = 0, n, count = 0, last = 0;
	u64 mask = (1ULL << shift) - 1;

	for (; (n = tm_map_run(active(d), NULL, &at, end)); at += n) {
		u64 first = at & ~mask, stop = (at + n + mask) & ~mask;

		if (count && first <= last) { /* joins the one before */
			if (out && stop > last)
				out[count - 1].count = stop - out[count - 1].start;
		} else {
			if (out && count == room)
				return count;
			if (out)
				out[count] = (struct tmk_extent){first, stop - first};
			count++;
		}
		last = max(last, stop);
	}
	return count;
}

/* How many extents the file has to hold: the runs of all disks, and the places of their samples. */
static u64 runs_of_all(unsigned int shift)
{
	struct tm_disk *d;
	u64 n = 0;

	list_for_each_entry (d, &tm_disks, list)
		n += runs_of(d, shift, NULL, 0) + d->witnesses;
	return n;
}

static u64 blocks_for(u64 runs)
{
	return TM_SAVE_HEADER / TMK_BLOCK +
	       DIV_ROUND_UP_ULL(runs * sizeof(struct tmk_extent), TMK_BLOCK);
}

/* One disk's part of the file; *at = extents so far. */
static void compose_disk(struct tm_save *s, struct tm_disk *d, unsigned int shift, u64 n, u64 *at)
{
	struct tm_save_disk *sd = &s->disk[s->head.disks];
	struct tmk_extent *x = tm_save_extents(s);
	struct tm_map *map;

	s->head.sectors[s->head.disks++] = d->sectors;
	memcpy(sd->tracking, d->tracking, sizeof(sd->tracking));
	sd->sectors = d->sectors;
	sd->doubt = atomic_read(&d->doubt);
	sd->first_run = *at;
	sd->runs = runs_of(d, shift, x + *at, n - *at);
	*at += sd->runs;
	sd->first_witness = *at;
	sd->witnesses = d->witnesses;
	if (d->witnesses)
		memcpy(x + *at, d->witness, d->witnesses * sizeof(*x));
	*at += sd->witnesses;
	map = tm_save_map(x + sd->first_run, sd->runs, tm_disk_blocks(d));
	if (!map || tm_fingerprint(d, map, x + sd->first_witness, sd->witnesses, &sd->fingerprint))
		sd->doubt |= TMK_DOUBT_ERROR;
	tm_map_free(map);
}

/* The whole file in memory: as fine as fits, never with less than the maps hold. */
static struct tm_save *compose(u64 *bytes)
{
	struct tm_save *s;
	struct tm_disk *d;
	unsigned int shift = 0;
	u64 n, at = 0;

	while ((n = runs_of_all(shift)) && blocks_for(n) > file.blocks && shift < 40)
		shift++;
	if (blocks_for(n) > file.blocks)
		return NULL;
	*bytes = blocks_for(n) * TMK_BLOCK;
	s = vzalloc(*bytes);
	if (!s)
		return NULL;
	list_for_each_entry (d, &tm_disks, list)
		compose_disk(s, d, shift, n, &at);
	s->head.magic = TMK_MAP_SAVED;
	s->head.bytes = *bytes;
	memcpy(s->head.file, file.id, sizeof(file.id));
	s->version = TM_SAVE_VERSION;
	s->state = TM_SAVE_CLEAN;
	s->generation = ++file.generation;
	s->data_bytes = *bytes - TM_SAVE_HEADER;
	s->data_sum = crc32_le(~0, (void *)tm_save_extents(s), s->data_bytes);
	tm_tracking_save(&s->tracking);
	s->sum = crc32_le(~0, (void *)s, TM_SAVE_HEADER);
	return s;
}

/* vmalloc'ed memory can't be handed to a bio as it is: page by page, through one of our own. */
static int write_blocks(const void *data, u64 first, u64 n, tm_opf_t flags)
{
	void *page = (void *)get_zeroed_page(GFP_NOIO);
	int err = 0;
	u64 i;

	if (!page)
		return -ENOMEM;
	for (i = 0; i < n && !err; i++) {
		memcpy(page, data + i * TMK_BLOCK, TMK_BLOCK);
		err = page_io(
			file.disk, file_block(first + i), page, REQ_OP_WRITE | REQ_SYNC | flags);
	}
	free_page((unsigned long)page);
	return err;
}

/* Is this still the file's? ESTALE: no. The first block names the file. */
static int check_place(u64 blocks)
{
	struct tmk_map_block *page = (void *)get_zeroed_page(GFP_KERNEL);
	int err = 0;
	u64 i;

	if (!page)
		return -ENOMEM;
	for (i = 0; i < blocks && !err; i++) {
		err = page_io(file.disk, file_block(i), page, REQ_OP_READ | REQ_SYNC);
		if (!err && !i)
			memcpy(file.id, page->file, sizeof(file.id));
		if (!err && (page->magic != TMK_MAP_EMPTY || page->index != i ||
				    memcmp(page->file, file.id, sizeof(file.id))))
			err = -ESTALE;
	}
	free_page((unsigned long)page);
	return err;
}

static int write_maps(void)
{
	u64 bytes, header = TM_SAVE_HEADER / TMK_BLOCK;
	struct tm_save *s;
	int err = check_place(1);

	if (err)
		return err;
	s = compose(&bytes);
	if (!s)
		return -ENOSPC;
	err = check_place(bytes / TMK_BLOCK);
	if (!err) {
		file.saved = bytes / TMK_BLOCK;
		err = write_blocks(tm_save_extents(s), header, bytes / TMK_BLOCK - header, 0);
	}
	if (!err)
		err = write_blocks((void *)s + TMK_BLOCK, 1, header - 1, 0);
	if (!err)
		err = write_blocks(s, 0, 1, REQ_PREFLUSH | REQ_FUA); /* last: it says "clean" */
	vfree(s);
	return err;
}

/* An empty file again; the first block first, for good before the others. */
static int write_empty(void)
{
	struct tmk_map_block *page = file.empty;
	int err = 0;

	page->magic = TMK_MAP_EMPTY;
	memcpy(page->file, file.id, sizeof(file.id));
	for (page->index = 0; !err && page->index < file.saved; page->index++)
		err = page_io(file.disk, file_block(page->index), page,
			REQ_OP_WRITE | REQ_SYNC | (page->index ? 0 : REQ_PREFLUSH | REQ_FUA));
	file.saved = 0;
	return err;
}

/*
 * From the disk's worker when it finds writes held after the maps were saved: the file is made worthless first, then
 * they go on. If that can't be written, they still go on: the application comes first, and an unwritable disk does not
 * boot unnoticed.
 */
void tm_persist_spoil(void)
{
	if (!READ_ONCE(tm_saved))
		return;
	mutex_lock(&spoil_lock);
	if (tm_saved) {
		if (file.disk && write_empty())
			pr_err("tidemark: cannot spoil the saved maps\n");
		WRITE_ONCE(tm_saved, false);
		tm_gate(false);
	}
	mutex_unlock(&spoil_lock);
}

static bool all_quiet(void)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list)
		if (tm_inflight(d, 0) || tm_inflight(d, 1))
			return false;
	return true;
}

static bool has_doubt_only(void)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list)
		if (!(atomic_read(&d->doubt) & TMK_DOUBT_FRESH))
			return false;
	return true;
}

static int save(void)
{
	unsigned int noio;
	int err = -ETIME, i;

	if (!file.disk || list_empty(&tm_disks))
		return -ENOENT;
	if (has_doubt_only())
		return -ENODATA; /* nothing worth saving */
	tm_persist_spoil();
	tm_abort_all();
	noio = memalloc_noio_save(); /* memory must not wait for writes: all are held */
	tm_gate(true);
	for (i = 0; i < DRAIN_MS / 10 && !all_quiet(); i++)
		msleep(10);
	if (all_quiet())
		err = write_maps();
	mutex_lock(&spoil_lock);
	if (err && write_empty())
		pr_err("tidemark: the file of the maps is in disorder\n");
	if (err)
		tm_gate(false);
	else
		WRITE_ONCE(tm_saved, true);
	mutex_unlock(&spoil_lock);
	memalloc_noio_restore(noio);
	tm_kick_all(); /* what was held meanwhile spoils it */
	return err;
}

/* Takes over x. */
static int set_witness(struct tm_disk *d, struct tmk_extent *x, u32 count)
{
	u64 blocks = 0;
	u32 i;

	for (i = 0; i < count && blocks <= TMK_MAX_WITNESS; i++)
		blocks += min_t(u64, x[i].count, TMK_MAX_WITNESS + 1);
	if (blocks > TMK_MAX_WITNESS) {
		kvfree(x);
		return -E2BIG;
	}
	tm_persist_spoil();
	kvfree(d->witness);
	d->witness = x;
	d->witnesses = count;
	return 0;
}

/* Takes over x. */
static int set_file(struct tm_disk *d, struct tmk_extent *x, u32 count)
{
	u32 i;

	tm_persist_spoil();
	if (x && !file.empty)
		file.empty = (void *)get_zeroed_page(GFP_KERNEL);
	if (x && !file.empty) {
		kvfree(x);
		return -ENOMEM;
	}
	kvfree(file.extents);
	file.disk = x ? d : NULL;
	file.extents = x;
	file.count = count;
	for (i = 0, file.blocks = 0; i < file.count; i++)
		file.blocks += x[i].count;
	return 0;
}

int tm_persist(struct tmk_persist *arg)
{
	struct tm_disk *d = tm_disk_get(arg->disk);
	struct tmk_extent *x = NULL;

	arg->need = blocks_for(runs_of_all(0));
	if (arg->flags & TMK_PERSIST_SAVE)
		return arg->count || arg->flags & TMK_PERSIST_WITNESS ? -EINVAL : save();
	if (!d)
		return -ENODEV;
	if (arg->count) {
		x = tm_extents_get(arg->extents, arg->count, d->sectors / TM_SECTORS);
		if (IS_ERR(x))
			return PTR_ERR(x);
	}
	return arg->flags & TMK_PERSIST_WITNESS ? set_witness(d, x, arg->count)
						: set_file(d, x, arg->count);
}

static void free_file(void)
{
	kvfree(file.extents);
	free_page((unsigned long)file.empty);
}

void tm_persist_forget(struct tm_disk *d)
{
	tm_persist_spoil();
	if (file.disk != d)
		return;
	free_file();
	memset(&file, 0, sizeof(file));
}

static int at_reboot(struct notifier_block *nb, unsigned long action, void *unused)
{
	int err;

	mutex_lock(&tm_mutex);
	WRITE_ONCE(stopping, true);
	err = save();
	mutex_unlock(&tm_mutex);
	if (err && err != -ENOENT && err != -ENODATA)
		pr_err("tidemark: the maps could not be saved: %d\n", err);
	return NOTIFY_DONE;
}

/* After all others: md, for one, still writes in its own. */
static struct notifier_block reboot = {.notifier_call = at_reboot, .priority = INT_MIN};

int tm_persist_init(void)
{
	BUILD_BUG_ON(sizeof(struct tm_save) > TM_SAVE_HEADER);
	BUILD_BUG_ON(sizeof(struct tmk_map_block) != TMK_BLOCK);
	return register_reboot_notifier(&reboot);
}

void tm_persist_exit(void)
{
	unregister_reboot_notifier(&reboot);
	free_file();
}
