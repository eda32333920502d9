/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enrolment, the server's side: a peer without a certificate shows a token and a request, and gets a certificate for its machine.
 */
#ifndef SERVER_ENROLL_H
#define SERVER_ENROLL_H

#include <stddef.h>
#include <stdint.h>

#include "common/conn.h"
#include "common/err.h"
#include "common/token.h"
#include "common/wire.h"

/* What the catalog has to decide on, in one transaction. */
struct enroll_claim {
	uint8_t token_id[TM_TOKEN_ID];
	uint8_t token_hash[TM_HASH]; /* tm_token_hash() of what the peer showed */
	uint8_t machine[TM_UUID];
	uint8_t cert_fpr[TM_FPR]; /* of the certificate that it will get */
	const char *host;
	const char *peer; /* address */
};

/*
 * Durably, in one transaction: the token exists, its hash is the same (tm_token_equal), it is not expired and has a use left; the
 * machine is not enrolled yet (or the token was made for exactly this machine, which ends its older certificate); then one use is taken,
 * machine and certificate are noted. 0, or a negative errno with err = the reason for the log, and *tell = what the peer may know
 * (a static text; left NULL: "enrolment refused"; a peer that does not know the secret learns no more than that).
 */
typedef int (*enroll_fn)(
	void *ctx, const struct enroll_claim *claim, const char **tell, struct tm_err *err);

/*
 * Handles an ENROLL message on a connection without a certificate: checks, signs, asks `claim`, answers ENROLLED or a fatal ERROR,
 * and ends the connection politely. pki_dir: folder of the CA. 0 with *machine set, or a negative errno with err = the line for
 * the log. Nothing is written unless claim says yes.
 */
int enroll_serve(struct tm_conn *c, const void *body, size_t len, const char *pki_dir,
	const uint8_t server[TM_UUID], enroll_fn claim, void *ctx, uint8_t machine[TM_UUID],
	struct tm_err *err);

#endif
