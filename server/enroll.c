// SPDX-License-Identifier: Apache-2.0
#include "server/enroll.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/pki.h"
#include "common/uuid.h"

#define END_MS 2000

/* Says no, in words that give nothing away unless `tell` may. */
static void refuse(struct tm_conn *c, const char *tell)
{
	struct tm_msg_error m = {.code = TM_E_AUTH, .fatal = 1, .about = TM_MSG_ENROLL};
	struct tm_out out;
	struct tm_err err;

	if (tm_build_error(&out, &m, tell ? tell : "enrolment refused", &err) == 0)
		tm_conn_send_msg(c, &out, &err);
	tm_conn_finish(c, END_MS);
}

static int welcome(struct tm_conn *c, const uint8_t server[TM_UUID], const void *cert,
	size_t cert_len, const void *ca, size_t ca_len, struct tm_err *err)
{
	struct tm_msg_enrolled m = {0};
	struct tm_out out;

	memcpy(m.server, server, TM_UUID);
	if (tm_build_enrolled(&out, &m, cert, cert_len, ca, ca_len, err) < 0 ||
		tm_conn_send_msg(c, &out, err) < 0)
		return -err->code;
	tm_conn_finish(c, END_MS);
	return 0;
}

int enroll_serve(struct tm_conn *c, const void *body, size_t len, const char *pki_dir,
	const uint8_t server[TM_UUID], enroll_fn claim, void *ctx, uint8_t machine[TM_UUID],
	struct tm_err *err)
{
	CLEANUP_FREE void *cert = NULL;
	CLEANUP_FREE void *ca = NULL;
	struct enroll_claim cl = {.peer = tm_conn_name(c)};
	struct tm_in_enroll in;
	const char *tell = NULL;
	size_t cert_len, ca_len;

	/* Signed before the claim is laid, so that nothing can fail in between; a certificate that nobody gets is worth nothing. */
	if (tm_parse_enroll(body, len, &in, err) < 0 ||
		tm_pki_sign(pki_dir, in.csr, in.m->csr_len, in.m->machine, &cert, &cert_len, &ca,
			&ca_len, cl.cert_fpr, err) < 0) {
		refuse(c, NULL);
		return tm_wrap(err, "enrolment from %s refused", cl.peer);
	}
	memcpy(cl.token_id, in.m->token_id, sizeof(cl.token_id));
	memcpy(cl.machine, in.m->machine, sizeof(cl.machine));
	tm_token_hash(in.m->token_id, in.m->secret, cl.token_hash);
	cl.host = in.host;
	if (claim(ctx, &cl, &tell, err) < 0) {
		refuse(c, tell);
		return tm_wrap(err, "enrolment of %s from %s refused", in.host, cl.peer);
	}
	memcpy(machine, cl.machine, TM_UUID);
	if (welcome(c, server, cert, cert_len, ca, ca_len, err) < 0)
		return tm_wrap(
			err, "enrolled %s, but it does not know: make a new token for it", in.host);
	return 0;
}
