/* SPDX-License-Identifier: Apache-2.0 */
/* What finds changes: the kernel module, or checksums of the whole disk. */
#ifndef AGENT_TRACKER_H
#define AGENT_TRACKER_H

#include "common/err.h"

/* 0, or a negative errno with err saying why the kernel module cannot be used. */
int tracker_kmod_available(struct tm_err *err);

#endif
