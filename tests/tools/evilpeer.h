/* SPDX-License-Identifier: Apache-2.0 */
/* evilpeer's good manners: sessions, attempts and frames as an agent makes them. */
#ifndef TESTS_EVILPEER_H
#define TESTS_EVILPEER_H

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "agent/enroll.h"
#include "common/clock.h"
#include "common/conn-int.h"
#include "common/file.h"
#include "common/units.h"
#include "common/uuid.h"

static struct enroll_identity id;
static struct tm_tls *tls;
static uint8_t instance[TM_UUID], disk[TM_UUID], tracking[TM_UUID];
static uint64_t limit_ns = 20 * TM_SEC;
static struct tm_err err;

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static struct tm_conn *dial(struct tm_tls *t)
{
	struct tm_conn *c;

	if (tm_conn_connect(t, id.host, id.port, NULL, &c, &err) < 0)
		die("connect: %s", err.msg);
	return c;
}

static void send_msg(struct tm_conn *c, int built, const struct tm_out *out)
{
	if (built < 0 || tm_conn_send_msg(c, out, &err) < 0)
		die("send: %s", err.msg);
}

/* The next message's body; dies unless it is of the type. */
static void *want(struct tm_conn *c, uint16_t type, size_t *len)
{
	struct tm_frame h;
	void *body;

	if (tm_conn_recv_msg(c, 60000, &h, &body, &err) < 0)
		die("waiting for %s: %s", tm_msg_name(type), err.msg);
	if (h.type != type) {
		struct tm_in_error in = {.text = ""};

		if (h.type == TM_MSG_ERROR)
			tm_parse_error(body, h.length, &in, &err);
		die("waiting for %s, %s came: %s", tm_msg_name(type), tm_msg_name(h.type), in.text);
	}
	*len = h.length;
	return body;
}

/* A session: control connection after WELCOME. */
static struct tm_conn *session(uint64_t *number)
{
	struct tm_msg_hello m = {.version_min = 1, .version_max = 1, .counter = tm_real_ns()};
	const struct tm_msg_welcome *w;
	struct tm_conn *c = dial(tls);
	struct tm_out out;
	size_t len;
	void *body;

	memcpy(m.machine, id.machine, TM_UUID);
	memcpy(m.instance, instance, TM_UUID);
	tm_conn_expect(c, TM_STAGE_WELCOME);
	send_msg(c, tm_build_hello(&out, &m, "evil", "0", "none", &err), &out);
	body = want(c, TM_MSG_WELCOME, &len);
	if (tm_parse_welcome(body, len, &w, &err) < 0)
		die("%s", err.msg);
	*number = w->session;
	free(body);
	tm_conn_expect(c, TM_STAGE_AGENT);
	return c;
}

static struct tm_conn *data_connection(uint64_t number)
{
	struct tm_msg_hello_data m = {.session = number};
	struct tm_conn *c = dial(tls);
	struct tm_out out;
	size_t len;

	memcpy(m.machine, id.machine, TM_UUID);
	tm_conn_expect(c, TM_STAGE_WELCOME);
	send_msg(c, tm_build_hello_data(&out, &m, &err), &out);
	free(want(c, TM_MSG_OK, &len));
	tm_conn_expect(c, TM_STAGE_AGENT_DATA);
	return c;
}

/* Begins an attempt; its number. */
static uint64_t begin_kind(struct tm_conn *c, struct tm_msg_attempt_begin b)
{
	struct tm_in_attempt attempt;
	struct tm_out out;
	uint64_t seq;
	size_t len;
	void *body;

	send_msg(c, tm_build_attempt_begin(&out, &b, &err), &out);
	body = want(c, TM_MSG_ATTEMPT, &len);
	if (tm_parse_attempt(body, len, &attempt, &err) < 0)
		die("%s", err.msg);
	seq = attempt.m->attempt;
	free(body);
	return seq;
}

/* Opens the disk and begins its initial sync. */
static uint64_t begin_attempt(struct tm_conn *c, uint32_t *handle)
{
	struct tm_msg_disk_open o = {.size = 1 << 20, .sector = 512, .tracker = TM_TRACKER_SCAN};
	struct tm_msg_attempt_begin b = {.kind = TM_ATTEMPT_INITIAL};
	struct tm_in_disk_state state;
	struct tm_out out;
	size_t len;
	void *body;

	memcpy(o.disk, disk, TM_UUID);
	memcpy(o.tracking, tracking, TM_UUID);
	send_msg(c, tm_build_disk_open(&out, &o, "evil0", "", &err), &out);
	body = want(c, TM_MSG_DISK_STATE, &len);
	if (tm_parse_disk_state(body, len, &state, &err) < 0)
		die("%s", err.msg);
	*handle = b.handle = state.m->handle;
	free(body);
	return begin_kind(c, b);
}

/* Bytes as they are, in a record of their own; a connection that is broken already is fine. */
static bool send_raw(struct tm_conn *c, const void *buf, size_t len)
{
	bool ok;

	if (conn_turn_begin(c, &err) < 0)
		return false;
	ok = conn_write(c, buf, len, tm_mono_ns() + limit_ns, &err) == 0 &&
	     conn_flush(c, tm_mono_ns() + limit_ns, &err) == 0;
	conn_turn_end(c);
	return ok;
}

/* Reads until the connection ends; dies if it does not in time, or if `never` comes. */
static void cut_off(struct tm_conn *c, const char *what, uint16_t never)
{
	uint64_t until = tm_mono_ns() + limit_ns;
	struct tm_frame h;
	void *body;
	int r;

	do {
		uint64_t now = tm_mono_ns();

		if (now >= until)
			die("%s: not cut off in %.0f s", what, (double)limit_ns / 1e9);
		r = tm_conn_recv_msg(c, (int)((until - now) / TM_MS) + 1, &h, &body, &err);
		if (r == 0 && h.type == never)
			die("%s: was answered by %s", what, tm_msg_name(never));
		if (r == 0)
			free(body);
	} while (r == 0 || r == -EAGAIN);
	tm_conn_put(c);
}

/* A HEARTBEAT as it travels, header and all. */
static size_t heartbeat(uint8_t *buf, uint32_t seq)
{
	struct tm_msg_heartbeat m = {.read_rate = 1};
	struct tm_frame h = {
		.magic = TM_WIRE_MAGIC, .type = TM_MSG_HEARTBEAT, .length = sizeof(m), .seq = seq};

	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), &m, sizeof(m));
	return sizeof(h) + sizeof(m);
}

#endif
