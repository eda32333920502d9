// SPDX-License-Identifier: Apache-2.0
// timeout: 120
/* Enrolment with both real sides over loopback; the catalog is a stand-in. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <sys/stat.h>

#include "agent/enroll.h"
#include "common/token.h"
#include "server/enroll.h"
#include "tests/unit/pair.h"

static struct pair p;
static struct tm_err err;
static char dir[] = "/tmp/tm-enrol-XXXXXX";

/* What the server saw and says. */
static struct {
	int claims;
	int answer; /* 0 or errno */
	const char *tell;
	struct enroll_claim claim;
	char host[256];
	uint8_t want[TM_HASH];
	bool hash_ok;
	int served;
	struct tm_err err;
	uint8_t machine[TM_UUID];
} srv;

static int claim(void *ctx, const struct enroll_claim *cl, const char **tell, struct tm_err *e)
{
	srv.claims++;
	srv.claim = *cl;
	snprintf(srv.host, sizeof(srv.host), "%s", cl->host);
	srv.hash_ok = tm_token_equal(cl->token_hash, srv.want);
	if (!srv.answer)
		return 0;
	*tell = srv.tell;
	return tm_fail(e, srv.answer, "the token is used up");
}

static void *serve_one(void *arg)
{
	struct tm_frame h;
	void *body = NULL;

	pair_accept(&p);
	if (!p.s) {
		srv.err = p.serr;
		srv.served = -p.serr.code;
		return NULL;
	}
	tm_conn_expect(p.s, TM_STAGE_ENROLL);
	srv.served = tm_conn_recv_msg(p.s, 30000, &h, &body, &srv.err);
	if (srv.served == 0)
		srv.served = enroll_serve(
			p.s, body, h.length, p.dir, p.server, claim, NULL, srv.machine, &srv.err);
	free(body);
	tm_conn_put(p.s);
	p.s = NULL;
	return NULL;
}

static void begin(void)
{
	pair_init(&p);
	cr_assert(mkdtemp(dir));
}

static void end(void)
{
	struct tm_err e;
	char path[64];

	enroll_forget(dir, &e);
	snprintf(path, sizeof(path), "%s/pki", dir);
	rmdir(path);
	rmdir(dir);
	pair_exit(&p);
}

TestSuite(enroll, .init = begin, .fini = end, .timeout = 100);

static const char *make_token(char text[TM_TOKEN_TEXT])
{
	struct tm_token t;
	uint8_t fpr[TM_FPR];

	cr_assert_eq(tm_pki_ca_fpr(p.dir, fpr, &err), 0);
	tm_token_new(fpr, 0, &t);
	tm_token_hash(t.id, t.secret, srv.want);
	return tm_token_format(&t, text);
}

static int enrol(const char *token, struct enroll_identity *id)
{
	pthread_t t;
	int r;

	cr_assert_eq(pthread_create(&t, NULL, serve_one, NULL), 0);
	r = enroll_run(dir, "127.0.0.1", p.port, token, id, &err);
	pthread_join(t, NULL);
	return r;
}

static int files_in(const char *path)
{
	DIR *d = opendir(path);
	int n = -2;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

Test(enroll, a_machine_gets_a_certificate_and_connects_with_it)
{
	struct enroll_identity id, again;
	char text[TM_TOKEN_TEXT], path[64];
	struct tm_tls *tls;
	struct stat st;
	uint8_t uuid[TM_UUID], fpr[TM_FPR];

	cr_assert_eq(enroll_load(dir, &id, &err), -ENOENT);
	cr_assert_eq(enrol(make_token(text), &id), 0, "%s", err.msg);
	cr_assert_eq(srv.served, 0, "%s", srv.err.msg);
	cr_assert_eq(srv.claims, 1);
	cr_assert(srv.hash_ok);
	cr_assert(tm_uuid_equal(srv.machine, id.machine));
	cr_assert(tm_uuid_equal(id.server, p.server));
	cr_assert_eq(enroll_load(dir, &again, &err), 0, "%s", err.msg);
	cr_assert_eq(memcmp(&id, &again, sizeof(id)), 0);
	snprintf(path, sizeof(path), "%s/pki/machine.key", dir);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600);

	snprintf(path, sizeof(path), "%s/pki", dir);
	cr_assert_eq(tm_tls_client(path, id.server, &tls, &err), 0, "%s", err.msg);
	tm_tls_put(p.ctls);
	p.ctls = tls;
	pair_meet(&p);
	cr_assert(p.c && p.s, "%s %s", p.cerr.msg, p.serr.msg);
	cr_assert(tm_conn_peer(p.s, uuid));
	cr_assert(tm_uuid_equal(uuid, id.machine));
	cr_assert(tm_conn_peer_fpr(p.s, fpr));
	cr_assert_arr_eq(fpr, srv.claim.cert_fpr, TM_FPR);
}

Test(enroll, a_second_enrolment_keeps_the_uuid)
{
	struct enroll_identity id, again;
	char text[TM_TOKEN_TEXT];

	cr_assert_eq(enrol(make_token(text), &id), 0, "%s", err.msg);
	cr_assert_eq(enrol(make_token(text), &again), 0, "%s", err.msg);
	cr_assert(tm_uuid_equal(id.machine, again.machine));
	cr_assert_eq(enroll_forget(dir, &err), 0);
	cr_assert_eq(enroll_load(dir, &id, &err), -ENOENT);
	cr_assert_eq(enrol(make_token(text), &id), 0, "%s", err.msg);
	cr_assert_not(tm_uuid_equal(id.machine, again.machine));
}

Test(enroll, a_refusal_leaves_nothing_behind_and_says_why)
{
	struct enroll_identity id;
	char text[TM_TOKEN_TEXT];

	srv.answer = EACCES;
	srv.tell = "the token is used up: make a new one";
	cr_assert_eq(enrol(make_token(text), &id), -EACCES);
	cr_assert(strstr(err.msg, "used up: make a new one"), "%s", err.msg);
	cr_assert(strstr(srv.err.msg, "refused"), "%s", srv.err.msg);
	cr_assert(strstr(srv.err.msg, "used up"), "%s", srv.err.msg);
	cr_assert_eq(files_in(dir), 0);
	srv.tell = NULL;
	cr_assert_eq(enrol(make_token(text), &id), -EACCES);
	cr_assert(strstr(err.msg, "enrolment refused"), "%s", err.msg);
	cr_assert_eq(files_in(dir), 0);
}

Test(enroll, a_server_with_another_ca_hears_nothing_of_the_token)
{
	struct enroll_identity id;
	struct tm_token t;
	uint8_t fpr[TM_FPR] = {1};
	char text[TM_TOKEN_TEXT];

	tm_token_new(fpr, 0, &t);
	cr_assert_eq(enrol(tm_token_format(&t, text), &id), -EACCES);
	cr_assert_eq(srv.claims, 0);
	cr_assert_lt(srv.served, 0);
	cr_assert_eq(files_in(dir), 0);
}

Test(enroll, a_bad_token_goes_nowhere)
{
	struct enroll_identity id;

	cr_assert_eq(enroll_run(dir, "127.0.0.1", 1, "tm1abc", &id, &err), -EINVAL);
	cr_assert_eq(files_in(dir), 0);
}

Test(enroll, a_malformed_request_is_refused_before_any_claim)
{
	struct tm_msg_enroll m = {0};
	struct tm_tls *tls;
	struct tm_out out;
	struct tm_frame h;
	struct tm_in_error in;
	uint8_t fpr[TM_FPR];
	void *body;
	pthread_t t;

	cr_assert_eq(tm_pki_ca_fpr(p.dir, fpr, &err), 0);
	cr_assert_eq(tm_tls_enroll(fpr, &tls, &err), 0);
	cr_assert_eq(pthread_create(&t, NULL, serve_one, NULL), 0);
	cr_assert_eq(tm_conn_connect(tls, "127.0.0.1", p.port, NULL, &p.c, &err), 0);
	memset(m.machine, 1, sizeof(m.machine));
	cr_assert_eq(tm_build_enroll(&out, &m, "host", "not a request", 13, &err), 0);
	cr_assert_eq(tm_conn_send_msg(p.c, &out, &err), 0);
	tm_conn_expect(p.c, TM_STAGE_ENROLLEE);
	cr_assert_eq(tm_conn_recv_msg(p.c, 30000, &h, &body, &err), 0, "%s", err.msg);
	cr_assert_eq(h.type, TM_MSG_ERROR);
	cr_assert_eq(tm_parse_error(body, h.length, &in, &err), 0);
	cr_assert_eq(in.m->code, TM_E_AUTH);
	cr_assert_str_eq(in.text, "enrolment refused");
	tm_conn_put(p.c);
	p.c = NULL;
	pthread_join(t, NULL);
	cr_assert_eq(srv.served, -EBADMSG, "%s", srv.err.msg);
	cr_assert_eq(srv.claims, 0);
	free(body);
	tm_tls_put(tls);
}
