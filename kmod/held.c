// SPDX-License-Identifier: GPL-2.0-only
/*
 * Held writes. The hook only puts a bio on its disk's list; the disk's worker decides again, from the start:
 * held -> (blocks to be preserved: claims -> ready) -> entered and submitted. A write waits here for a cut to open,
 * for the disk to settle, for blocks that another write's claim makes busy, and for its own claim's reads; never for
 * user space. The timer sees to it that the deadline holds even if the worker is stuck in the block layer.
 */
#include <linux/rculist.h>
#include <linux/timer.h>
#include "tidemark.h"

#define TICK (HZ / 20)

static void tick(struct timer_list *unused);
static DEFINE_TIMER(timer, tick);

void tm_kick(struct tm_disk *d)
{
	queue_work(tm_wq, &d->work);
}

void tm_kick_all(void)
{
	struct tm_disk *d;

	rcu_read_lock();
	list_for_each_entry_rcu (d, &tm_disks, list)
		tm_kick(d);
	rcu_read_unlock();
}

void tm_hold(struct tm_disk *d, struct bio *bio, struct tm_ctx *ctx)
{
	unsigned long flags;

	tm_bio_unpoll(bio);         /* nobody polls for a bio that another thread submits */
	bio->bi_opf &= ~REQ_NOWAIT; /* the worker may wait; the submitter does not */
	spin_lock_irqsave(&d->lock, flags);
	if (ctx) {
		ctx->disk = d;
		ctx->since = tm_now();
		ctx->claimed = false;
		ctx->broken = false;
		INIT_LIST_HEAD(&ctx->images);
		list_add_tail(&ctx->list, &d->held);
	} else {
		if (bio_list_empty(&d->bare))
			d->bare_since = jiffies;
		bio_list_add(&d->bare, bio);
	}
	d->nheld++;
	d->nredirected++;
	if (!timer_pending(&timer))
		mod_timer(&timer, jiffies + TICK);
	spin_unlock_irqrestore(&d->lock, flags);
	tm_kick(d);
}

/* now may lie before a write's since: it was read before the lock was taken. */
static bool overdue(struct list_head *list, u64 now)
{
	u64 hold = (u64)READ_ONCE(tm_hold_ms) * NSEC_PER_MSEC;
	struct tm_ctx *ctx;

	list_for_each_entry (ctx, list, list)
		if (now > ctx->since + hold)
			return true;
	return false;
}

/* Looks after the deadline of all held writes. */
static void tick(struct timer_list *unused)
{
	struct tm_disk *d;
	bool more = false, late = false;
	u64 now = tm_now();

	rcu_read_lock();
	list_for_each_entry_rcu (d, &tm_disks, list) {
		unsigned long flags;

		spin_lock_irqsave(&d->lock, flags);
		if (d->nheld) {
			more = true;
			late |= overdue(&d->held, now) || overdue(&d->claims, now);
			tm_kick(d);
		}
		spin_unlock_irqrestore(&d->lock, flags);
	}
	rcu_read_unlock();
	if (late)
		tm_break(TM_BREAK_DEADLINE);
	if (more)
		mod_timer(&timer, jiffies + TICK);
}

static bool past_deadline(unsigned long since)
{
	return time_after(jiffies, since + msecs_to_jiffies(READ_ONCE(tm_hold_ms)));
}

/*
 * Bios that got no context: given one now, or, past the deadline, let go uncounted: then the map can't be trusted any
 * more. (Marking them in two epochs instead is not enough: NOCTX_NEXT, NOCTX_FRZ.)
 */
static void work_bare(struct tm_disk *d)
{
	for (;;) {
		struct tm_ctx *ctx = tm_ctx_get();
		struct bio *bio;

		spin_lock_irq(&d->lock);
		if (!ctx && !bio_list_empty(&d->bare) && !past_deadline(d->bare_since) &&
			!d->detached) {
			spin_unlock_irq(&d->lock);
			return;
		}
		bio = bio_list_pop(&d->bare);
		if (bio && ctx) {
			ctx->disk = d;
			ctx->bio = bio;
			ctx->since = tm_now();
			ctx->claimed = false;
			ctx->broken = false;
			INIT_LIST_HEAD(&ctx->images);
			tm_bio_blocks(bio, &ctx->first, &ctx->end);
			list_add_tail(&ctx->list, &d->held);
		} else if (bio) {
			d->nheld--;
		}
		spin_unlock_irq(&d->lock);
		if (!bio) {
			if (ctx)
				tm_ctx_put(ctx);
			return;
		}
		if (!ctx) {
			WRITE_ONCE(d->pass,
				bio); /* the hook lets it through if it still has no context for it */
			submit_bio_noacct(bio);
			WRITE_ONCE(d->pass, NULL);
		}
	}
}

/* Claims whose reads are over: their images are published, and they are decided upon again. */
static void work_ready(struct tm_disk *d)
{
	struct tm_ctx *ctx, *next;
	LIST_HEAD(ready);

	spin_lock_irq(&d->lock);
	list_splice_init(&d->ready, &ready);
	spin_unlock_irq(&d->lock);
	list_for_each_entry_safe (ctx, next, &ready, list) {
		if (tm_image_retry(d, ctx))
			continue;
		if (ctx->broken)
			tm_break(TM_BREAK_ERROR);
		tm_image_publish(d, ctx); /* back on the held list, in front */
	}
}

/* Does the range touch blocks that another write's claim is preserving? Under d->lock. */
static bool is_busy(struct tm_disk *d, const struct tm_ctx *ctx)
{
	struct tm_ctx *other;

	list_for_each_entry (other, &d->claims, list)
		if (ctx->first < other->end && other->first < ctx->end)
			return true;
	list_for_each_entry (other, &d->ready, list)
		if (ctx->first < other->end && other->first < ctx->end)
			return true;
	return false;
}

enum verdict { WAIT, ENTER, CLAIM, SKIP };

/* Under d->lock. */
static enum verdict decide(struct tm_disk *d, struct tm_ctx *ctx, unsigned long *epoch)
{
	enum verdict v = CLAIM;
	unsigned long word;

	if (d->detached)
		return ENTER;
	preempt_disable();
	word = READ_ONCE(tm_word);
	if (word & TM_CUTTING)
		v = WAIT;
	else if (!tm_must_hold(d, word, ctx->first, ctx->end))
		v = ENTER;
	else if (bio_op(ctx->bio) == REQ_OP_DISCARD)
		v = SKIP; /* advice: not taken where it would destroy what is to be drained */
	else if (d->settled != tm_epoch_of(word) || is_busy(d, ctx))
		v = WAIT;
	preempt_enable();
	*epoch = tm_epoch_of(word);
	return v;
}

static void released(struct tm_disk *d, struct tm_ctx *ctx)
{
	u64 ns = tm_now() - ctx->since;

	d->nheld--;
	if (ns > d->held_max_ns)
		d->held_max_ns = ns;
	d->held_us[tm_bucket(ns)]++;
}

/* The next held write that need not wait is taken off the list; WAIT: there is none. */
static enum verdict pick(struct tm_disk *d, struct tm_ctx **out)
{
	struct tm_ctx *ctx;
	unsigned long epoch = 0;
	enum verdict v = WAIT;

	spin_lock_irq(&d->lock);
	list_for_each_entry (ctx, &d->held, list) {
		v = decide(d, ctx, &epoch);
		if (v != WAIT)
			break;
	}
	if (v == CLAIM) {
		ctx->claimed = true;
		ctx->epoch = epoch;
		list_move_tail(&ctx->list, &d->claims);
	} else if (v != WAIT) {
		list_del(&ctx->list);
	}
	if (v == SKIP)
		released(d, ctx);
	spin_unlock_irq(&d->lock);
	*out = ctx;
	return v;
}

static void submit(struct tm_disk *d, struct tm_ctx *ctx)
{
	struct bio *bio = ctx->bio;
	bool detached;

	spin_lock_irq(&d->lock);
	detached = d->detached;
	spin_unlock_irq(&d->lock);
	if (!detached && !tm_enter(d, ctx)) { /* the world moved: once more */
		spin_lock_irq(&d->lock);
		list_add(&ctx->list, &d->held);
		spin_unlock_irq(&d->lock);
		return;
	}
	spin_lock_irq(&d->lock);
	released(d, ctx);
	spin_unlock_irq(&d->lock);
	if (detached)
		tm_ctx_put(ctx);
	submit_bio_noacct(
		bio); /* ours now by its bi_end_io, or the disk is no longer in the hash: passes untouched */
}

static void work_held(struct tm_disk *d)
{
	struct blk_plug plug;
	struct tm_ctx *ctx;
	enum verdict v;

	blk_start_plug(&plug);
	while ((v = pick(d, &ctx)) != WAIT) {
		if (v == CLAIM) {
			if (tm_image_claim(d, ctx))
				tm_break(TM_BREAK_MEMORY);
		} else if (v == SKIP) {
			struct bio *bio = ctx->bio;

			tm_ctx_put(ctx);
			bio_endio(bio);
		} else {
			submit(d, ctx);
		}
	}
	blk_finish_plug(&plug);
}

static bool has_ready(struct tm_disk *d)
{
	bool yes;

	spin_lock_irq(&d->lock);
	yes = !list_empty(&d->ready);
	spin_unlock_irq(&d->lock);
	return yes;
}

void tm_disk_work(struct work_struct *work)
{
	struct tm_disk *d = container_of(work, struct tm_disk, work);

	if (tm_settled(d))
		wake_up_all(&tm_wait);
	if (READ_ONCE(d->nheld))
		tm_persist_spoil();
	do {
		work_ready(d);
		work_bare(d);
		work_held(d);
	} while (has_ready(d));
}

void tm_held_exit(void)
{
	timer_delete_sync(&timer);
}
