// SPDX-License-Identifier: GPL-2.0-only
/* The dirty map: see map.h. */
#include "map.h"

#define TM_ALL         ((void *)1UL)
#define LEAF_WORDS     (TM_LEAF_BITS / BITS_PER_LONG)
#define MID_BLOCKS     ((u64)TM_LEAF_BITS << TM_MID_SHIFT)
#define ROOTS_MIN      64 /* 4 TiB: a disk may grow without its maps being made anew */
#define LEAF_NR(block) ((unsigned long)((block) >> TM_LEAF_SHIFT) & (TM_MID_SLOTS - 1))
#define MID_NR(block)  ((block) >> (TM_LEAF_SHIFT + TM_MID_SHIFT))

struct tm_map *tm_map_new(u64 blocks)
{
	u64 roots = MID_NR(blocks) + 1;
	struct tm_map *m;

	roots = max_t(u64, roots + roots / 4, ROOTS_MIN);
	if (roots > (1UL << 28))
		return NULL;
	m = tm_env_zalloc(sizeof(*m) + roots * sizeof(m->root[0]));
	if (m)
		m->roots = roots;
	return m;
}

static bool is_page(const void *p)
{
	return p && p != TM_ALL;
}

void tm_map_free(struct tm_map *m)
{
	unsigned long i, j;

	if (!m)
		return;
	for (i = 0; i < m->roots; i++) {
		void **mid = m->root[i];

		if (!is_page(mid))
			continue;
		for (j = 0; j < TM_MID_SLOTS; j++)
			if (is_page(mid[j]))
				tm_page_put(mid[j]);
		tm_page_put(mid);
	}
	tm_env_free(m);
}

/* The page in a slot, put there if need be; TM_ALL if the slot is all set; NULL without memory. */
static void *slot_page(void **slot)
{
	void *page = READ_ONCE(*slot), *was;

	if (page)
		return page;
	page = tm_page_get();
	if (!page)
		return READ_ONCE(*slot);
	was = cmpxchg(
		slot, NULL, page); /* full barrier: the zeroed page is seen before its pointer */
	if (!was)
		return page;
	tm_page_put(page);
	return was;
}

/* Makes a slot all set: an empty one by its pointer, else by filling what it holds. */
static void fill_leaf(void **slot)
{
	unsigned long *leaf = cmpxchg(slot, NULL, TM_ALL);
	unsigned long i;

	if (!is_page(leaf))
		return;
	for (i = 0; i < LEAF_WORDS; i++)
		WRITE_ONCE(leaf[i], ~0UL);
}

static void fill_mid(void **slot)
{
	void **mid = cmpxchg(slot, NULL, TM_ALL);
	unsigned long i;

	if (!is_page(mid))
		return;
	for (i = 0; i < TM_MID_SLOTS; i++)
		fill_leaf(&mid[i]);
}

static void set_words(unsigned long *leaf, unsigned long bit, unsigned long end)
{
	while (bit < end) {
		unsigned long shift = bit % BITS_PER_LONG;
		unsigned long n = min_t(unsigned long, end - bit, BITS_PER_LONG - shift);
		unsigned long mask = (n == BITS_PER_LONG ? ~0UL : (1UL << n) - 1) << shift;
		unsigned long *word = &leaf[bit / BITS_PER_LONG];

		if ((READ_ONCE(*word) & mask) != mask)
			tm_word_or(word, mask);
		bit += n;
	}
}

static void set_in_leaf(void **slot, u64 first, u64 end)
{
	unsigned long bit = first & (TM_LEAF_BITS - 1), n = end - first;
	void *leaf;

	if (n == TM_LEAF_BITS) {
		fill_leaf(slot);
		return;
	}
	leaf = slot_page(slot);
	if (!leaf)
		fill_leaf(slot);
	else if (leaf != TM_ALL)
		set_words(leaf, bit, bit + n);
}

static void set_in_mid(void **slot, u64 first, u64 end)
{
	void **mid;

	if (end - first == MID_BLOCKS) {
		fill_mid(slot);
		return;
	}
	mid = slot_page(slot);
	if (!mid)
		fill_mid(slot);
	if (!is_page(mid))
		return;
	while (first < end) {
		u64 stop = min_t(u64, end, (first | (TM_LEAF_BITS - 1)) + 1);

		set_in_leaf(&mid[LEAF_NR(first)], first, stop);
		first = stop;
	}
}

void tm_map_set(struct tm_map *m, u64 first, u64 end)
{
	while (first < end) {
		u64 stop = min_t(u64, end, (first | (MID_BLOCKS - 1)) + 1);

		if (MID_NR(first) >= m->roots) {
			WRITE_ONCE(m->beyond, 1);
			return;
		}
		set_in_mid(&m->root[MID_NR(first)], first, stop);
		first = stop;
	}
}

bool tm_map_prepare(struct tm_map *m, u64 first, u64 end)
{
	for (; first < end; first = (first | (TM_LEAF_BITS - 1)) + 1) {
		void **mid;

		if (MID_NR(first) >= m->roots)
			return false;
		mid = slot_page(&m->root[MID_NR(first)]);
		if (!mid || (mid != TM_ALL && !slot_page(&mid[LEAF_NR(first)])))
			return false;
	}
	return true;
}

/* The leaf of a block: NULL (nothing set), TM_ALL, or its words. *skip: blocks from here on that it speaks for. */
static const unsigned long *leaf_of(const struct tm_map *m, u64 block, u64 *skip)
{
	void **mid;

	*skip = MID_BLOCKS - (block & (MID_BLOCKS - 1));
	if (MID_NR(block) >= m->roots)
		return READ_ONCE(m->beyond) ? TM_ALL : NULL;
	mid = READ_ONCE(m->root[MID_NR(block)]);
	if (!is_page(mid))
		return (void *)mid;
	*skip = TM_LEAF_BITS - (block & (TM_LEAF_BITS - 1));
	return READ_ONCE(mid[LEAF_NR(block)]);
}

static unsigned long leaf_word(const unsigned long *leaf, u64 block)
{
	if (!leaf)
		return 0;
	if (leaf == TM_ALL)
		return ~0UL;
	return READ_ONCE(leaf[(block & (TM_LEAF_BITS - 1)) / BITS_PER_LONG]);
}

bool tm_map_test(const struct tm_map *m, u64 block)
{
	u64 skip;

	return leaf_word(leaf_of(m, block, &skip), block) >> (block % BITS_PER_LONG) & 1;
}

/* The first block at or after first, before end, whose membership of "m and not except" is want; end: none. */
static u64 find(const struct tm_map *m, const struct tm_map *except, u64 first, u64 end, bool want)
{
	while (first < end) {
		u64 skip, skip2;
		const unsigned long *leaf = leaf_of(m, first, &skip);
		const unsigned long *not = except ? leaf_of(except, first, &skip2) : NULL;
		unsigned long word;

		if (except && skip2 < skip)
			skip = skip2;
		if (!leaf || not == TM_ALL) {
			if (!want)
				return first;
			first += skip;
			continue;
		}
		if (leaf == TM_ALL && !not ) {
			if (want)
				return first;
			first += skip;
			continue;
		}
		word = leaf_word(leaf, first) & ~leaf_word(not, first);
		word = (want ? word : ~word) >> (first % BITS_PER_LONG);
		if (word)
			return min_t(u64, end, first + __ffs(word));
		first = (first | (BITS_PER_LONG - 1)) + 1;
	}
	return end;
}

bool tm_map_any(const struct tm_map *m, const struct tm_map *except, u64 first, u64 end)
{
	return find(m, except, first, end, true) < end;
}

u64 tm_map_run(const struct tm_map *m, const struct tm_map *except, u64 *first, u64 end)
{
	*first = find(m, except, *first, end, true);
	if (*first >= end)
		return 0;
	return find(m, except, *first, end, false) - *first;
}

u64 tm_map_count(const struct tm_map *m, u64 end)
{
	u64 block = 0, n = 0, skip;

	while (block < end) {
		const unsigned long *leaf = leaf_of(m, block, &skip);

		skip = min_t(u64, skip, end - block);
		if (leaf == TM_ALL)
			n += skip;
		if (is_page(leaf)) {
			u64 i;

			for (i = 0; i < skip; i += BITS_PER_LONG) {
				unsigned long word = leaf_word(leaf, block + i);

				if (skip - i < BITS_PER_LONG)
					word &= (1UL << (skip - i)) - 1;
				n += hweight_long(word);
			}
		}
		block += skip;
	}
	return n;
}

void tm_map_merge(struct tm_map *dst, const struct tm_map *src, u64 end)
{
	u64 first = 0, n;

	for (; (n = tm_map_run(src, NULL, &first, end)); first += n)
		tm_map_set(dst, first, first + n);
}

u64 tm_map_bytes(const struct tm_map *m)
{
	u64 n = sizeof(*m) + m->roots * sizeof(m->root[0]);
	unsigned long i, j;

	for (i = 0; i < m->roots; i++) {
		void **mid = READ_ONCE(m->root[i]);

		if (!is_page(mid))
			continue;
		n += TM_MID_SLOTS * sizeof(void *);
		for (j = 0; j < TM_MID_SLOTS; j++)
			if (is_page(READ_ONCE(mid[j])))
				n += LEAF_WORDS * sizeof(long);
	}
	return n;
}
