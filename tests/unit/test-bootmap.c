// SPDX-License-Identifier: Apache-2.0
/* What the program in the initramfs reported, as the agent reads it. */
#include <criterion/criterion.h>

#include "agent/bootmap.h"

Test(bootmap, reasons)
{
	const char *report =
		"254:0 doubt first\n254:16 restored 7\n8:0 doubt its map was in doubt\n";
	char why[16];

	cr_assert(bootmap_reason(report, 254, 0, why, sizeof(why)));
	cr_assert_str_eq(why, "first");
	cr_assert(bootmap_reason(report, 8, 0, why, sizeof(why)));
	cr_assert_str_eq(why, "its map was in ", "cut to the room there is");
	cr_assert_not(bootmap_reason(report, 254, 16, why, sizeof(why)));
	cr_assert_not(bootmap_reason(report, 4, 0, why, sizeof(why)));
	cr_assert_not(bootmap_reason(NULL, 8, 0, why, sizeof(why)));
	cr_assert_not(bootmap_reason("", 8, 0, why, sizeof(why)));
	cr_assert(bootmap_reason("all doubt lost", 8, 0, why, sizeof(why)));
	cr_assert_str_eq(why, "lost");
}

Test(bootmap, restored_is_told_once)
{
	char report[] = "1254:0 restored 1\n254:0 restored 9\n";

	cr_assert_not(bootmap_restored(NULL, 254, 0));
	cr_assert_not(bootmap_restored(report, 54, 0));
	cr_assert(bootmap_restored(report, 254, 0));
	cr_assert_not(bootmap_restored(report, 254, 0));
	cr_assert(bootmap_restored(report, 1254, 0));
}
