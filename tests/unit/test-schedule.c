// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/schedule.h"

static struct tm_schedule s;
static struct tm_err err;

static void parse(const char *text)
{
	cr_assert_eq(tm_schedule_parse(text, &s, &err), 0, "%s: %s", text, err.msg);
}

/* UINT64_MAX: no span. */
static void rate_is(unsigned hour, unsigned minute, uint64_t want)
{
	uint64_t rate = UINT64_MAX;
	bool is = tm_schedule_at(&s, hour * 60 + minute, &rate);

	cr_assert_eq(is, want != UINT64_MAX, "%02u:%02u", hour, minute);
	cr_assert_eq(rate, want, "%02u:%02u", hour, minute);
}

Test(schedule, start_belongs_to_a_span_and_end_does_not)
{
	parse("08:00-18:00=10M");
	rate_is(7, 59, UINT64_MAX);
	rate_is(8, 0, 10 << 20);
	rate_is(17, 59, 10 << 20);
	rate_is(18, 0, UINT64_MAX);
	rate_is(0, 0, UINT64_MAX);
}

Test(schedule, over_midnight)
{
	parse("22:00-02:30=0 ,  02:30-06:00=1M,06:00-22:00=4K");
	rate_is(21, 59, 4096);
	rate_is(22, 0, 0);
	rate_is(23, 59, 0);
	rate_is(0, 0, 0);
	rate_is(2, 29, 0);
	rate_is(2, 30, 1 << 20);
	rate_is(5, 59, 1 << 20);
	rate_is(6, 0, 4096);
}

Test(schedule, to_the_end_of_the_day)
{
	parse("23:00-24:00=1K");
	rate_is(23, 59, 1024);
	rate_is(0, 0, UINT64_MAX);
	parse("23:00-00:00=1K");
	rate_is(23, 59, 1024);
	rate_is(0, 0, UINT64_MAX);
	parse("00:00-24:00=7");
	rate_is(0, 0, 7);
	rate_is(23, 59, 7);
}

Test(schedule, nothing_is_an_empty_schedule)
{
	parse("");
	rate_is(12, 0, UINT64_MAX);
	parse("  ");
	cr_assert_eq(s.n, 0u);
}

Test(schedule, refusals)
{
	static const char *const bad[] = {"08:00-18:00", "8:00-18:00=1M",
		"08:00-18:00=", "08:00-25:00=1M", "08:60-18:00=1M", "24:00-02:00=1M",
		"08:00-08:00=1M", "08:00-18:00=1X", "08:00-18:00=1M,", ",08:00-18:00=1M", "08:00",
		"0", "08:00-", "08:00-18:00=-1", "08:00 - 18:00=1M",
		/* overlaps */
		"08:00-18:00=1M,17:59-19:00=2M", "08:00-18:00=1M,09:00-10:00=2M",
		"09:00-10:00=2M,08:00-18:00=1M", "22:00-02:00=1M,01:59-03:00=2M",
		"22:00-02:00=1M,23:00-01:00=2M", "23:00-01:00=1M,22:00-23:30=2M",
		"22:00-04:00=1M,20:00-00:30=2M", "00:00-24:00=1,12:00-12:01=2",
		"00:00-24:00=1,23:00-01:00=2"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(tm_schedule_parse(bad[i], &s, &err), -EINVAL, "'%s'", bad[i]);
		cr_assert(err.msg[0], "'%s'", bad[i]);
	}
}

Test(schedule, no_more_spans_than_there_is_room_for)
{
	char text[32 * (TM_SCHEDULE_SPANS + 1)] = "";

	for (unsigned i = 0; i <= TM_SCHEDULE_SPANS; i++) {
		size_t at = strlen(text);

		snprintf(text + at, sizeof(text) - at, "%s%02u:00-%02u:30=%u", i ? "," : "", i, i,
			i + 1);
		if (i + 1 == TM_SCHEDULE_SPANS)
			parse(text);
	}
	cr_assert_eq(tm_schedule_parse(text, &s, &err), -EINVAL);
}

/* Where the clock is put forward or back, the wall clock counts. */
Test(schedule, local_time)
{
	time_t before = time(NULL), after;
	unsigned minute;
	struct tm tm;

	setenv("TZ", "TST-05:30", 1);
	tzset();
	do { /* the minute may have ended in between */
		before = time(NULL);
		minute = tm_minute_of_day();
		after = time(NULL);
	} while (before / 60 != after / 60);
	gmtime_r(&(time_t){before + 5 * 3600 + 1800}, &tm);
	cr_assert_eq(minute, (unsigned)(tm.tm_hour * 60 + tm.tm_min));
}
