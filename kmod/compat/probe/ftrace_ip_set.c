// SPDX-License-Identifier: GPL-2.0-only
/* 5.17: the instruction pointer is set by ftrace_instruction_pointer_set(). */
#include <linux/ftrace.h>
void probe(struct ftrace_regs *regs);
void probe(struct ftrace_regs *regs)
{
	ftrace_instruction_pointer_set(regs, 0);
}
