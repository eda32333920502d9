/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All differences between kernels. compat/probe.sh compiles the programs in probe/ and writes HAVE_<NAME> 0|1 into
 * tm-config.h; the sources are written for what this header provides.
 */
#ifndef TM_COMPAT_H
#define TM_COMPAT_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/blk-mq.h>
#include <linux/ctype.h>
#include <linux/ftrace.h>
#include <linux/rcupdate.h>
#include <linux/string.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include "tm-config.h"

#ifndef CONFIG_64BIT
#error "tidemark needs a 64-bit kernel: its state word is read in one load"
#endif
#if !defined(CONFIG_DYNAMIC_FTRACE_WITH_REGS) && !defined(CONFIG_DYNAMIC_FTRACE_WITH_ARGS)
#error "tidemark needs CONFIG_DYNAMIC_FTRACE_WITH_REGS or _WITH_ARGS"
#endif

#if HAVE_WQ_PERCPU
#define TM_WQ_PERCPU WQ_PERCPU
#else
#define TM_WQ_PERCPU 0
#endif

/* What submit_bio_noacct() returns. */
#if HAVE_SUBMIT_VOID
typedef void tm_submit_t;
#define TM_SUBMIT_DONE
#else
typedef blk_qc_t tm_submit_t;
#define TM_SUBMIT_DONE BLK_QC_T_NONE
#endif

/* Registers as an ftrace callback gets them. */
#if HAVE_FTRACE_REGS
typedef struct ftrace_regs tm_fregs_t;
#else
typedef struct pt_regs tm_fregs_t;
#endif

static __always_inline struct bio *tm_fregs_bio(tm_fregs_t *fregs)
{
#if HAVE_FTRACE_GET_ARGUMENT
	return (struct bio *)ftrace_regs_get_argument(fregs, 0);
#elif HAVE_FTRACE_REGS
	return (struct bio *)regs_get_kernel_argument(&fregs->regs, 0);
#else
	return (struct bio *)regs_get_kernel_argument(fregs, 0);
#endif
}

static __always_inline void tm_fregs_goto(tm_fregs_t *fregs, unsigned long ip)
{
#if HAVE_FTRACE_SET_IP
	ftrace_regs_set_instruction_pointer(fregs, ip);
#elif HAVE_FTRACE_IP_SET
	ftrace_instruction_pointer_set(fregs, ip);
#elif HAVE_FTRACE_REGS
	fregs->regs.ip = ip;
#else
	instruction_pointer_set(fregs, ip);
#endif
}

/* Full registers only where a redirect needs them; and the flag by which a callback says that it guards itself. */
#ifdef CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS
#define TM_FTRACE_REGS 0
#else
#define TM_FTRACE_REGS FTRACE_OPS_FL_SAVE_REGS
#endif
#if HAVE_FTRACE_RECURSION_SAFE
#define TM_FTRACE_FLAGS (TM_FTRACE_REGS | FTRACE_OPS_FL_RECURSION_SAFE)
#else
#define TM_FTRACE_FLAGS TM_FTRACE_REGS
#endif

/* Waits until every task has been off the CPU of its own will: it has left code that it was preempted in. */
static inline void tm_wait_tasks(void)
{
#if HAVE_RCU_TASKS
	synchronize_rcu_tasks();
#else
	synchronize_rcu();
#endif
}

/* The whole disk a bio goes to, and its first sector there. */
static __always_inline struct gendisk *tm_bio_disk(struct bio *bio)
{
#if HAVE_BI_BDEV
	return bio->bi_bdev->bd_disk;
#else
	return bio->bi_disk;
#endif
}

static inline u64 tm_bio_sector(struct bio *bio)
{
#if HAVE_BI_BDEV
	u64 start = bio_flagged(bio, BIO_REMAPPED) ? 0 : get_start_sect(bio->bi_bdev);
#else
	struct disk_part_tbl *table;
	struct hd_struct *part;
	u64 start = 0;

	if (bio->bi_partno) { /* zero once remapped */
		rcu_read_lock();
		table = rcu_dereference(bio->bi_disk->part_tbl);
		part = bio->bi_partno < table->len ? rcu_dereference(table->part[bio->bi_partno])
						   : NULL;
		start = part ? part->start_sect : 0;
		rcu_read_unlock();
	}
#endif
	return start + bio->bi_iter.bi_sector;
}

static inline void tm_bio_unpoll(struct bio *bio)
{
#if HAVE_BIO_CLEAR_POLLED
	bio_clear_polled(bio);
#else
	bio->bi_opf &= ~REQ_HIPRI;
#endif
}

#if HAVE_BLK_OPF_T
typedef blk_opf_t tm_opf_t;
#else
typedef unsigned int tm_opf_t;
#endif

static inline struct bio *tm_bio_alloc(
	struct block_device *bdev, unsigned int pages, tm_opf_t opf, struct bio_set *bs)
{
#if HAVE_BIO_ALLOC_BDEV
	return bio_alloc_bioset(bdev, pages, opf, GFP_NOIO, bs);
#else
	struct bio *bio = bio_alloc_bioset(GFP_NOIO, pages, bs);

	bio_set_dev(bio, bdev);
	bio->bi_opf = opf;
	return bio;
#endif
}

/* An open whole disk, read-only; with a holder: claimed, as a mount claims it. */
struct tm_bdev {
	void *holder;
#if HAVE_BDEV_FILE
	struct file *open;
#elif HAVE_BDEV_HANDLE
	struct bdev_handle *open;
#else
	struct block_device *open;
#endif
};

static inline int tm_bdev_open(struct tm_bdev *b, dev_t dev, void *holder)
{
	int err;

	b->holder = holder;
#if HAVE_BDEV_FILE
	b->open = bdev_file_open_by_dev(dev, BLK_OPEN_READ, holder, NULL);
#elif HAVE_BDEV_HANDLE
	b->open = bdev_open_by_dev(dev, BLK_OPEN_READ, holder, NULL);
#elif HAVE_BLK_HOLDER_OPS
	b->open = blkdev_get_by_dev(dev, BLK_OPEN_READ, holder, NULL);
#else
	b->open = blkdev_get_by_dev(dev, FMODE_READ | (holder ? FMODE_EXCL : 0), holder);
#endif
	if (!IS_ERR(b->open))
		return 0;
	err = PTR_ERR(b->open);
	b->open = NULL;
	return err;
}

static inline struct block_device *tm_bdev_of(const struct tm_bdev *b)
{
#if HAVE_BDEV_FILE
	return file_bdev(b->open);
#elif HAVE_BDEV_HANDLE
	return b->open->bdev;
#else
	return b->open;
#endif
}

static inline void tm_bdev_close(struct tm_bdev *b)
{
#if HAVE_BDEV_FILE
	bdev_fput(b->open);
#elif HAVE_BDEV_HANDLE
	bdev_release(b->open);
#elif HAVE_BLK_HOLDER_OPS
	blkdev_put(b->open, b->holder);
#else
	blkdev_put(b->open, FMODE_READ | (b->holder ? FMODE_EXCL : 0));
#endif
	b->open = NULL;
}

static inline u64 tm_diskseq(const struct gendisk *gd)
{
#if HAVE_DISKSEQ
	return gd->diskseq;
#else
	return 0;
#endif
}

static inline bool tm_disk_live(struct gendisk *gd)
{
#if HAVE_GENHD_FL_UP
	return gd->flags & GENHD_FL_UP;
#elif HAVE_GD_DEAD
	return !test_bit(GD_DEAD, &gd->state);
#else
	return true;
#endif
}

/* Waits until all requests that are in the queue now are over. */
static inline void tm_queue_drain(struct request_queue *q)
{
#if HAVE_FREEZE_MEMFLAGS
	unsigned int flags = blk_mq_freeze_queue(q);

	blk_mq_unfreeze_queue(q, flags);
#else
	blk_mq_freeze_queue(q);
	blk_mq_unfreeze_queue(q);
#endif
}

#endif
