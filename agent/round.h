/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds: one way round all disks that have joined, ending in an epoch and its point. The scan tracker's round compares every disk with
 * the server's newest state; complete pieces of other disks (initial sync, resync) become visible with the same epoch.
 *
 * Called by the machine's thread only; agent->lock is held unless a name ends with _unlocked.
 */
#ifndef AGENT_ROUND_H
#define AGENT_ROUND_H

#include "agent/agent.h"

/* Is one wanted now? Sets *until (monotonic ns) to when it will be, UINT64_MAX if unknown. */
bool round_wanted(struct agent *a, uint64_t now, uint64_t *until);

/* Begins: takes the waiting requests, marks the members that get a pass. */
void round_begin(struct agent *a);

/* Have all its passes ended? */
bool round_complete(const struct agent *a);

/* Commits. Drops the lock meanwhile. Failures are told to those who wait, and noted. */
void round_end(struct agent *a);

/* A member's pass failed: the round ends without a point when the others' passes have ended. */
void round_fail(struct agent *a, struct member *m);

/* The session is over: nothing of the round remains. */
void round_cancel(struct agent *a);

/* Looks where the server is, against what we know. Doubt makes a new line (and all disks doubtful), with an alarm. No lock held. */
int round_head_unlocked(struct agent *a, const struct tm_msg_welcome *w, struct tm_err *err);

#endif
