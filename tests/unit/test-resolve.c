// SPDX-License-Identifier: Apache-2.0
// timeout: 60
#include <criterion/criterion.h>
#include <errno.h>

#include "server/resolve.h"

Test(resolve, what_a_point_may_be_called)
{
	struct tm_err err;
	struct resolve r;

	cr_assert_eq(resolve_parse("latest", &r, &err), 0);
	cr_assert_eq(r.kind, RESOLVE_LATEST);
	cr_assert_eq(resolve_parse("latest-app", &r, &err), 0);
	cr_assert_eq(r.kind, RESOLVE_LATEST_APP);
	cr_assert_eq(resolve_parse("18446744073709551615", &r, &err), 0);
	cr_assert_eq(r.kind, RESOLVE_ID);
	cr_assert_eq(r.id, UINT64_MAX);
	cr_assert_eq(resolve_parse("2026-11-28T01:30:00Z", &r, &err), 0);
	cr_assert_eq(r.kind, RESOLVE_TIME);
	cr_assert_eq(r.time_ns, 1795829400000000000);
}

Test(resolve, what_it_may_not)
{
	static const char *const bad[] = {
		"", "newest", "-1", "12x", "latest ", "99999999999999999999"};
	struct tm_err err;
	struct resolve r;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(resolve_parse(bad[i], &r, &err), -EINVAL, "'%s'", bad[i]);
}
