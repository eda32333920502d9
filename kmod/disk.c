// SPDX-License-Identifier: GPL-2.0-only
/* Disks: attach and detach, what may be attached, size, doubts. */
#include <linux/capability.h>
#include <linux/kernfs.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/uuid.h>
#include <linux/vmalloc.h>
#include "tidemark.h"

#define IMAGE_BUCKETS (1 << 12)

LIST_HEAD(tm_disks);
static u64 slots;                        /* taken */
static u32 last_number;                  /* both under tm_mutex */
static atomic_t ending = ATOMIC_INIT(0); /* detached disks whose last write has not completed */
static DECLARE_WAIT_QUEUE_HEAD(ended);

struct tm_disk *tm_disk_get(u32 number)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list)
		if (d->number == number)
			return d;
	return NULL;
}

u64 tm_disk_blocks(const struct tm_disk *d)
{
	return DIV_ROUND_UP_ULL(d->sectors, TM_SECTORS);
}

void tm_doubt(struct tm_disk *d, unsigned int why)
{
	if ((unsigned int)atomic_read(&d->doubt) & why)
		return;
	atomic_or(why, &d->doubt);
	tm_event();
}

u64 tm_inflight(struct tm_disk *d, unsigned int parity)
{
	long n = 0;
	int cpu;

	for_each_possible_cpu (cpu)
		n += READ_ONCE(per_cpu_ptr(d->cpu, cpu)->inflight[parity]);
	return n;
}

/*
 * After the cut has opened nobody counts up in the older parity any more, so a sum of zero stays zero. It holds for
 * writes of the frozen epoch and of aborted ones before it: the cut had waited for the latter.
 */
bool tm_settled(struct tm_disk *d)
{
	unsigned long word = READ_ONCE(tm_word), flags;
	unsigned long epoch = tm_epoch_of(word);

	if (READ_ONCE(d->settled) >= epoch)
		return true;
	if (word & TM_CUTTING)
		return false;
	if (tm_inflight(d, (epoch + 1) & 1) && !tm_off(TM_OFF_SETTLE))
		return false;
	spin_lock_irqsave(&d->lock, flags);
	if (d->settled < epoch)
		WRITE_ONCE(d->settled, epoch);
	spin_unlock_irqrestore(&d->lock, flags);
	return true;
}

/* A disk that grew: all from the old end on is dirty, with the block in which the old end lay. */
void tm_disk_resize(struct tm_disk *d)
{
	u64 now = get_capacity(d->gd);

	if (now > d->sectors)
		tm_mark(d, d->sectors / TM_SECTORS, DIV_ROUND_UP_ULL(now, TM_SECTORS));
	else if (now < d->sectors && now)
		tm_doubt(d, TMK_DOUBT_SHRUNK);
	if (now)
		d->sectors = now;
}

/* Is gd made of parts of "part"? The links in its slaves directory say so, by name. */
static bool lies_on(struct gendisk *gd, struct gendisk *part)
{
	struct kernfs_node *dir = gd->slave_dir ? gd->slave_dir->sd : NULL, *kn;
	const char *sep = isdigit(part->disk_name[strlen(part->disk_name) - 1]) ? "p" : "";
	char name[48];
	int i;

	for (i = 0; dir && i <= 128; i++) {
		if (i)
			snprintf(name, sizeof(name), "%s%s%d", part->disk_name, sep, i);
		else
			snprintf(name, sizeof(name), "%s", part->disk_name);
		kn = kernfs_find_and_get(dir, name);
		if (kn) {
			kernfs_put(kn);
			return true;
		}
	}
	return false;
}

static int refuse(struct tmk_attach *arg, enum tmk_refusal reason, int err)
{
	arg->reason = reason;
	return err;
}

static int check(struct block_device *bdev, struct tmk_attach *arg)
{
	struct gendisk *gd = bdev->bd_disk;
	struct request_queue *q = bdev_get_queue(bdev);
	struct tm_disk *d;

	if (bdev_is_partition(bdev))
		return refuse(arg, TMK_REFUSE_PARTITION, -EINVAL);
	if (arg->diskseq && arg->diskseq != tm_diskseq(gd))
		return refuse(arg, TMK_REFUSE_REPLACED, -ESTALE);
	if (bdev_read_only(bdev))
		return refuse(arg, TMK_REFUSE_READ_ONLY, -EROFS);
	if (bdev_is_zoned(bdev))
		return refuse(arg, TMK_REFUSE_ZONED, -EOPNOTSUPP);
	if (blk_queue_dax(q))
		return refuse(arg, TMK_REFUSE_DAX, -EOPNOTSUPP);
	if (!get_capacity(gd) || bdev_logical_block_size(bdev) > TMK_BLOCK)
		return refuse(arg, TMK_REFUSE_EMPTY, -ENOMEDIUM);
	if (gd->flags & GENHD_FL_HIDDEN)
		return refuse(arg, TMK_REFUSE_STACKED, -EBUSY);
	list_for_each_entry (d, &tm_disks, list) {
		if (d->gd == gd) {
			arg->disk = d->number;
			return refuse(arg, TMK_REFUSE_ATTACHED, -EEXIST);
		}
		if (lies_on(gd, d->gd) || lies_on(d->gd, gd))
			return refuse(arg, TMK_REFUSE_STACKED, -EBUSY);
	}
	if (slots == ~0ULL)
		return refuse(arg, TMK_REFUSE_TOO_MANY, -ENOSPC);
	return 0;
}

static void disk_free(struct tm_disk *d)
{
	int i;

	if (d->bdev.open)
		tm_bdev_close(&d->bdev);
	for (i = 0; i < TM_MAPS; i++) {
		tm_map_free(rcu_dereference_protected(d->map[i], true));
		tm_map_free(rcu_dereference_protected(d->kept[i], true));
	}
	tm_exclusion_free(rcu_dereference_protected(d->excluded, true));
	kvfree(d->witness);
	kvfree(d->images);
	free_percpu(d->cpu);
	kfree(d);
}

/* After detach, until the last write that carries our end_io has completed. */
static void end_work(struct work_struct *work)
{
	struct tm_disk *d = container_of(to_delayed_work(work), struct tm_disk, end);

	tm_kick(d);
	flush_work(&d->work); /* lets held writes go */
	if (tm_inflight(d, 0) || tm_inflight(d, 1) || READ_ONCE(d->nheld)) {
		queue_delayed_work(system_long_wq, &d->end, HZ / 20);
		return;
	}
	synchronize_rcu(); /* completions that counted down may still kick the worker */
	cancel_work_sync(&d->work);
	disk_free(d);
	if (atomic_dec_and_test(&ending))
		wake_up_all(&ended);
	module_put(THIS_MODULE); /* the exit function waits for this work to end */
}

static struct tm_disk *disk_new(void)
{
	struct tm_disk *d = kzalloc(sizeof(*d), GFP_KERNEL);

	if (!d)
		return NULL;
	spin_lock_init(&d->lock);
	INIT_LIST_HEAD(&d->held);
	INIT_LIST_HEAD(&d->claims);
	INIT_LIST_HEAD(&d->ready);
	bio_list_init(&d->bare);
	INIT_WORK(&d->work, tm_disk_work);
	INIT_DELAYED_WORK(&d->end, end_work);
	d->cpu = alloc_percpu(struct tm_percpu);
	d->images = kvcalloc(IMAGE_BUCKETS, sizeof(*d->images), GFP_KERNEL);
	if (d->cpu && d->images)
		return d;
	disk_free(d);
	return NULL;
}

/*
 * From here on every write is seen. Those that had passed the hook's place before are waited for: as requests in the
 * queue. A disk whose driver takes bios (dm, md, NVMe's multipath) has no such count, so nobody may be using it: it is
 * claimed until writes are seen.
 */
static int go_live(struct tm_disk *d, u32 *reason)
{
	struct block_device *bdev = tm_bdev_of(&d->bdev);
	bool takes_bios = !queue_is_mq(bdev_get_queue(bdev));
	struct tm_bdev claim;
	int err;

	if (takes_bios && tm_bdev_open(&claim, bdev->bd_dev, d)) {
		*reason = TMK_REFUSE_IN_USE;
		return -EBUSY;
	}
	err = tm_hook_start(reason);
	if (err)
		goto out;
	if (!tm_hook_works(bdev)) {
		if (list_empty(&tm_disks))
			tm_hook_stop();
		*reason = TMK_REFUSE_NO_HOOK;
		err = -EOPNOTSUPP;
		goto out;
	}
	list_add_tail_rcu(&d->list, &tm_disks);
	slots |= BIT_ULL(d->slot);
	tm_hook_add(d);
	synchronize_rcu();
	tm_wait_tasks();
	tm_queue_drain(bdev_get_queue(bdev));
out:
	if (takes_bios)
		tm_bdev_close(&claim);
	return err;
}

int tm_attach(struct tmk_attach *arg)
{
	struct tm_disk *d;
	int err;

	arg->reason = TMK_OK;
	if (tm_shutting_down())
		return refuse(arg, TMK_REFUSE_SHUTDOWN, -ESHUTDOWN);
	d = disk_new();
	if (!d)
		return -ENOMEM;
	err = tm_bdev_open(&d->bdev, MKDEV(arg->major, arg->minor), NULL);
	if (err)
		goto err_disk;
	err = check(tm_bdev_of(&d->bdev), arg);
	if (err)
		goto err_disk;
	d->gd = tm_bdev_of(&d->bdev)->bd_disk;
	d->sectors = get_capacity(d->gd);
	d->diskseq = tm_diskseq(d->gd);
	d->slot = ffz(slots);
	d->number = last_number + 1;
	strscpy(d->name, d->gd->disk_name, sizeof(d->name));
	atomic_set(&d->doubt, TMK_DOUBT_FRESH);
	err = -ENOMEM;
	rcu_assign_pointer(d->map[tm_epoch_of(tm_word) % TM_MAPS], tm_map_new(tm_disk_blocks(d)));
	if (!rcu_access_pointer(d->map[tm_epoch_of(tm_word) % TM_MAPS]))
		goto err_disk;
	if (list_empty(&tm_disks))
		tm_tracking_new(d->tracking);
	else
		generate_random_uuid(d->tracking);
	__module_get(THIS_MODULE);
	err = go_live(d, &arg->reason);
	if (err)
		goto err_module;
	last_number = d->number;
	arg->disk = d->number;
	arg->diskseq = d->diskseq;
	arg->sectors = d->sectors;
	return 0;

err_module:
	module_put(THIS_MODULE);
err_disk:
	disk_free(d);
	return err;
}

int tm_detach(u32 number)
{
	struct tm_disk *d = tm_disk_get(number);

	if (!d)
		return -ENODEV;
	tm_hook_remove(d);
	synchronize_rcu(); /* nobody holds or counts a new write */
	tm_epochs_detach(d);
	tm_persist_forget(d);
	spin_lock_irq(&d->lock);
	d->detached = true;
	spin_unlock_irq(&d->lock);
	list_del_rcu(&d->list);
	slots &= ~BIT_ULL(d->slot);
	if (list_empty(&tm_disks)) {
		tm_abort_all();
		tm_hook_stop();
	}
	atomic_inc(&ending);
	queue_delayed_work(system_long_wq, &d->end, 0);
	wait_event_timeout(
		ended, !atomic_read(&ending), 5 * HZ); /* else it goes on in the background */
	tm_event();
	return 0;
}

static void info_maps(struct tm_disk *d, struct tmk_info *arg)
{
	unsigned long epoch = tm_epoch_of(tm_word);
	struct tm_map *m;
	int i;

	for (i = 0; i < TM_MAPS; i++) {
		m = rcu_dereference_protected(d->map[i], lockdep_is_held(&tm_mutex));
		if (m && i == epoch % TM_MAPS)
			arg->dirty = tm_map_count(m, tm_disk_blocks(d));
		else if (m)
			arg->frozen = tm_map_count(m, tm_disk_blocks(d));
		arg->map_bytes += m ? tm_map_bytes(m) : 0;
		m = rcu_dereference_protected(d->kept[i], lockdep_is_held(&tm_mutex));
		arg->map_bytes += m ? tm_map_bytes(m) : 0;
	}
}

int tm_info(struct tmk_info *arg)
{
	u32 number = arg->disk, next = arg->flags & TMK_INFO_NEXT;
	struct tm_disk *d;
	bool found = false;
	int cpu;

	list_for_each_entry (d, &tm_disks, list) { /* numbers ascend along the list */
		found = next ? d->number >= number : d->number == number;
		if (found)
			break;
	}
	if (!found)
		return -ENODEV;
	if (!d->gone && !tm_disk_live(d->gd)) {
		d->gone = true;
		tm_event();
	}
	memset(arg, 0, sizeof(*arg));
	arg->disk = d->number;
	arg->major = MAJOR(tm_bdev_of(&d->bdev)->bd_dev);
	arg->minor = MINOR(tm_bdev_of(&d->bdev)->bd_dev);
	arg->diskseq = d->diskseq;
	memcpy(arg->name, d->name, sizeof(arg->name));
	memcpy(arg->tracking, d->tracking, sizeof(arg->tracking));
	arg->sectors = get_capacity(d->gd);
	arg->sector_size = bdev_logical_block_size(tm_bdev_of(&d->bdev));
	arg->gone = d->gone;
	arg->doubt = atomic_read(&d->doubt);
	arg->settled = tm_settled(d);
	info_maps(d, arg);
	spin_lock_irq(&d->lock);
	arg->undrained = d->undrained;
	arg->held = d->nheld;
	arg->images = d->nimages;
	arg->redirected = d->nredirected;
	arg->preserved = d->npreserved;
	arg->unreadable = d->nunreadable;
	arg->held_max_us = d->held_max_ns / NSEC_PER_USEC;
	spin_unlock_irq(&d->lock);
	arg->inflight = tm_inflight(d, 0) + tm_inflight(d, 1);
	for_each_possible_cpu (cpu)
		arg->writes += per_cpu_ptr(d->cpu, cpu)->writes;
	return 0;
}

void tm_disk_exit(void)
{
	wait_event(ended, !atomic_read(&ending));
}
