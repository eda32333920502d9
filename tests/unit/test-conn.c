// SPDX-License-Identifier: Apache-2.0
// timeout: 180
#include <criterion/criterion.h>

#include "common/clock.h"
#include "common/conn-int.h"
#include "tests/unit/pair.h"

static struct pair p;
static struct tm_err err;
static uint8_t data[TM_FRAME_MAX], got[TM_FRAME_MAX];

static void begin(void)
{
	pair_init(&p);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 251);
}

static void end(void)
{
	pair_exit(&p);
}

TestSuite(conn, .init = begin, .fini = end, .timeout = 120);

static void meet(enum tm_stage client, enum tm_stage srv)
{
	pair_meet(&p);
	cr_assert(p.c, "client: %s", p.cerr.msg);
	cr_assert(p.s, "server: %s", p.serr.msg);
	tm_conn_expect(p.c, client);
	tm_conn_expect(p.s, srv);
}

/* A thread that sends frames of one type. */
struct sender {
	pthread_t thread;
	struct tm_conn *conn;
	uint16_t type;
	size_t length;
	unsigned count, id;
	int r;
	struct tm_err err;
};

static void *send_all(void *arg)
{
	struct sender *s = arg;

	for (unsigned i = 0; i < s->count && !s->r; i++) {
		uint32_t tag[2] = {s->id, i};
		struct iovec iov[4] = {{tag, sizeof(tag)}, {data, 0}, {data, s->length / 3},
			{data + s->length / 3, s->length - s->length / 3}};

		s->r = tm_conn_send(s->conn, s->type, iov, 4, &s->err);
	}
	return NULL;
}

static void sender_start(struct sender *s)
{
	cr_assert_eq(pthread_create(&s->thread, NULL, send_all, s), 0);
}

Test(conn, both_know_who_the_other_is)
{
	uint8_t uuid[TM_UUID];

	meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
	cr_assert(tm_conn_peer(p.s, uuid));
	cr_assert(tm_uuid_equal(uuid, p.machine));
	cr_assert(tm_conn_peer(p.c, uuid));
	cr_assert(tm_uuid_equal(uuid, p.server));
}

Test(conn, frames_of_all_sizes_arrive_as_they_were)
{
	static const size_t sizes[] = {
		0, 1, 100, 16359, 16360, 16361, 16384, 40000, 262144, TM_FRAME_MAX - 8};
	struct tm_frame h;
	uint32_t tag[2];

	meet(TM_STAGE_AGENT_DATA, TM_STAGE_DATA);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = sizes[i];
		struct sender s = {.conn = p.c, .type = TM_MSG_DATA, .length = n, .count = 1};

		sender_start(&s);
		cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), 0, "%s", err.msg);
		cr_assert_eq(h.length, n + sizeof(tag));
		cr_assert_eq(h.seq, i);
		memset(got, 0, n);
		cr_assert_eq(tm_conn_body(p.s, tag, sizeof(tag), &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_body(p.s, got, n / 2, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_body(p.s, got + n / 2, n - n / 2, &err), 0, "%s", err.msg);
		pthread_join(s.thread, NULL);
		cr_assert_eq(s.r, 0, "%s", s.err.msg);
		cr_assert_eq(memcmp(data, got, n), 0);
	}
}

Test(conn, frames_of_many_threads_keep_each_threads_order)
{
	enum { THREADS = 4, FRAMES = 300 };
	struct sender s[THREADS] = {0};
	unsigned next[THREADS] = {0};
	struct tm_frame h;
	uint32_t tag[2];

	meet(TM_STAGE_AGENT_DATA, TM_STAGE_DATA);
	for (unsigned i = 0; i < THREADS; i++) {
		s[i] = (struct sender){.conn = p.c,
			.type = TM_MSG_DATA,
			.length = 5000 * i,
			.id = i,
			.count = FRAMES};
		sender_start(&s[i]);
	}
	for (unsigned i = 0; i < THREADS * FRAMES; i++) {
		cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_body(p.s, tag, sizeof(tag), &err), 0);
		cr_assert_lt(tag[0], THREADS);
		cr_assert_eq(tag[1], next[tag[0]]++);
		cr_assert_eq(h.length, sizeof(tag) + 5000 * tag[0]);
		cr_assert_eq(tm_conn_body(p.s, got, 5000 * tag[0], &err), 0);
		cr_assert_eq(memcmp(data, got, 5000 * tag[0]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(s[i].thread, NULL);
}

Test(conn, both_directions_at_once)
{
	struct sender s = {.type = TM_MSG_DATA, .length = 300000, .count = 50},
		      r = {.type = TM_MSG_DISK_STATE, .length = 300000, .count = 50};
	struct tm_frame h;

	meet(TM_STAGE_AGENT, TM_STAGE_DATA);
	s.conn = p.c;
	r.conn = p.s;
	sender_start(&s);
	sender_start(&r);
	for (unsigned i = 0; i < 50; i++) {
		cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_body(p.s, got, h.length, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_recv(p.c, 30000, &h, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_body(p.c, got, h.length, &err), 0, "%s", err.msg);
	}
	pthread_join(s.thread, NULL);
	pthread_join(r.thread, NULL);
	cr_assert_eq(s.r, 0);
	cr_assert_eq(r.r, 0);
}

Test(conn, nothing_for_a_while_is_no_failure)
{
	struct tm_frame h;
	struct tm_out out;

	meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
	cr_assert_eq(tm_conn_recv(p.c, 20, &h, &err), -EAGAIN);
	cr_assert_eq(tm_build_ok(&out, &err), 0);
	cr_assert_eq(tm_conn_send_msg(p.s, &out, &err), 0);
	cr_assert_eq(tm_conn_recv(p.c, 30000, &h, &err), 0, "%s", err.msg);
	cr_assert_eq(h.type, TM_MSG_OK);
	cr_assert_eq(tm_conn_recv(p.c, 0, &h, &err), -EAGAIN);
}

/* Sends bytes as they are, without a frame around them. */
static void send_raw(struct tm_conn *c, const void *buf, size_t len)
{
	cr_assert_eq(conn_turn_begin(c, &err), 0);
	cr_assert_eq(conn_write(c, buf, len, UINT64_MAX, &err), 0);
	cr_assert_eq(conn_flush(c, UINT64_MAX, &err), 0);
	conn_turn_end(c);
}

Test(conn, each_wrong_header_field_is_refused_and_an_error_can_be_sent)
{
	static const struct tm_frame good = {
		.magic = TM_WIRE_MAGIC, .type = TM_MSG_ABORT, .length = 8};
	struct tm_frame h, bad[] = {good, good, good, good, good, good};
	static const int codes[] = {EPROTO, EPROTO, EPROTO, EBADMSG, EBADMSG, EMSGSIZE};
	struct tm_out out;

	bad[0].magic ^= 1;
	bad[1].flags = 1;
	bad[2].seq = 1;
	bad[3].type = TM_MSG_DATA; /* of another kind of connection */
	bad[4].type = 0xffff;
	bad[5].length = 0xffffffff;
	for (size_t i = 0; i < 6; i++) {
		meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
		send_raw(p.c, &bad[i], sizeof(bad[i]));
		cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), -codes[i], "%zu: %s", i, err.msg);
		cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), -codes[i], "and stays so");
		cr_assert_eq(
			tm_build_error(&out, &(struct tm_msg_error){.code = TM_E_PROTO, .fatal = 1},
				"no", &err),
			0);
		cr_assert_eq(tm_conn_send_msg(p.s, &out, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_recv(p.c, 30000, &h, &err), 0, "%s", err.msg);
		cr_assert_eq(h.type, TM_MSG_ERROR);
		pair_part(&p);
	}
}

struct trickle {
	pthread_t thread;
	struct tm_conn *conn;
	_Atomic bool stop;
};

/* A byte at a time, each in a record of its own, until the connection breaks. */
static void *trickle(void *arg)
{
	struct trickle *t = arg;
	struct tm_frame h = {.magic = TM_WIRE_MAGIC, .type = TM_MSG_DATA, .length = 100000};
	uint8_t byte = 0;
	struct tm_err e;

	if (conn_turn_begin(t->conn, &e) < 0)
		return NULL;
	conn_write(t->conn, &h, sizeof(h), UINT64_MAX, &e);
	while (!t->stop && conn_write(t->conn, &byte, 1, UINT64_MAX, &e) == 0 &&
		conn_flush(t->conn, UINT64_MAX, &e) == 0)
		usleep(10000);
	conn_turn_end(t->conn);
	return NULL;
}

Test(conn, a_peer_that_trickles_is_cut_off_in_time)
{
	struct trickle t = {0};
	uint64_t t0;
	struct tm_frame h;

	p.opts.frame_ms = 300;
	meet(TM_STAGE_AGENT_DATA, TM_STAGE_DATA);
	t.conn = p.c;
	cr_assert_eq(pthread_create(&t.thread, NULL, trickle, &t), 0);
	t0 = tm_mono_ns();
	cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_conn_body(p.s, got, h.length, &err), -ETIMEDOUT, "%s", err.msg);
	cr_assert_lt(tm_mono_ns() - t0, 60 * TM_SEC);
	t.stop = true;
	pthread_join(t.thread, NULL);
}

Test(conn, half_a_record_is_cut_off_even_when_waiting_for_ever)
{
	struct tm_frame h;

	p.opts.frame_ms = 300;
	meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
	cr_assert_eq(send(p.c->fd, "\x17\x03\x03\x10\x00half", 9, 0), 9);
	cr_assert_eq(tm_conn_recv(p.s, -1, &h, &err), -ETIMEDOUT, "%s", err.msg);
}

Test(conn, a_peer_that_never_reads_is_cut_off)
{
	struct sender s = {.type = TM_MSG_DATA, .length = 1 << 20, .count = 1000},
		      second = {.type = TM_MSG_DATA, .length = 10, .count = 100000000};

	p.opts.send_ms = 500;
	meet(TM_STAGE_AGENT_DATA, TM_STAGE_DATA);
	s.conn = second.conn = p.c;
	sender_start(&s);
	sender_start(&second);
	pthread_join(s.thread, NULL);
	pthread_join(second.thread, NULL);
	cr_assert_eq(s.r, -ETIMEDOUT, "%s", s.err.msg);
	cr_assert_eq(second.r, -ETIMEDOUT, "all get the first reason: %s", second.err.msg);
}

static void *cancel_soon(void *arg)
{
	usleep(50000);
	tm_conn_cancel(arg);
	return NULL;
}

Test(conn, cancel_wakes_receiver_and_senders)
{
	struct sender s = {.type = TM_MSG_DATA, .length = 1 << 20, .count = 100000};
	struct tm_frame h;
	pthread_t t;

	meet(TM_STAGE_AGENT_DATA, TM_STAGE_DATA);
	s.conn = p.c;
	sender_start(&s);
	cr_assert_eq(pthread_create(&t, NULL, cancel_soon, p.c), 0);
	cr_assert_eq(tm_conn_recv(p.c, -1, &h, &err), -ECANCELED, "%s", err.msg);
	pthread_join(s.thread, NULL);
	pthread_join(t, NULL);
	cr_assert_eq(s.r, -ECANCELED, "%s", s.err.msg);
}

Test(conn, closing_between_frames_and_within_one_are_told_apart)
{
	struct tm_frame h = {.magic = TM_WIRE_MAGIC, .type = TM_MSG_ABORT, .length = 8};

	meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
	tm_conn_put(p.c);
	p.c = NULL;
	cr_assert_eq(tm_conn_recv(p.s, -1, &h, &err), -EPIPE, "%s", err.msg);
	pair_part(&p);

	meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
	send_raw(p.c, &h, 10);
	tm_conn_put(p.c);
	p.c = NULL;
	cr_assert_eq(tm_conn_recv(p.s, -1, &h, &err), -ECONNRESET, "%s", err.msg);
}

static void *finish(void *arg)
{
	tm_conn_finish(arg, 20000);
	return NULL;
}

Test(conn, a_last_error_arrives_although_the_peer_goes_on_sending)
{
	struct sender s = {.type = TM_MSG_DATA, .length = 200000, .count = 10};
	struct tm_frame h;
	struct tm_out out;
	pthread_t t;
	void *body;
	struct tm_in_error in;

	meet(TM_STAGE_AGENT_DATA, TM_STAGE_DATA);
	s.conn = p.c;
	sender_start(&s);
	cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_build_error(&out, &(struct tm_msg_error){.code = TM_E_IO, .fatal = 1},
			     "disk on fire", &err),
		0);
	cr_assert_eq(tm_conn_send_msg(p.s, &out, &err), 0);
	cr_assert_eq(pthread_create(&t, NULL, finish, p.s), 0);
	pthread_join(s.thread, NULL);
	cr_assert_eq(tm_conn_recv_msg(p.c, 30000, &h, &body, &err), 0, "%s", err.msg);
	cr_assert_eq(h.type, TM_MSG_ERROR);
	cr_assert_eq(tm_parse_error(body, h.length, &in, &err), 0, "%s", err.msg);
	cr_assert_str_eq(in.text, "disk on fire");
	free(body);
	cr_assert_eq(tm_conn_recv(p.c, 30000, &h, &err), -EPIPE, "%s", err.msg);
	tm_conn_put(p.c);
	p.c = NULL;
	pthread_join(t, NULL);
}

Test(conn, key_updates_do_not_disturb)
{
	struct tm_frame h;
	struct tm_out out;

	meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
	p.c->records = CONN_REKEY - 3; /* our own, in the middle of a frame */
	for (int i = 0; i < 5; i++) {
		struct iovec iov = {data, 8};

		cr_assert_eq(SSL_key_update(p.c->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		cr_assert_eq(tm_conn_send(p.c, TM_MSG_ABORT, &iov, 1, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), 0, "%s", err.msg);
		cr_assert_eq(tm_conn_body(p.s, got, 8, &err), 0);
		cr_assert_eq(tm_build_ok(&out, &err), 0);
		cr_assert_eq(tm_conn_send_msg(p.s, &out, &err), 0);
		cr_assert_eq(tm_conn_recv(p.c, 30000, &h, &err), 0, "%s", err.msg);
	}
}

Test(conn, bytes_on_the_wire_are_counted)
{
	struct iovec iov = {data, 8};
	struct tm_conn_stats c, s;
	struct tm_frame h;

	meet(TM_STAGE_AGENT, TM_STAGE_CONTROL);
	cr_assert_eq(tm_conn_send(p.c, TM_MSG_ABORT, &iov, 1, &err), 0);
	cr_assert_eq(tm_conn_recv(p.s, 30000, &h, &err), 0);
	cr_assert_eq(tm_conn_body(p.s, got, 8, &err), 0);
	tm_conn_stats(p.c, &c);
	tm_conn_stats(p.s, &s);
	cr_assert_gt(c.sent, 24);
	cr_assert_eq(c.sent, s.received);
}
