// SPDX-License-Identifier: GPL-2.0-only
/* Before-images: claimed and read by the disk's worker, published under the disk's lock, taken away by DRAIN. */
#include <linux/hash.h>
#include <linux/mempool.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include "tidemark.h"

#define IMAGE_BITS 12
#define READ_MAX   128 /* blocks in one read */
#define RESERVE    128 /* pages for the maps that are there when memory is not */
#define RESERVED   256 /* before-images, the same */

struct read {
	struct tm_ctx *ctx;
	u64 first;
	unsigned int n;
	struct bio bio; /* last: the bio set's front padding */
};

atomic_long_t tm_image_bytes;
unsigned long tm_image_peak;
static struct kmem_cache *image_cache;
static mempool_t *image_pool, *page_pool;
struct bio_set tm_own_bios;

static struct {
	spinlock_t lock;
	unsigned int n;
	void *page[RESERVE];
} reserve = {.lock = __SPIN_LOCK_UNLOCKED(reserve.lock)};

static void refill(struct work_struct *unused)
{
	unsigned long flags;
	void *page;

	while (READ_ONCE(reserve.n) < RESERVE && (page = (void *)get_zeroed_page(GFP_NOIO))) {
		spin_lock_irqsave(&reserve.lock, flags);
		if (reserve.n < RESERVE) {
			reserve.page[reserve.n++] = page;
			page = NULL;
		}
		spin_unlock_irqrestore(&reserve.lock, flags);
		free_page((unsigned long)page);
	}
}
static DECLARE_WORK(refill_work, refill);

void *tm_page_get(void)
{
	void *page = (void *)get_zeroed_page(GFP_NOWAIT | __GFP_NOWARN);
	unsigned long flags;

	if (likely(page))
		return page;
	spin_lock_irqsave(&reserve.lock, flags);
	if (reserve.n)
		page = reserve.page[--reserve.n];
	spin_unlock_irqrestore(&reserve.lock, flags);
	queue_work(tm_wq, &refill_work);
	return page;
}

void tm_page_put(void *page)
{
	free_page((unsigned long)page);
}

u64 tm_image_limit(void)
{
	u64 kb = READ_ONCE(tm_image_kb);

	if (kb)
		return kb * 1024;
	return clamp_t(u64, (u64)totalram_pages() * PAGE_SIZE / 32, 1 << 20, 1 << 30);
}

static struct hlist_head *bucket(struct tm_disk *d, u64 block)
{
	return &d->images[hash_64(block, IMAGE_BITS)];
}

struct tm_image *tm_image_find(struct tm_disk *d, u64 block)
{
	struct tm_image *image;

	hlist_for_each_entry(image, bucket(d, block), node) if (image->block == block) return image;
	return NULL;
}

void tm_image_unhash(struct tm_disk *d, struct tm_image *image)
{
	hlist_del(&image->node);
	d->nimages--;
}

/* How the pool gets its pages. */
static void *pool_page(gfp_t gfp, void *unused)
{
	return tm_off(TM_OFF_MEMORY) ? NULL : alloc_page(gfp);
}

static void pool_page_free(void *page, void *unused)
{
	__free_page(page);
}

/* Zeroed. Memory first, so that the reserve is there when that is short; never waits for the reserve to fill. */
static struct page *image_page(void)
{
	struct page *page = pool_page(GFP_NOIO | __GFP_ZERO | __GFP_NOWARN | __GFP_NORETRY, NULL);

	if (page)
		return page;
	page = mempool_alloc(page_pool, GFP_NOWAIT | __GFP_NOWARN);
	if (page)
		clear_page(page_address(page));
	return page;
}

static struct tm_image *image_new(u64 block)
{
	struct tm_image *image =
		kmem_cache_alloc(image_cache, GFP_NOIO | __GFP_NOWARN | __GFP_NORETRY);
	unsigned long now;

	if (!image)
		image = mempool_alloc(image_pool, GFP_NOWAIT | __GFP_NOWARN);
	if (!image)
		return NULL;
	memset(image, 0, sizeof(*image));
	image->block = block;
	image->page = image_page();
	if (!image->page) {
		mempool_free(image, image_pool);
		return NULL;
	}
	now = atomic_long_add_return(PAGE_SIZE, &tm_image_bytes);
	if (now > READ_ONCE(tm_image_peak))
		WRITE_ONCE(tm_image_peak, now); /* a statistic: a race may lose a page */
	if (now <= tm_image_limit())
		return image;
	tm_image_free(image);
	return NULL;
}

void tm_image_free(struct tm_image *image)
{
	mempool_free(image->page, page_pool);
	atomic_long_sub(PAGE_SIZE, &tm_image_bytes);
	mempool_free(image, image_pool);
}

static void free_list(struct list_head *list)
{
	struct tm_image *image, *next;

	list_for_each_entry_safe (image, next, list, list)
		tm_image_free(image);
	INIT_LIST_HEAD(list);
}

void tm_image_drop_all(struct tm_disk *d)
{
	struct tm_image *image;
	struct hlist_node *next;
	LIST_HEAD(dead);
	int i;

	for (i = 0; i < 1 << IMAGE_BITS; i++) {
		spin_lock_irq(&d->lock);
		hlist_for_each_entry_safe(image, next, &d->images[i], node)
		{
			tm_image_unhash(d, image);
			list_add(&image->list, &dead);
		}
		spin_unlock_irq(&d->lock);
	}
	free_list(&dead);
}

/* One read of the claim is over; after the last, the worker goes on with it. Any context. */
static void read_done(struct tm_ctx *ctx)
{
	struct tm_disk *d = ctx->disk;
	unsigned long flags;

	if (!atomic_dec_and_test(&ctx->reads))
		return;
	spin_lock_irqsave(&d->lock, flags);
	list_move_tail(&ctx->list, &d->ready);
	tm_kick(d);
	spin_unlock_irqrestore(&d->lock, flags);
}

/* Errors that say "this place cannot be read", as against "the device cannot be asked now". */
static bool is_medium(blk_status_t status)
{
	return status == BLK_STS_MEDIUM || status == BLK_STS_IOERR ||
	       status == BLK_STS_PROTECTION || status == BLK_STS_TARGET;
}

static void read_endio(struct bio *bio)
{
	struct read *r = container_of(bio, struct read, bio);
	struct tm_ctx *ctx = r->ctx;
	struct tm_image *image;

	if (unlikely(bio->bi_status)) {
		list_for_each_entry (image, &ctx->images, list) {
			if (image->block < r->first || image->block >= r->first + r->n)
				continue;
			if (r->n > 1)
				image->alone = true;
			else
				image->unreadable = true;
		}
		if (r->n == 1 && !is_medium(bio->bi_status))
			WRITE_ONCE(ctx->broken, true);
	}
	bio_put(bio);
	read_done(ctx);
}

/* Reads images from *image on, as many as lie side by side; moves *image past them. */
static void read_run(struct tm_disk *d, struct tm_ctx *ctx, struct tm_image **image, bool alone)
{
	struct tm_image *i = *image, *next;
	u64 sectors = get_capacity(d->gd), block = i->block;
	struct bio *bio = tm_bio_alloc(
		tm_bdev_of(&d->bdev), alone ? 1 : READ_MAX, REQ_OP_READ | REQ_SYNC, &tm_own_bios);
	struct read *r = container_of(bio, struct read, bio);

	r->ctx = ctx;
	r->first = block;
	r->n = 0;
	bio->bi_iter.bi_sector = block * TM_SECTORS;
	bio->bi_end_io = read_endio;
	for (;;) {
		u64 left = sectors > i->block * TM_SECTORS ? sectors - i->block * TM_SECTORS : 0;
		unsigned int bytes = min_t(u64, left, TM_SECTORS) << SECTOR_SHIFT;

		if (!bytes || bio_add_page(bio, i->page, bytes, 0) != bytes)
			break;
		r->n++;
		next = list_next_entry(i, list);
		if (alone || r->n == READ_MAX || &next->list == &ctx->images ||
			next->block != i->block + 1)
			break;
		i = next;
	}
	*image = r->n ? list_next_entry(i, list) : list_next_entry(*image, list);
	if (!r->n) { /* past the end of a disk that shrank: zeroes */
		bio_put(bio);
		return;
	}
	atomic_inc(&ctx->reads);
	submit_bio_noacct(bio);
}

static void read_all(struct tm_disk *d, struct tm_ctx *ctx)
{
	struct tm_image *image = list_first_entry(&ctx->images, struct tm_image, list);

	atomic_set(&ctx->reads, 1);
	while (&image->list != &ctx->images)
		read_run(d, ctx, &image, false);
	read_done(ctx);
}

bool tm_image_retry(struct tm_disk *d, struct tm_ctx *ctx)
{
	struct tm_image *image;
	bool any = false;

	list_for_each_entry (image, &ctx->images, list)
		any |= image->alone;
	if (!any)
		return false;
	spin_lock_irq(&d->lock);
	list_move_tail(&ctx->list, &d->claims);
	spin_unlock_irq(&d->lock);
	atomic_set(&ctx->reads, 1);
	image = list_first_entry(&ctx->images, struct tm_image, list);
	while (&image->list != &ctx->images) {
		if (image->alone) {
			image->alone = false;
			read_run(d, ctx, &image, true);
		} else {
			image = list_next_entry(image, list);
		}
	}
	read_done(ctx);
	return true;
}

/* The next run to preserve at or after *first; 0: none (any more). Has the pages of "kept" ready. */
static u64 next_run(struct tm_disk *d, struct tm_ctx *ctx, u64 *first, bool *no_memory)
{
	unsigned long word, frozen = ctx->epoch - 1;
	struct tm_map *map, *kept;
	u64 n = 0;

	rcu_read_lock();
	word = READ_ONCE(tm_word);
	map = rcu_dereference(d->map[frozen % TM_MAPS]);
	kept = rcu_dereference(d->kept[frozen % TM_MAPS]);
	if (tm_epoch_of(word) == ctx->epoch && (word & TM_FROZEN) && map && kept) {
		n = tm_map_run(map, kept, first, ctx->end);
		if (n && !tm_map_prepare(kept, *first, *first + n))
			*no_memory = true;
		if (n && tm_off(TM_OFF_BUSY))
			tm_map_set(kept, *first, *first + n);
	}
	rcu_read_unlock();
	return n;
}

int tm_image_claim(struct tm_disk *d, struct tm_ctx *ctx)
{
	bool no_memory = false;
	u64 first, n, i;

	for (first = ctx->first; (n = next_run(d, ctx, &first, &no_memory)); first += n) {
		if (no_memory || n > tm_image_limit() / PAGE_SIZE)
			goto err_memory;
		for (i = 0; i < n; i++) {
			struct tm_image *image = image_new(first + i);

			if (!image)
				goto err_memory;
			list_add_tail(&image->list, &ctx->images);
		}
	}
	read_all(d, ctx);
	return 0;

err_memory:
	free_list(&ctx->images);
	spin_lock_irq(&d->lock);
	ctx->claimed = false;
	list_move(&ctx->list, &d->held);
	spin_unlock_irq(&d->lock);
	return -ENOMEM;
}

/* Under d->lock: takes over what is still wanted. The re-checks are those of NO_RECHK and NO_RECHK_D. */
static void publish_locked(struct tm_disk *d, struct tm_ctx *ctx)
{
	unsigned long word = READ_ONCE(tm_word), frozen = ctx->epoch - 1;
	struct tm_map *kept =
		rcu_dereference_check(d->kept[frozen % TM_MAPS], lockdep_is_held(&d->lock));
	struct tm_image *image, *next;

	if (tm_epoch_of(word) != ctx->epoch || !(word & TM_FROZEN) || !kept)
		return;
	list_for_each_entry_safe (image, next, &ctx->images, list) {
		if (tm_map_test(kept, image->block) &&
			!(tm_off(TM_OFF_BUSY) && !tm_image_find(d, image->block)))
			continue; /* drained meanwhile */
		list_del(&image->list);
		hlist_add_head(&image->node, bucket(d, image->block));
		tm_map_set(kept, image->block, image->block + 1);
		d->nimages++;
		d->npreserved++;
		d->nunreadable += image->unreadable;
	}
}

void tm_image_publish(struct tm_disk *d, struct tm_ctx *ctx)
{
	LIST_HEAD(dead);

	rcu_read_lock();
	spin_lock_irq(&d->lock);
	if (!ctx->broken)
		publish_locked(d, ctx);
	list_splice_init(&ctx->images, &dead);
	ctx->claimed = false;
	ctx->broken = false;
	list_move(&ctx->list, &d->held);
	spin_unlock_irq(&d->lock);
	rcu_read_unlock();
	free_list(&dead);
}

static void free_pools(void)
{
	mempool_destroy(page_pool); /* NULL is fine */
	mempool_destroy(image_pool);
	kmem_cache_destroy(image_cache);
}

int tm_image_init(void)
{
	int err = bioset_init(&tm_own_bios, 64, offsetof(struct read, bio), BIOSET_NEED_BVECS);

	if (err)
		return err;
	image_cache = kmem_cache_create("tidemark_image", sizeof(struct tm_image), 0, 0, NULL);
	if (image_cache)
		image_pool = mempool_create_slab_pool(RESERVED, image_cache);
	page_pool = mempool_create(RESERVED, pool_page, pool_page_free, NULL);
	if (!image_pool || !page_pool) {
		free_pools();
		bioset_exit(&tm_own_bios);
		return -ENOMEM;
	}
	refill(NULL);
	return 0;
}

void tm_image_exit(void)
{
	cancel_work_sync(&refill_work);
	while (reserve.n)
		tm_page_put(reserve.page[--reserve.n]);
	free_pools();
	bioset_exit(&tm_own_bios);
}
