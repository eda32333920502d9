// SPDX-License-Identifier: Apache-2.0
// timeout: 180
/* Who gets in, who does not, and what the log says about it. */
#include <criterion/criterion.h>
#include <poll.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/conn-int.h"
#include "common/file.h"
#include "tests/unit/pair.h"

static struct pair p, q; /* q: another server with a CA of its own */
static struct tm_err err;

static void begin(void)
{
	pair_init(&p);
	pair_init(&q);
}

static void end(void)
{
	pair_exit(&p);
	pair_exit(&q);
}

TestSuite(tls, .init = begin, .fini = end, .timeout = 120);

static void replace_client(struct tm_tls *tls)
{
	tm_tls_put(p.ctls);
	p.ctls = tls;
}

#define SAYS(e, text) cr_assert(strstr((e).msg, text), "wanted \"%s\" in: %s", text, (e).msg)

/* The server refused us; TLS 1.3 tells a client at its first read. */
static void client_learns(const char *text)
{
	struct tm_frame h;

	if (!p.c)
		return;
	tm_conn_expect(p.c, TM_STAGE_AGENT);
	cr_assert_lt(tm_conn_recv(p.c, 30000, &h, &err), 0);
	cr_assert_neq(err.code, EAGAIN);
	if (text)
		SAYS(err, text);
}

Test(tls, without_a_certificate_a_peer_is_nobody)
{
	struct tm_tls *tls;
	uint8_t fpr[TM_FPR], uuid[TM_UUID];
	struct tm_frame h = {.magic = TM_WIRE_MAGIC, .type = TM_MSG_HELLO, .length = 100};

	cr_assert_eq(tm_pki_ca_fpr(p.dir, fpr, &err), 0);
	cr_assert_eq(tm_tls_enroll(fpr, &tls, &err), 0);
	replace_client(tls);
	pair_meet(&p);
	cr_assert(p.c && p.s, "%s %s", p.cerr.msg, p.serr.msg);
	cr_assert_not(tm_conn_peer(p.s, uuid));
	tm_conn_expect(p.s, TM_STAGE_ENROLL);
	cr_assert_eq(conn_write(p.c, &h, sizeof(h), UINT64_MAX, &err), 0);
	cr_assert_eq(conn_flush(p.c, UINT64_MAX, &err), 0);
	cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), -EBADMSG, "%s", err.msg);
}

Test(tls, another_cas_machine_is_refused)
{
	struct tm_tls *tls;
	char path[64];

	/* Trusts the server, but shows what the other CA signed. */
	snprintf(path, sizeof(path), "%s/ca.crt", p.dir);
	pair_machine(q.dir, q.dir, p.machine);
	cr_assert_eq(tm_tls_client(q.dir, p.server, &tls, &err), 0, "%s", err.msg);
	cr_assert_eq(SSL_CTX_load_verify_file(tls->ctx, path), 1);
	replace_client(tls);
	pair_meet(&p);
	cr_assert_null(p.s);
	cr_assert_eq(p.serr.code, EACCES);
	SAYS(p.serr, "certificate refused");
	SAYS(p.serr, "127.0.0.1:");
	client_learns("refuses our certificate");
}

Test(tls, another_cas_server_is_refused)
{
	struct tm_tls *other = q.stls;

	q.stls = p.stls;
	p.stls = other;
	pair_meet(&p);
	cr_assert_null(p.c);
	cr_assert_eq(p.cerr.code, EACCES);
	SAYS(p.cerr, "certificate refused");
	cr_assert_null(p.s);
}

Test(tls, enrolment_goes_to_no_other_server)
{
	struct tm_tls *tls;
	uint8_t fpr[TM_FPR];

	cr_assert_eq(tm_pki_ca_fpr(q.dir, fpr, &err), 0);
	cr_assert_eq(tm_tls_enroll(fpr, &tls, &err), 0);
	replace_client(tls);
	pair_meet(&p);
	cr_assert_null(p.c);
	cr_assert_eq(p.cerr.code, EACCES);
}

Test(tls, a_server_of_another_uuid_is_refused_by_its_machine)
{
	struct tm_tls *tls;
	uint8_t other[TM_UUID];

	tm_uuid_new(other);
	cr_assert_eq(tm_tls_client(p.dir, other, &tls, &err), 0);
	replace_client(tls);
	pair_meet(&p);
	cr_assert_null(p.c);
	cr_assert_eq(p.cerr.code, EACCES);
	SAYS(p.cerr, "where this machine is enrolled");
}

Test(tls, a_machines_certificate_does_not_pass_as_a_servers)
{
	struct tm_tls *tls;
	char *from = tm_path("%s/machine.crt", p.dir), *to = tm_path("%s/server.crt", p.dir);
	char *from_key = tm_path("%s/machine.key", p.dir),
	     *to_key = tm_path("%s/server.key", p.dir);

	/* A machine turned evil waits for another one to call. */
	cr_assert_eq(tm_file_rename(from, to, &err), 0);
	cr_assert_eq(tm_file_rename(from_key, to_key, &err), 0);
	cr_assert_eq(tm_tls_server(p.dir, &tls, &err), 0, "%s", err.msg);
	tm_tls_put(p.stls);
	p.stls = tls;
	pair_meet(&p);
	cr_assert_null(p.c);
	cr_assert_eq(p.cerr.code, EACCES);
	free(from);
	free(to);
	free(from_key);
	free(to_key);
}

Test(tls, older_tls_and_another_protocol_are_refused)
{
	static const unsigned char http[] = "\x02h2";

	SSL_CTX_set_min_proto_version(p.ctls->ctx, TLS1_2_VERSION);
	SSL_CTX_set_max_proto_version(p.ctls->ctx, TLS1_2_VERSION);
	pair_meet(&p);
	cr_assert(!p.c && !p.s);
	cr_assert_eq(p.serr.code, EACCES);
	SAYS(p.serr, "no TLS 1.3");
	SSL_CTX_set_max_proto_version(p.ctls->ctx, TLS1_3_VERSION);
	SSL_CTX_set_min_proto_version(p.ctls->ctx, TLS1_3_VERSION);

	SSL_CTX_set_alpn_protos(p.ctls->ctx, http, 3);
	pair_meet(&p);
	cr_assert(!p.c && !p.s);
	SAYS(p.serr, "tidemark/1");
	SSL_CTX_set_alpn_protos(p.ctls->ctx, NULL, 0);
	pair_meet(&p);
	cr_assert(!p.c && !p.s);
	SAYS(p.serr, "tidemark/1");
}

static void *plain(void *arg)
{
	const char *text = arg;
	struct tm_err e;
	int fd = net_dial("127.0.0.1", p.port, 10000, &e);
	char buf[100];

	if (fd < 0)
		return NULL;
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		abort();
	net_poll(fd, POLLIN, tm_mono_ns() + 60 * TM_SEC);
	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
	close(fd);
	return NULL;
}

Test(tls, plain_tcp_and_silence_are_refused_in_time)
{
	static const char *const texts[] = {
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "TMK1 and more bytes", "x"};

	for (size_t i = 0; i < 3; i++) {
		pthread_t t;

		p.opts.handshake_ms = i == 2 ? 300 : 30000;
		cr_assert_eq(pthread_create(&t, NULL, plain, (void *)(uintptr_t)texts[i]), 0);
		pair_accept(&p);
		pthread_join(t, NULL);
		cr_assert_null(p.s);
		cr_assert_eq(p.serr.code, i == 2 ? ETIMEDOUT : EPROTO, "%s", p.serr.msg);
		SAYS(p.serr, i == 2 ? "does not complete" : "does not speak TLS");
	}
}

Test(tls, keys_are_private_and_a_readable_key_is_refused)
{
	static const char *const names[] = {"ca.key", "server.key", "machine.key"};
	struct tm_tls *tls;
	struct stat st;
	char path[64];

	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", p.dir, names[i]);
		cr_assert_eq(stat(path, &st), 0);
		cr_assert_eq(st.st_mode & 07777, 0600);
	}
	cr_assert_eq(chmod(path, 0640), 0);
	cr_assert_eq(tm_tls_client(p.dir, p.server, &tls, &err), -EPERM);
	SAYS(err, "machine.key may be read by others");
}

Test(tls, a_second_ca_never_replaces_the_first)
{
	uint8_t a[TM_FPR], b[TM_FPR];

	cr_assert_eq(tm_pki_ca_fpr(p.dir, a, &err), 0);
	cr_assert_eq(tm_pki_create(p.dir, p.server, &err), -EEXIST);
	cr_assert_eq(tm_pki_issue_server(p.dir, p.server, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_pki_ca_fpr(p.dir, b, &err), 0);
	cr_assert_arr_eq(a, b, TM_FPR);
}

Test(tls, a_renewed_server_certificate_serves_enrolled_machines)
{
	struct tm_tls *tls;

	cr_assert_eq(tm_pki_issue_server(p.dir, p.server, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_tls_server(p.dir, &tls, &err), 0);
	tm_tls_put(p.stls);
	p.stls = tls;
	pair_meet(&p);
	cr_assert(p.c && p.s, "%s %s", p.cerr.msg, p.serr.msg);
}

Test(tls, certificates_hold_for_years_and_began_long_ago)
{
	uint64_t end_s;
	char path[64];

	snprintf(path, sizeof(path), "%s/machine.crt", p.dir);
	cr_assert_eq(tm_pki_expires(path, &end_s, &err), 0, "%s", err.msg);
	cr_assert_gt(end_s, tm_real_ns() / TM_SEC + 9ull * 365 * 86400);
	cr_assert_lt(end_s, tm_real_ns() / TM_SEC + 11ull * 365 * 86400);
}

Test(tls, bad_requests_are_not_signed)
{
	char *key;
	size_t key_len, len, cert_len, ca_len;
	void *csr, *cert = NULL, *ca = NULL;
	uint8_t *bytes, fpr[TM_FPR], zero[TM_UUID] = {0};

	cr_assert_eq(tm_pki_request(p.machine, &key, &key_len, &csr, &len, &err), 0);
	bytes = csr;
	for (size_t n = 0; n < len; n += 7)
		cr_assert_eq(tm_pki_sign(p.dir, csr, n, p.machine, &cert, &cert_len, &ca, &ca_len,
				     fpr, &err),
			-EBADMSG);
	/* A flipped bit anywhere breaks the form or the signature over it. */
	for (size_t i = 0; i < len; i++) {
		int r;

		bytes[i] ^= 1;
		r = tm_pki_sign(
			p.dir, csr, len, p.machine, &cert, &cert_len, &ca, &ca_len, fpr, &err);
		bytes[i] ^= 1;
		cr_assert_eq(r, -EBADMSG, "byte %zu", i);
	}
	cr_assert_eq(tm_pki_sign(p.dir, csr, len, zero, &cert, &cert_len, &ca, &ca_len, fpr, &err),
		-EBADMSG);
	tm_pki_wipe(key, key_len);
	free(csr);
}

Test(tls, a_certificate_of_another_machine_or_key_is_not_stored)
{
	char *key, *other;
	size_t key_len, other_len, len, cert_len, ca_len;
	void *csr, *cert, *ca;
	uint8_t fpr[TM_FPR], wrong[TM_UUID];

	cr_assert_eq(tm_pki_request(p.machine, &key, &key_len, &csr, &len, &err), 0);
	cr_assert_eq(
		tm_pki_sign(p.dir, csr, len, p.machine, &cert, &cert_len, &ca, &ca_len, fpr, &err),
		0);
	free(csr);
	cr_assert_eq(tm_pki_request(p.machine, &other, &other_len, &csr, &len, &err), 0);
	cr_assert_eq(tm_pki_ca_fpr(p.dir, fpr, &err), 0);
	tm_uuid_new(wrong);
	cr_assert_eq(
		tm_pki_store(q.dir, wrong, fpr, key, key_len, cert, cert_len, ca, ca_len, &err),
		-EPROTO);
	cr_assert_eq(tm_pki_store(q.dir, p.machine, fpr, other, other_len, cert, cert_len, ca,
			     ca_len, &err),
		-EPROTO);
	fpr[0] ^= 1;
	cr_assert_eq(
		tm_pki_store(q.dir, p.machine, fpr, key, key_len, cert, cert_len, ca, ca_len, &err),
		-EPROTO);
	tm_pki_wipe(key, key_len);
	tm_pki_wipe(other, other_len);
	free(csr);
	free(cert);
	free(ca);
}
