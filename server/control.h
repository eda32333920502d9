/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the control socket, as serverctl asks them. */
#ifndef SERVER_CONTROL_H
#define SERVER_CONTROL_H

#include "common/control.h"
#include "server/machine.h"

int control_start(struct server *s, struct tm_control **control, struct tm_err *err);

/* The machine that args name as "machine" (UUID or host name); a failure says exit 3. */
int control_machine(
	struct tm_control_call *call, const cJSON *args, struct machine **m, struct tm_err *err);

/* Writes the command into the audit table, with its result; returns rc, or the failure to write where rc was 0. */
int control_audit(struct tm_control_call *call, const char *cmd, const cJSON *args, int rc,
	struct tm_err *err);

/* control_show.c */
int control_machines(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_show(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_audits(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);

/* control_policy.c */
int control_policy(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_policy_set(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);

/* control_scrub.c */
int control_scrub(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);

/* control_backup.c */
int control_backup(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);

/* control_point.c */
int control_points(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_pin(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_unpin(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_checkpoint(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);
int control_release(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);

#endif
