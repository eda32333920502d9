// SPDX-License-Identifier: Apache-2.0
/*
 * evilpeer DIR enrol HOST:PORT TOKEN       a machine of its own; keys in DIR
 * evilpeer DIR MODE [SECONDS]              misbehaves as the mode says; see modes[] below
 *
 * Speaks the real protocol with real certificates. Exit 0: the server refused, in time, what it had to; else 1 with a line that says what
 * went through. SECONDS: how long the server may take to cut off (default 20).
 */
#include "server/frames.h"
#include "tests/fuzz/parse-any.h"
#include "tests/tools/evilpeer.h"

static void mode_hello_other(void)
{
	struct tm_msg_hello m = {.version_min = 1, .version_max = 1, .counter = tm_real_ns()};
	struct tm_conn *c = dial(tls);
	struct tm_out out;

	tm_uuid_new(m.machine);
	memcpy(m.instance, instance, TM_UUID);
	tm_conn_expect(c, TM_STAGE_WELCOME);
	send_msg(c, tm_build_hello(&out, &m, "evil", "0", "none", &err), &out);
	cut_off(c, "HELLO with another machine's UUID", TM_MSG_WELCOME);
}

static void mode_data_other(void)
{
	struct tm_msg_hello_data m = {0};
	struct tm_conn *c, *d;
	struct tm_out out;
	uint64_t number;

	c = session(&number);
	m.session = number;
	for (int i = 0; i < 2; i++) {
		struct tm_msg_hello_data bad = m;

		if (i == 0)
			tm_uuid_new(bad.machine);
		else
			memcpy(bad.machine, id.machine, TM_UUID);
		bad.session += (uint64_t)i;
		d = dial(tls);
		tm_conn_expect(d, TM_STAGE_WELCOME);
		send_msg(d, tm_build_hello_data(&out, &bad, &err), &out);
		cut_off(d, "HELLO_DATA of another machine or session", TM_MSG_OK);
	}
	tm_conn_put(c);
}

static void mode_header(void)
{
	for (unsigned bit = 0; bit < 8 * sizeof(struct tm_frame); bit += 3) {
		uint8_t buf[256];
		size_t n = heartbeat(buf, 1);
		uint64_t number;
		struct tm_conn *c = session(&number);
		char what[64];

		buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
		snprintf(what, sizeof(what), "frame header with bit %u flipped", bit);
		send_raw(c, buf, n);
		cut_off(c, what, TM_MSG_HEARTBEAT_OK);
	}
}

#define CELLS (sizeof(struct tm_cell) + TM_BLOCK)

/* A good DATA frame with one raw block. */
static size_t data_frame(uint8_t *buf, uint64_t attempt, uint32_t handle, uint64_t *digest)
{
	struct tm_msg_data m = {.attempt = attempt, .handle = handle, .ncells = 1};
	struct tm_frame h = {
		.magic = TM_WIRE_MAGIC, .type = TM_MSG_DATA, .length = sizeof(m) + CELLS, .seq = 1};
	struct tm_cell cell = {.block = 5, .count = 1, .len = TM_BLOCK, .codec = TM_CODEC_RAW};
	uint8_t *plain = buf + sizeof(h) + sizeof(m) + sizeof(cell);

	for (size_t i = 0; i < TM_BLOCK; i++)
		plain[i] = (uint8_t)(i * 167 ^ i >> 3);
	cell.plain_sum = XXH3_64bits(plain, TM_BLOCK);
	cell.stored_sum = XXH3_64bits_withSeed(plain, TM_BLOCK, cell.block);
	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), &m, sizeof(m));
	memcpy(buf + sizeof(h) + sizeof(m), &cell, sizeof(cell));
	*digest = XXH3_64bits_withSeed(buf + sizeof(h) + sizeof(m), CELLS, 0);
	return sizeof(h) + sizeof(m) + CELLS;
}

/* Sends a DATA frame, then commits it as a part. True if the server says that it is durable. */
static bool ship(long flip)
{
	uint8_t buf[sizeof(struct tm_frame) + sizeof(struct tm_msg_data) + CELLS];
	struct tm_msg_part_commit m = {.frames = 1};
	struct tm_conn *c, *d;
	uint64_t number, digest;
	uint32_t handle;
	struct tm_frame h;
	struct tm_out out;
	void *body = NULL;
	bool done = false;
	size_t n;

	c = session(&number);
	m.attempt = begin_attempt(c, &handle);
	m.handle = handle;
	d = data_connection(number);
	n = data_frame(buf, m.attempt, handle, &digest);
	m.digest = digest;
	if (flip >= 0)
		buf[flip] ^= 2;
	send_raw(d, buf, n);
	/* An ACK, an ERROR or the end: then the part can be judged. */
	if (tm_conn_recv_msg(d, 60000, &h, &body, &err) == -EAGAIN)
		die("DATA with byte %ld flipped: neither acknowledged nor refused", flip);
	free(body);
	tm_conn_put(d);
	if (tm_build_part_commit(&out, &m, &err) == 0 && tm_conn_send_msg(c, &out, &err) == 0) {
		body = NULL;
		if (tm_conn_recv_msg(c, 60000, &h, &body, &err) == -EAGAIN)
			die("PART_COMMIT: no answer");
		done = body && h.type == TM_MSG_PART_DONE;
		free(body);
	}
	tm_conn_put(c);
	return done;
}

static void mode_data(void)
{
	size_t head = sizeof(struct tm_frame) + sizeof(struct tm_msg_data) + sizeof(struct tm_cell);

	for (size_t i = 0; i < head; i += 1 + (i % 4 == 1)) /* three of four bytes */
		if (ship((long)i))
			die("DATA with byte %zu flipped became durable", i);
	if (ship((long)(head + 100)))
		die("DATA with its contents changed became durable");
	/* So that the test is one: the same without a fault is taken. */
	tm_uuid_new(tracking);
	if (!ship(-1))
		die("a good DATA frame was refused: %s", err.msg);
}

static void mode_stale(void)
{
	uint8_t buf[sizeof(struct tm_frame) + sizeof(struct tm_msg_data) + CELLS];
	struct tm_msg_abort m;
	struct tm_conn *c, *d;
	uint32_t handle;
	uint64_t number, digest;
	struct tm_frame h;
	struct tm_out out;
	void *body = NULL;
	size_t n;

	c = session(&number);
	m.attempt = begin_attempt(c, &handle);
	d = data_connection(number);
	send_msg(c, tm_build_abort(&out, &m, &err), &out);
	free(want(c, TM_MSG_OK, &n));
	n = data_frame(buf, m.attempt, handle, &digest);
	send_raw(d, buf, n);
	if (tm_conn_recv_msg(d, 60000, &h, &body, &err) == 0 && h.type == TM_MSG_ACK)
		die("a frame of an aborted attempt was acknowledged");
	free(body);
	tm_conn_put(d);
	tm_conn_put(c);
}

/* Zeros over blocks [from, to) as one frame of the open part; gives its digest. */
static uint64_t zeros(struct tm_conn *d, struct tm_msg_data m, uint64_t from, uint64_t to)
{
	char cells[sizeof(struct tm_cell)];
	size_t len = tm_cell_encode_empty(from, (uint32_t)(to - from), TM_CODEC_ZERO, cells);
	uint64_t digest = frames_digest(m.frame, cells, len);
	struct tm_out out;

	m.ncells = 1;
	send_msg(d, tm_build_data(&out, &m, cells, len, &err), &out);
	free(want(d, TM_MSG_ACK, &len));
	return digest;
}

/* An ERROR that says it, with its code. */
static void refused(struct tm_conn *c, uint16_t code, const char *text)
{
	struct tm_in_error in;
	size_t len;
	void *body = want(c, TM_MSG_ERROR, &len);

	if (tm_parse_error(body, len, &in, &err) < 0)
		die("%s", err.msg);
	if (in.m->code != code || !strstr(in.text, text))
		die("refused with %u, %s, not %u, %s", in.m->code, in.text, code, text);
	free(body);
}

/* The first point of the disk, from a complete initial sync. */
static void first_point(struct tm_conn *c, uint32_t handle, uint64_t piece)
{
	struct tm_msg_attempt_begin b = {.kind = TM_ATTEMPT_EPOCH};
	struct tm_msg_epoch_commit m = {.kind = TM_POINT_CRASH};
	struct tm_epoch_disk e = {.handle = handle, .size = 1 << 20};
	struct tm_out out;
	size_t len;

	memcpy(b.id.tracking, tracking, TM_UUID);
	b.id.cut = 1;
	tm_uuid_new(b.id.nonce);
	m.id = b.id;
	m.attempt = begin_kind(c, b);
	send_msg(c, tm_build_epoch_commit(&out, &m, &e, 1, &piece, 1, "", "", &err), &out);
	free(want(c, TM_MSG_EPOCH_DONE, &len));
}

/* A sync that leaves blocks out, and a comparison that another process goes on with. */
static void mode_halves(void)
{
	struct tm_msg_attempt_begin b = {.kind = TM_ATTEMPT_RESYNC, .fresh = 1};
	struct tm_msg_part_commit p = {.frames = 1, .last = 1};
	struct tm_msg_data m = {.part = 0};
	struct tm_conn *c, *d;
	uint64_t number;
	uint32_t handle;
	struct tm_out out;
	size_t len;

	c = session(&number);
	m.attempt = p.attempt = begin_attempt(c, &handle);
	p.handle = m.handle = handle;
	d = data_connection(number);
	p.digest = zeros(d, m, 0, 199);
	send_msg(c, tm_build_part_commit(&out, &p, &err), &out);
	refused(c, TM_E_STATE, "block 199 and 56 more are missing");
	/* The part is still open: the blocks come after all, in parts. */
	m.frame = 1;
	p.digest += zeros(d, m, 200, 256);
	p.frames = 2;
	p.last = 0;
	send_msg(c, tm_build_part_commit(&out, &p, &err), &out);
	free(want(c, TM_MSG_PART_DONE, &len));
	p = (struct tm_msg_part_commit){
		.attempt = m.attempt, .handle = m.handle, .part = 1, .last = 1};
	send_msg(c, tm_build_part_commit(&out, &p, &err), &out);
	refused(c, TM_E_STATE, "block 199 and 0 more are missing");
	m.part = 1;
	m.frame = 0;
	p.digest = zeros(d, m, 199, 200);
	p.frames = 1;
	send_msg(c, tm_build_part_commit(&out, &p, &err), &out);
	free(want(c, TM_MSG_PART_DONE, &len));
	first_point(c, m.handle, m.attempt);

	b.handle = m.handle;
	b.attempt =
		begin_kind(c, (struct tm_msg_attempt_begin){.kind = b.kind, .handle = b.handle});
	send_msg(c, tm_build_attempt_begin(&out, &b, &err), &out);
	refused(c, TM_E_STALE, "another process");
	tm_conn_put(d);
	tm_conn_put(c);
}

static void mode_lengths(void)
{
	static const uint32_t lengths[] = {0xffffffff, 0x80000000, TM_FRAME_MAX + 1};
	struct tm_conn *c;
	uint64_t number;

	for (uint16_t type = 1; type <= TM_MSG_COMMAND_RESULT; type += 3)
		for (size_t i = 0; i < 3; i++) {
			struct tm_frame h = {
				.magic = TM_WIRE_MAGIC, .type = type, .length = lengths[i]};

			c = dial(tls);
			tm_conn_expect(c, TM_STAGE_WELCOME);
			send_raw(c, &h, sizeof(h));
			cut_off(c, "a huge first frame", TM_MSG_WELCOME);
			h.seq = 1;
			c = session(&number);
			send_raw(c, &h, sizeof(h));
			cut_off(c, "a huge frame in a session", TM_MSG_HEARTBEAT_OK);
		}
}

static void mode_never_reads(void)
{
	uint64_t number, until, beats = 0;
	struct tm_conn *c = session(&number);
	uint8_t buf[256];

	until = tm_mono_ns() + limit_ns + 60 * TM_SEC; /* it takes a while to fill all buffers */
	do {
		if (tm_mono_ns() > until)
			die("a peer that never reads is not cut off (%llu heartbeats)",
				(unsigned long long)beats);
		beats++;
	} while (send_raw(c, buf, heartbeat(buf, (uint32_t)beats)));
	printf("cut off after %llu heartbeats\n", (unsigned long long)beats);
	tm_conn_put(c);
}

static void trickle(struct tm_conn *c, const char *what)
{
	struct tm_frame h = {.magic = TM_WIRE_MAGIC, .type = TM_MSG_HEARTBEAT};
	const uint8_t *bytes = (const uint8_t *)&h;
	uint64_t until = tm_mono_ns() + limit_ns;

	/* It never gets to the end of the header. */
	for (size_t i = 0;; i = i < sizeof(h) - 2 ? i + 1 : i) {
		uint8_t nothing = 0;

		if (tm_mono_ns() > until)
			die("%s: a trickle is not cut off", what);
		if (i < sizeof(h) - 2 ? !send_raw(c, bytes + i, 1)
				      : send(c->fd, &nothing, 0, MSG_NOSIGNAL) < 0)
			break;
		if (net_poll(c->fd, POLLIN | POLLRDHUP, tm_mono_ns() + TM_SEC / 2) > 0)
			break;
	}
	cut_off(c, what, TM_MSG_HEARTBEAT_OK);
}

static void mode_trickles(void)
{
	uint64_t number;

	trickle(session(&number), "in a session");
	trickle(dial(tls), "before HELLO");
}

static void mode_silent(void)
{
	uint64_t until = tm_mono_ns() + limit_ns;
	int fd = net_dial(id.host, id.port, 10000, &err);
	char byte;

	if (fd < 0)
		die("%s", err.msg);
	if (net_poll(fd, POLLIN, until) <= 0 || recv(fd, &byte, 1, 0) > 0)
		die("a peer without a TLS handshake is not cut off");
	close(fd);
}

static void mode_tls_flip(void)
{
	uint64_t number;
	struct tm_conn *c = session(&number);
	uint8_t buf[256];
	size_t n = heartbeat(buf, 1);

	if (conn_write(c, buf, n, UINT64_MAX, &err) < 0)
		die("%s", err.msg);
	c->out[c->out_len / 2] ^= 1;
	conn_flush(c, UINT64_MAX, &err);
	cut_off(c, "a record changed on the way", TM_MSG_HEARTBEAT_OK);
}

/* Replaces each `from` by `to` in the n bytes. */
static void replace(uint8_t *p, size_t n, uint64_t from, uint64_t to)
{
	for (size_t i = 0; i + sizeof(from) <= n; i++)
		if (memcmp(p + i, &from, sizeof(from)) == 0)
			memcpy(p + i, &to, sizeof(to));
}

/* A message of a random type, good in form, about the attempt; then some of its bits flipped. */
static void mutant(struct tm_conn *c, const uint8_t random[16], uint64_t attempt, uint32_t seq)
{
	static uint8_t body[TM_FRAME_MAX];
	struct tm_frame h = {.magic = TM_WIRE_MAGIC, .seq = seq};
	struct tm_out out;

	h.type = (uint16_t)(1 + random[0] % TM_MSG_COMMAND_RESULT);
	/* What an agent may send on a control connection, mostly. */
	if (tm_msg_limit(TM_STAGE_CONTROL, h.type) < 0 && random[1] < 250)
		h.type = random[1] & 1 ? TM_MSG_EPOCH_COMMIT : TM_MSG_PART_COMMIT;
	if (sample(h.type, &out, &err) < 0)
		die("%s", err.msg);
	h.length = (uint32_t)flatten(&out, body);
	replace(body, h.length, 9, attempt);
	for (int i = 0; h.length && i < random[2] % 4; i++)
		body[(random[3 + i] << 8 | random[6 + i]) % h.length] ^=
			(uint8_t)(1u << random[9 + i] % 8);
	send_raw(c, &h, sizeof(h));
	send_raw(c, body, h.length);
}

/* Whatever comes, the next session must work. */
static void mode_garbage(void)
{
	for (int round = 0; round < 150; round++) {
		uint8_t random[16];
		uint64_t number, attempt;
		struct tm_conn *c = session(&number);
		uint32_t handle;

		attempt = begin_attempt(c, &handle);
		for (uint32_t i = 0; i < 4; i++) {
			if (getrandom(random, sizeof(random), 0) != sizeof(random))
				die("no random numbers");
			mutant(c, random, attempt, 3 + i);
		}
		tm_conn_finish(c, 2000);
		tm_conn_put(c);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{"hello-other", mode_hello_other}, /* HELLO names another machine */
	{"data-other", mode_data_other},   /* HELLO_DATA names another machine or session */
	{"header", mode_header},           /* bits of a frame's header flipped in turn */
	{"data", mode_data},               /* bytes of a DATA frame flipped in turn */
	{"stale", mode_stale},             /* a late frame of an aborted attempt */
	{"halves", mode_halves},           /* a sync with gaps; a comparison gone on with */
	{"lengths", mode_lengths},         /* up to 4 GiB */
	{"never-reads", mode_never_reads},
	{"trickles", mode_trickles},
	{"silent", mode_silent},     /* connects, nothing else */
	{"tls-flip", mode_tls_flip}, /* a bit of a TLS record flipped */
	{"garbage", mode_garbage},
};

static int enrol(const char *dir, const char *where, const char *token)
{
	char host[256];
	uint16_t port;

	if (tm_addr_parse(where, TM_PORT, host, sizeof(host), &port, &err) < 0 ||
		enroll_run(dir, host, port, token, &id, &err) < 0)
		die("%s", err.msg);
	return 0;
}

int main(int argc, char **argv)
{
	char *pki;

	if (argc == 5 && strcmp(argv[2], "enrol") == 0)
		return enrol(argv[1], argv[3], argv[4]);
	if (argc < 3 || argc > 4)
		die("usage: evilpeer DIR enrol HOST:PORT TOKEN | evilpeer DIR MODE [SECONDS]");
	if (argc == 4)
		limit_ns = (uint64_t)(atof(argv[3]) * 1e9);
	pki = tm_path("%s/pki", argv[1]);
	if (enroll_load(argv[1], &id, &err) < 0 || tm_tls_client(pki, id.server, &tls, &err) < 0)
		die("%s", err.msg);
	/* One and the same agent process to the server, over several runs. */
	memcpy(instance, id.machine, TM_UUID);
	memcpy(disk, id.machine, TM_UUID);
	disk[0] ^= 1;
	tm_uuid_new(tracking);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(modes[i].name, argv[2]) == 0) {
			modes[i].run();
			free(pki);
			tm_tls_put(tls);
			return 0;
		}
	die("there is no mode %s", argv[2]);
}
