/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enrolment tokens: one word to copy, "tm1" and base-32 digits. It names the token, proves the right to enrol, pins the server's CA
 * and carries a checksum against slips of the hand. The server keeps only a hash of the secret.
 */
#ifndef TM_TOKEN_H
#define TM_TOKEN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/tls.h"

#define TM_TOKEN_TEXT 160 /* with the NUL */
#define TM_TOKEN_ID   16
#define TM_SECRET     32
#define TM_HASH       32

struct tm_token {
	uint8_t id[TM_TOKEN_ID];
	uint8_t secret[TM_SECRET];
	uint8_t ca_fpr[TM_FPR];
	uint64_t expires; /* seconds since 1970; the server decides by its own clock */
};

/* Random id and secret. */
void tm_token_new(const uint8_t ca_fpr[TM_FPR], uint64_t expires, struct tm_token *token);

/* Returns out. */
const char *tm_token_format(const struct tm_token *token, char out[TM_TOKEN_TEXT]);

/* Space around it is ignored, either case is fine. -EINVAL: err says whether it is cut off, has a wrong character or a wrong checksum. */
int tm_token_parse(const char *text, struct tm_token *token, struct tm_err *err);

/* What the server stores and compares: SHA-256 over id and secret. */
void tm_token_hash(
	const uint8_t id[TM_TOKEN_ID], const uint8_t secret[TM_SECRET], uint8_t hash[TM_HASH]);

/* Takes the same time wherever they differ. */
bool tm_token_equal(const uint8_t a[TM_HASH], const uint8_t b[TM_HASH]);

#endif
