// SPDX-License-Identifier: Apache-2.0
#include "server/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"
#include "server/command.h"
#include "server/compare.h"

#define QUEUE_MAX 4096u /* messages to a peer that does not read */

struct session_item {
	struct session_item *next;
	uint16_t type;
	size_t len;
	char body[];
};

void session_get(struct session *s)
{
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
}

void session_put(struct session *s)
{
	if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL))
		return;
	while (s->queue) {
		struct session_item *item = s->queue;

		s->queue = item->next;
		free(item);
	}
	tm_conn_put(s->conn);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void session_post(struct session *s, const struct tm_out *out)
{
	size_t len = tm_out_length(out), at = 0;
	struct session_item *item = malloc(sizeof(*item) + len);
	LOCK_SCOPE(&s->lock);

	if (s->dead || !item || s->queued >= QUEUE_MAX) {
		free(item);
		if (!s->dead)
			tm_conn_cancel(s->conn); /* an answer would be missing */
		return;
	}
	item->next = NULL;
	item->type = out->type;
	item->len = len;
	for (int i = 0; i < out->niov; i++) {
		if (out->iov[i].iov_len)
			memcpy(item->body + at, out->iov[i].iov_base, out->iov[i].iov_len);
		at += out->iov[i].iov_len;
	}
	*s->queue_tail = item;
	s->queue_tail = &item->next;
	s->queued++;
	pthread_cond_signal(&s->changed);
}

void session_post_refusal(struct session *s, const struct refusal *r, uint16_t about)
{
	struct tm_msg_error m = {
		.code = r->code, .fatal = r->fatal, .about = about, .attempt = r->attempt};
	struct tm_out out;
	struct tm_err err;

	tm_log_of(TM_LOG_WARNING, s->machine->name, NULL, "%s machine %s refused %s (%s): %s",
		tm_conn_name(s->conn), s->machine->name, tm_msg_name(about),
		tm_refusal_name(r->code), r->text);
	if (tm_build_error(&out, &m, r->text, &err) == 0)
		session_post(s, &out);
}

/* Sends what others have queued. */
static void *sender(void *arg)
{
	struct session *s = arg;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct session_item *item = s->queue;
		struct tm_err err;
		struct iovec iov;

		if (s->dead)
			break;
		if (!item) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		s->queue = item->next;
		if (!s->queue)
			s->queue_tail = &s->queue;
		s->queued--;
		pthread_mutex_unlock(&s->lock);
		iov = (struct iovec){item->body, item->len};
		if (tm_conn_send(s->conn, item->type, &iov, item->len ? 1 : 0, &err))
			tm_conn_cancel(s->conn); /* the receiving thread tells why */
		free(item);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int session_check(struct session *s, struct refusal *r)
{
	struct machine *m = s->machine;

	if (__atomic_load_n(&m->revoked, __ATOMIC_ACQUIRE))
		return refuse(r, TM_E_AUTH, 0, "the machine is revoked");
	if (__atomic_load_n(&m->held, __ATOMIC_ACQUIRE))
		return refuse(
			r, TM_E_HELD, 0, "on hold until an operator decides (serverctl adopt)");
	return 0;
}

static const struct {
	uint16_t type;
	int (*handle)(struct session *s, const void *body, size_t len, struct refusal *r);
} handlers[] = {
	{TM_MSG_HEARTBEAT, heartbeat},
	{TM_MSG_EPOCH_COMMIT, epoch_commit},
	{TM_MSG_ATTEMPT_BEGIN, attempt_begin},
	{TM_MSG_PART_COMMIT, part_commit},
	{TM_MSG_ABORT, attempt_end},
	{TM_MSG_DISK_OPEN, disk_open},
	{TM_MSG_DISK_CLOSE, disk_close},
	{TM_MSG_COMMAND_RESULT, command_result},
};

static int dispatch(
	struct session *s, uint16_t type, const void *body, size_t len, struct refusal *r)
{
	if (session_check(s, r))
		return -1;
	if (type == TM_MSG_ERROR) {
		struct tm_in_error in;
		struct tm_err err;

		if (tm_parse_error(body, len, &in, &err))
			return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
		tm_log_of(TM_LOG_WARNING, s->machine->name, NULL, "machine %s refused %s (%s): %s",
			s->machine->name, tm_msg_name(in.m->about), tm_refusal_name(in.m->code),
			in.text);
		return 0;
	}
	for (size_t i = 0; i < TM_ARRAY_SIZE(handlers); i++)
		if (handlers[i].type == type)
			return handlers[i].handle(s, body, len, r);
	return refuse(r, TM_E_PROTO, 0, "not expected here");
}

/* What the connection layer says, as a refusal if the peer broke the protocol. True: worth an ERROR. */
static bool recv_refusal(int rc, const struct tm_err *err, struct refusal *r)
{
	if (rc != -EPROTO && rc != -EBADMSG && rc != -EMSGSIZE)
		return false;
	refuse(r, TM_E_PROTO, 0, "%s", err->msg);
	return true;
}

/* Messages until the session ends. */
static void converse(struct session *s)
{
	const struct machine *m = s->machine;
	int idle = (int)(m->server->conf.silence / TM_MS);
	struct refusal r = {.fatal = false};
	struct tm_frame h;
	struct tm_err err;

	while (!r.fatal) {
		CLEANUP_FREE void *body = NULL;
		int rc = tm_conn_recv_msg(s->conn, idle, &h, &body, &err);

		if (rc == -EAGAIN) {
			tm_log_of(TM_LOG_WARNING, m->name, NULL,
				"%s machine %s is silent: session given up", tm_conn_name(s->conn),
				m->name);
			return;
		}
		if (rc && !recv_refusal(rc, &err, &r)) {
			tm_log_of(TM_LOG_INFO, m->name, NULL, "%s machine %s: session ended: %s",
				tm_conn_name(s->conn), m->name, err.msg);
			return;
		}
		if (rc || dispatch(s, h.type, body, h.length, &r))
			refusal_send(s->conn, &r, rc ? 0 : h.type, m->name);
	}
	tm_conn_finish(s->conn, 2000);
}

static struct session *session_new(
	struct machine *m, struct tm_conn *c, int socket, const uint8_t *instance)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->machine = m;
	tm_conn_get(c);
	s->conn = c;
	s->socket = socket;
	s->refs = 1;
	s->queue_tail = &s->queue;
	memcpy(s->instance, instance, TM_UUID);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	while (s->id == 0)
		if (getrandom(&s->id, sizeof(s->id), 0) != sizeof(s->id))
			s->id = 0;
	return s;
}

static int welcome(struct session *s, struct tm_err *err)
{
	struct server *srv = s->machine->server;
	struct tm_msg_welcome w = {
		.version = TM_WIRE_VERSION,
		.data_max = (uint16_t)srv->conf.data_max,
		.session = s->id,
		.incarnation = srv->incarnation,
		.credit = srv->conf.credit,
		.interval_ms = (uint32_t)(srv->conf.interval / TM_MS),
	};
	struct tm_out out;
	int rc;

	memcpy(w.server, srv->uuid, TM_UUID);
	pthread_mutex_lock(&s->machine->lock);
	w.head = s->machine->head.id;
	w.head_attempt = s->machine->head.seq;
	if (s->machine->head.point != s->machine->head.seq)
		w.flags |= TM_WELCOME_NO_POINT;
	pthread_mutex_unlock(&s->machine->lock);
	rc = tm_build_welcome(&out, &w, err);
	return rc ? rc : tm_conn_send_msg(s->conn, &out, err);
}

static void session_begin(struct session *s, const struct tm_in_hello *in)
{
	struct machine *m = s->machine;

	pthread_mutex_lock(&m->lock);
	m->session = s;
	memcpy(m->host, in->host, sizeof(m->host));
	memcpy(m->agent, in->agent, sizeof(m->agent));
	m->nfailed = 0;
	m->last_beat = tm_mono_ns();
	attempts_sweep(m, s->instance, 0);
	identity_done(m);
	pthread_mutex_unlock(&m->lock);
	tm_log_of(TM_LOG_INFO, m->name, NULL, "%s machine %s (%s): session %llu",
		tm_conn_name(s->conn), m->name, in->host, (unsigned long long)in->m->counter);
}

/* Data connections leave first, so that nothing of this session is under way when the next one begins. */
static void session_end(struct session *s)
{
	struct machine *m = s->machine;

	pthread_mutex_lock(&m->lock);
	__atomic_store_n(&s->ending, true, __ATOMIC_RELEASE);
	for (unsigned int i = 0; i < SESSION_DATA_MAX; i++)
		if (s->data[i])
			tm_conn_cancel(s->data[i]);
	while (s->ndata)
		pthread_cond_wait(&m->changed, &m->lock);
	for (uint32_t i = 0; i < m->ndisks; i++) {
		m->disks[i]->open = false;
		compare_drop(m, m->disks[i]);
	}
	for (struct attempt *a = m->attempts; a; a = a->next)
		if (a->session == s->id) {
			a->session = 0;
			a->orphaned = tm_mono_ns();
		}
	m->session = NULL;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	compare_reap(m);
	command_drop(m);
}

static void session_run(struct session *s, const struct tm_in_hello *in)
{
	struct tm_err err;
	pthread_t thread;

	session_begin(s, in);
	tm_conn_expect(s->conn, TM_STAGE_CONTROL);
	if (welcome(s, &err) == 0 && pthread_create(&thread, NULL, sender, s) == 0) {
		converse(s);
		pthread_mutex_lock(&s->lock);
		s->dead = true;
		pthread_cond_signal(&s->changed);
		pthread_mutex_unlock(&s->lock);
		tm_conn_cancel(s->conn);
		pthread_join(thread, NULL);
	}
	session_end(s);
}

static int hello(struct server *srv, struct machine *m, struct tm_conn *c, int socket,
	const void *body, size_t len, struct refusal *r)
{
	struct tm_in_hello in;
	struct session *s;
	struct tm_err err;

	if (tm_parse_hello(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	if (!tm_uuid_equal(in.m->machine, m->uuid)) {
		char other[TM_UUID_TEXT];

		return refuse(r, TM_E_AUTH, 0, "the certificate is not for machine %s",
			tm_uuid_format(in.m->machine, other));
	}
	if (in.m->version_min > TM_WIRE_VERSION || in.m->version_max < TM_WIRE_VERSION)
		return refuse(r, TM_E_VERSION, 0,
			"protocol versions %u to %u; this server speaks %u", in.m->version_min,
			in.m->version_max, TM_WIRE_VERSION);
	if (identity_check(m, c, &in, r))
		return -1;
	s = session_new(m, c, socket, in.m->instance);
	if (!s) {
		pthread_mutex_lock(&m->lock);
		identity_done(m);
		pthread_mutex_unlock(&m->lock);
		return refuse(r, TM_E_BUSY, 0, "out of memory");
	}
	pthread_mutex_lock(&srv->lock);
	srv->strangers--;
	pthread_mutex_unlock(&srv->lock);
	session_run(s, &in);
	session_put(s);
	pthread_mutex_lock(&srv->lock);
	srv->strangers++;
	pthread_mutex_unlock(&srv->lock);
	return 0;
}

/* The machine of a certificate, if it may come in. */
static int admit(struct server *srv, struct tm_conn *c, const uint8_t *uuid, struct machine **m,
	struct refusal *r)
{
	struct catalog_machine cm;
	uint8_t fpr[TM_FPR];
	struct tm_err err;
	int rc = machine_get(srv, uuid, m, &err);

	if (!rc)
		rc = catalog_machine_get(srv->catalog, uuid, &cm, &err);
	if (rc == -ENOENT)
		return refuse(r, TM_E_AUTH, 0, "the machine is not enrolled here");
	if (rc)
		return refuse(r, TM_E_IO, 0, "%s", err.msg);
	if (cm.revoked)
		return refuse(r, TM_E_AUTH, 0, "the machine is revoked");
	if (!tm_conn_peer_fpr(c, fpr) || memcmp(fpr, cm.cert, TM_FPR) != 0)
		return refuse(r, TM_E_AUTH, 0, "the certificate has been replaced by a newer one");
	return 0;
}

static int first_message(struct server *srv, struct tm_conn *c, int socket, uint16_t type,
	const void *body, size_t len, const uint8_t *uuid, struct refusal *r)
{
	const struct tm_msg_hello_data *hd;
	struct machine *m;
	struct tm_err err;

	if (admit(srv, c, uuid, &m, r))
		return -1;
	if (type == TM_MSG_HELLO)
		return hello(srv, m, c, socket, body, len, r);
	if (tm_parse_hello_data(body, len, &hd, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	if (!tm_uuid_equal(hd->machine, m->uuid))
		return refuse(r, TM_E_AUTH, 0, "the certificate is for another machine");
	return ingest_serve(srv, m, c, hd, r);
}

/* The store is told at once, so that a lost catalog loses no machine. */
static void enrolled(struct server *srv, struct tm_conn *c, const uint8_t uuid[TM_UUID])
{
	char name[TM_UUID_TEXT];
	struct machine *m;
	struct tm_err err;

	tm_log(TM_LOG_NOTICE, "%s machine %s enrolled", tm_conn_name(c),
		tm_uuid_format(uuid, name));
	if (machine_get(srv, uuid, &m, &err) || machine_note(m, &err))
		tm_log(TM_LOG_WARNING, "machine %s: %s", name, err.msg);
}

static void enrolment(struct server *srv, struct tm_conn *c, const void *body, size_t len)
{
	uint8_t machine[TM_UUID];
	struct tm_err err;

	if (enroll_serve(
		    c, body, len, srv->pki, srv->uuid, catalog_enroll, srv->catalog, machine, &err))
		tm_log(TM_LOG_WARNING, "%s enrolment refused: %s", tm_conn_name(c), err.msg);
	else
		enrolled(srv, c, machine);
}

void session_serve(struct server *srv, struct tm_conn *c, int socket)
{
	uint8_t uuid[TM_UUID];
	bool known = tm_conn_peer(c, uuid);
	char name[TM_UUID_TEXT] = "";
	CLEANUP_FREE void *body = NULL;
	struct refusal r;
	struct tm_frame h = {.type = 0};
	struct tm_err err;
	int rc;

	if (known)
		tm_uuid_format(uuid, name);
	tm_conn_expect(c, known ? TM_STAGE_HELLO : TM_STAGE_ENROLL);
	rc = tm_conn_recv_msg(c, 10000, &h, &body, &err);
	if (rc && !recv_refusal(rc, &err, &r)) {
		tm_log(TM_LOG_INFO, "%s%s%s left without a word: %s", tm_conn_name(c),
			known ? " machine " : "", name, err.msg);
		return;
	}
	if (!rc && !known) {
		enrolment(srv, c, body, h.length);
		return;
	}
	if (rc || first_message(srv, c, socket, h.type, body, h.length, uuid, &r)) {
		refusal_send(c, &r, rc ? 0 : h.type, name);
		tm_conn_finish(c, 2000);
	}
}
