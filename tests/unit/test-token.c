// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/token.h"

static struct tm_token token, got;
static char text[TM_TOKEN_TEXT];
static struct tm_err err;

static void begin(void)
{
	uint8_t fpr[TM_FPR];

	memset(fpr, 0xa5, sizeof(fpr));
	tm_token_new(fpr, 1800000000, &token);
	tm_token_format(&token, text);
}

TestSuite(token, .init = begin);

Test(token, comes_back_as_it_was)
{
	cr_assert_eq(tm_token_parse(text, &got, &err), 0, "%s", err.msg);
	cr_assert_arr_eq(&got, &token, sizeof(token));
	cr_assert_eq(strlen(text), strspn(text, "0123456789abcdefghijklmnopqrstuvwxyz"));
}

Test(token, space_around_and_capitals_do_no_harm)
{
	char loud[TM_TOKEN_TEXT + 8];

	snprintf(loud, sizeof(loud), " \t%s\r\n", text);
	for (char *p = loud; *p; p++)
		*p = (char)toupper(*p);
	cr_assert_eq(tm_token_parse(loud, &got, &err), 0, "%s", err.msg);
	cr_assert_arr_eq(&got, &token, sizeof(token));
}

Test(token, every_cut_and_every_slip_shows)
{
	size_t n = strlen(text);
	char bad[TM_TOKEN_TEXT + 2];

	for (size_t i = 0; i < n; i++) {
		memcpy(bad, text, n + 1);
		bad[i] = 0;
		cr_assert_eq(tm_token_parse(bad, &got, &err), -EINVAL);
	}
	cr_assert(strstr(err.msg, "cut off"), "%s", err.msg);
	for (size_t i = 0; i < n; i++) {
		static const char tries[] = "0az9 -\x80i";

		for (size_t k = 0; k < sizeof(tries) - 1; k++) {
			memcpy(bad, text, n + 1);
			if (bad[i] == tries[k])
				continue;
			bad[i] = tries[k];
			cr_assert_eq(
				tm_token_parse(bad, &got, &err), -EINVAL, "%zu %c", i, tries[k]);
		}
	}
	snprintf(bad, sizeof(bad), "%s0", text);
	cr_assert_eq(tm_token_parse(bad, &got, &err), -EINVAL);
	cr_assert_eq(tm_token_parse("", &got, &err), -EINVAL);
	cr_assert(strstr(err.msg, "not a token"));
}

Test(token, two_neighbours_exchanged_show)
{
	size_t n = strlen(text);

	for (size_t i = 3; i + 1 < n; i++) {
		char bad[TM_TOKEN_TEXT];

		memcpy(bad, text, n + 1);
		if (bad[i] == bad[i + 1])
			continue;
		bad[i] = text[i + 1];
		bad[i + 1] = text[i];
		cr_assert_eq(tm_token_parse(bad, &got, &err), -EINVAL);
	}
}

Test(token, no_two_are_alike_and_the_hash_tells_secrets_apart)
{
	uint8_t a[TM_HASH], b[TM_HASH];
	struct tm_token second;

	tm_token_new(token.ca_fpr, 1, &second);
	cr_assert_neq(memcmp(second.id, token.id, TM_TOKEN_ID), 0);
	cr_assert_neq(memcmp(second.secret, token.secret, TM_SECRET), 0);
	tm_token_hash(token.id, token.secret, a);
	tm_token_hash(token.id, token.secret, b);
	cr_assert(tm_token_equal(a, b));
	tm_token_hash(token.id, second.secret, b);
	cr_assert_not(tm_token_equal(a, b));
	tm_token_hash(second.id, token.secret, b);
	cr_assert_not(tm_token_equal(a, b));
}
