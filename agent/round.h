/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scan tracker. A round is one way round all disks that have joined: each is compared with the server's newest state, what differs
 * becomes a piece, and an epoch makes all pieces visible at once.
 */
#ifndef AGENT_ROUND_H
#define AGENT_ROUND_H

#include "agent/agent.h"

/* A member's pass failed: the round ends without a point when the others' passes have ended. Lock held. */
void round_fail(struct agent *a, struct member *m);

#endif
