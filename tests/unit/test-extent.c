// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/extent.h"

static struct tm_extents s;

static void has(const char *want)
{
	char got[400] = "", *p = got;
	struct tm_extent e;

	for (uint64_t at = 0; tm_extents_next(&s, at, &e); at = e.start + e.count)
		p += sprintf(
			p, "%llu+%llu ", (unsigned long long)e.start, (unsigned long long)e.count);
	cr_assert_str_eq(got, want);
}

static void add(uint64_t start, uint64_t count)
{
	cr_assert_eq(tm_extents_add(&s, start, count), 0);
}

static void drop(uint64_t start, uint64_t count)
{
	cr_assert_eq(tm_extents_remove(&s, start, count), 0);
}

Test(extent, neighbours_and_overlaps_become_one)
{
	add(10, 5);
	add(20, 5);
	has("10+5 20+5 ");
	add(15, 5);
	has("10+15 ");
	cr_assert_eq(s.n, 1);
	add(0, 10);
	has("0+25 ");
	add(30, 1);
	add(40, 1);
	add(50, 1);
	add(24, 30);
	has("0+54 ");
	add(3, 4);
	has("0+54 ");
	cr_assert_eq(s.blocks, 54);
	add(7, 0);
	has("0+54 ");
	tm_extents_clear(&s);
	has("");
	cr_assert_eq(tm_extents_memory(&s), 0);
}

Test(extent, removing_cuts_and_splits)
{
	add(0, 100);
	drop(10, 10);
	has("0+10 20+80 ");
	drop(0, 5);
	has("5+5 20+80 ");
	drop(90, 100);
	has("5+5 20+70 ");
	drop(8, 14);
	has("5+3 22+68 ");
	drop(200, 5);
	drop(0, 1000);
	has("");
	cr_assert_eq(s.blocks, 0);
	cr_assert_eq(s.n, 0);
}

Test(extent, questions)
{
	struct tm_extent e;

	add(10, 10);
	add(30, 10);
	cr_assert(tm_extents_has(&s, 10) && tm_extents_has(&s, 19));
	cr_assert(!tm_extents_has(&s, 9) && !tm_extents_has(&s, 20));
	cr_assert(tm_extents_covers(&s, 12, 8) && !tm_extents_covers(&s, 12, 9));
	cr_assert(tm_extents_next(&s, 15, &e));
	cr_assert(e.start == 15 && e.count == 5);
	cr_assert(tm_extents_next_gap(&s, 10, 100, &e));
	cr_assert(e.start == 20 && e.count == 10);
	cr_assert(tm_extents_next_gap(&s, 35, 100, &e));
	cr_assert(e.start == 40 && e.count == 60);
	cr_assert_not(tm_extents_next_gap(&s, 30, 40, &e));
	cr_assert(tm_extents_next_gap(&s, 0, 5, &e));
	cr_assert(e.start == 0 && e.count == 5);
	tm_extents_clear(&s);
}

Test(extent, what_ends_beyond_all_disks_is_refused)
{
	cr_assert_eq(tm_extents_add(&s, UINT64_MAX, 2), -EINVAL);
	cr_assert_eq(tm_extents_add(&s, 1ull << 62, 1ull << 63), -EINVAL);
	cr_assert_eq(tm_extents_remove(&s, UINT64_MAX, 2), -EINVAL);
	cr_assert_not(tm_extents_covers(&s, UINT64_MAX, 2));
	has("");
}

/* Like a bitmap, over thousands of extents in many leaves. */
Test(extent, many_random_steps_match_a_bitmap)
{
	enum { BLOCKS = 60000 };
	static bool map[BLOCKS];
	uint64_t rng = 12345, total = 0;
	struct tm_extent e;

	for (int i = 0; i < 60000; i++) {
		rng = rng * 6364136223846793005ull + 1442695040888963407ull;
		uint64_t start = (rng >> 33) % BLOCKS, count = 1 + (rng >> 20) % 4;
		bool on = (rng >> 12) % 3 > 0;

		if (i % 1000 == 0)
			count = 2000;
		if (count > BLOCKS - start)
			count = BLOCKS - start;
		if (on)
			add(start, count);
		else
			drop(start, count);
		memset(map + start, on, count);
	}
	cr_assert_gt(s.n, 1000);
	for (uint64_t i = 0; i < BLOCKS; i++) {
		cr_assert_eq(tm_extents_has(&s, i), map[i]);
		total += map[i];
	}
	cr_assert_eq(s.blocks, total);
	for (uint64_t at = 0; tm_extents_next(&s, at, &e); at = e.start + e.count)
		total -= e.count;
	cr_assert_eq(total, 0);
	tm_extents_clear(&s);
}

Test(extent, merge_and_order_of_filling)
{
	struct tm_extents t = {0};

	for (uint64_t i = 0; i < 10000; i++)
		add(2 * i, 1);
	cr_assert_eq(s.n, 10000);
	/* In order, leaves fill up. */
	cr_assert_lt(tm_extents_memory(&s), 10000 * sizeof(struct tm_extent) * 3 / 2);
	for (uint64_t i = 10000; i-- > 0;)
		cr_assert_eq(tm_extents_add(&t, 2 * i + 1, 1), 0);
	cr_assert_eq(t.n, 10000);
	cr_assert_eq(tm_extents_merge(&s, &t), 0);
	has("0+20000 ");
	tm_extents_clear(&s);
	tm_extents_clear(&t);
}
