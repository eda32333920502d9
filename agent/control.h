/* SPDX-License-Identifier: Apache-2.0 */
/* What agentctl asks: the commands of the agent's unix socket. */
#ifndef AGENT_CONTROL_H
#define AGENT_CONTROL_H

#include <cjson/cJSON.h>

#include "agent/agent.h"
#include "common/control.h"

extern const struct tm_control_cmd agent_commands[];

/* How it goes, in one line. Caller holds the lock. */
void status_line(const struct agent *a, char *out, size_t room);

/* status.c; args "disk": none. */
int control_status(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_disks(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);

/* The state's disk that a path or name means; NULL with err set (exit 3). Caller holds state->lock. */
struct state_disk *control_find(
	struct tm_control_call *call, struct agent *a, const char *text, struct tm_err *err);

#endif
