// SPDX-License-Identifier: Apache-2.0
#include "common/units.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/clock.h"

int tm_u64_parse(const char *text, uint64_t *out, struct tm_err *err)
{
	uint64_t v = 0;
	const char *p = text;

	if (!*p)
		return tm_fail(err, EINVAL, "a number is missing");
	for (; *p; p++) {
		if (*p < '0' || *p > '9')
			return tm_fail(err, EINVAL, "'%.40s' is not a number", text);
		if (tm_mul_overflow(v, 10u, &v) || tm_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return tm_fail(err, EINVAL, "'%.40s' is too large", text);
	}
	*out = v;
	return 0;
}

/* Digits with up to nine decimals, as a whole part and billionths. Returns what follows, NULL if there is no number. */
static const char *decimal(const char *p, uint64_t *whole, uint64_t *nano)
{
	const char *start = p;
	uint64_t unit = 100000000;

	*whole = *nano = 0;
	for (; *p >= '0' && *p <= '9'; p++)
		if (tm_mul_overflow(*whole, 10u, whole) ||
			tm_add_overflow(*whole, (uint64_t)(*p - '0'), whole))
			return NULL;
	if (p == start)
		return NULL;
	if (*p == '.') {
		for (start = ++p; *p >= '0' && *p <= '9'; p++, unit /= 10)
			*nano += unit * (uint64_t)(*p - '0');
		if (p == start || p - start > 9)
			return NULL;
	}
	return p;
}

static int scaled(uint64_t whole, uint64_t nano, uint64_t unit, uint64_t *out)
{
	__extension__ unsigned __int128 v = (unsigned __int128)whole * unit;

	v += (unsigned __int128)nano * unit / 1000000000u;
	*out = (uint64_t)v;
	return v > UINT64_MAX ? -EINVAL : 0;
}

int tm_size_parse(const char *text, uint64_t *bytes, struct tm_err *err)
{
	static const char letters[] = "KMGTPE";
	uint64_t whole, nano, unit = 1;
	const char *p = decimal(text, &whole, &nano), *letter;

	if (!p)
		goto bad;
	letter = *p ? strchr(letters, *p >= 'a' ? *p - 'a' + 'A' : *p) : NULL;
	if (letter) {
		unit <<= 10 * (letter - letters + 1);
		p++;
		if (*p == 'i')
			p++;
	} else if (nano) {
		goto bad;
	}
	if (*p == 'B')
		p++;
	if (*p || scaled(whole, nano, unit, bytes) < 0)
		goto bad;
	return 0;
bad:
	return tm_fail(err, EINVAL, "'%.40s' is not a size (for example 4096, 64K, 1.5G)", text);
}

int tm_duration_parse(const char *text, uint64_t *ns, struct tm_err *err)
{
	static const struct {
		const char *name;
		uint64_t unit;
	} units[] = {{"", TM_SEC}, {"s", TM_SEC}, {"ms", TM_MS}, {"m", 60 * TM_SEC},
		{"h", 3600 * TM_SEC}, {"d", 86400 * TM_SEC}};
	uint64_t whole, nano;
	const char *p = decimal(text, &whole, &nano);

	for (size_t i = 0; p && i < TM_ARRAY_SIZE(units); i++)
		if (strcmp(p, units[i].name) == 0 && scaled(whole, nano, units[i].unit, ns) == 0)
			return 0;
	return tm_fail(err, EINVAL,
		"'%.40s' is not a duration (for example 250ms, 30s, 5m, 1h, 15d)", text);
}

int tm_bool_parse(const char *text, bool *out, struct tm_err *err)
{
	static const char *const yes[] = {"yes", "true", "on", "1"};
	static const char *const no[] = {"no", "false", "off", "0"};

	for (size_t i = 0; i < TM_ARRAY_SIZE(yes); i++) {
		if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
			*out = strcasecmp(text, yes[i]) == 0;
			return 0;
		}
	}
	return tm_fail(err, EINVAL, "'%.40s' is neither yes nor no", text);
}

/* "Z", "+HH:MM", "-HHMM" or nothing, to the end of the text. Seconds to subtract. */
static int zone(const char *p, long *offset)
{
	unsigned h, m;
	int end = 0, sign = *p == '-' ? -1 : 1;

	*offset = 0;
	if (!*p || strcmp(p, "Z") == 0)
		return 0;
	if (*p != '+' && *p != '-')
		return -EINVAL;
	p++;
	if ((sscanf(p, "%2u:%2u%n", &h, &m, &end) != 2 || p[end]) &&
		(sscanf(p, "%2u%2u%n", &h, &m, &end) != 2 || p[end]))
		return -EINVAL;
	if (h > 14 || m > 59)
		return -EINVAL;
	*offset = sign * (long)(h * 3600 + m * 60);
	return 0;
}

int tm_time_parse(const char *text, uint64_t *ns, struct tm_err *err)
{
	struct tm tm = {0};
	uint64_t fraction = 0, whole;
	long offset = 0;
	time_t t;
	const char *p = strptime(text, "%Y-%m-%d", &tm);

	if (!p || p - text != 10)
		goto bad;
	if (*p == 'T' || *p == ' ') {
		const char *clock = p + 1;

		p = strptime(clock, "%H:%M:%S", &tm);
		if (!p || p - clock != 8)
			p = strptime(clock, "%H:%M", &tm);
		if (!p)
			goto bad;
		if (*p == '.') {
			char digits[16] = "0.";
			size_t n = strspn(p + 1, "0123456789");

			if (n < 1 || n > 9)
				goto bad;
			memcpy(digits + 2, p + 1, n);
			decimal(digits, &whole, &fraction);
			p += n + 1;
		}
		if (zone(p, &offset) < 0)
			goto bad;
	} else if (*p) {
		goto bad;
	}
	t = timegm(&tm);
	/* timegm() takes the 31st of February as the 3rd of March. */
	if (t < offset || tm.tm_year < 70 || tm.tm_year > 400)
		goto bad;
	if (strtol(text + 8, NULL, 10) != tm.tm_mday)
		goto bad;
	*ns = (uint64_t)(t - offset) * TM_SEC + fraction;
	return 0;
bad:
	return tm_fail(err, EINVAL,
		"'%.40s' is not a time (ISO 8601, for example 2026-11-28T01:30:00Z)", text);
}

int tm_addr_parse(const char *text, uint16_t default_port, char *host, size_t room, uint16_t *port,
	struct tm_err *err)
{
	const char *start = text, *colon = strchr(text, ':');
	size_t n;
	uint64_t number = default_port;

	if (*text == '[') {
		const char *end = strchr(text, ']');

		if (!end || (end[1] && end[1] != ':'))
			goto bad;
		start = text + 1;
		n = (size_t)(end - start);
		colon = end[1] ? end + 1 : NULL;
	} else if (colon && strchr(colon + 1, ':')) {
		n = strlen(text);
		colon = NULL;
	} else {
		n = colon ? (size_t)(colon - text) : strlen(text);
	}
	if (!n || n >= room)
		goto bad;
	if (colon && (tm_u64_parse(colon + 1, &number, err) < 0 || !number || number > 65535))
		goto bad;
	memcpy(host, start, n);
	host[n] = 0;
	*port = (uint16_t)number;
	return 0;
bad:
	return tm_fail(
		err, EINVAL, "'%.100s' is not an address (HOST, HOST:PORT or [IPv6]:PORT)", text);
}

const char *tm_size_format(uint64_t bytes, char out[TM_TEXT_ROOM])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1023.95 && u + 1 < TM_ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	snprintf(out, TM_TEXT_ROOM, u ? "%.1f %s" : "%.0f %s", v, units[u]);
	return out;
}

const char *tm_duration_format(uint64_t ns, char out[TM_TEXT_ROOM])
{
	unsigned long long s = ns / TM_SEC;

	if (ns < TM_SEC)
		snprintf(out, TM_TEXT_ROOM, "%llu ms", (unsigned long long)(ns / TM_MS));
	else if (s < 60)
		snprintf(out, TM_TEXT_ROOM, "%llu.%llu s", s,
			(unsigned long long)(ns % TM_SEC / (100 * TM_MS)));
	else if (s < 3600)
		snprintf(out, TM_TEXT_ROOM, "%llu m %llu s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, TM_TEXT_ROOM, "%llu h %llu m", s / 3600, s / 60 % 60);
	else
		snprintf(out, TM_TEXT_ROOM, "%llu d %llu h", s / 86400, s / 3600 % 24);
	return out;
}

const char *tm_time_format(uint64_t ns, char out[TM_TEXT_ROOM])
{
	time_t t = (time_t)(ns / TM_SEC);
	struct tm tm;

	if (!gmtime_r(&t, &tm) || !strftime(out, TM_TEXT_ROOM, "%Y-%m-%dT%H:%M:%SZ", &tm))
		strcpy(out, "?");
	return out;
}

const char *tm_time_format_ms(uint64_t ns, char out[TM_TEXT_ROOM])
{
	size_t n = strlen(tm_time_format(ns, out));

	if (n > 1)
		snprintf(out + n - 1, TM_TEXT_ROOM - n + 1, ".%03uZ",
			(unsigned)(ns % TM_SEC / TM_MS));
	return out;
}
