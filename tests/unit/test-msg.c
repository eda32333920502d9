// SPDX-License-Identifier: Apache-2.0
/* Every message: there and back; every truncation, extension and corruption. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "tests/fuzz/parse-any.h"

#define FIRST TM_MSG_ERROR
#define LAST  TM_MSG_COMMAND_RESULT

static struct tm_err err;

/* The sample in memory of exactly its size, so that the address sanitizer sees every step beyond. */
static uint8_t *body_of(uint16_t type, size_t *len)
{
	static uint8_t buf[TM_FRAME_MAX];
	struct tm_out out;
	uint8_t *exact;

	cr_assert_eq(sample(type, &out, &err), 0, "%s", err.msg);
	cr_assert_eq(out.type, type);
	*len = flatten(&out, buf);
	cr_assert_eq(*len, tm_out_length(&out));
	exact = malloc(*len ? *len : 1);
	cr_assert(exact);
	memcpy(exact, buf, *len);
	return exact;
}

Test(msg, all_types_come_back)
{
	for (uint16_t t = FIRST; t <= LAST; t++) {
		size_t len;
		uint8_t *b = body_of(t, &len);

		cr_assert_eq(parse_any(t, b, len, &err), 0, "%s: %s", tm_msg_name(t), err.msg);
		cr_assert_str_neq(tm_msg_name(t), "unknown");
		free(b);
	}
	cr_assert_str_eq(tm_msg_name(0), "unknown");
	cr_assert_str_eq(tm_msg_name(LAST + 1), "unknown");
	cr_assert_str_eq(tm_msg_name(0xffff), "unknown");
}

Test(msg, every_truncation_and_extension_is_refused)
{
	for (uint16_t t = FIRST; t <= LAST; t++) {
		size_t len;
		uint8_t *b = body_of(t, &len), *cut;

		for (size_t n = 0; n < len; n++) {
			/* DATA ends where its cells end, which its receiver checks. */
			if (t == TM_MSG_DATA && n >= sizeof(struct tm_msg_data) + 64)
				continue;
			cut = malloc(n ? n : 1);
			cr_assert(cut);
			memcpy(cut, b, n);
			cr_assert_eq(parse_any(t, cut, n, &err), -EBADMSG, "%s cut to %zu",
				tm_msg_name(t), n);
			free(cut);
		}
		cut = calloc(1, len + 1);
		cr_assert(cut);
		memcpy(cut, b, len);
		if (t != TM_MSG_DATA)
			cr_assert_eq(parse_any(t, cut, len + 1, &err), -EBADMSG,
				"%s with a byte more", tm_msg_name(t));
		free(cut);
		free(b);
	}
}

Test(msg, every_corrupted_byte_is_survived)
{
	static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x40};

	for (uint16_t t = FIRST; t <= LAST; t++) {
		size_t len;
		uint8_t *b = body_of(t, &len);

		for (size_t i = 0; i < len; i++)
			for (size_t k = 0; k < sizeof(flips); k++) {
				int r;

				b[i] ^= flips[k];
				r = parse_any(t, b, len, &err);
				cr_assert(r == 0 || r == -EBADMSG);
				b[i] ^= flips[k];
			}
		free(b);
	}
}

/* Sets bytes of the sample and expects a refusal that says why. */
static void refused(uint16_t t, size_t at, const void *bytes, size_t n, const char *why)
{
	size_t len;
	uint8_t *b = body_of(t, &len);

	cr_assert_leq(at + n, len);
	memcpy(b + at, bytes, n);
	cr_assert_eq(parse_any(t, b, len, &err), -EBADMSG, "%s: %s", tm_msg_name(t), why);
	cr_assert(strstr(err.msg, why), "wanted \"%s\" in: %s", why, err.msg);
	free(b);
}

#define BAD(type, name, field, why, ...)                                                    \
	do {                                                                                \
		__typeof__(((struct tm_msg_##name *)0)->field) v_ = __VA_ARGS__;            \
		refused(type, offsetof(struct tm_msg_##name, field), &v_, sizeof(v_), why); \
	} while (0)

Test(msg, what_makes_no_sense_is_refused)
{
	BAD(TM_MSG_ERROR, error, code, "unknown code", 0);
	BAD(TM_MSG_ERROR, error, code, "unknown code", 99);
	BAD(TM_MSG_ERROR, error, fatal, "fatal", 2);
	BAD(TM_MSG_ERROR, error, pad, "padding", 1);
	BAD(TM_MSG_HELLO, hello, version_min, "versions", 0);
	BAD(TM_MSG_HELLO, hello, version_max, "versions", 0);
	BAD(TM_MSG_WELCOME, welcome, data_max, "data connections", 0);
	BAD(TM_MSG_DISK_OPEN, disk_open, size, "size", 513);
	BAD(TM_MSG_DISK_OPEN, disk_open, size, "size", 0);
	BAD(TM_MSG_DISK_OPEN, disk_open, size, "size", TM_DISK_MAX + 512);
	BAD(TM_MSG_DISK_OPEN, disk_open, sector, "sector", 1024);
	BAD(TM_MSG_DISK_OPEN, disk_open, tracker, "tracker", 3);
	BAD(TM_MSG_DISK_STATE, disk_state, phase, "phase", 4);
	BAD(TM_MSG_DISK_STATE, disk_state, nranges, "too many", 0xffffffff);
	BAD(TM_MSG_ATTEMPT_BEGIN, attempt_begin, kind, "kind", 0);
	BAD(TM_MSG_ATTEMPT_BEGIN, attempt_begin, kind, "padding", TM_ATTEMPT_INITIAL);
	BAD(TM_MSG_ATTEMPT_BEGIN, attempt_begin, handle, "handle", 1);
	BAD(TM_MSG_ATTEMPT, attempt, attempt, "attempt", 0);
	BAD(TM_MSG_ATTEMPT, attempt, n, "too many", 0x10000001);
	BAD(TM_MSG_DATA, data, ncells, "cells", 0);
	BAD(TM_MSG_DATA, data, ncells, "cells", 3);
	BAD(TM_MSG_DATA, data, attempt, "attempt", 0);
	BAD(TM_MSG_EPOCH_COMMIT, epoch_commit, ndisks, "number of disks", 0);
	BAD(TM_MSG_EPOCH_COMMIT, epoch_commit, ndisks, "number of disks", 0x80000001);
	BAD(TM_MSG_EPOCH_COMMIT, epoch_commit, npieces, "pieces", 0x20000001);
	BAD(TM_MSG_EPOCH_COMMIT, epoch_commit, kind, "kind", 4);
	BAD(TM_MSG_EPOCH_COMMIT, epoch_commit, id, "epoch id", (struct tm_epoch_id){{0}, 0, {0}});
	BAD(TM_MSG_EPOCH_COMMIT, epoch_commit, label_len, "too long", 0xffff);
	BAD(TM_MSG_EPOCH_DONE, epoch_done, result, "result", 3);
	BAD(TM_MSG_COMPARE, compare, n, "hashes", 0);
	BAD(TM_MSG_COMPARE, compare, n, "hashes", 0x10000003);
	BAD(TM_MSG_COMPARE, compare, level, "level", 2);
	BAD(TM_MSG_COMPARE, compare, first, "beyond", UINT64_MAX - 1);
	BAD(TM_MSG_COMPARED, compared, n, "", 4097);
	BAD(TM_MSG_HEARTBEAT, heartbeat, ndisks, "too many", 257);
	BAD(TM_MSG_HEARTBEAT, heartbeat, paused, "paused", 2);
	BAD(TM_MSG_HEARTBEAT_OK, heartbeat_ok, full, "full", 2);
	BAD(TM_MSG_COMMAND, command, command, "command", 7);
	BAD(TM_MSG_COMMAND, command, kind, "kind", 0);
	BAD(TM_MSG_COMMAND_RESULT, command_result, ok, "ok", 2);
}

Test(msg, a_disk_listed_twice_and_crossed_ranges_are_refused)
{
	struct tm_epoch_disk d = {.handle = 1, .size = 512};
	struct tm_range r = {3, 5};

	refused(TM_MSG_EPOCH_COMMIT, sizeof(struct tm_msg_epoch_commit) + sizeof(d), &d, sizeof(d),
		"twice");
	d = (struct tm_epoch_disk){.handle = 3, .size = 100};
	refused(TM_MSG_EPOCH_COMMIT, sizeof(struct tm_msg_epoch_commit), &d, sizeof(d), "size");
	refused(TM_MSG_DISK_STATE, sizeof(struct tm_msg_disk_state) + sizeof(r), &r, sizeof(r),
		"out of order");
	r = (struct tm_range){1ull << 63, 1ull << 63};
	refused(TM_MSG_DISK_STATE, sizeof(struct tm_msg_disk_state) + 2 * sizeof(r), &r, sizeof(r),
		"out of order or bounds");
}

Test(msg, texts_are_plain_utf8)
{
	static const char *const bad[] = {"\n", "\x1b", "\x7f", "\xff", "\xc0", "\0"};
	size_t at = sizeof(struct tm_msg_error);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		refused(TM_MSG_ERROR, at + 3, bad[i], 1, "UTF-8");
	refused(TM_MSG_ERROR, at, "\xc0\xaf", 2, "UTF-8");
	refused(TM_MSG_ERROR, at, "\xed\xa0\x80", 3, "UTF-8");
	refused(TM_MSG_ERROR, at, "\xf4\x90\x80\x80", 4, "UTF-8");
	refused(TM_MSG_ERROR, at, "\xc2\x85", 2, "UTF-8");
}

Test(msg, builders_refuse_what_parsers_would)
{
	struct tm_msg_error m = {.code = TM_E_IO};
	struct tm_out out;
	char big[TM_TEXT_MAX + 2];

	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = 0;
	cr_assert_eq(tm_build_error(&out, &m, big, &err), -EINVAL);
	big[TM_TEXT_MAX] = 0;
	cr_assert_eq(tm_build_error(&out, &m, big, &err), 0);
	cr_assert_eq(tm_build_error(&out, &m, "a\nb", &err), -EINVAL);
	cr_assert_eq(tm_build_error(&out, &m, NULL, &err), 0);
	cr_assert_eq(tm_build_compare(&out, &(struct tm_msg_compare){0}, NULL, 0, &err), -EINVAL);
	cr_assert_eq(tm_build_heartbeat(&out, &(struct tm_msg_heartbeat){.clean_age_ns = 1}, NULL,
			     257, NULL, &err),
		-EINVAL);
}

Test(msg, a_stage_takes_its_own_messages_only)
{
	cr_assert_gt(tm_msg_limit(TM_STAGE_ENROLL, TM_MSG_ENROLL), 0);
	cr_assert_lt(tm_msg_limit(TM_STAGE_ENROLL, TM_MSG_ENROLL), 16384);
	for (uint16_t t = 0; t < 100; t++) {
		if (t != TM_MSG_ENROLL)
			cr_assert_eq(tm_msg_limit(TM_STAGE_ENROLL, t), -1);
		cr_assert_eq(tm_msg_limit(TM_STAGE_NONE, t), -1);
		if (t != TM_MSG_HELLO && t != TM_MSG_HELLO_DATA && t != TM_MSG_ERROR)
			cr_assert_eq(tm_msg_limit(TM_STAGE_HELLO, t), -1);
	}
	cr_assert_eq(tm_msg_limit(TM_STAGE_CONTROL, TM_MSG_DATA), -1);
	cr_assert_eq(tm_msg_limit(TM_STAGE_DATA, TM_MSG_EPOCH_COMMIT), -1);
	cr_assert_eq(tm_msg_limit(TM_STAGE_DATA, TM_MSG_DATA), TM_FRAME_MAX);
	cr_assert_eq(tm_msg_limit(TM_STAGE_AGENT, TM_MSG_OK), 0);
}

Test(msg, samples_fit_the_limits)
{
	static const enum tm_stage stages[] = {TM_STAGE_ENROLL, TM_STAGE_HELLO, TM_STAGE_CONTROL,
		TM_STAGE_DATA, TM_STAGE_ENROLLEE, TM_STAGE_WELCOME, TM_STAGE_AGENT,
		TM_STAGE_AGENT_DATA};

	for (uint16_t t = FIRST; t <= LAST; t++) {
		size_t len;
		unsigned at = 0;

		free(body_of(t, &len));
		for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]); i++)
			if (tm_msg_limit(stages[i], t) >= (int64_t)len)
				at++;
		cr_assert(at, "%s is accepted somewhere", tm_msg_name(t));
	}
}
