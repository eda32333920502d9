/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process server's own certification authority, and the keys of both sides. EC P-256, certificates in PEM files, keys 0600,
 * all written durably (file.h).
 *
 * Validity: the CA 30 years, certificates 10; they begin in the year 2020, so that a machine whose clock was set back still
 * connects. What ends a certificate early is revocation in the catalog. Renewal: a machine enrols again with a token made for it;
 * tm_pki_issue_server() makes a new server certificate under the same CA and server UUID at any time.
 */
#ifndef TM_PKI_H
#define TM_PKI_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/tls.h"
#include "common/wire.h"

#define TM_CSR_MAX  8192u
#define TM_CERT_MAX 8192u

/* Server: makes dir (0700) with ca.key, ca.crt, server.key, server.crt. -EEXIST if there is a CA already. */
int tm_pki_create(const char *dir, const uint8_t server[TM_UUID], struct tm_err *err);

/* Server: a new key and certificate for the server itself, in place of the old. */
int tm_pki_issue_server(const char *dir, const uint8_t server[TM_UUID], struct tm_err *err);

/* Fingerprint of dir/ca.crt. */
int tm_pki_ca_fpr(const char *dir, uint8_t fpr[TM_FPR], struct tm_err *err);

/* Fingerprint of a certificate in DER form. */
void tm_pki_fpr(const void *der, size_t len, uint8_t fpr[TM_FPR]);

/* End of validity of a certificate file, seconds since 1970 (for warnings). */
int tm_pki_expires(const char *path, uint64_t *seconds, struct tm_err *err);

/* Machine: a new key (PEM, malloc'ed, to be wiped by tm_pki_wipe) and a request for it (DER, malloc'ed). */
int tm_pki_request(const uint8_t machine[TM_UUID], char **key, size_t *key_len, void **csr,
	size_t *csr_len, struct tm_err *err);

/* Clears secret memory and frees it. NULL is fine. */
void tm_pki_wipe(void *p, size_t len);

/*
 * Server: checks a request from a peer (form, size, key type, its signature) and signs its key for the machine; nothing else of
 * the request is taken over. cert: DER, malloc'ed. ca: the CA's certificate, DER, malloc'ed. fpr: of the new certificate.
 */
int tm_pki_sign(const char *dir, const void *csr, size_t csr_len, const uint8_t machine[TM_UUID],
	void **cert, size_t *cert_len, void **ca, size_t *ca_len, uint8_t fpr[TM_FPR],
	struct tm_err *err);

/*
 * Machine: checks that the certificate is for this machine and this key and comes from the CA with ca_fpr, then stores machine.key,
 * machine.crt and ca.crt in dir, durably; the certificate comes last, so that a crash leaves the old set or no usable one.
 */
int tm_pki_store(const char *dir, const uint8_t machine[TM_UUID], const uint8_t ca_fpr[TM_FPR],
	const char *key, size_t key_len, const void *cert, size_t cert_len, const void *ca,
	size_t ca_len, struct tm_err *err);

#endif
