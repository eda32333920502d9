// SPDX-License-Identifier: GPL-2.0-only
/* 6.17: a workqueue says so when it is per CPU. */
#include <linux/workqueue.h>
unsigned int probe(void);
unsigned int probe(void)
{
	return WQ_PERCPU;
}
