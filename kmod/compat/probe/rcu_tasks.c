// SPDX-License-Identifier: GPL-2.0-only
/* Only preemptible kernels have RCU-tasks. */
#include <linux/rcupdate.h>
void probe(void);
void probe(void)
{
	synchronize_rcu_tasks();
}
