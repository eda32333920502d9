// SPDX-License-Identifier: Apache-2.0
// timeout: 60
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "server/frames.h"

Test(frames, any_order_counts_once)
{
	static const uint32_t order[] = {3, 0, 1, 3, 2, 0, 4};
	struct frames f = {.digest = 0};
	struct tm_err err;
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		bool had = frames_has(&f, order[i]);

		cr_assert_eq(frames_add(&f, order[i], order[i] * 1000003ull, &err), !had);
		sum += had ? 0 : order[i] * 1000003ull;
	}
	cr_assert_eq(f.digest, sum);
	cr_assert(frames_whole(&f, 5));
	cr_assert(!frames_whole(&f, 4));
	cr_assert(!frames_whole(&f, 6));
	frames_clear(&f);
	cr_assert(frames_whole(&f, 0));
	cr_assert(!frames_whole(&f, 1));
	cr_assert_eq(f.digest, 0);
}

Test(frames, a_gap_is_not_whole)
{
	struct frames f = {.digest = 0};
	struct tm_err err;

	frames_add(&f, 0, 1, &err);
	frames_add(&f, 2, 1, &err);
	cr_assert(!frames_whole(&f, 2));
	cr_assert(!frames_whole(&f, 3));
	frames_add(&f, 1, 1, &err);
	cr_assert(frames_whole(&f, 3));
	frames_clear(&f);
}

Test(frames, what_could_not_be_stored_is_taken_back)
{
	struct frames f = {.digest = 0};
	struct tm_err err;

	for (uint32_t i = 0; i < 10; i++)
		frames_add(&f, i, 7 + i, &err);
	cr_assert_eq(frames_remove(&f, 4, 11, &err), 0);
	cr_assert(!frames_has(&f, 4));
	cr_assert(!frames_whole(&f, 10));
	cr_assert_eq(frames_remove(&f, 4, 11, &err), 0, "twice changes nothing");
	cr_assert_eq(frames_add(&f, 4, 11, &err), 1);
	cr_assert(frames_whole(&f, 10));
	cr_assert_eq(f.digest, 10 * 7 + 45);
	frames_clear(&f);
}

Test(frames, gaps_everywhere_are_refused)
{
	struct frames f = {.digest = 0};
	struct tm_err err;
	uint32_t i;
	int rc = 1;

	for (i = 0; rc == 1 && i < 10 * FRAMES_GAPS; i++)
		rc = frames_add(&f, 2 * i, 1, &err);
	cr_assert_eq(rc, -EBADMSG);
	cr_assert_eq(i, FRAMES_GAPS + 1);
	cr_assert(!frames_has(&f, 2 * (i - 1)));
	frames_clear(&f);
}

Test(frames, the_digest_depends_on_the_number)
{
	static const char cells[] = "the same bytes";

	cr_assert_neq(
		frames_digest(0, cells, sizeof(cells)), frames_digest(1, cells, sizeof(cells)));
	cr_assert_eq(
		frames_digest(9, cells, sizeof(cells)), frames_digest(9, cells, sizeof(cells)));
}
