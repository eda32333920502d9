// SPDX-License-Identifier: Apache-2.0
/* The kernel module's dirty map, compiled in user space: against a plain bit array, and without memory. */
#include <criterion/criterion.h>
#include "kmod/map.c"

#define BLOCKS 200000 /* several leaves; the rest of the tests place bits far away */

static long pages_left = -1; /* -1: no limit */
static long pages_out;

void *tm_page_get(void)
{
	if (!pages_left)
		return NULL;
	if (pages_left > 0)
		pages_left--;
	pages_out++;
	return calloc(1, 4096);
}

void tm_page_put(void *page)
{
	pages_out--;
	free(page);
}

static uint64_t seed = 1;

static uint64_t rnd(uint64_t n)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (seed >> 33) % n;
}

static void compare(const struct tm_map *m, const unsigned char *want, u64 n)
{
	u64 first = 0, len, i, count = 0, seen = 0;

	for (i = 0; i < n; i++) {
		count += want[i];
		cr_assert_eq(tm_map_test(m, i), want[i], "block %lu", (unsigned long)i);
	}
	cr_assert_eq(tm_map_count(m, n), count);
	for (; (len = tm_map_run(m, NULL, &first, n)); first += len) {
		for (i = first; i < first + len; i++)
			cr_assert(want[i]);
		cr_assert(first + len == n || !want[first + len]);
		seen += len;
	}
	cr_assert_eq(seen, count);
}

Test(map, agrees_with_a_plain_array)
{
	unsigned char *want = calloc(1, BLOCKS);
	struct tm_map *m = tm_map_new(BLOCKS);

	for (int i = 0; i < 300; i++) {
		u64 first = rnd(BLOCKS), len = i % 50 ? rnd(200) + 1 : rnd(70000),
		    end = first + len;

		if (end > BLOCKS)
			end = BLOCKS;
		bool any = false;

		for (u64 b = first; b < end; b++)
			any |= want[b];
		cr_assert_eq(tm_map_any(m, NULL, first, end), any);
		tm_map_set(m, first, end);
		memset(want + first, 1, end - first);
		if (i % 30 == 0)
			compare(m, want, BLOCKS);
	}
	compare(m, want, BLOCKS);
	tm_map_free(m);
	cr_assert_eq(pages_out, 0);
	free(want);
}

Test(map, except_hides_blocks)
{
	unsigned char *want = calloc(1, BLOCKS);
	struct tm_map *m = tm_map_new(BLOCKS), *x = tm_map_new(BLOCKS);
	u64 first = 0, len, i, seen = 0, count = 0;

	for (int k = 0; k < 200; k++) {
		u64 b = rnd(BLOCKS - 100), n = rnd(100), c = rnd(BLOCKS - 100), o = rnd(100);

		tm_map_set(m, b, b + n);
		tm_map_set(x, c, c + o);
	}
	for (i = 0; i < BLOCKS; i++)
		count += want[i] = tm_map_test(m, i) && !tm_map_test(x, i);
	for (; (len = tm_map_run(m, x, &first, BLOCKS)); first += len, seen += len)
		for (i = first; i < first + len; i++)
			cr_assert(want[i]);
	cr_assert_eq(seen, count);
	tm_map_free(m);
	tm_map_free(x);
	free(want);
}

Test(map, merge_is_a_union)
{
	struct tm_map *a = tm_map_new(BLOCKS), *b = tm_map_new(BLOCKS);

	tm_map_set(a, 10, 20);
	tm_map_set(b, 15, 40000);
	tm_map_set(b, 90000, 90001);
	tm_map_set(b, BLOCKS, BLOCKS + 5); /* past the end asked for: not taken */
	tm_map_merge(a, b, BLOCKS);
	cr_assert_eq(tm_map_count(a, BLOCKS), 40000 - 10 + 1);
	cr_assert_not(tm_map_test(a, BLOCKS));
	cr_assert(tm_map_test(a, 90000));
	tm_map_free(a);
	tm_map_free(b);
}

Test(map, without_memory_too_much_is_set_never_too_little)
{
	for (long left = 0; left < 6; left++) {
		struct tm_map *m = tm_map_new(1ULL << 32);
		u64 places[] = {5, 32768, 1ULL << 25, (1ULL << 31) + 7, (1ULL << 32) - 1};

		pages_left = left;
		cr_assert(!tm_map_prepare(m, 100000, 200000) || left >= 4);
		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			tm_map_set(m, places[i], places[i] + 1);
			for (size_t j = 0; j <= i; j++)
				cr_assert(tm_map_test(m, places[j]));
		}
		pages_left = -1;
		tm_map_free(m);
		cr_assert_eq(pages_out, 0);
	}
}

Test(map, idle_huge_disk_costs_little)
{
	struct tm_map *m = tm_map_new(1ULL << 32); /* 16 TiB */

	cr_assert_lt(tm_map_bytes(m), 8192);
	tm_map_set(m, 1ULL << 31, (1ULL << 31) + 1);
	cr_assert_leq(tm_map_bytes(m), 8192 + 2 * 4096);
	tm_map_set(m, 0, 1ULL << 32); /* whole slots are one pointer */
	cr_assert_leq(tm_map_bytes(m), 8192 + 2 * 4096);
	cr_assert_eq(tm_map_count(m, 1ULL << 32), 1ULL << 32);
	tm_map_free(m);
}

Test(map, growth_past_the_root_is_remembered)
{
	struct tm_map *m = tm_map_new(1000);
	u64 far = 1ULL << 33;

	tm_map_set(m, 1000, 1010); /* grew a little: exact */
	cr_assert_eq(tm_map_count(m, 1010), 10);
	cr_assert_not(tm_map_test(m, far));
	tm_map_set(m, far, far + 1);
	cr_assert(tm_map_test(m, far));
	cr_assert_eq(tm_map_count(m, 1010), 10);
	tm_map_free(m);
}
