// SPDX-License-Identifier: GPL-2.0-only
/* 6.2: the instruction pointer is set by ftrace_regs_set_instruction_pointer(). */
#include <linux/ftrace.h>
void probe(struct ftrace_regs *regs);
void probe(struct ftrace_regs *regs)
{
	ftrace_regs_set_instruction_pointer(regs, 0);
}
