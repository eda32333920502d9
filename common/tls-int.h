/* SPDX-License-Identifier: Apache-2.0 */
/* Between tls.c, pki.c and conn.c; OpenSSL shows nowhere else. */
#ifndef TM_TLS_INT_H
#define TM_TLS_INT_H

#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/tls.h"

struct tm_tls {
	_Atomic int refs;
	SSL_CTX *ctx;
	bool server;
	uint8_t peer[TM_UUID]; /* client: whom the server must be; zero = not checked (enrolment) */
	uint8_t ca_fpr[TM_FPR]; /* enrolment */
};

/* "what: OpenSSL's reason"; clears this thread's error queue; returns -code. */
int tm_fail_ssl(struct tm_err *err, int code, const char *what);

/* The one UUID in the certificate; -EINVAL if there is none or more than one. */
int tm_cert_uuid(X509 *cert, uint8_t uuid[TM_UUID]);
void tm_cert_fpr(X509 *cert, uint8_t fpr[TM_FPR]);

#endif
