/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemons' unix control socket. One JSON document per line:
 *
 *	request   {"cmd": "points", "args": {...}}
 *	answers   any number of {"progress": {...}}, then one of
 *	          {"ok": true, "result": ...}
 *	          {"ok": false, "code": "EBUSY", "exit": 1|3|4, "error": "one line"}
 *
 * A connection may carry several requests, one after the other. The server runs a thread per client, at most TM_CONTROL_CLIENTS;
 * a line is at most TM_CONTROL_LINE bytes. A client that goes away or does not read is cut off; the handler learns it from
 * tm_control_progress() or tm_control_gone().
 */
#ifndef TM_CONTROL_H
#define TM_CONTROL_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define TM_CONTROL_CLIENTS 64
#define TM_CONTROL_LINE    (1u << 20) /* a request; an answer may be 64 MiB */

struct tm_control;

/* A request in progress, the handler's argument. */
struct tm_control_call {
	void *ctx; /* of tm_control_start */
	uid_t uid; /* the peer, as the kernel says (for the audit) */
	gid_t gid;
	pid_t pid;
	int exit; /* a failure's exit code: 1 unless tm_control_no_such/refused set it */
	int fd;   /* internal */
};

/*
 * Answers a command. args is an object, never NULL. 0 with *result (taken over; NULL means {}) or a negative errno with err set.
 * Runs in the client's own thread; several may run at once.
 */
typedef int (*tm_control_fn)(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err);

struct tm_control_cmd {
	const char *name; /* NULL ends the table */
	tm_control_fn fn;
};

/*
 * Listens at path (mode 0600 or 0660) and serves. A socket left over by a dead process is removed; one that answers is -EADDRINUSE.
 * table and ctx must live until tm_control_stop().
 */
int tm_control_start(const char *path, mode_t mode, const struct tm_control_cmd *table, void *ctx,
	struct tm_control **control, struct tm_err *err);

/* Stops listening, cuts off the clients, waits for their handlers (which see tm_control_gone), removes the socket. NULL is fine. */
void tm_control_stop(struct tm_control *control);

/* For handlers. progress is taken over. Non-zero if nobody listens any more: then give up or go on silently. */
int tm_control_progress(struct tm_control_call *call, cJSON *progress);
bool tm_control_gone(struct tm_control_call *call);

/* A handler's failure: no such thing (exit 3), refused by state (exit 4). Both return the negative errno. */
int tm_control_no_such(struct tm_control_call *call, struct tm_err *err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int tm_control_refused(struct tm_control_call *call, struct tm_err *err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Reading arguments, strictly. Missing: the _opt forms leave *out alone, the others fail with -EINVAL; a wrong type always fails.
 * Strings belong to args. Numbers are whole and within 0..2^53; a size or id may also come as a decimal string (up to 2^64 - 1).
 */
int tm_arg_string(const cJSON *args, const char *name, const char **out, struct tm_err *err);
int tm_arg_string_opt(const cJSON *args, const char *name, const char **out, struct tm_err *err);
int tm_arg_u64(const cJSON *args, const char *name, uint64_t *out, struct tm_err *err);
int tm_arg_u64_opt(const cJSON *args, const char *name, uint64_t *out, struct tm_err *err);
int tm_arg_bool_opt(const cJSON *args, const char *name, bool *out, struct tm_err *err);

/*
 * Adds a member; false only without memory. tm_json_u64 writes numbers above 2^53 as strings, tm_json_time as ISO 8601 (0: null),
 * tm_json_uuid as text.
 */
bool tm_json_u64(cJSON *object, const char *name, uint64_t value);
bool tm_json_time(cJSON *object, const char *name, uint64_t realtime_ns);
bool tm_json_uuid(cJSON *object, const char *name, const uint8_t uuid[16]);

/* The client's side. */
struct tm_control_request {
	const char *path, *cmd;
	cJSON *args;    /* not taken over; may be NULL */
	int timeout_ms; /* longest silence between answers; -1 = for ever */
	void (*progress)(void *ctx, const cJSON *progress); /* may be NULL */
	void *ctx;
};

/*
 * 0 with *result (the caller's), or a negative errno with err set and *exit_code 1, 3 or 4. A daemon that is not there gives a line
 * that says so.
 */
int tm_control_request(
	const struct tm_control_request *rq, cJSON **result, int *exit_code, struct tm_err *err);

#endif
