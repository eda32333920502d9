/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tidemark.ko, inside. docs/locking.md has the table of what protects what.
 *
 * Lock order: tm_mutex > tm_disk.lock > tm_state_lock.
 * The protocol (cut, settle, preserve, drain, commit, abort) is that of docs/model/model.pml; names in capitals in
 * comments (NO_HOLD, ABORT_BRK, ...) are the variants there that show why a rule is needed.
 */
#ifndef TM_TIDEMARK_H
#define TM_TIDEMARK_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "../common/tidemark_abi.h"
#include "compat/compat.h"
#include "map.h"

#define TM_BUILD   "0.1.0"
#define TM_SECTORS 8 /* of 512 bytes in a block */

/*
 * The state word, one for all disks, read in one load and written in one store (under tm_state_lock):
 * active epoch << 2 | TM_CUTTING | TM_FROZEN. TM_FROZEN: epoch - 1 is to be preserved.
 */
#define TM_CUTTING 1UL
#define TM_FROZEN  2UL
extern unsigned long tm_word;

static inline unsigned long tm_epoch_of(unsigned long word)
{
	return word >> 2;
}

#define TM_MAPS 4 /* an epoch's map is at index epoch % 4 until it is retired or merged */

struct tm_percpu {
	long inflight
		[2]; /* writes, by epoch parity; counted up and down on any CPU, only the sum has a meaning */
	u64 writes;
};

struct tm_excluded {
	u64 start, count;
	unsigned long
		written; /* blocks from start on, up to the last that was written to; only upwards */
};

struct tm_exclusion { /* RCU; its end may free blocks of the file, so the list is out of use before */
	const struct file *owner; /* descriptor of /dev/tidemark it ends with; NULL: none */
	struct file *pinned;      /* the file that lies there; NULL: user space vouches for it */
	u32 count;
	struct tm_excluded extents[];
};

struct tm_disk {
	/* read by the hook */
	struct hlist_node node; /* in the hook's hash, by gd; RCU */
	struct gendisk *gd;
	struct tm_percpu __percpu *cpu;
	struct tm_map __rcu *map[TM_MAPS];
	struct tm_map __rcu *kept
		[TM_MAPS]; /* of a frozen epoch: blocks drained or with an image: no need to preserve */
	struct tm_exclusion __rcu *excluded;
	struct tmk_extent *witness; /* sampled when maps are saved; under tm_mutex */
	u32 witnesses;
	atomic_t doubt;

	/* fixed while attached */
	struct list_head list; /* tm_disks; RCU */
	u32 number;
	unsigned int slot; /* index into tm_epoch.maps */
	struct tm_bdev bdev;
	char name[32];
	u64 diskseq;

	/* under tm_mutex */
	u64 sectors; /* size as the maps know it */
	u8 tracking[16];
	bool gone, restored;

	/* under lock (any context, interrupts off) */
	spinlock_t lock;
	struct list_head held;    /* tm_ctx: waiting for a decision */
	struct list_head claims;  /* tm_ctx: reading before-images; their blocks are busy */
	struct list_head ready;   /* tm_ctx: a claim's reads are over */
	struct bio_list bare;     /* held without a context */
	unsigned long bare_since; /* jiffies */
	struct bio *pass;         /* worker to hook: let go without a context */
	unsigned int nheld;
	bool detached;             /* nothing is held or marked any more */
	struct hlist_head *images; /* tm_image, by block: of the frozen epoch */
	u64 nimages, undrained, nredirected, npreserved, nunreadable, held_max_ns,
		held_us[TMK_HIST];
	unsigned long settled; /* the active epoch for which all older writes were seen complete */

	struct work_struct work; /* tm_disk_work: settles, preserves, releases */
	struct delayed_work end; /* after detach: frees the disk when its last write completed */
};

/* A write on its way. In flight: the hot part only. Held: all of it. */
struct tm_ctx {
	bio_end_io_t *end_io; /* what the bio had */
	void *private;
	struct tm_disk *disk;
	unsigned long
		epoch; /* in which it is counted; of a claim: the epoch that was active when it was made */
	struct bio *bio;
	struct list_head list;
	u64 since;               /* ktime ns of the first queueing */
	u64 first, end;          /* blocks */
	struct list_head images; /* tm_image, being read */
	atomic_t reads;
	bool broken; /* a read failed for a reason that lies not in the medium */
	bool claimed;
};

struct tm_image {
	union {
		struct hlist_node node; /* in tm_disk.images */
		struct list_head list;  /* in a claim, or being freed */
	};
	u64 block;
	struct page *page;
	bool alone;      /* its read failed together with others': to be read by itself */
	bool unreadable; /* page holds nothing */
	bool copied;     /* DRAIN has it in its buffer */
};

/* One cut's epoch, from cut to commit or abort. Under tm_mutex. */
struct tm_epoch {
	struct list_head list;
	struct tmk_id id, parent;
	struct file *owner;
	unsigned long number; /* in the state word's count */
	bool catchup;
	u64 disks;                          /* slots that are in it */
	struct tm_map *maps[TMK_MAX_DISKS]; /* once retired: by slot */
};

/* main.c */
extern struct mutex tm_mutex;
extern wait_queue_head_t tm_wait; /* settled, broken, gone: whoever polls or waits */
extern struct workqueue_struct *tm_wq;

/* hook.c: the write path. */
int tm_hook_start(u32 *reason); /* under tm_mutex; may sleep long */
void tm_hook_stop(void);
/*
 * Does what submit_bio() hands on come to the hook, and can it be kept from going on? A compiler may have merged the two
 * functions. Tried with an empty flush, which the disk sees only if the answer is no. Under tm_mutex; may sleep.
 */
bool tm_hook_works(struct block_device *bdev);
void tm_hook_add(struct tm_disk *d);
void tm_hook_remove(
	struct tm_disk *d); /* the hook may still be in it until a grace period has passed */
/*
 * Lets the bio enter the active epoch (marks, counts, interposes) if it need not be held: true. Any context, not in an
 * RCU section of the caller's. The bio is then the caller's to submit.
 */
bool tm_enter(struct tm_disk *d, struct tm_ctx *ctx);
bool tm_must_hold(
	struct tm_disk *d, unsigned long word, u64 first, u64 end); /* in an RCU section */
void tm_bio_blocks(struct bio *bio, u64 *first, u64 *end);
void tm_mark(struct tm_disk *d, u64 first, u64 end);
struct tm_ctx *tm_ctx_get(void); /* never sleeps; NULL without memory */
void tm_ctx_put(struct tm_ctx *ctx);
extern atomic_long_t tm_noctx; /* writes that got no context at once */
int tm_hook_init(void);
void tm_hook_exit(void);

/* held.c: the held writes and their worker. */
void tm_hold(
	struct tm_disk *d, struct bio *bio, struct tm_ctx *ctx); /* any context; ctx may be NULL */
void tm_kick(struct tm_disk *d);                                 /* runs the worker; any context */
void tm_kick_all(void);
void tm_disk_work(struct work_struct *work);
void tm_held_exit(void);

/* image.c: before-images and the memory they take. */
extern struct bio_set tm_own_bios;
extern atomic_long_t tm_image_bytes;
extern unsigned long tm_image_peak;
u64 tm_image_limit(void);
int tm_image_claim(struct tm_disk *d,
	struct tm_ctx *ctx); /* starts the reads; error: break the epoch. May sleep */
bool tm_image_retry(struct tm_disk *d,
	struct tm_ctx *ctx); /* reads again what failed in company; true: wait for it */
void tm_image_publish(struct tm_disk *d, struct tm_ctx *ctx);    /* the claim's reads are over */
struct tm_image *tm_image_find(struct tm_disk *d, u64 block);    /* under d->lock */
void tm_image_unhash(struct tm_disk *d, struct tm_image *image); /* under d->lock */
void tm_image_free(struct tm_image *image);
void tm_image_drop_all(struct tm_disk *d);
int tm_image_init(void);
void tm_image_exit(void);

/* epoch.c: the state machine. Calls are under tm_mutex unless they say otherwise. */
extern struct tm_stats {
	u64 cuts, commits, aborts, breaks, break_memory, break_deadline, break_error;
	u64 cut_us[TMK_HIST];
} tm_stats;
enum tm_break { TM_BREAK_MEMORY, TM_BREAK_DEADLINE, TM_BREAK_ERROR };
void tm_break(enum tm_break
		why); /* any context: the frozen epoch is broken, its blocks are preserved no more */
bool tm_broken(void);
void tm_event(void); /* any context */
int tm_cut(struct file *file, struct tmk_cut *arg, bool catchup);
int tm_commit(const struct tmk_commit *arg);
void tm_abort_all(void);
void tm_abort_owned(struct file *file);
void tm_epochs_detach(
	struct tm_disk *d); /* breaks the frozen epoch; drops the disk's maps of all others */
void tm_head(struct tmk_head *arg);
/* The epoch with this id: its map of a disk, and whether it is the frozen one; ESTALE, ENODEV. */
int tm_epoch_map(const struct tmk_id *id, struct tm_disk *d, struct tm_map **map, bool *frozen);
struct tm_map *tm_kept(struct tm_disk *d); /* of the frozen epoch */
bool tm_frozen_preserved(void);
bool tm_frozen_settled(void);
u64 tm_events(void);
void tm_tracking_new(u8 uuid[16]);
void tm_gate(bool shut); /* holds all writes; returns when no hook lets one pass any more */
struct tm_tracking;      /* save.h */
void tm_tracking_save(struct tm_tracking *t);
int tm_tracking_restore(const struct tm_tracking *t);
void tm_epoch_exit(void);

/* disk.c */
extern struct list_head tm_disks;        /* RCU; changed under tm_mutex */
struct tm_disk *tm_disk_get(u32 number); /* under tm_mutex */
int tm_attach(struct tmk_attach *arg);
int tm_detach(u32 number);
int tm_exclude(struct file *owner, const struct tmk_exclude *arg);
void tm_exclude_end(const struct file *owner);
void tm_exclusion_free(struct tm_exclusion *x); /* no hook may look at it any more; NULL is fine */
int tm_info(struct tmk_info *arg);
void tm_doubt(struct tm_disk *d, unsigned int why); /* any context */
u64 tm_inflight(struct tm_disk *d, unsigned int parity);
bool tm_settled(
	struct tm_disk *d); /* no write older than the active epoch is in flight; takes d->lock */
void tm_disk_resize(struct tm_disk *d); /* under tm_mutex, before a cut */
u64 tm_disk_blocks(const struct tm_disk *d);
void tm_disk_exit(void);

/* drain.c; under tm_mutex */
int tm_ranges(struct tmk_ranges *arg);
int tm_drain(struct tmk_drain *arg);

/* persist.c */
int tm_persist(struct tmk_persist *arg);
int tm_restore(struct tmk_restore *arg);
void tm_persist_forget(struct tm_disk *d);
void tm_persist_spoil(void); /* from the worker; not under tm_mutex there */
bool tm_shutting_down(void);
int tm_persist_init(void);
void tm_persist_exit(void);

/* power.c: hibernation puts all disks in doubt. */
int tm_power_init(void);
void tm_power_exit(void);

extern unsigned int tm_hold_ms, tm_image_kb;

static inline u64 tm_now(void)
{
	return ktime_get_ns();
}

/* The module's own I/O is none of its business. */
static __always_inline bool tm_own_bio(const struct bio *bio)
{
	return bio->bi_pool == &tm_own_bios;
}

/* The bucket of a histogram for a time. */
static inline unsigned int tm_bucket(u64 ns)
{
	u64 us = ns / NSEC_PER_USEC;

	return us ? min(ilog2(us), TMK_HIST - 1) : 0;
}

/* Copies extents from user space and checks them: ascending, non-empty, apart, below limit. kvfree() them. */
struct tmk_extent *tm_extents_get(u64 user, u32 count, u64 limit);

/* Test builds can switch single rules off, so that the tests prove that each is needed. */
#define TM_OFF_HOLD    1
#define TM_OFF_SETTLE  2
#define TM_OFF_IMAGES  4
#define TM_OFF_REENTRY 8
#define TM_OFF_BUSY    16
#define TM_OFF_HOOK    32  /* the hook does not see its probe */
#define TM_OFF_CTX     64  /* no context can be had */
#define TM_OFF_MEMORY  128 /* no memory for before-images but the reserve */
#ifdef TM_TEST
#define TM_IS_TEST true
extern unsigned int tm_test_off, tm_test_delay_us;
#define tm_off(rule) unlikely(READ_ONCE(tm_test_off) & (rule))
void tm_test_delay(
	struct bio *bio, bool dirty); /* in the hook, between reading the word and marking */
void tm_test_before_cut(void);
#else
#define TM_IS_TEST   false
#define tm_off(rule) false
static inline void tm_test_delay(struct bio *bio, bool dirty)
{
}

static inline void tm_test_before_cut(void)
{
}
#endif

#endif
