// SPDX-License-Identifier: GPL-2.0-only
/* Before 5.11 a callback that needs no recursion guard says so; later one that needs it does. */
#include <linux/ftrace.h>
unsigned long probe(void);
unsigned long probe(void)
{
	return FTRACE_OPS_FL_RECURSION_SAFE;
}
