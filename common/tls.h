/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS as Tidemark uses it: version 1.3 only, ALPN "tidemark/1", certificates from the server's own CA and no other. Identity is
 * the UUID in a certificate ("urn:uuid:..." as its subject alternative name), never a DNS name. A certificate is good for one role:
 * a machine's does not pass as a server's. Revocation is the catalog's: the session asks it at each frame.
 */
#ifndef TM_TLS_H
#define TM_TLS_H

#include <stdint.h>

#include "common/err.h"
#include "common/wire.h"

#define TM_FPR 32 /* SHA-256 of a certificate's DER form */

struct tm_tls; /* shared by any number of connections; reference counted, thread safe */

/* Files in a folder of keys (pki.h): ca.crt, server.crt, server.key. Clients may come without a certificate: tm_conn_peer() tells. */
int tm_tls_server(const char *dir, struct tm_tls **tls, struct tm_err *err);

/* ca.crt, machine.crt, machine.key; the peer must be the server with this UUID. */
int tm_tls_client(
	const char *dir, const uint8_t server[TM_UUID], struct tm_tls **tls, struct tm_err *err);

/* Before enrolment: no certificate of our own; the handshake fails unless the server's chain ends in the CA with this fingerprint. */
int tm_tls_enroll(const uint8_t ca_fpr[TM_FPR], struct tm_tls **tls, struct tm_err *err);

void tm_tls_get(struct tm_tls *tls);
void tm_tls_put(struct tm_tls *tls); /* NULL is fine */

#endif
