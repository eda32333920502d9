// SPDX-License-Identifier: Apache-2.0
#include "common/schedule.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/units.h"

#define SPAN_TEXT 64

static bool digits2(const char *p, unsigned *v)
{
	if (!isdigit((unsigned char)p[0]) || !isdigit((unsigned char)p[1]))
		return false;
	*v = (unsigned)(p[0] - '0') * 10 + (unsigned)(p[1] - '0');
	return true;
}

/* "HH:MM" at p; the five characters are read one after the other, so that the text's end is not passed. */
static bool time_parse(const char *p, unsigned *minute)
{
	unsigned h, m;

	if (!digits2(p, &h) || p[2] != ':' || !digits2(p + 3, &m))
		return false;
	*minute = h * 60 + m;
	return m < 60 && *minute <= TM_DAY_MINUTES;
}

static int span_parse(const char *text, struct tm_schedule_span *s, struct tm_err *err)
{
	if (!time_parse(text, &s->from) || text[5] != '-' || !time_parse(text + 6, &s->to) ||
		text[11] != '=')
		return tm_fail(err, EINVAL, "'%s' is not HH:MM-HH:MM=RATE", text);
	if (s->from == TM_DAY_MINUTES || s->from == s->to)
		return tm_fail(err, EINVAL, "'%s': the span is empty", text);
	if (tm_size_parse(text + 12, &s->rate, err))
		return tm_wrap(err, "'%s'", text);
	return 0;
}

static bool covers(const struct tm_schedule_span *s, unsigned minute)
{
	if (s->from < s->to)
		return minute >= s->from && minute < s->to;
	return minute >= s->from || minute < s->to;
}

/* Two spans overlap if and only if one of them begins in the other. */
static bool overlap(const struct tm_schedule_span *a, const struct tm_schedule_span *b)
{
	return covers(a, b->from) || covers(b, a->from);
}

static int add(struct tm_schedule *s, const char *text, struct tm_err *err)
{
	struct tm_schedule_span *new = &s->span[s->n];

	if (s->n == TM_SCHEDULE_SPANS)
		return tm_fail(err, EINVAL, "more than %u spans", TM_SCHEDULE_SPANS);
	if (span_parse(text, new, err))
		return -err->code;
	for (unsigned i = 0; i < s->n; i++)
		if (overlap(&s->span[i], new))
			return tm_fail(err, EINVAL, "'%s' overlaps with the span from %02u:%02u",
				text, s->span[i].from / 60, s->span[i].from % 60);
	s->n++;
	return 0;
}

int tm_schedule_parse(const char *text, struct tm_schedule *s, struct tm_err *err)
{
	char one[SPAN_TEXT];

	memset(s, 0, sizeof(*s));
	text += strspn(text, " \t");
	if (!*text)
		return 0;
	for (;;) {
		size_t len = strcspn(text, ","), used;

		for (used = len; used && isspace((unsigned char)text[used - 1]); used--)
			;
		if (used >= sizeof(one))
			return tm_fail(err, EINVAL, "'%.20s...' is not HH:MM-HH:MM=RATE", text);
		memcpy(one, text, used);
		memset(one + used, 0, sizeof(one) - used);
		if (add(s, one, err))
			return -err->code;
		if (!text[len])
			return 0;
		text += len + 1;
		text += strspn(text, " \t");
	}
}

bool tm_schedule_at(const struct tm_schedule *s, unsigned minute, uint64_t *rate)
{
	for (unsigned i = 0; i < s->n; i++) {
		if (!covers(&s->span[i], minute))
			continue;
		*rate = s->span[i].rate;
		return true;
	}
	return false;
}

unsigned tm_minute_of_day(void)
{
	time_t now = time(NULL);
	struct tm tm = {0};

	localtime_r(&now, &tm);
	return (unsigned)(tm.tm_hour * 60 + tm.tm_min) % TM_DAY_MINUTES;
}
