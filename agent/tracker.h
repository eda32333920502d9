/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What finds changes and makes epochs of them: the kernel module, or checksums of the whole disk. One tracker watches all disks of
 * a machine, so that a point is one instant.
 *
 * Called by the machine's thread. agent->lock is held for step, finish and cancel, which may drop it; not for the others.
 */
#ifndef AGENT_TRACKER_H
#define AGENT_TRACKER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/wire.h"

struct agent;
struct member;
struct cJSON;

struct tracker {
	const char *name;
	/* Where is the server, against what we know? Sets agent->head; what is in doubt begins a new line, with an alarm if points are gone. */
	int (*head)(struct agent *a, const struct tm_msg_welcome *w, struct tm_err *err);
	/* The disk is open: begins or goes on tracking it; a doubt gives it a new tracking UUID (durable), which brings a resync. */
	int (*attach)(struct member *m, struct tm_err *err);
	/* The disk is not protected any more. */
	void (*detach)(struct member *m);
	/* Begins what is due; lowers *until (monotonic ns) to the moment when something will be. */
	void (*step)(struct agent *a, uint64_t now, uint64_t *until);
	/* Ends what is complete; true if there was something. */
	bool (*finish)(struct agent *a);
	/* The session is over. */
	void (*cancel)(struct agent *a);
	/* Lock held, any thread. True: nothing was written since the newest epoch, which is durable (the proof that extends its point). */
	bool (*clean)(struct agent *a);
	/* Lock held, any thread. Adds what only this tracker has to tell. */
	void (*status)(struct agent *a, struct cJSON *o);
};

extern const struct tracker tracker_scan, tracker_kmod;

/* 0, or a negative errno with err saying why the kernel module cannot be used. */
int tracker_kmod_available(struct tm_err *err);

#endif
