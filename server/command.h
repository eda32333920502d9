/* SPDX-License-Identifier: Apache-2.0 */
/* Commands to an agent: sent on its control connection, answered by COMMAND_RESULT. */
#ifndef SERVER_COMMAND_H
#define SERVER_COMMAND_H

#include "server/session.h"

/*
 * Sends the command (id is set here) and waits for its result. 0 with the point's id in *point if the agent did it; -ENOTCONN
 * no session; -ETIMEDOUT; -EIO refused by the agent, err says why.
 */
int command_run(struct machine *m, struct tm_msg_command *cmd, const char *label,
	unsigned int timeout_s, uint64_t *point, struct tm_err *err);

/* Handler of the control connection. */
int command_result(struct session *s, const void *body, size_t len, struct refusal *r);

/* The session has ended: those who wait are told. */
void command_drop(struct machine *m);

#endif
