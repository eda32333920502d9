// SPDX-License-Identifier: Apache-2.0
#include "agent/session.h"
#include "agent/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"

#define BEAT_NS    TM_SEC
#define SILENCE_NS (20 * TM_SEC) /* without a frame from the server: the connection is dead */

struct session {
	struct session_owner owner;
	struct tm_conn *conn;
	struct tm_msg_welcome welcome;
	pthread_t thread;
	bool running;
	pthread_mutex_t
		send; /* held from queueing a call to its sending: answers come in this order */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct call *calls, **tail; /* lock: waiting for answers */
	unsigned tells;             /* lock: OKs that nobody waits for */
	struct tm_err why;          /* lock: code 0 while the session lives */
	uint16_t refusal;           /* lock */
};

const struct tm_msg_welcome *session_welcome(const struct session *s)
{
	return &s->welcome;
}

void session_stats(struct session *s, struct tm_conn_stats *stats)
{
	tm_conn_stats(s->conn, stats);
}

void call_free(struct call *call)
{
	free(tm_take(call->body));
}

static void end_call(struct call *call, const struct tm_err *err, uint16_t refusal)
{
	call->err = *err;
	call->refusal = refusal;
	call->done = true;
}

static void fail_locked(struct session *s, const struct tm_err *why, uint16_t refusal)
{
	struct call *c;

	if (s->why.code)
		return;
	s->why = *why;
	s->refusal = refusal;
	while ((c = s->calls)) {
		s->calls = c->next;
		end_call(c, why, refusal);
	}
	s->tail = &s->calls;
	pthread_cond_broadcast(&s->changed);
}

void session_fail(struct session *s, const struct tm_err *why, uint16_t refusal)
{
	pthread_mutex_lock(&s->lock);
	fail_locked(s, why, refusal);
	pthread_mutex_unlock(&s->lock);
	tm_conn_cancel(s->conn);
}

bool session_ended(struct session *s, struct tm_err *why, uint16_t *refusal)
{
	LOCK_SCOPE(&s->lock);

	if (!s->why.code)
		return false;
	if (why)
		*why = s->why;
	if (refusal)
		*refusal = s->refusal;
	return true;
}

void session_begin(struct session *s, struct call *call, const struct tm_out *out, uint16_t reply,
	uint64_t attempt)
{
	struct tm_err err = {0};

	memset(call, 0, sizeof(*call));
	call->type = out->type;
	call->reply = reply;
	call->attempt = attempt;
	pthread_mutex_lock(&s->send);
	pthread_mutex_lock(&s->lock);
	if (s->why.code) {
		end_call(call, &s->why, s->refusal);
		pthread_mutex_unlock(&s->lock);
		pthread_mutex_unlock(&s->send);
		return;
	}
	*s->tail = call;
	s->tail = &call->next;
	pthread_mutex_unlock(&s->lock);
	if (tm_conn_send_msg(s->conn, out, &err))
		session_fail(s, &err, 0);
	pthread_mutex_unlock(&s->send);
}

int session_wait(struct session *s, struct call *call, struct tm_err *err)
{
	LOCK_SCOPE(&s->lock);

	while (!call->done)
		pthread_cond_wait(&s->changed, &s->lock);
	if (call->err.code)
		*err = call->err;
	return -call->err.code;
}

bool session_done(struct session *s, const struct call *call)
{
	LOCK_SCOPE(&s->lock);
	return call->done;
}

int session_call(struct session *s, struct call *call, const struct tm_out *out, uint16_t reply,
	uint64_t attempt, struct tm_err *err)
{
	session_begin(s, call, out, reply, attempt);
	return session_wait(s, call, err);
}

void session_tell(struct session *s, const struct tm_out *out)
{
	struct tm_err err;

	pthread_mutex_lock(&s->send);
	pthread_mutex_lock(&s->lock);
	s->tells++;
	pthread_mutex_unlock(&s->lock);
	if (tm_conn_send_msg(s->conn, out, &err))
		session_fail(s, &err, 0);
	pthread_mutex_unlock(&s->send);
}

/* Takes the call out of the list that this answer is for; NULL: nobody asked. Caller holds the lock. */
static struct call *match(struct session *s, uint16_t type, uint16_t reply, uint64_t attempt)
{
	for (struct call **p = &s->calls, *c; (c = *p); p = &c->next) {
		if ((type && c->type != type) || (reply && c->reply != reply))
			continue;
		if (attempt && c->attempt && c->attempt != attempt)
			continue;
		*p = c->next;
		if (!*p)
			s->tail = p;
		return c;
	}
	return NULL;
}

static void refused(struct session *s, const struct tm_in_error *e)
{
	struct tm_err err;
	struct call *c;

	tm_fail(&err, e->m->code == TM_E_FULL ? ENOSPC : EREMOTEIO, "the server refused %s: %s",
		e->m->about ? tm_msg_name(e->m->about) : "the connection", e->text);
	pthread_mutex_lock(&s->lock);
	if (e->m->fatal) {
		fail_locked(s, &err, e->m->code);
	} else if ((c = match(s, e->m->about, 0, e->m->attempt))) {
		end_call(c, &err, e->m->code);
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
}

static uint64_t attempt_of(uint16_t type, const void *body, uint32_t len)
{
	uint64_t attempt = 0;

	/* Both begin with it; what they say is parsed by those who asked. */
	if ((type == TM_MSG_EPOCH_DONE || type == TM_MSG_PART_DONE) && len >= sizeof(attempt))
		memcpy(&attempt, body, sizeof(attempt));
	return attempt;
}

static int answered(struct session *s, const struct tm_frame *h, void *body, struct tm_err *err)
{
	LOCK_SCOPE(&s->lock);
	struct call *c;

	if (h->type == TM_MSG_OK && s->tells && (!s->calls || s->calls->reply != TM_MSG_OK)) {
		s->tells--;
		free(body);
		return 0;
	}
	c = match(s, 0, h->type, attempt_of(h->type, body, h->length));
	if (!c) {
		free(body);
		return tm_fail(err, EPROTO, "the server sent %s unasked", tm_msg_name(h->type));
	}
	c->body = body;
	c->len = h->length;
	c->done = true;
	pthread_cond_broadcast(&s->changed);
	return 0;
}

/* One frame of the server; takes body over. */
static int handle(struct session *s, const struct tm_frame *h, void *body, struct tm_err *err)
{
	CLEANUP_FREE void *own = body;
	const struct tm_msg_heartbeat_ok *ok;
	struct tm_in_command command;
	struct tm_in_error error;

	switch (h->type) {
	case TM_MSG_ERROR:
		if (tm_parse_error(body, h->length, &error, err))
			return -err->code;
		refused(s, &error);
		s->owner.answered(s->owner.ctx);
		return 0;
	case TM_MSG_HEARTBEAT_OK:
		if (tm_parse_heartbeat_ok(body, h->length, &ok, err))
			return -err->code;
		s->owner.beat_ok(s->owner.ctx, ok);
		return 0;
	case TM_MSG_COMMAND:
		if (tm_parse_command(body, h->length, &command, err))
			return -err->code;
		s->owner.command(s->owner.ctx, &command);
		return 0;
	default:
		if (answered(s, h, tm_take(own), err))
			return -err->code;
		if (h->type == TM_MSG_EPOCH_DONE)
			s->owner.answered(s->owner.ctx);
		return 0;
	}
}

static int send_beat(struct session *s, struct tm_err *err)
{
	struct tm_disk_beat disks[TM_DISKS_MAX];
	char text[TM_TEXT_MAX + 1] = "";
	struct tm_msg_heartbeat m = {0};
	struct tm_out out;
	uint32_t n = 0;

	s->owner.beat(s->owner.ctx, &m, disks, &n, text);
	if (tm_build_heartbeat(&out, &m, disks, n, text, err))
		return -err->code;
	return tm_conn_send_msg(s->conn, &out, err);
}

static void *run(void *arg)
{
	struct session *s = arg;
	uint64_t next = tm_mono_ns(), heard = next, now;
	struct tm_err err = {0};
	struct tm_frame h;
	void *body;
	int ret = 0;

	while (!ret) {
		now = tm_mono_ns();
		if (now >= next) {
			ret = send_beat(s, &err);
			next = now + BEAT_NS;
			continue;
		}
		ret = tm_conn_recv_msg(s->conn, (int)((next - now) / TM_MS) + 1, &h, &body, &err);
		if (ret == -EAGAIN) {
			ret = tm_mono_ns() - heard < SILENCE_NS
				      ? 0
				      : tm_fail(&err, ETIMEDOUT, "the server is silent");
			continue;
		}
		heard = tm_mono_ns();
		if (!ret)
			ret = handle(s, &h, body, &err);
		if (!ret && session_ended(s, NULL, NULL))
			break;
	}
	if (!err.code)
		tm_fail(&err, ECONNRESET, "the connection to the server is lost");
	session_fail(s, &err, 0);
	s->owner.ended(s->owner.ctx);
	return NULL;
}

/* A copy of this machine counts too, and must not get ahead of it by knocking in vain: only what the server may have accepted counts. */
static int say_hello(struct session *s, struct state *state, const struct tm_msg_hello *hello,
	const char *host, const char *hardware, uint16_t *refusal, struct tm_err *err)
{
	struct tm_msg_hello counted = *hello;
	CLEANUP_FREE void *body = NULL;
	const struct tm_msg_welcome *w;
	struct tm_in_error e;
	struct tm_frame h;
	struct tm_out out;
	uint64_t counter;

	tm_conn_expect(s->conn, TM_STAGE_WELCOME);
	if (state_count(state, &counter, err))
		return -err->code;
	counted.counter = counter;
	if (tm_build_hello(&out, &counted, host, "tidemark-agent " TM_VERSION, hardware, err) ||
		tm_conn_send_msg(s->conn, &out, err) ||
		tm_conn_recv_msg(s->conn, 30000, &h, &body, err))
		return -err->code;
	if (h.type == TM_MSG_ERROR) {
		if (tm_parse_error(body, h.length, &e, err))
			return -err->code;
		*refusal = e.m->code;
		if ((*refusal == TM_E_HELD || *refusal == TM_E_AUTH) && state_uncount(state, err))
			return -err->code;
		return tm_fail(err, EREMOTEIO, "the server refused: %s", e.text);
	}
	if (h.type != TM_MSG_WELCOME)
		return tm_fail(err, EPROTO, "no WELCOME came, but %s", tm_msg_name(h.type));
	if (tm_parse_welcome(body, h.length, &w, err))
		return -err->code;
	s->welcome = *w;
	tm_conn_expect(s->conn, TM_STAGE_AGENT);
	return 0;
}

int session_open(const struct session_opts *opts, const struct tm_msg_hello *hello,
	const char *host, const char *hardware, struct session **out, uint16_t *refusal,
	struct tm_err *err)
{
	struct session *s = calloc(1, sizeof(*s));

	*refusal = 0;
	if (!s)
		return tm_fail(err, ENOMEM, "no memory for a session");
	s->owner = opts->owner;
	s->tail = &s->calls;
	pthread_mutex_init(&s->send, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	if (tm_conn_connect(opts->tls, opts->host, opts->port, NULL, &s->conn, err) ||
		say_hello(s, opts->state, hello, host, hardware, refusal, err))
		goto err_conn;
	if (pthread_create(&s->thread, NULL, run, s)) {
		tm_fail(err, EAGAIN, "no thread for the session");
		goto err_conn;
	}
	s->running = true;
	*out = s;
	return 0;

err_conn:
	session_close(s);
	return -err->code;
}

void session_close(struct session *s)
{
	struct tm_err err;

	if (!s)
		return;
	if (s->running) {
		tm_fail(&err, ECANCELED, "the session was closed");
		session_fail(s, &err, 0);
		pthread_join(s->thread, NULL);
	}
	tm_conn_put(s->conn);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->send);
	free(s);
}
