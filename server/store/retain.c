// SPDX-License-Identifier: Apache-2.0
/*
 * Which points to drop. Pure: points and policy in, marks out.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/space.h"

#define NS 1000000000ull

void retain_default(struct retain_policy *p)
{
	*p = (struct retain_policy){
		.ntiers = 3, .tier = {{3600, 0}, {86400, 300}, {15 * 86400, 3600}}};
}

int retain_immutable(
	const struct retain_policy *p, const struct retain_point *point, uint64_t now_run_ns)
{
	uint64_t ran = now_run_ns > point->run_ns ? now_run_ns - point->run_ns : 0;

	return p->immutable_s && ran / NS < p->immutable_s;
}

/*
 * How much older than the newest point this one is. Both clocks must agree that it is old: the wall clock can jump, the running time stands
 * still while the server is down, and the lower of the two is never too much.
 */
static uint64_t age_s(const struct retain_point *p, const struct retain_point *newest)
{
	uint64_t wall = newest->arrival_ns > p->arrival_ns
				? (uint64_t)(newest->arrival_ns - p->arrival_ns)
				: 0;
	uint64_t ran = newest->run_ns > p->run_ns ? newest->run_ns - p->run_ns : 0;

	return (wall < ran ? wall : ran) / NS;
}

uint32_t retain_tier_of(const struct retain_policy *p, const struct retain_point *point,
	const struct retain_point *newest)
{
	uint64_t age = age_s(point, newest);
	uint32_t i = 0;

	while (i < p->ntiers && age >= p->tier[i].age_s)
		i++;
	return i;
}

static const struct retain_tier *tier_of(const struct retain_policy *p,
	const struct retain_point *point, const struct retain_point *newest)
{
	uint32_t i = retain_tier_of(p, point, newest);

	return i < p->ntiers ? &p->tier[i] : NULL;
}

/* Intervals stand still in server time, so that a second look keeps what the first one kept. */
static uint64_t interval(const struct retain_point *p, const struct retain_tier *t)
{
	return (uint64_t)p->arrival_ns / NS / t->every_s;
}

/* points[from, to) share an interval: one stays, an app-consistent one if there is any. */
static void thin(const struct retain_point *points, size_t from, size_t to, uint8_t *drop)
{
	size_t best = from;

	for (size_t i = from; i < to; i++)
		if (points[i].kind == TM_POINT_APP) {
			best = i;
			break;
		}
	for (size_t i = from; i < to; i++)
		drop[i] = i != best;
}

size_t retain_plan(const struct retain_policy *p, const struct retain_point *points, size_t n,
	uint64_t now_run_ns, uint8_t *drop)
{
	const struct retain_tier *t;
	size_t i, j, count = 0;

	for (i = 0; i < n; i = j) {
		t = tier_of(p, &points[i], &points[n - 1]);
		drop[i] = t == NULL;
		for (j = i + 1;
			t && t->every_s && j < n && tier_of(p, &points[j], &points[n - 1]) == t &&
			interval(&points[j], t) == interval(&points[i], t);
			j++)
			;
		if (j > i + 1)
			thin(points, i, j, drop);
	}
	for (i = 0; i < n; i++) {
		if (i == n - 1 || points[i].pinned || retain_immutable(p, &points[i], now_run_ns))
			drop[i] = 0;
		count += drop[i];
	}
	return count;
}

/* ---- As text ---- */

static const struct {
	char unit;
	uint64_t s;
} units[] = {{'y', 365 * 86400}, {'w', 7 * 86400}, {'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};

static int parse_time(const char **p, uint64_t *s)
{
	char *end;
	unsigned long long v;

	if (!isdigit((unsigned char)**p))
		return -1;
	errno = 0;
	v = strtoull(*p, &end, 10);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (*end == units[i].unit) {
			if (errno || v == 0 || v > 1000000000ull)
				return -1;
			*s = v * units[i].s;
			*p = end + 1;
			return 0;
		}
	return -1;
}

static int parse_tier(const char **p, struct retain_tier *t)
{
	if (parse_time(p, &t->age_s) || *(*p)++ != ':')
		return -1;
	if (!strncmp(*p, "all", 3)) {
		*p += 3;
		t->every_s = 0;
		return 0;
	}
	return parse_time(p, &t->every_s);
}

int retain_parse(const char *text, struct retain_policy *policy, struct tm_err *err)
{
	struct retain_policy p = {.immutable_s = policy->immutable_s};
	const char *s = text;

	for (;; s++) {
		if (p.ntiers == RETAIN_TIERS_MAX || parse_tier(&s, &p.tier[p.ntiers]))
			return tm_fail(err, EINVAL,
				"policy '%.100s': expected AGE:EVERY,... such as 1h:all,1d:5m,15d:1h",
				text);
		if (p.ntiers && p.tier[p.ntiers].age_s <= p.tier[p.ntiers - 1].age_s)
			return tm_fail(err, EINVAL, "policy '%.100s': ages must ascend", text);
		p.ntiers++;
		if (*s != ',')
			break;
	}
	if (*s)
		return tm_fail(err, EINVAL, "policy '%.100s': unexpected '%.20s'", text, s);
	*policy = p;
	return 0;
}

static int format_time(char *out, size_t len, uint64_t s)
{
	size_t i = 0;

	while (s % units[i].s)
		i++;
	return snprintf(out, len, "%llu%c", (unsigned long long)(s / units[i].s), units[i].unit);
}

void retain_format(const struct retain_policy *p, char *out, size_t len)
{
	char age[32], every[32];
	size_t at = 0;

	if (len)
		*out = 0;
	for (uint32_t i = 0; i < p->ntiers && at < len; i++) {
		format_time(age, sizeof(age), p->tier[i].age_s);
		if (p->tier[i].every_s)
			format_time(every, sizeof(every), p->tier[i].every_s);
		else
			snprintf(every, sizeof(every), "all");
		at += (size_t)snprintf(out + at, len - at, "%s%s:%s", i ? "," : "", age, every);
	}
}
