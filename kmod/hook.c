// SPDX-License-Identifier: GPL-2.0-only
/*
 * The hook: every bio of the machine passes here before it enters the block layer. What it does for a write to an
 * attached disk is decided in one read-side section: enter the active epoch (marked, counted, end_io interposed), or
 * be put on the held list. It takes no lock unless the write is held, and never sleeps.
 */
#include <linux/delay.h>
#include <linux/ftrace.h>
#include <linux/hash.h>
#include <linux/mempool.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include "tidemark.h"

#define DISK_BITS 7
#define RESERVE   1024 /* contexts that are there when memory is not */

static struct hlist_head hash[1 << DISK_BITS];
static struct kmem_cache *ctx_cache;
static mempool_t *ctx_pool;
static bool armed;        /* under tm_mutex */
static struct bio *probe; /* of tm_hook_works(): not to go on */
atomic_long_t tm_noctx;
unsigned long tm_word = 1UL << 2;

struct tm_ctx *tm_ctx_get(void)
{
	if (tm_off(TM_OFF_CTX))
		return NULL;
	return mempool_alloc(ctx_pool, GFP_NOWAIT | __GFP_NOWARN);
}

void tm_ctx_put(struct tm_ctx *ctx)
{
	mempool_free(ctx, ctx_pool);
}

static struct tm_disk *find_disk(const struct gendisk *gd)
{
	struct tm_disk *d;

	hlist_for_each_entry_rcu (d, &hash[hash_ptr(gd, DISK_BITS)], node)
		if (d->gd == gd)
			return d;
	return NULL;
}

void tm_hook_add(struct tm_disk *d)
{
	hlist_add_head_rcu(&d->node, &hash[hash_ptr(d->gd, DISK_BITS)]);
}

void tm_hook_remove(struct tm_disk *d)
{
	hlist_del_rcu(&d->node);
}

void tm_bio_blocks(struct bio *bio, u64 *first, u64 *end)
{
	u64 sector = tm_bio_sector(bio);

	*first = sector / TM_SECTORS;
	*end = DIV_ROUND_UP_ULL(sector + bio_sectors(bio), TM_SECTORS);
}

static void note_written(struct tm_excluded *e, unsigned long blocks)
{
	unsigned long was = READ_ONCE(e->written), seen;

	while (was < blocks) {
		seen = cmpxchg(&e->written, was, blocks);
		if (seen == was)
			return;
		was = seen;
	}
}

static bool is_excluded(struct tm_disk *d, u64 first, u64 end)
{
	struct tm_exclusion *x = rcu_dereference_check(d->excluded, true);
	struct tm_excluded *e;
	u32 lo = 0, hi;

	if (likely(!x))
		return false;
	for (hi = x->count; lo < hi;) { /* the last extent that starts at or before first */
		u32 mid = lo + (hi - lo) / 2;

		if (x->extents[mid].start <= first)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return false;
	e = &x->extents[lo - 1];
	if (end > e->start + e->count)
		return false;
	note_written(e, end - e->start);
	return true;
}

bool tm_must_hold(struct tm_disk *d, unsigned long word, u64 first, u64 end)
{
	unsigned long frozen = tm_epoch_of(word) - 1;
	struct tm_map *map;

	if (likely(!(word & (TM_CUTTING | TM_FROZEN))))
		return false;
	if (word & TM_CUTTING)
		return true;
	if (tm_off(TM_OFF_IMAGES))
		return false;
	map = rcu_dereference_check(d->map[frozen % TM_MAPS], true);
	if (!map)
		return false;
	return tm_map_any(map, rcu_dereference_check(d->kept[frozen % TM_MAPS], true), first, end);
}

static struct tm_map *active_rcu(struct tm_disk *d, unsigned long word)
{
	return rcu_dereference_check(d->map[tm_epoch_of(word) % TM_MAPS], true);
}

static void mark_rcu(struct tm_disk *d, unsigned long word, u64 first, u64 end)
{
	tm_map_set(active_rcu(d, word), first, end);
}

void tm_mark(struct tm_disk *d, u64 first, u64 end)
{
	preempt_disable(); /* the cut's grace period covers this */
	mark_rcu(d, READ_ONCE(tm_word), first, end);
	preempt_enable();
}

/*
 * Completion of a write that entered. Both fields are given back and the bio ended a second time, as dm-snapshot does:
 * calling the saved function would go wrong for chained bios. The bio is not ours after that.
 *
 * Counting down and looking at the state word are one read-side section: it either ends before the grace period of
 * the cut does, and then the cut sees the count, or it sees the cut's word, and then it tells the worker.
 */
static void tm_endio(struct bio *bio)
{
	struct tm_ctx *ctx = bio->bi_private;
	struct tm_disk *d = ctx->disk;

	bio->bi_end_io = ctx->end_io;
	bio->bi_private = ctx->private;
	preempt_disable();
	this_cpu_dec(d->cpu->inflight[ctx->epoch & 1]);
	if (unlikely(ctx->epoch != tm_epoch_of(READ_ONCE(tm_word)) || !bio_list_empty(&d->bare)))
		tm_kick(d);
	preempt_enable();
	tm_ctx_put(ctx);
	bio_endio(bio);
}

/* In the read-side section in which the word was read. */
static void enter_rcu(struct tm_disk *d, unsigned long word, struct tm_ctx *ctx)
{
	struct bio *bio = ctx->bio;

	ctx->disk = d;
	ctx->epoch = tm_epoch_of(word);
	tm_test_delay(bio, TM_IS_TEST && tm_map_test(active_rcu(d, word), ctx->first));
	mark_rcu(d, word, ctx->first, ctx->end);
	this_cpu_inc(d->cpu->inflight[ctx->epoch & 1]);
	ctx->end_io = bio->bi_end_io;
	ctx->private = bio->bi_private;
	bio->bi_end_io = tm_endio;
	bio->bi_private = ctx;
}

bool tm_enter(struct tm_disk *d, struct tm_ctx *ctx)
{
	unsigned long word;
	bool hold;

	preempt_disable();
	word = READ_ONCE(tm_word);
	hold = tm_must_hold(d, word, ctx->first, ctx->end);
	if (!hold)
		enter_rcu(d, word, ctx);
	preempt_enable();
	return !hold;
}

/*
 * A write that waited for a context long enough goes on without one. It is nobody's to settle, and preserves nothing:
 * an epoch that needed that is broken before the write can reach the disk.
 */
static void pass_rcu(struct tm_disk *d, u64 first, u64 end)
{
	if (tm_must_hold(d, READ_ONCE(tm_word), first, end))
		tm_break(TM_BREAK_MEMORY);
	mark_rcu(d, READ_ONCE(tm_word), first, end);
	tm_doubt(d, TMK_DOUBT_LOST);
}

/* True: the bio has been taken over and must not go on. Preemption is off. */
static bool first_pass(struct tm_disk *d, struct bio *bio)
{
	struct tm_ctx *ctx;
	unsigned long word;
	u64 first, end;

	tm_bio_blocks(bio, &first, &end);
	if (is_excluded(d, first, end))
		return false;
	this_cpu_inc(d->cpu->writes);
	ctx = tm_ctx_get();
	if (likely(ctx)) {
		ctx->bio = bio;
		ctx->first = first;
		ctx->end = end;
		word = READ_ONCE(tm_word); /* decide first: one load of the one word */
		if (likely(!tm_must_hold(d, word, first, end))) {
			enter_rcu(d, word, ctx);
			return false;
		}
	}
	if (unlikely(!ctx))
		atomic_long_inc(&tm_noctx);
	if (unlikely(!ctx && bio == READ_ONCE(d->pass))) {
		pass_rcu(d, first, end);
		return false;
	}
	tm_hold(d, bio, ctx);
	return true;
}

/* Where a held bio's submitter comes out: there is nothing left for it to do. */
static noinline tm_submit_t swallow(struct bio *bio)
{
	return TM_SUBMIT_DONE;
}

/*
 * No recursion guard: nothing that is called from here submits a bio in the same context, and a guard's false alarm
 * would be a write that nobody saw.
 */
static void notrace tm_callback(
	unsigned long ip, unsigned long parent, struct ftrace_ops *ops, tm_fregs_t *fregs)
{
	struct bio *bio = tm_fregs_bio(fregs);
	struct tm_disk *d;

	if (!op_is_write(bio_op(bio)))
		return;
	if (!bio->bi_iter.bi_size) { /* an empty flush; one with data is a write like any other */
		if (unlikely(bio == READ_ONCE(probe)) && !tm_off(TM_OFF_HOOK)) {
			WRITE_ONCE(probe, NULL);
			tm_fregs_goto(fregs, (unsigned long)swallow);
		}
		return;
	}
	preempt_disable_notrace();
	d = find_disk(tm_bio_disk(bio));
	if (d && (bio->bi_end_io != tm_endio || tm_off(TM_OFF_REENTRY)) && !tm_own_bio(bio) &&
		first_pass(d, bio))
		tm_fregs_goto(fregs, (unsigned long)swallow);
	preempt_enable_notrace();
}

static struct ftrace_ops ops = {
	.func = tm_callback,
	.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT | TM_FTRACE_FLAGS,
};

static int no_hook(int err, u32 *reason)
{
	if (err == -ENOMEM)
		return err; /* may go well another time */
	*reason = err == -EBUSY ? TMK_REFUSE_HOOK_BUSY : TMK_REFUSE_NO_HOOK;
	return err == -EBUSY ? -EBUSY : -EOPNOTSUPP;
}

int tm_hook_start(u32 *reason)
{
	unsigned long ip = (unsigned long)submit_bio_noacct;
	int err;

	if (armed)
		return 0;
	err = ftrace_set_filter_ip(&ops, ip, 0, 1);
	if (err)
		return no_hook(err, reason);
	err = register_ftrace_function(&ops);
	if (err) {
		ftrace_set_filter_ip(&ops, ip, 1, 0);
		return no_hook(err, reason);
	}
	armed = true;
	return 0;
}

void tm_hook_stop(void)
{
	int err;

	if (!armed)
		return;
	err = unregister_ftrace_function(
		&ops); /* nobody is in the callback or its trampoline after this */
	WARN_ON_ONCE(err);
	ftrace_set_filter_ip(&ops, (unsigned long)submit_bio_noacct, 1, 0);
	armed = false;
}

static void probe_done(struct bio *bio)
{
	complete(bio->bi_private);
}

bool tm_hook_works(struct block_device *bdev)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct bio *bio = tm_bio_alloc(bdev, 0, REQ_OP_WRITE | REQ_PREFLUSH, &tm_own_bios);
	bool seen;

	bio->bi_end_io = probe_done;
	bio->bi_private = &done;
	WRITE_ONCE(probe, bio);
	submit_bio(bio);
	seen = !READ_ONCE(probe);
	WRITE_ONCE(probe, NULL);
	if (!seen)
		wait_for_completion(&done);
	bio_put(bio);
	return seen;
}

int tm_hook_init(void)
{
	ctx_cache = kmem_cache_create(
		"tidemark_ctx", sizeof(struct tm_ctx), 0, SLAB_HWCACHE_ALIGN, NULL);
	if (!ctx_cache)
		return -ENOMEM;
	ctx_pool = mempool_create_slab_pool(RESERVE, ctx_cache);
	if (!ctx_pool) {
		kmem_cache_destroy(ctx_cache);
		return -ENOMEM;
	}
	return 0;
}

void tm_hook_exit(void)
{
	/* tm_hook_stop() may have had no memory for this; the filter would be lost with the module. */
	while (ftrace_set_filter_ip(&ops, (unsigned long)submit_bio_noacct, 1, 0) == -ENOMEM)
		msleep(20);
	mempool_destroy(ctx_pool);
	kmem_cache_destroy(ctx_cache);
}
