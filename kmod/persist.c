// SPDX-License-Identifier: GPL-2.0-only
/* The map across reboots. */
#include "tidemark.h"

bool tm_shutting_down(void)
{
	return false;
}

int tm_persist(struct tmk_persist *arg)
{
	return -EOPNOTSUPP;
}

int tm_restore(struct tmk_restore *arg)
{
	arg->reason = TMK_RESTORE_NO_FILE;
	return -EOPNOTSUPP;
}

void tm_persist_forget(struct tm_disk *d)
{
}

int tm_persist_init(void)
{
	return 0;
}

void tm_persist_exit(void)
{
}
