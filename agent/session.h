/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control connection to the process server: requests and their answers, heartbeats, the server's commands.
 *
 * A session ends once, for one reason, and never comes back; whoever waits for an answer then gets that reason. One thread receives
 * and beats the heart; requests come from any thread.
 */
#ifndef AGENT_SESSION_H
#define AGENT_SESSION_H

#include <pthread.h>
#include <stdbool.h>

#include "common/conn.h"

struct session;

/* What the session tells its owner; called by its thread, must not block for long. */
struct session_owner {
	void *ctx;
	/* Fills a heartbeat: *disks (room for TM_DISKS_MAX), *n, error text. */
	void (*beat)(void *ctx, struct tm_msg_heartbeat *m, struct tm_disk_beat *disks, uint32_t *n,
		char error[TM_TEXT_MAX + 1]);
	void (*beat_ok)(void *ctx, const struct tm_msg_heartbeat_ok *m);
	void (*command)(void *ctx, const struct tm_in_command *c);
	void (*answered)(void *ctx); /* a commit has its answer */
	void (*ended)(void *ctx);    /* once */
};

/* A request under way. */
struct call {
	struct call *next;
	uint16_t type, reply;
	uint64_t attempt; /* commits are matched by it */
	bool done;
	struct tm_err err; /* code 0: answered */
	uint16_t refusal;  /* enum tm_refusal if the server refused */
	void *body;        /* of the answer; call_free() */
	uint32_t len;
};

struct state;

struct session_opts {
	const char *host;
	uint16_t port;
	struct tm_tls *tls;
	struct session_owner owner;
	struct state *state; /* counts the sessions */
};

/* Connects, says HELLO, waits for WELCOME. *refusal: the server's, 0 if it was something else. */
int session_open(const struct session_opts *opts, const struct tm_msg_hello *hello,
	const char *host, const char *hardware, struct session **s, uint16_t *refusal,
	struct tm_err *err);
void session_close(struct session *s); /* ends it, waits for its thread; NULL is fine */

const struct tm_msg_welcome *session_welcome(const struct session *s);

/* Sends a request; the answer comes to session_wait(), which must be called. For commits, attempt names it. */
void session_begin(struct session *s, struct call *call, const struct tm_out *out, uint16_t reply,
	uint64_t attempt);
/* Waits for the answer. 0, or the negative errno of call->err. */
int session_wait(struct session *s, struct call *call, struct tm_err *err);
bool session_done(struct session *s, const struct call *call);
void call_free(struct call *call);

/* Both in one. */
int session_call(struct session *s, struct call *call, const struct tm_out *out, uint16_t reply,
	uint64_t attempt, struct tm_err *err);

/* Sends what has no answer to wait for (COMMAND_RESULT: its OK is dropped). */
void session_tell(struct session *s, const struct tm_out *out);

/* Ends the session for this reason (the first one counts). refusal: enum tm_refusal or 0. */
void session_fail(struct session *s, const struct tm_err *why, uint16_t refusal);
bool session_ended(struct session *s, struct tm_err *why, uint16_t *refusal);

void session_stats(struct session *s, struct tm_conn_stats *stats);

#endif
