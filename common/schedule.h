/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rates by the time of day: "08:00-18:00=10M, 22:00-02:30=0". Wall-clock times to the minute; the start belongs to the span, the
 * end does not; a span whose end is not after its start goes on past midnight; 24:00 is the day's end. Spans must not overlap.
 */
#ifndef TM_SCHEDULE_H
#define TM_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define TM_SCHEDULE_SPANS 16u
#define TM_DAY_MINUTES    1440u

struct tm_schedule {
	unsigned n;
	struct tm_schedule_span {
		unsigned from, to; /* minutes since midnight; to <= from: past midnight */
		uint64_t rate;     /* bytes per second; 0 = no limit */
	} span[TM_SCHEDULE_SPANS];
};

/* An empty text is an empty schedule. -EINVAL with what is wrong. */
int tm_schedule_parse(const char *text, struct tm_schedule *s, struct tm_err *err);

/* The rate at a minute of the day; false: no span covers it. */
bool tm_schedule_at(const struct tm_schedule *s, unsigned minute, uint64_t *rate);

/* The minute of the day now, in local time as the wall clock shows it. */
unsigned tm_minute_of_day(void);

#endif
