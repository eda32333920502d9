/* SPDX-License-Identifier: Apache-2.0 */
/* Tells systemd about the daemon ("READY=1"), if it started us. */
#ifndef TM_NOTIFY_H
#define TM_NOTIFY_H

#include <stdint.h>

/* Never fails: who does not listen is not told. */
void tm_notify(const char *text);

/* How often "WATCHDOG=1" is due for the service manager not to end us, in ns, half of what it asks for; 0 = it does not ask. */
uint64_t tm_notify_watchdog(void);

#endif
