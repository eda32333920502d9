// SPDX-License-Identifier: Apache-2.0
#include "server/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"

/* Those who wait, in m->waits: m->lock. Each frees its own. */
struct command_wait {
	struct command_wait *next;
	uint64_t id, point;
	bool done, ok;
	char text[TM_TEXT_MAX + 1];
};

static struct command_wait *wait_of(struct machine *m, uint64_t id)
{
	for (struct command_wait *w = m->waits; w; w = w->next)
		if (w->id == id)
			return w;
	return NULL;
}

static void leave(struct machine *m, struct command_wait *w)
{
	struct command_wait **p = &m->waits;

	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
}

static int post(
	struct machine *m, struct tm_msg_command *cmd, const char *label, struct tm_err *err)
{
	struct tm_out out;
	int rc;

	if (!m->session)
		return tm_fail(err, ENOTCONN, "machine %s is not connected", m->host);
	cmd->id = ++m->commands;
	rc = tm_build_command(&out, cmd, label, err);
	if (!rc)
		session_post(m->session, &out);
	return rc;
}

/* Waits for w's answer, or until the time. Caller holds m->lock. */
static int await(
	struct machine *m, struct command_wait *w, unsigned int timeout_s, struct tm_err *err)
{
	struct timespec until = tm_timespec(tm_mono_ns() + timeout_s * TM_SEC);
	int rc = 0;

	w->next = m->waits;
	m->waits = w;
	while (!w->done && rc == 0)
		rc = pthread_cond_clockwait(&m->changed, &m->lock, CLOCK_MONOTONIC, &until);
	leave(m, w);
	if (!w->done)
		return tm_fail(err, ETIMEDOUT, "no answer from machine %s within %u s", m->host,
			timeout_s);
	return w->ok ? 0 : tm_fail(err, EIO, "machine %s: %s", m->host, w->text);
}

int command_run(struct machine *m, struct tm_msg_command *cmd, const char *label,
	unsigned int timeout_s, uint64_t *point, struct tm_err *err)
{
	struct command_wait *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return tm_fail(err, ENOMEM, "out of memory");
	pthread_mutex_lock(&m->lock);
	rc = post(m, cmd, label, err);
	if (!rc) {
		w->id = cmd->id;
		rc = await(m, w, timeout_s, err);
		*point = w->point;
	}
	pthread_mutex_unlock(&m->lock);
	free(w);
	return rc;
}

int command_result(struct session *s, const void *body, size_t len, struct refusal *r)
{
	struct machine *m = s->machine;
	struct tm_in_command_result in;
	struct command_wait *w;
	struct tm_out out;
	struct tm_err err;

	if (tm_parse_command_result(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	pthread_mutex_lock(&m->lock);
	w = wait_of(m, in.m->id);
	if (w) {
		w->done = true;
		w->ok = in.m->ok;
		w->point = in.m->point;
		memcpy(w->text, in.text, sizeof(w->text));
		pthread_cond_broadcast(&m->changed);
	}
	pthread_mutex_unlock(&m->lock);
	if (tm_build_ok(&out, &err) == 0)
		tm_conn_send_msg(s->conn, &out, &err);
	return 0;
}

void command_drop(struct machine *m)
{
	LOCK_SCOPE(&m->lock);

	for (struct command_wait *w = m->waits; w; w = w->next) {
		w->done = true;
		w->ok = false;
		strcpy(w->text, "the session ended before the answer");
	}
	pthread_cond_broadcast(&m->changed);
}
