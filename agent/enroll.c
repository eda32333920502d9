// SPDX-License-Identifier: Apache-2.0
#include "agent/enroll.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/control.h"
#include "common/file.h"
#include "common/pki.h"
#include "common/token.h"
#include "common/uuid.h"

#define ANSWER_MS 30000

static char *identity_path(const char *dir)
{
	return tm_path("%s/server.json", dir);
}

static int get_uuid(const cJSON *doc, const char *name, uint8_t uuid[TM_UUID])
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(doc, name);

	return cJSON_IsString(v) ? tm_uuid_parse(v->valuestring, uuid) : -EINVAL;
}

int enroll_load(const char *dir, struct enroll_identity *id, struct tm_err *err)
{
	CLEANUP_FREE char *path = identity_path(dir);
	CLEANUP_FREE char *text = NULL;
	const char *host = "";
	uint64_t port = 0;
	size_t len;
	cJSON *doc;
	bool ok;

	if (!path)
		return tm_fail(err, ENOMEM, "out of memory");
	if (tm_file_read(path, 64 * 1024, &text, &len, err) < 0) {
		if (err->code == ENOENT)
			return tm_fail(
				err, ENOENT, "this machine is not enrolled: run agentctl enroll");
		return -err->code;
	}
	memset(id, 0, sizeof(*id));
	doc = cJSON_Parse(text);
	ok = get_uuid(doc, "machine", id->machine) == 0 &&
	     get_uuid(doc, "server", id->server) == 0 &&
	     tm_arg_string(doc, "host", &host, err) == 0 && *host &&
	     strlen(host) < sizeof(id->host) && tm_arg_u64(doc, "port", &port, err) == 0 && port &&
	     port < 65536;
	if (ok)
		strcpy(id->host, host);
	id->port = (uint16_t)port;
	cJSON_Delete(doc);
	return ok ? 0
		  : tm_fail(err, EINVAL, "%s is damaged: run agentctl leave, then enrol anew",
			    path);
}

static int save(const char *dir, const struct enroll_identity *id, struct tm_err *err)
{
	CLEANUP_FREE char *path = identity_path(dir);
	CLEANUP_FREE char *text = NULL;
	cJSON *doc = cJSON_CreateObject();

	if (path && doc && tm_json_uuid(doc, "machine", id->machine) &&
		tm_json_uuid(doc, "server", id->server) &&
		cJSON_AddStringToObject(doc, "host", id->host) &&
		tm_json_u64(doc, "port", id->port))
		text = cJSON_Print(doc);
	cJSON_Delete(doc);
	return text ? tm_file_write(path, text, strlen(text), 0600, err)
		    : tm_fail(err, ENOMEM, "out of memory");
}

/* Sends the request, waits for the certificate. *body stays the caller's, `in` points into it. */
static int ask(struct tm_conn *c, const struct tm_token *token, const uint8_t machine[TM_UUID],
	const void *csr, size_t csr_len, void **body, struct tm_in_enrolled *in, struct tm_err *err)
{
	struct tm_msg_enroll m = {0};
	struct tm_in_error refusal;
	struct tm_frame h;
	struct tm_out out;
	char host[TM_NAME_MAX + 1] = "";

	if (gethostname(host, sizeof(host) - 1) < 0)
		strcpy(host, "unknown");
	memcpy(m.token_id, token->id, sizeof(m.token_id));
	memcpy(m.secret, token->secret, sizeof(m.secret));
	memcpy(m.machine, machine, sizeof(m.machine));
	tm_conn_expect(c, TM_STAGE_ENROLLEE);
	if (tm_build_enroll(&out, &m, host, csr, csr_len, err) < 0 ||
		tm_conn_send_msg(c, &out, err) < 0 ||
		tm_conn_recv_msg(c, ANSWER_MS, &h, body, err) < 0)
		return -err->code;
	if (h.type != TM_MSG_ERROR)
		return tm_parse_enrolled(*body, h.length, in, err);
	if (tm_parse_error(*body, h.length, &refusal, err) < 0)
		return -err->code;
	return tm_fail(err, EACCES, "the server refuses: %s", refusal.text);
}

static int request(const char *dir, const struct tm_token *token, struct tm_conn *c,
	struct enroll_identity *id, struct tm_err *err)
{
	CLEANUP_FREE char *pki = tm_path("%s/pki", dir);
	CLEANUP_FREE void *csr = NULL;
	CLEANUP_FREE void *body = NULL;
	struct tm_in_enrolled in;
	uint8_t peer[TM_UUID];
	char *key = NULL;
	size_t key_len = 0, csr_len;
	int r;

	if (!pki)
		return tm_fail(err, ENOMEM, "out of memory");
	if (tm_pki_request(id->machine, &key, &key_len, &csr, &csr_len, err) < 0)
		return -err->code;
	r = ask(c, token, id->machine, csr, csr_len, &body, &in, err);
	if (r == 0 && (!tm_conn_peer(c, peer) || !tm_uuid_equal(peer, in.m->server)))
		r = tm_fail(err, EPROTO, "the server's answer names another server");
	if (r == 0) {
		memcpy(id->server, in.m->server, TM_UUID);
		r = tm_pki_store(pki, id->machine, token->ca_fpr, key, key_len, in.cert,
			in.m->cert_len, in.ca, in.m->ca_len, err);
	}
	tm_pki_wipe(key, key_len);
	return r;
}

int enroll_run(const char *dir, const char *host, uint16_t port, const char *text,
	struct enroll_identity *id, struct tm_err *err)
{
	struct enroll_identity old;
	struct tm_token token;
	struct tm_tls *tls = NULL;
	struct tm_conn *c = NULL;
	int r;

	if (tm_token_parse(text, &token, err) < 0)
		return -err->code;
	memset(id, 0, sizeof(*id));
	if (!*host || strlen(host) >= sizeof(id->host) || !port)
		return tm_fail(err, EINVAL, "the server's address is missing or too long");
	strcpy(id->host, host);
	id->port = port;
	r = enroll_load(dir, &old, err);
	if (r == 0)
		memcpy(id->machine, old.machine, TM_UUID);
	else if (r == -ENOENT)
		tm_uuid_new(id->machine);
	else
		return r;
	if (tm_mkdirs(dir, 0700, err) < 0 || tm_tls_enroll(token.ca_fpr, &tls, err) < 0)
		return -err->code;
	r = tm_conn_connect(tls, host, port, NULL, &c, err);
	if (r == 0)
		r = request(dir, &token, c, id, err);
	/* The name of the server comes last: with it, the machine is enrolled. */
	if (r == 0)
		r = save(dir, id, err);
	tm_conn_put(c);
	tm_tls_put(tls);
	return r < 0 ? tm_wrap(err, "enrol") : 0;
}

int enroll_forget(const char *dir, struct tm_err *err)
{
	static const char *const names[] = {
		"server.json", "pki/machine.crt", "pki/machine.key", "pki/ca.crt"};

	for (size_t i = 0; i < TM_ARRAY_SIZE(names); i++) {
		CLEANUP_FREE char *path = tm_path("%s/%s", dir, names[i]);

		if (!path)
			return tm_fail(err, ENOMEM, "out of memory");
		if (tm_file_remove(path, err) < 0 && err->code != ENOENT)
			return -err->code;
	}
	return 0;
}
