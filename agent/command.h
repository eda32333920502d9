/* SPDX-License-Identifier: Apache-2.0 */
/* What the server hears and says besides requests: heartbeats and commands. */
#ifndef AGENT_COMMAND_H
#define AGENT_COMMAND_H

#include "agent/agent.h"

struct session_owner command_owner(struct agent *a);

/* Queues a request that somebody waits for, or that answers a command (then it is freed when done). Caller holds the lock. */
void request_add(struct agent *a, struct request *rq);

#endif
