/* SPDX-License-Identifier: Apache-2.0 */
/* Why a message is refused: for the peer as ERROR, for the operator as one line in the log. */
#ifndef SERVER_REFUSAL_H
#define SERVER_REFUSAL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/conn.h"
#include "common/err.h"
#include "common/wire.h"

struct refusal {
	uint16_t code; /* enum tm_refusal */
	bool fatal;
	uint64_t attempt; /* 0 = none */
	char text[TM_TEXT_MAX + 1];
};

/* Fills it in; returns -1, for a handler to return. PROTO, AUTH, VERSION and HELD are fatal. */
int refuse(struct refusal *r, uint16_t code, uint64_t attempt, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* The refusal that belongs to an error of the store. */
int refuse_store(struct refusal *r, int rc, uint64_t attempt, const struct tm_err *err);

/* Sends it as ERROR about a message and logs it. `who` names the machine or is empty. */
void refusal_send(struct tm_conn *c, const struct refusal *r, uint16_t about, const char *who);

#endif
