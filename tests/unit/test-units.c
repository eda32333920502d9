// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/rate.h"
#include "common/units.h"
#include "common/uuid.h"

static struct tm_err err;
static uint64_t v;

Test(units, sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"4096", 4096}, {"16K", 16384}, {"16k", 16384}, {"16KiB", 16384},
		{"1.5G", 1610612736}, {"1T", 1ull << 40}, {"15E", 15ull << 60}, {"512B", 512},
		{"18446744073709551615", UINT64_MAX}};
	static const char *const bad[] = {"", "K", "-1", "1.5", "1X", "1KK", "16E",
		"18446744073709551616", " 1", "1 K", "1.K", ".5K", "0x10", "1e3"};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cr_assert_eq(tm_size_parse(good[i].text, &v, &err), 0, "%s", good[i].text);
		cr_assert_eq(v, good[i].bytes, "%s", good[i].text);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(tm_size_parse(bad[i], &v, &err), -EINVAL, "'%s'", bad[i]);
}

Test(units, durations_numbers_and_switches)
{
	bool b;

	cr_assert(tm_duration_parse("250ms", &v, &err) == 0 && v == 250 * TM_MS);
	cr_assert(tm_duration_parse("90", &v, &err) == 0 && v == 90 * TM_SEC);
	cr_assert(tm_duration_parse("1.5s", &v, &err) == 0 && v == 1500 * TM_MS);
	cr_assert(tm_duration_parse("15d", &v, &err) == 0 && v == 15 * 86400 * TM_SEC);
	cr_assert_eq(tm_duration_parse("5y", &v, &err), -EINVAL);
	cr_assert_eq(tm_duration_parse("9999999999999d", &v, &err), -EINVAL);
	cr_assert_eq(tm_u64_parse("18446744073709551616", &v, &err), -EINVAL);
	cr_assert_eq(tm_u64_parse("12a", &v, &err), -EINVAL);
	cr_assert(tm_bool_parse("Yes", &b, &err) == 0 && b);
	cr_assert(tm_bool_parse("off", &b, &err) == 0 && !b);
	cr_assert_eq(tm_bool_parse("perhaps", &b, &err), -EINVAL);
}

Test(units, times)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {{"2026-11-28T01:30:00Z", 1795829400 * TM_SEC},
		{"2026-11-28T02:30:00+01:00", 1795829400 * TM_SEC},
		{"2026-11-27T20:30:00-0500", 1795829400 * TM_SEC},
		{"2026-11-28T01:30:00", 1795829400 * TM_SEC},
		{"2026-11-28T01:30", 1795829400 * TM_SEC},
		{"2026-11-28T01:30:00.25Z", 1795829400 * TM_SEC + 250 * TM_MS},
		{"2026-11-28", 1795824000 * TM_SEC}, {"2024-02-29", 1709164800 * TM_SEC}};
	static const char *const bad[] = {"", "now", "2026-13-01", "2026-02-31", "2025-02-29",
		"2026-11-28T25:00:00Z", "2026-11-28T01:30:00X", "2026-11-28T01:30:00+99:00",
		"2026-11-28Z", "1969-12-31", "2026-1-1", "2026-11-28T01:30:00Z "};
	char out[TM_TEXT_ROOM];

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cr_assert_eq(tm_time_parse(good[i].text, &v, &err), 0, "%s", good[i].text);
		cr_assert_eq(v, good[i].ns, "%s: %llu", good[i].text, (unsigned long long)v);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(tm_time_parse(bad[i], &v, &err), -EINVAL, "'%s'", bad[i]);
	cr_assert_str_eq(tm_time_format(1795829400 * TM_SEC, out), "2026-11-28T01:30:00Z");
	cr_assert_str_eq(tm_time_format_ms(1795829400 * TM_SEC + 7 * TM_MS, out),
		"2026-11-28T01:30:00.007Z");
}

Test(units, addresses)
{
	static const struct {
		const char *text, *host;
		unsigned port;
	} good[] = {{"a.example", "a.example", 9}, {"a.example:80", "a.example", 80},
		{"[::1]:80", "::1", 80}, {"[::1]", "::1", 9}, {"fe80::1", "fe80::1", 9},
		{"10.0.0.1:65535", "10.0.0.1", 65535}};
	static const char *const bad[] = {
		"", ":80", "a:", "a:0", "a:65536", "[::1", "[::1]x", "a:b", "[]"};
	char host[20];
	uint16_t port;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cr_assert_eq(tm_addr_parse(good[i].text, 9, host, sizeof(host), &port, &err), 0,
			"%s", good[i].text);
		cr_assert_str_eq(host, good[i].host);
		cr_assert_eq(port, good[i].port);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(tm_addr_parse(bad[i], 9, host, sizeof(host), &port, &err), -EINVAL,
			"'%s'", bad[i]);
	cr_assert_eq(
		tm_addr_parse("a-name-longer-than-the-room", 9, host, sizeof(host), &port, &err),
		-EINVAL);
}

Test(units, shown_to_people)
{
	char o[TM_TEXT_ROOM];

	cr_assert_str_eq(tm_size_format(0, o), "0 B");
	cr_assert_str_eq(tm_size_format(1023, o), "1023 B");
	cr_assert_str_eq(tm_size_format(1536, o), "1.5 KiB");
	cr_assert_str_eq(tm_size_format((1ull << 30) - 1, o), "1.0 GiB");
	cr_assert_str_eq(tm_size_format(UINT64_MAX, o), "16.0 EiB");
	cr_assert_str_eq(tm_duration_format(12 * TM_MS, o), "12 ms");
	cr_assert_str_eq(tm_duration_format(4200 * TM_MS, o), "4.2 s");
	cr_assert_str_eq(tm_duration_format(11520 * TM_SEC, o), "3 h 12 m");
	cr_assert_str_eq(tm_hex_format("\x00\xff", 2, o), "00ff");
}

Test(units, hexadecimal_and_utf8)
{
	uint8_t b[2];

	cr_assert(tm_hex_parse("00fF", b, 2) == 0 && b[0] == 0 && b[1] == 0xff);
	cr_assert_eq(tm_hex_parse("00f", b, 2), -EINVAL);
	cr_assert_eq(tm_hex_parse("00ff0", b, 2), -EINVAL);
	cr_assert_eq(tm_hex_parse("00fg", b, 2), -EINVAL);
	cr_assert(tm_text_valid("", 0));
	cr_assert(tm_text_valid("Gr\xc3\xbc\xc3\x9f \xf0\x9f\x8c\x8a", 11));
	cr_assert_not(tm_text_valid("\xf0\x9f\x8c", 3));
	cr_assert_not(tm_text_valid("a\0b", 3));
}

Test(uuid, there_and_back)
{
	uint8_t a[TM_UUID], b[TM_UUID];
	char t[TM_UUID_TEXT], e[TM_EPOCH_TEXT];
	struct tm_epoch_id id = {.cut = UINT64_MAX}, got;

	tm_uuid_new(a);
	cr_assert_eq(tm_uuid_parse(tm_uuid_format(a, t), b), 0);
	cr_assert(tm_uuid_equal(a, b));
	cr_assert_eq(strlen(t), 36);
	t[35] = 0;
	cr_assert_eq(tm_uuid_parse(t, b), -EINVAL);
	memcpy(id.tracking, a, TM_UUID);
	tm_uuid_new(id.nonce);
	cr_assert_eq(tm_epoch_parse(tm_epoch_format(&id, e), &got), 0, "%s", e);
	cr_assert(tm_epoch_equal(&id, &got));
	memset(&id, 0, sizeof(id));
	cr_assert(tm_epoch_is_zero(&id));
	cr_assert_str_eq(tm_epoch_format(&id, e), "none");
	cr_assert(tm_epoch_parse("none", &got) == 0 && tm_epoch_is_zero(&got));
	cr_assert_eq(tm_epoch_parse("none/1/2", &got), -EINVAL);
}

Test(rate, keeps_the_pace_and_lets_a_burst_through)
{
	struct tm_rate r;
	uint64_t t0 = tm_mono_ns(), took;

	tm_rate_init(&r, 10000000);
	for (int i = 0; i < 50; i++)
		cr_assert(tm_rate_wait(&r, 100000));
	took = tm_mono_ns() - t0;
	/* 5 MB at 10 MB/s less the burst of a tenth of a second and the last piece: never faster; slower only on a busy machine. */
	cr_assert_geq(took, 380 * TM_MS);
	tm_rate_set(&r, 0);
	t0 = tm_mono_ns();
	for (int i = 0; i < 1000; i++)
		cr_assert(tm_rate_wait(&r, 1u << 30));
	cr_assert_lt(tm_mono_ns() - t0, 20 * TM_SEC);
	tm_rate_exit(&r);
}

static void *waiter(void *arg)
{
	struct tm_rate *r = arg;

	tm_rate_wait(r, 1000);
	return tm_rate_wait(r, 1000) ? r : NULL;
}

Test(rate, a_new_rate_or_a_stop_wakes_who_waits)
{
	struct tm_rate r;
	pthread_t t;
	void *result;

	for (int stop = 0; stop < 2; stop++) {
		tm_rate_init(&r, 1); /* the second kilobyte: in a quarter of an hour */
		cr_assert_eq(pthread_create(&t, NULL, waiter, &r), 0);
		if (stop)
			tm_rate_stop(&r);
		else
			tm_rate_set(&r, 0);
		pthread_join(t, &result);
		cr_assert_eq(result != NULL, !stop);
		tm_rate_exit(&r);
	}
}
