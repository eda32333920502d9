// SPDX-License-Identifier: Apache-2.0
#include "common/pki.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/tls-int.h"
#include "common/uuid.h"

#define BEGINS "20200101000000Z"
#define YEAR   (365.25 * 86400)

static void free_key(EVP_PKEY **k)
{
	EVP_PKEY_free(*k);
}
static void free_cert(X509 **x)
{
	X509_free(*x);
}
static void free_req(X509_REQ **r)
{
	X509_REQ_free(*r);
}
static void free_bio(BIO **b)
{
	BIO_free(*b);
}
#define CLEANUP_KEY  __attribute__((cleanup(free_key)))
#define CLEANUP_CERT __attribute__((cleanup(free_cert)))
#define CLEANUP_REQ  __attribute__((cleanup(free_req)))
#define CLEANUP_BIO  __attribute__((cleanup(free_bio)))

void tm_pki_wipe(void *p, size_t len)
{
	if (p)
		OPENSSL_cleanse(p, len);
	free(p);
}

/* What is written: a key in PEM, mode 0600, or a certificate in PEM. */
static int write_bio(BIO *b, const char *path, mode_t mode, struct tm_err *err)
{
	char *data;
	long len = BIO_get_mem_data(b, &data);

	return tm_file_write(path, data, (size_t)len, mode, err);
}

static BIO *key_pem(EVP_PKEY *key)
{
	BIO *b = BIO_new(BIO_s_secmem());

	if (b && PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) == 1)
		return b;
	BIO_free(b);
	return NULL;
}

static int write_key(EVP_PKEY *key, const char *dir, const char *name, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/%s", dir, name);
	CLEANUP_BIO BIO *b = key_pem(key);

	if (!path || !b)
		return tm_fail_ssl(err, ENOMEM, "write key");
	return write_bio(b, path, 0600, err);
}

static int write_cert(X509 *cert, const char *dir, const char *name, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/%s", dir, name);
	CLEANUP_BIO BIO *b = BIO_new(BIO_s_mem());

	if (!path || !b || PEM_write_bio_X509(b, cert) != 1)
		return tm_fail_ssl(err, ENOMEM, "write certificate");
	return write_bio(b, path, 0644, err);
}

/* The PEM text of DIR/NAME in a read-only BIO; *data must live as long, and is wiped by the caller. */
static BIO *read_pem(
	const char *dir, const char *name, char **data, size_t *len, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/%s", dir, name);
	BIO *b;

	*data = NULL;
	if (!path || tm_file_read(path, 64 * 1024, data, len, err) < 0)
		return NULL;
	b = BIO_new_mem_buf(*data, (int)*len);
	if (!b)
		tm_fail(err, ENOMEM, "read %s: out of memory", path);
	return b;
}

static X509 *read_cert(const char *dir, const char *name, struct tm_err *err)
{
	char *data;
	size_t len;
	CLEANUP_BIO BIO *b = read_pem(dir, name, &data, &len, err);
	X509 *cert = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;

	if (b && !cert)
		tm_fail_ssl(err, EINVAL, name);
	free(data);
	return cert;
}

static EVP_PKEY *read_key(const char *dir, const char *name, struct tm_err *err)
{
	char *data;
	size_t len = 0;
	CLEANUP_BIO BIO *b = read_pem(dir, name, &data, &len, err);
	EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, NULL) : NULL;

	if (b && !key)
		tm_fail_ssl(err, EINVAL, name);
	tm_pki_wipe(data, len);
	return key;
}

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;
	bool ok;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = ext && X509_add_ext(cert, ext, -1) == 1;
	X509_EXTENSION_free(ext);
	return ok;
}

static bool set_serial(X509 *cert)
{
	uint8_t raw[16];
	BIGNUM *n;
	bool ok;

	if (RAND_bytes(raw, sizeof(raw)) != 1)
		return false;
	raw[0] = (raw[0] & 0x7f) | 0x40; /* positive, and always as long */
	n = BN_bin2bn(raw, sizeof(raw), NULL);
	ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
	BN_free(n);
	return ok;
}

static bool set_times(X509 *cert, int years)
{
	return ASN1_TIME_set_string_X509(X509_getm_notBefore(cert), BEGINS) == 1 &&
	       X509_time_adj_ex(X509_getm_notAfter(cert), (int)(years * YEAR / 86400), 0, NULL);
}

static bool add_name(X509_NAME *name, const char *field, const char *value)
{
	return X509_NAME_add_entry_by_txt(
		       name, field, MBSTRING_UTF8, (const uint8_t *)value, -1, -1, 0) == 1;
}

struct issue {
	const char *role; /* OU: "ca", "server", "machine" */
	const uint8_t *uuid;
	const char *usage, *extended; /* key usage */
	const char *basic;
	int years;
};

/* A certificate for `key`, signed by the issuer (itself if `ca` is NULL). */
static X509 *issue(
	const struct issue *is, EVP_PKEY *key, X509 *ca, EVP_PKEY *ca_key, struct tm_err *err)
{
	char uuid[TM_UUID_TEXT], uri[64];
	X509 *cert = X509_new();
	X509 *issuer = ca ? ca : cert;
	X509_NAME *name = cert ? X509_get_subject_name(cert) : NULL;
	bool ok;

	tm_uuid_format(is->uuid, uuid);
	snprintf(uri, sizeof(uri), "URI:urn:uuid:%s", uuid);
	ok = name && X509_set_version(cert, X509_VERSION_3) == 1 && set_serial(cert) &&
	     set_times(cert, is->years) && add_name(name, "O", "Tidemark") &&
	     add_name(name, "OU", is->role) && add_name(name, "CN", uuid) &&
	     X509_set_issuer_name(cert, X509_get_subject_name(issuer)) == 1 &&
	     X509_set_pubkey(cert, key) == 1 &&
	     add_extension(cert, issuer, NID_basic_constraints, is->basic) &&
	     add_extension(cert, issuer, NID_key_usage, is->usage) &&
	     (!is->extended || add_extension(cert, issuer, NID_ext_key_usage, is->extended)) &&
	     add_extension(cert, issuer, NID_subject_key_identifier, "hash") &&
	     (!ca || add_extension(cert, issuer, NID_authority_key_identifier, "keyid")) &&
	     (!ca || add_extension(cert, issuer, NID_subject_alt_name, uri)) &&
	     X509_sign(cert, ca_key, EVP_sha256()) > 0;
	if (ok)
		return cert;
	X509_free(cert);
	tm_fail_ssl(err, EINVAL, "make a certificate");
	return NULL;
}

static X509 *issue_leaf(const char *role, const char *extended, const uint8_t uuid[TM_UUID],
	EVP_PKEY *key, X509 *ca, EVP_PKEY *ca_key, struct tm_err *err)
{
	const struct issue is = {
		.role = role,
		.uuid = uuid,
		.usage = "critical,digitalSignature",
		.extended = extended,
		.basic = "critical,CA:FALSE",
		.years = 10,
	};

	return issue(&is, key, ca, ca_key, err);
}

static int issue_server(const char *dir, const uint8_t server[TM_UUID], X509 *ca, EVP_PKEY *ca_key,
	struct tm_err *err)
{
	CLEANUP_KEY EVP_PKEY *key = EVP_EC_gen("P-256");
	CLEANUP_CERT X509 *cert = NULL;

	if (!key)
		return tm_fail_ssl(err, ENOMEM, "make a key");
	cert = issue_leaf("server", "serverAuth", server, key, ca, ca_key, err);
	if (!cert || write_key(key, dir, "server.key", err) < 0)
		return -err->code;
	return write_cert(cert, dir, "server.crt", err);
}

int tm_pki_create(const char *dir, const uint8_t server[TM_UUID], struct tm_err *err)
{
	const struct issue is = {
		.role = "ca",
		.uuid = server,
		.usage = "critical,keyCertSign,cRLSign",
		.basic = "critical,CA:TRUE,pathlen:0",
		.years = 30,
	};
	CLEANUP_FREE char *path = tm_path("%s/ca.crt", dir);
	CLEANUP_KEY EVP_PKEY *key = EVP_EC_gen("P-256");
	CLEANUP_CERT X509 *cert = NULL;

	if (!path || !key)
		return tm_fail_ssl(err, ENOMEM, "make a CA");
	if (tm_mkdirs(dir, 0700, err) < 0)
		return -err->code;
	if (access(path, F_OK) == 0)
		return tm_fail(err, EEXIST, "there is a CA already: %s", path);
	cert = issue(&is, key, NULL, key, err);
	if (!cert || write_key(key, dir, "ca.key", err) < 0 ||
		issue_server(dir, server, cert, key, err) < 0)
		return -err->code;
	/* Last: a CA that is there is complete. */
	return write_cert(cert, dir, "ca.crt", err);
}

int tm_pki_issue_server(const char *dir, const uint8_t server[TM_UUID], struct tm_err *err)
{
	CLEANUP_CERT X509 *ca = read_cert(dir, "ca.crt", err);
	CLEANUP_KEY EVP_PKEY *key = ca ? read_key(dir, "ca.key", err) : NULL;

	return key ? issue_server(dir, server, ca, key, err) : -err->code;
}

int tm_pki_ca_fpr(const char *dir, uint8_t fpr[TM_FPR], struct tm_err *err)
{
	CLEANUP_CERT X509 *ca = read_cert(dir, "ca.crt", err);

	if (!ca)
		return -err->code;
	tm_cert_fpr(ca, fpr);
	return 0;
}

void tm_pki_fpr(const void *der, size_t len, uint8_t fpr[TM_FPR])
{
	if (EVP_Digest(der, len, fpr, NULL, EVP_sha256(), NULL) != 1)
		memset(fpr, 0, TM_FPR);
}

int tm_pki_expires(const char *path, uint64_t *seconds, struct tm_err *err)
{
	CLEANUP_FREE char *data = NULL;
	size_t len;
	CLEANUP_BIO BIO *b = NULL;
	CLEANUP_CERT X509 *cert = NULL;
	struct tm tm;

	if (tm_file_read(path, 64 * 1024, &data, &len, err) < 0)
		return -err->code;
	b = BIO_new_mem_buf(data, (int)len);
	cert = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;
	if (!cert || ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
		return tm_fail_ssl(err, EINVAL, path);
	*seconds = (uint64_t)timegm(&tm);
	return 0;
}

int tm_pki_request(const uint8_t machine[TM_UUID], char **key_out, size_t *key_len, void **csr,
	size_t *csr_len, struct tm_err *err)
{
	CLEANUP_KEY EVP_PKEY *key = EVP_EC_gen("P-256");
	CLEANUP_REQ X509_REQ *req = X509_REQ_new();
	CLEANUP_BIO BIO *pem = key ? key_pem(key) : NULL;
	char uuid[TM_UUID_TEXT], *data;
	uint8_t *der = NULL, *copy = NULL;
	long n;
	int r;

	if (!key || !req || !pem ||
		!add_name(X509_REQ_get_subject_name(req), "CN", tm_uuid_format(machine, uuid)) ||
		X509_REQ_set_pubkey(req, key) != 1 || X509_REQ_sign(req, key, EVP_sha256()) <= 0 ||
		(r = i2d_X509_REQ(req, &der)) <= 0)
		return tm_fail_ssl(err, ENOMEM, "make a certificate request");
	n = BIO_get_mem_data(pem, &data);
	*key_out = malloc((size_t)n);
	copy = malloc((size_t)r);
	if (*key_out && copy) {
		memcpy(*key_out, data, (size_t)n);
		memcpy(copy, der, (size_t)r);
	}
	OPENSSL_free(der);
	if (!*key_out || !copy) {
		free(*key_out);
		free(copy);
		return tm_fail(err, ENOMEM, "make a certificate request: out of memory");
	}
	*key_len = (size_t)n;
	*csr = copy;
	*csr_len = (size_t)r;
	return 0;
}

/* The key of a peer's request: P-256 and nothing else, and the peer has its private half. */
static EVP_PKEY *request_key(const void *csr, size_t len, struct tm_err *err)
{
	const uint8_t *p = csr;
	CLEANUP_REQ X509_REQ *req = len <= TM_CSR_MAX ? d2i_X509_REQ(NULL, &p, (long)len) : NULL;
	EVP_PKEY *key = NULL;
	char group[32] = "";

	if (!req || p != (const uint8_t *)csr + len) {
		ERR_clear_error();
		tm_fail(err, EBADMSG, "the certificate request is malformed");
		return NULL;
	}
	key = X509_REQ_get_pubkey(req);
	if (!key || !EVP_PKEY_is_a(key, "EC") ||
		EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) != 1 ||
		strcmp(group, "prime256v1") != 0)
		tm_fail(err, EBADMSG, "the certificate request is not for a P-256 key");
	else if (X509_REQ_verify(req, key) != 1)
		tm_fail(err, EBADMSG, "the certificate request is not signed by its key");
	else
		return key;
	ERR_clear_error();
	EVP_PKEY_free(key);
	return NULL;
}

static int to_der(X509 *cert, void **out, size_t *len, struct tm_err *err)
{
	uint8_t *der = NULL;
	int n = i2d_X509(cert, &der);

	*out = n > 0 ? malloc((size_t)n) : NULL;
	if (*out) {
		memcpy(*out, der, (size_t)n);
		*len = (size_t)n;
	}
	OPENSSL_free(der);
	return *out ? 0 : tm_fail_ssl(err, ENOMEM, "encode a certificate");
}

int tm_pki_sign(const char *dir, const void *csr, size_t csr_len, const uint8_t machine[TM_UUID],
	void **cert_out, size_t *cert_len, void **ca_out, size_t *ca_len, uint8_t fpr[TM_FPR],
	struct tm_err *err)
{
	CLEANUP_KEY EVP_PKEY *key = request_key(csr, csr_len, err);
	CLEANUP_CERT X509 *ca = key ? read_cert(dir, "ca.crt", err) : NULL;
	CLEANUP_KEY EVP_PKEY *ca_key = ca ? read_key(dir, "ca.key", err) : NULL;
	CLEANUP_CERT X509 *cert = NULL;

	if (!ca_key)
		return -err->code;
	if (tm_uuid_is_zero(machine))
		return tm_fail(err, EBADMSG, "the machine's UUID is zero");
	cert = issue_leaf("machine", "clientAuth", machine, key, ca, ca_key, err);
	if (!cert || to_der(cert, cert_out, cert_len, err) < 0)
		return -err->code;
	if (to_der(ca, ca_out, ca_len, err) < 0) {
		free(*cert_out);
		return -err->code;
	}
	tm_cert_fpr(cert, fpr);
	return 0;
}

static X509 *from_der(const void *der, size_t len)
{
	const uint8_t *p = der;
	X509 *cert = len <= TM_CERT_MAX ? d2i_X509(NULL, &p, (long)len) : NULL;

	if (cert && p == (const uint8_t *)der + len)
		return cert;
	X509_free(cert);
	return NULL;
}

int tm_pki_store(const char *dir, const uint8_t machine[TM_UUID], const uint8_t ca_fpr[TM_FPR],
	const char *key_text, size_t key_len, const void *cert_der, size_t cert_len,
	const void *ca_der, size_t ca_len, struct tm_err *err)
{
	CLEANUP_CERT X509 *cert = from_der(cert_der, cert_len);
	CLEANUP_CERT X509 *ca = from_der(ca_der, ca_len);
	CLEANUP_BIO BIO *b = BIO_new_mem_buf(key_text, (int)key_len);
	CLEANUP_KEY EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, NULL) : NULL;
	CLEANUP_FREE char *old = tm_path("%s/machine.crt", dir);
	uint8_t fpr[TM_FPR] = {0}, uuid[TM_UUID];

	if (ca)
		tm_cert_fpr(ca, fpr);
	if (!cert || !ca || !key || !old || memcmp(fpr, ca_fpr, TM_FPR) != 0 ||
		X509_verify(cert, X509_get0_pubkey(ca)) != 1 ||
		X509_check_private_key(cert, key) != 1 || tm_cert_uuid(cert, uuid) < 0 ||
		!tm_uuid_equal(uuid, machine)) {
		ERR_clear_error();
		return tm_fail(err, EPROTO,
			"the server answered with a certificate that does not fit; nothing was stored");
	}
	if (tm_mkdirs(dir, 0700, err) < 0 || tm_file_remove(old, err) < 0 ||
		write_key(key, dir, "machine.key", err) < 0 ||
		write_cert(ca, dir, "ca.crt", err) < 0)
		return -err->code;
	return write_cert(cert, dir, "machine.crt", err);
}
