/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enrolment, the agent's side, and what it leaves in the agent's state folder:
 *
 *	DIR/pki/{ca.crt,machine.crt,machine.key}   DIR/server.json   who we are and where the server is
 */
#ifndef AGENT_ENROLL_H
#define AGENT_ENROLL_H

#include <stdint.h>

#include "common/conn.h"
#include "common/err.h"
#include "common/wire.h"

struct enroll_identity {
	uint8_t machine[TM_UUID];
	uint8_t server[TM_UUID];
	char host[256]; /* of the server */
	uint16_t port;
};

/*
 * Enrols at host:port with the token. Nothing of ours is sent before the server has proved to be the one that the token names. A
 * machine that is enrolled keeps its UUID (and needs a token that was made for it); else a new UUID is drawn. All durable before it
 * returns; on failure an older enrolment is as it was.
 */
int enroll_run(const char *dir, const char *host, uint16_t port, const char *token,
	struct enroll_identity *id, struct tm_err *err);

/* What is stored. -ENOENT: not enrolled. */
int enroll_load(const char *dir, struct enroll_identity *id, struct tm_err *err);

/* Forgets the server: removes keys and server.json, durably. Not enrolled is no error. */
int enroll_forget(const char *dir, struct tm_err *err);

#endif
