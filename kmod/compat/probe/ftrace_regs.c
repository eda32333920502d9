// SPDX-License-Identifier: GPL-2.0-only
/* 5.11: callbacks get struct ftrace_regs. */
#include <linux/ftrace.h>
static void callback(
	unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
}
ftrace_func_t probe(void);
ftrace_func_t probe(void)
{
	return callback;
}
