/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filesystems held still: frozen for a short time, or shown not to have been mounted at all.
 *
 * A watchdog process thaws what is frozen when the limit is over, and also when the agent dies: nothing stays frozen.
 */
#ifndef AGENT_FREEZE_H
#define AGENT_FREEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct freeze;
struct quiet;

/*
 * Freezes all filesystems on these disks (names as in sysfs), and those in files of them (loop devices), the innermost first, for at most
 * limit_ns. On failure all are thawed.
 */
int freeze_begin(const char *const *disks, size_t n, uint64_t limit_ns, struct freeze **f,
	struct tm_err *err);

/* Thaws. -ETIMEDOUT: the watchdog had done it already, so what was read may have changed. Frees f. */
int freeze_end(struct freeze *f, struct tm_err *err);

/*
 * Watches disks with filesystems of which none is mounted and nothing else uses the disk. -EBUSY if that is not so, or if a disk has no
 * filesystem that we know (then whoever writes to it writes past the mounts). quiet_end(): was it so all the time? Frees q.
 */
int quiet_begin(const char *const *disks, size_t n, struct quiet **q);
bool quiet_end(struct quiet *q);

#endif
