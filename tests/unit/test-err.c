// SPDX-License-Identifier: Apache-2.0
#include "common/err.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(err, fail_returns_the_negative_code_and_one_line)
{
	struct tm_err err = {0};

	cr_assert_eq(tm_fail(&err, EPROTO, "bad frame from %s\nsecond line", "x"), -EPROTO);
	cr_assert_eq(err.code, EPROTO);
	cr_assert_str_eq(err.msg, "bad frame from x second line");
}

Test(err, wrap_puts_context_first_and_keeps_the_code)
{
	struct tm_err err = {0};

	errno = ENOENT;
	tm_fail_errno(&err, "open %s", "/x");
	cr_assert_eq(tm_wrap(&err, "start"), -ENOENT);
	cr_assert_str_eq(err.msg, "start: open /x: No such file or directory");
}

Test(err, long_messages_are_cut_not_overrun)
{
	struct tm_err err = {0};
	char big[2000];

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	tm_fail(&err, EIO, "%s", big);
	tm_wrap(&err, "%s", big);
	cr_assert_eq(strlen(err.msg), sizeof(err.msg) - 1);
}
