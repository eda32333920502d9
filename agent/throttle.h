/* SPDX-License-Identifier: Apache-2.0 */
/* Who says how fast we may send: the operator's command, else the schedule of the configuration, else its plain rate. */
#ifndef AGENT_THROTTLE_H
#define AGENT_THROTTLE_H

#include "agent/agent.h"

/* Sets the rate that holds now. Takes state->lock. */
void throttle_apply(struct agent *a);

/* The same as time goes on; lowers *until to when to look again. Agent lock held. */
void throttle_step(struct agent *a, uint64_t now, uint64_t *until);

/* "command", "schedule", "configuration", or "" without a limit. state->lock held. */
const char *throttle_by(const struct agent *a);

#endif
