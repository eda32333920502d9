// SPDX-License-Identifier: Apache-2.0
#include "common/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/pki.h"
#include "common/tls-int.h"
#include "common/uuid.h"

#define URN "urn:uuid:"

static const unsigned char alpn[] = "\x0a"
				    "tidemark/1";
#define ALPN_LEN (sizeof(alpn) - 1)

int tm_fail_ssl(struct tm_err *err, int code, const char *what)
{
	unsigned long e = ERR_peek_last_error();
	char reason[160] = "unknown error";

	if (e && ERR_reason_error_string(e))
		snprintf(reason, sizeof(reason), "%s", ERR_reason_error_string(e));
	ERR_clear_error();
	return tm_fail(err, code, "%s: %s", what, reason);
}

int tm_cert_uuid(X509 *cert, uint8_t uuid[TM_UUID])
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	int found = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		const unsigned char *p;
		char text[TM_UUID_TEXT] = "";

		if (n->type != GEN_URI)
			continue;
		p = ASN1_STRING_get0_data(n->d.uniformResourceIdentifier);
		if (ASN1_STRING_length(n->d.uniformResourceIdentifier) !=
				sizeof(URN) - 1 + TM_UUID_TEXT - 1 ||
			memcmp(p, URN, sizeof(URN) - 1) != 0)
			continue;
		memcpy(text, p + sizeof(URN) - 1, TM_UUID_TEXT - 1);
		if (tm_uuid_parse(text, uuid) == 0)
			found++;
	}
	GENERAL_NAMES_free(names);
	/* Two identities in one certificate are none. */
	return found == 1 && !tm_uuid_is_zero(uuid) ? 0 : -EINVAL;
}

void tm_cert_fpr(X509 *cert, uint8_t fpr[TM_FPR])
{
	unsigned int n = TM_FPR;

	if (!X509_digest(cert, EVP_sha256(), fpr, &n))
		memset(fpr, 0, TM_FPR);
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
	const unsigned char *in, unsigned int in_len, void *arg)
{
	unsigned char *chosen;

	if (SSL_select_next_proto(&chosen, out_len, alpn, ALPN_LEN, in, in_len) !=
		OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

/* Enrolment: the only anchor is the certificate with the token's fingerprint; the server sends it along. */
static int verify_pinned(X509_STORE_CTX *ctx, void *arg)
{
	const struct tm_tls *t = arg;
	STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(ctx);
	STACK_OF(X509) *anchors = sk_X509_new_null();
	int ok = 0;

	for (int i = 0; anchors && i < sk_X509_num(sent); i++) {
		uint8_t fpr[TM_FPR];

		tm_cert_fpr(sk_X509_value(sent, i), fpr);
		if (memcmp(fpr, t->ca_fpr, TM_FPR) == 0)
			ok = sk_X509_push(anchors, sk_X509_value(sent, i)) > 0;
	}
	if (ok) {
		X509_STORE_CTX_set0_trusted_stack(ctx, anchors);
		ok = X509_verify_cert(ctx) > 0;
	} else {
		X509_STORE_CTX_set_error(ctx, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN);
	}
	sk_X509_free(anchors);
	return ok;
}

#define AES_SUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
#define CHACHA     "TLS_CHACHA20_POLY1305_SHA256"

/* All suites are safe; without AES instructions ChaCha20 is several times as fast. */
static bool fast_aes(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("aes");
#else
	return true;
#endif
}

static struct tm_tls *base(bool server, struct tm_err *err)
{
	struct tm_tls *t = calloc(1, sizeof(*t));

	if (t)
		t->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!t || !t->ctx) {
		tm_fail_ssl(err, ENOMEM, "TLS");
		free(t);
		return NULL;
	}
	t->refs = 1;
	t->server = server;
	SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION);
	SSL_CTX_set_max_proto_version(t->ctx, TLS1_3_VERSION);
	SSL_CTX_set_options(t->ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_num_tickets(t->ctx, 0);
	SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_max_early_data(t->ctx, 0);
	SSL_CTX_set_ciphersuites(
		t->ctx, fast_aes() ? AES_SUITES ":" CHACHA : CHACHA ":" AES_SUITES);
	if (server)
		SSL_CTX_set_options(
			t->ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	SSL_CTX_set1_groups_list(t->ctx, "X25519:P-256");
	SSL_CTX_set_max_cert_list(t->ctx, 32 * 1024);
	if (server)
		SSL_CTX_set_alpn_select_cb(t->ctx, choose_alpn, NULL);
	else
		SSL_CTX_set_alpn_protos(t->ctx, alpn, ALPN_LEN);
	return t;
}

/* Certificate, key and CA from the folder; a key that others may read is refused. */
static int load(struct tm_tls *t, const char *dir, const char *who, struct tm_err *err)
{
	CLEANUP_FREE char *ca = tm_path("%s/ca.crt", dir);
	CLEANUP_FREE char *crt = tm_path("%s/%s.crt", dir, who);
	CLEANUP_FREE char *key = tm_path("%s/%s.key", dir, who);
	struct stat st;

	if (!ca || !crt || !key)
		return tm_fail(err, ENOMEM, "TLS: out of memory");
	if (stat(key, &st) < 0)
		return tm_fail_errno(err, "open %s", key);
	if (st.st_mode & 077)
		return tm_fail(err, EPERM,
			"%s may be read by others: chmod 600 it, and renew the certificate", key);
	if (!SSL_CTX_load_verify_file(t->ctx, ca))
		return tm_fail_ssl(err, EINVAL, ca);
	if (SSL_CTX_use_certificate_file(t->ctx, crt, SSL_FILETYPE_PEM) != 1)
		return tm_fail_ssl(err, EINVAL, crt);
	if (SSL_CTX_use_PrivateKey_file(t->ctx, key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(t->ctx) != 1)
		return tm_fail_ssl(err, EINVAL, key);
	return 0;
}

/* Whoever enrols knows the CA's fingerprint only: the server sends the CA along. */
static int send_ca(struct tm_tls *t, const char *dir, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/ca.crt", dir);
	CLEANUP_FCLOSE FILE *f = path ? fopen(path, "re") : NULL;
	X509 *ca = f ? PEM_read_X509(f, NULL, NULL, NULL) : NULL;

	if (!ca || SSL_CTX_add_extra_chain_cert(t->ctx, ca) != 1) {
		X509_free(ca);
		return tm_fail_ssl(err, EINVAL, path ? path : "ca.crt");
	}
	return 0;
}

int tm_tls_server(const char *dir, struct tm_tls **tls, struct tm_err *err)
{
	struct tm_tls *t = base(true, err);

	if (!t)
		return -err->code;
	if (load(t, dir, "server", err) < 0 || send_ca(t, dir, err) < 0) {
		tm_tls_put(t);
		return -err->code;
	}
	/* A peer without a certificate may enrol; one with a certificate that is not ours is refused here. */
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
	*tls = t;
	return 0;
}

int tm_tls_client(
	const char *dir, const uint8_t server[TM_UUID], struct tm_tls **tls, struct tm_err *err)
{
	struct tm_tls *t = base(false, err);

	if (!t)
		return -err->code;
	if (load(t, dir, "machine", err) < 0) {
		tm_tls_put(t);
		return -err->code;
	}
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
	memcpy(t->peer, server, TM_UUID);
	*tls = t;
	return 0;
}

int tm_tls_enroll(const uint8_t ca_fpr[TM_FPR], struct tm_tls **tls, struct tm_err *err)
{
	struct tm_tls *t = base(false, err);

	if (!t)
		return -err->code;
	memcpy(t->ca_fpr, ca_fpr, TM_FPR);
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_cert_verify_callback(t->ctx, verify_pinned, t);
	*tls = t;
	return 0;
}

void tm_tls_get(struct tm_tls *t)
{
	atomic_fetch_add(&t->refs, 1);
}

void tm_tls_put(struct tm_tls *t)
{
	if (!t || atomic_fetch_sub(&t->refs, 1) != 1)
		return;
	SSL_CTX_free(t->ctx);
	free(t);
}
