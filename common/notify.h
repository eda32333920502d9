/* SPDX-License-Identifier: Apache-2.0 */
/* Tells systemd about the daemon ("READY=1"), if it started us. */
#ifndef TM_NOTIFY_H
#define TM_NOTIFY_H

/* Never fails: who does not listen is not told. */
void tm_notify(const char *text);

#endif
