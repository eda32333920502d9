// SPDX-License-Identifier: Apache-2.0
// timeout: 60
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/space.h"

#define NS  1000000000ull
#define MAX 100000

static struct retain_point pt[MAX];
static uint8_t drop[MAX];
static struct retain_policy pol;
static struct tm_err err;

/* n points, `step` seconds apart, from a moment on. */
static size_t make(size_t n, uint64_t step)
{
	for (size_t i = 0; i < n; i++)
		pt[i] = (struct retain_point){.seq = i + 1,
			.arrival_ns = (int64_t)((1700000000ull + i * step) * NS),
			.run_ns = (1000 + i * step) * NS,
			.kind = TM_POINT_CRASH};
	return n;
}

static size_t apply(size_t n, uint64_t now)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++)
		if (!drop[i])
			pt[kept++] = pt[i];
	(void)now;
	return kept;
}

static uint64_t now_of(size_t n)
{
	return pt[n - 1].run_ns;
}

Test(retain, default_tiers)
{
	size_t n = make(86400 * 2 / 5, 5), hour = 0, day = 0, old = 0;

	retain_default(&pol);
	retain_plan(&pol, pt, n, now_of(n), drop);
	for (size_t i = 0; i < n; i++) {
		uint64_t age = (n - 1 - i) * 5;

		if (drop[i])
			cr_assert_geq(age, 3600, "all points of the last hour stay");
		else if (age < 3600)
			hour++;
		else if (age < 86400)
			day++;
		else
			old++;
	}
	cr_assert_eq(hour, 720);
	cr_assert(day >= 276 && day <= 277, "%zu", day);
	cr_assert(old >= 24 && old <= 25, "%zu", old);
}

/* Applied after each point or once at the end, no interval is ever left without a point that it had. */
Test(retain, applied_again_and_again)
{
	size_t all = make(20000, 60), n = 0, before;
	static struct retain_point src[MAX];

	memcpy(src, pt, all * sizeof(*src));
	retain_default(&pol);
	for (size_t i = 0; i < all; i++) {
		pt[n++] = src[i];
		if (i % 7)
			continue;
		retain_plan(&pol, pt, n, now_of(n), drop);
		n = apply(n, 0);
	}
	retain_plan(&pol, pt, n, now_of(n), drop);
	n = apply(n, 0);
	before = n;
	cr_assert_eq(retain_plan(&pol, pt, n, now_of(n), drop), 0, "a second look changes nothing");
	for (size_t i = 1; i < n; i++) {
		uint64_t age = (uint64_t)(pt[n - 1].arrival_ns - pt[i - 1].arrival_ns) / NS;
		uint64_t gap = (uint64_t)(pt[i].arrival_ns - pt[i - 1].arrival_ns) / NS;

		cr_assert_leq(gap, age < 3600 ? 60 : age < 86400 ? 600 : 7200, "age %lu", age);
	}
	cr_assert_lt(before, 60 + 277 + 15 * 24 + 5);
}

Test(retain, app_pins_newest_stay)
{
	size_t n = make(2000, 60);

	retain_default(&pol);
	pt[7].kind = TM_POINT_APP; /* in an interval with others */
	pt[13].pinned = 1;
	pol.ntiers = 1; /* all for one hour, then nothing */
	pol.tier[0] = (struct retain_tier){3600, 0};
	retain_plan(&pol, pt, n, now_of(n), drop);
	cr_assert_eq(drop[13], 0);
	cr_assert_eq(drop[12], 1);
	cr_assert_eq(drop[n - 1], 0);
	retain_default(&pol);
	retain_plan(&pol, pt, n, now_of(n), drop);
	cr_assert_eq(drop[7], 0, "app-consistent preferred");
	cr_assert_eq(drop[6], 1);
	pol.ntiers = 0;
	cr_assert_eq(retain_plan(&pol, pt, n, now_of(n), drop), n - 2,
		"all but the newest and the pinned one");
	cr_assert_eq(retain_plan(&pol, pt, 0, 0, drop), 0);
	cr_assert_eq(retain_plan(&pol, pt, 1, 0, drop), 0, "a single point is the newest");
}

Test(retain, a_dead_source_ages_nothing)
{
	size_t n = make(100, 10);

	retain_default(&pol);
	cr_assert_eq(retain_plan(&pol, pt, n, now_of(n) + 400ull * 86400 * NS, drop), 0);
}

Test(retain, a_jumping_clock_drops_nothing)
{
	size_t n = make(100, 10);

	retain_default(&pol);
	/* The clock is ten years ahead for the newest points, but the server ran on for seconds only. */
	for (size_t i = 90; i < n; i++)
		pt[i].arrival_ns += (int64_t)(10ull * 365 * 86400 * NS);
	cr_assert_eq(retain_plan(&pol, pt, n, now_of(n), drop), 0);
	make(100, 10);
	for (size_t i = 90; i < n; i++)
		pt[i].arrival_ns -= (int64_t)(10ull * 365 * 86400 * NS);
	cr_assert_eq(retain_plan(&pol, pt, n, now_of(n), drop), 0);
}

Test(retain, immutable_window)
{
	size_t n = make(100, 86400);

	retain_default(&pol);
	pol.immutable_s = 50ull * 86400;
	retain_plan(&pol, pt, n, now_of(n), drop);
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(drop[i], i < 50, "%zu", i);
	/* A clock set forward does not shorten it. */
	for (size_t i = 0; i < n; i++)
		pt[i].arrival_ns -= (int64_t)(20ull * 365 * 86400 * NS);
	cr_assert(retain_immutable(&pol, &pt[60], now_of(n)));
	cr_assert_not(retain_immutable(&pol, &pt[10], now_of(n)));
}

Test(retain, text)
{
	char text[200];

	retain_default(&pol);
	retain_format(&pol, text, sizeof(text));
	cr_assert_str_eq(text, "1h:all,1d:5m,15d:1h");
	cr_assert_eq(retain_parse("90m:all,2w:10s,3y:1d", &pol, &err), 0);
	cr_assert_eq(pol.ntiers, 3);
	cr_assert_eq(pol.tier[0].age_s, 5400);
	cr_assert_eq(pol.tier[2].every_s, 86400);
	retain_format(&pol, text, sizeof(text));
	cr_assert_str_eq(text, "90m:all,2w:10s,3y:1d");
	for (const char **s = (const char *[]){"", "1h", "1h:", "1h:all,", "0h:all", "1h:0s",
		     "1d:all,1h:5m", "1h:all;1d:5m", "x", "-1h:all", "99999999999999999999h:all",
		     NULL};
		*s; s++)
		cr_assert_eq(retain_parse(*s, &pol, &err), -EINVAL, "'%s'", *s);
}
