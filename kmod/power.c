// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hibernation. Memory that comes back from an image knows nothing of what was written after the image was made: the
 * image itself, in the swap area, and all that another system did meanwhile. So every disk is in doubt.
 */
#include <linux/rculist.h>
#include <linux/suspend.h>
#include "tidemark.h"

static int at_resume(struct notifier_block *nb, unsigned long action, void *unused)
{
	struct tm_disk *d;

	if (action != PM_POST_HIBERNATION && action != PM_POST_RESTORE)
		return NOTIFY_DONE;
	mutex_lock(&tm_mutex);
	tm_break(TM_BREAK_ERROR);
	list_for_each_entry (d, &tm_disks, list)
		tm_doubt(d, TMK_DOUBT_RESUMED);
	mutex_unlock(&tm_mutex);
	return NOTIFY_DONE;
}

static struct notifier_block resume = {.notifier_call = at_resume};

int tm_power_init(void)
{
	return register_pm_notifier(&resume);
}

void tm_power_exit(void)
{
	unregister_pm_notifier(&resume);
}
