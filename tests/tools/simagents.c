// SPDX-License-Identifier: Apache-2.0
/*
 * simagents --server HOST:PORT --token TOKEN --dir DIR [--machines N] [--disks N] [--bytes SIZE] [--seconds S] [--interval MS]
 *
 * Many agents at once by the real protocol over real TLS, with made-up disks: each enrols, does an initial sync of zeros, and then
 * commits an epoch of `bytes` per disk every interval. Prints what was sustained and how long commits took. Exit 0 if
 * every epoch became a point.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/cell.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/conn.h"
#include "common/file.h"
#include "common/pki.h"
#include "common/token.h"
#include "common/units.h"
#include "common/uuid.h"
#include "server/frames.h"

#define DISK_SIZE (1ull << 30)

static struct {
	const char *dir;
	char host[256];
	uint16_t port;
	struct tm_token token;
	uint64_t machines, disks, bytes, seconds, interval_ms;
	uint64_t begin, end; /* monotonic ns: when epochs are counted */
	pthread_barrier_t ready;
} o = {.machines = 10, .disks = 4, .bytes = 16384, .seconds = 10, .interval_ms = 1000};

struct sim {
	unsigned int no;
	uint8_t uuid[TM_UUID], server[TM_UUID], tracking[TM_UUID], instance[TM_UUID];
	char *dir;
	struct tm_tls *tls;
	struct tm_conn *control, *data;
	uint64_t session;
	uint32_t *handles;
	uint64_t *pieces; /* for the first epoch */
	uint32_t npieces;
	struct tm_epoch_id head;
	uint64_t cut;
	uint32_t random;
	uint8_t *cells;    /* one frame */
	uint64_t *latency; /* ns, of each commit */
	size_t nlatency, late;
	uint64_t stored; /* bytes sent */
	struct tm_err err;
	bool failed;
};

static uint32_t next_random(struct sim *s)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 17;
	s->random ^= s->random << 5;
	return s->random;
}

/* Receives until the message of this type; an ERROR is a failure. */
static int expect(struct tm_conn *c, uint16_t type, void *out, size_t len, struct tm_err *err)
{
	for (;;) {
		CLEANUP_FREE void *body = NULL;
		struct tm_in_error e;
		struct tm_frame h;
		int rc = tm_conn_recv_msg(c, 120000, &h, &body, err);

		if (rc)
			return rc;
		if (h.type == TM_MSG_ERROR) {
			if (tm_parse_error(body, h.length, &e, err))
				return -EBADMSG;
			return tm_fail(err, EPROTO, "%s refused (%s): %s", tm_msg_name(e.m->about),
				tm_refusal_name(e.m->code), e.text);
		}
		if (h.type != type)
			continue;
		if (h.length < len)
			return tm_fail(err, EBADMSG, "short answer");
		if (len)
			memcpy(out, body, len);
		return 0;
	}
}

/* ---- enrolment ---- */

static int send_enroll(struct sim *s, struct tm_conn *c, const void *csr, size_t len)
{
	struct tm_msg_enroll m = {.csr_len = (uint16_t)len};
	struct tm_out out;
	int rc;

	memcpy(m.token_id, o.token.id, sizeof(m.token_id));
	memcpy(m.secret, o.token.secret, sizeof(m.secret));
	memcpy(m.machine, s->uuid, TM_UUID);
	rc = tm_build_enroll(&out, &m, "sim", csr, len, &s->err);
	return rc ? rc : tm_conn_send_msg(c, &out, &s->err);
}

static int take_certificate(struct sim *s, struct tm_conn *c, const char *key, size_t key_len)
{
	CLEANUP_FREE void *body = NULL;
	struct tm_in_enrolled in;
	struct tm_frame h;
	int rc;

	tm_conn_expect(c, TM_STAGE_ENROLLEE);
	rc = tm_conn_recv_msg(c, 120000, &h, &body, &s->err);
	if (rc)
		return rc;
	if (h.type != TM_MSG_ENROLLED)
		return tm_fail(&s->err, EPROTO, "enrolment refused");
	rc = tm_parse_enrolled(body, h.length, &in, &s->err);
	if (rc)
		return rc;
	memcpy(s->server, in.m->server, TM_UUID);
	return tm_pki_store(s->dir, s->uuid, o.token.ca_fpr, key, key_len, in.cert, in.m->cert_len,
		in.ca, in.m->ca_len, &s->err);
}

static int enroll(struct sim *s)
{
	struct tm_conn_opts opts = {.connect_ms = 60000, .handshake_ms = 60000};
	struct tm_tls *tls = NULL;
	struct tm_conn *c = NULL;
	char *key = NULL;
	void *csr = NULL;
	size_t key_len = 0, csr_len = 0;
	int rc = tm_mkdirs(s->dir, 0700, &s->err);

	if (!rc)
		rc = tm_pki_request(s->uuid, &key, &key_len, &csr, &csr_len, &s->err);
	if (!rc)
		rc = tm_tls_enroll(o.token.ca_fpr, &tls, &s->err);
	if (!rc)
		rc = tm_conn_connect(tls, o.host, o.port, &opts, &c, &s->err);
	if (!rc)
		rc = send_enroll(s, c, csr, csr_len);
	if (!rc)
		rc = take_certificate(s, c, key, key_len);
	tm_conn_put(c);
	tm_tls_put(tls);
	tm_pki_wipe(key, key_len);
	free(csr);
	return rc;
}

/* ---- session ---- */

static int hello(struct sim *s)
{
	struct tm_conn_opts opts = {.connect_ms = 60000, .handshake_ms = 60000};
	struct tm_msg_hello m = {.version_min = 1, .version_max = 1, .counter = 1};
	struct tm_msg_hello_data hd = {.index = 0};
	struct tm_msg_welcome w;
	struct tm_out out;
	int rc = tm_tls_client(s->dir, s->server, &s->tls, &s->err);

	memcpy(m.machine, s->uuid, TM_UUID);
	memcpy(m.instance, s->instance, TM_UUID);
	memcpy(hd.machine, s->uuid, TM_UUID);
	if (!rc)
		rc = tm_conn_connect(s->tls, o.host, o.port, &opts, &s->control, &s->err);
	if (!rc)
		rc = tm_build_hello(&out, &m, "sim", "simagents", "made up", &s->err);
	if (!rc)
		rc = tm_conn_send_msg(s->control, &out, &s->err);
	if (rc)
		return rc;
	tm_conn_expect(s->control, TM_STAGE_WELCOME);
	rc = expect(s->control, TM_MSG_WELCOME, &w, sizeof(w), &s->err);
	if (!rc)
		rc = tm_conn_connect(s->tls, o.host, o.port, &opts, &s->data, &s->err);
	if (rc)
		return rc;
	tm_conn_expect(s->control, TM_STAGE_AGENT);
	hd.session = w.session;
	rc = tm_build_hello_data(&out, &hd, &s->err);
	if (!rc)
		rc = tm_conn_send_msg(s->data, &out, &s->err);
	tm_conn_expect(s->data, TM_STAGE_WELCOME);
	if (!rc)
		rc = expect(s->data, TM_MSG_OK, NULL, 0, &s->err);
	tm_conn_expect(s->data, TM_STAGE_AGENT_DATA);
	return rc;
}

static int begin(struct sim *s, const struct tm_msg_attempt_begin *m, struct tm_msg_attempt *a)
{
	struct tm_out out;
	int rc = tm_build_attempt_begin(&out, m, &s->err);

	if (!rc)
		rc = tm_conn_send_msg(s->control, &out, &s->err);
	return rc ? rc : expect(s->control, TM_MSG_ATTEMPT, a, sizeof(*a), &s->err);
}

/* One frame; its digest. */
static int send_frame(struct sim *s, uint64_t attempt, uint32_t handle, size_t len, uint32_t ncells,
	uint64_t *digest)
{
	struct tm_msg_data m = {.attempt = attempt, .handle = handle, .ncells = ncells};
	struct tm_out out;
	int rc = tm_build_data(&out, &m, s->cells, len, &s->err);

	*digest = frames_digest(0, s->cells, len);
	s->stored += len;
	return rc ? rc : tm_conn_send_msg(s->data, &out, &s->err);
}

static int initial(struct sim *s, uint32_t i)
{
	struct tm_msg_attempt_begin b = {.kind = TM_ATTEMPT_INITIAL, .handle = s->handles[i]};
	struct tm_msg_part_commit p = {.handle = s->handles[i], .frames = 1, .last = 1};
	struct tm_msg_attempt a;
	struct tm_out out;
	size_t len = tm_cell_encode_empty(0, DISK_SIZE / TM_BLOCK, TM_CODEC_ZERO, s->cells);
	uint64_t digest = 0;
	int rc = begin(s, &b, &a);

	if (!rc)
		rc = send_frame(s, a.attempt, s->handles[i], len, 1, &digest);
	p.attempt = a.attempt;
	p.digest = digest;
	if (!rc)
		rc = expect(s->data, TM_MSG_ACK, NULL, 0, &s->err);
	if (!rc)
		rc = tm_build_part_commit(&out, &p, &s->err);
	if (!rc)
		rc = tm_conn_send_msg(s->control, &out, &s->err);
	if (!rc)
		rc = expect(s->control, TM_MSG_PART_DONE, NULL, 0, &s->err);
	s->pieces[s->npieces++] = a.attempt;
	return rc;
}

static int open_disk(struct sim *s, uint32_t i)
{
	struct tm_msg_disk_open m = {.size = DISK_SIZE, .sector = 512, .tracker = TM_TRACKER_SCAN};
	struct tm_msg_disk_state state;
	struct tm_out out;
	char name[32];
	int rc;

	memcpy(m.disk, s->uuid, TM_UUID);
	m.disk[15] ^= (uint8_t)(i + 1);
	memcpy(m.tracking, s->tracking, TM_UUID);
	snprintf(name, sizeof(name), "disk%u", i);
	rc = tm_build_disk_open(&out, &m, name, name, &s->err);
	if (!rc)
		rc = tm_conn_send_msg(s->control, &out, &s->err);
	if (!rc)
		rc = expect(s->control, TM_MSG_DISK_STATE, &state, sizeof(state), &s->err);
	if (rc)
		return rc;
	s->handles[i] = state.handle;
	return initial(s, i);
}

static int heartbeat(struct sim *s)
{
	struct tm_msg_heartbeat m = {.read_rate = 0};
	struct tm_out out;
	int rc = tm_build_heartbeat(&out, &m, NULL, 0, "", &s->err);

	return rc ? rc : tm_conn_send_msg(s->control, &out, &s->err);
}

/* Chunks with contents that compress to about a half. */
static size_t make_cells(struct sim *s, uint32_t *n)
{
	uint32_t plain[TM_CHUNK / 4];
	size_t len = 0;

	*n = 0;
	for (uint64_t done = 0; done < o.bytes; done += TM_CHUNK) {
		uint64_t chunk = next_random(s) % (DISK_SIZE / TM_CHUNK);

		for (size_t i = 0; i < TM_ARRAY_SIZE(plain); i++)
			plain[i] = i % 4 < 2 ? next_random(s) : 7;
		len += tm_cell_encode(
			chunk * TM_CHUNK_BLOCKS, TM_CHUNK_BLOCKS, plain, s->cells + len);
		++*n;
	}
	return len;
}

static int ship(struct sim *s, uint64_t attempt, struct tm_epoch_disk *disks)
{
	int rc = 0;

	for (uint32_t i = 0; !rc && i < o.disks; i++) {
		uint64_t digest;
		uint32_t n;
		size_t len = make_cells(s, &n);

		rc = send_frame(s, attempt, s->handles[i], len, n, &digest);
		disks[i] = (struct tm_epoch_disk){s->handles[i], 1, digest, DISK_SIZE};
	}
	for (uint32_t i = 0; !rc && i < o.disks; i++)
		rc = expect(s->data, TM_MSG_ACK, NULL, 0, &s->err);
	return rc;
}

static int epoch(struct sim *s)
{
	struct tm_msg_attempt_begin b = {.kind = TM_ATTEMPT_EPOCH, .parent = s->head};
	struct tm_msg_epoch_commit c = {.parent = s->head, .kind = TM_POINT_CRASH, .age_ns = TM_MS};
	struct tm_epoch_disk disks[TM_DISKS_MAX];
	struct tm_msg_epoch_done done;
	struct tm_msg_attempt a;
	struct tm_out out;
	uint64_t t0;
	int rc;

	memcpy(b.id.tracking, s->tracking, TM_UUID);
	b.id.cut = ++s->cut;
	tm_uuid_new(b.id.nonce);
	rc = begin(s, &b, &a);
	if (!rc)
		rc = ship(s, a.attempt, disks);
	if (rc)
		return rc;
	c.id = b.id;
	c.attempt = a.attempt;
	c.cut_realtime_ns = tm_real_ns();
	rc = tm_build_epoch_commit(
		&out, &c, disks, (uint32_t)o.disks, s->pieces, s->npieces, "", "", &s->err);
	t0 = tm_mono_ns();
	if (!rc)
		rc = tm_conn_send_msg(s->control, &out, &s->err);
	if (!rc)
		rc = expect(s->control, TM_MSG_EPOCH_DONE, &done, sizeof(done), &s->err);
	if (!rc && done.result != TM_EPOCH_POINT)
		rc = tm_fail(&s->err, EPROTO, "stored, but no point");
	s->npieces = 0;
	s->head = b.id;
	if (!rc && t0 >= o.begin)
		s->latency[s->nlatency++] = tm_mono_ns() - t0;
	return rc;
}

static int prepare(struct sim *s)
{
	int rc;

	s->random = s->no * 2654435761u + 1;
	s->dir = tm_path("%s/%u", o.dir, s->no);
	s->handles = calloc(o.disks, sizeof(*s->handles));
	s->pieces = calloc(o.disks, sizeof(*s->pieces));
	s->cells = malloc(o.bytes / TM_CHUNK * TM_CELL_ROOM + TM_CELL_ROOM);
	s->latency = calloc(o.seconds * 1000 / o.interval_ms + 2, sizeof(*s->latency));
	if (!s->dir || !s->handles || !s->pieces || !s->cells || !s->latency)
		return tm_fail(&s->err, ENOMEM, "out of memory");
	tm_uuid_new(s->uuid);
	tm_uuid_new(s->tracking);
	tm_uuid_new(s->instance);
	rc = enroll(s);
	if (!rc)
		rc = hello(s);
	for (uint32_t i = 0; !rc && i < o.disks; i++)
		rc = open_disk(s, i);
	return rc ? rc : epoch(s);
}

static void *run(void *arg)
{
	struct sim *s = arg;
	int rc = prepare(s);
	uint64_t at;

	pthread_barrier_wait(&o.ready); /* all are there; main sets begin and end */
	pthread_barrier_wait(&o.ready);
	at = o.begin + o.interval_ms * TM_MS * s->no / o.machines;
	for (; !rc && at < o.end; at += o.interval_ms * TM_MS) {
		struct timespec ts = tm_timespec(at);

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		rc = heartbeat(s);
		if (!rc)
			rc = epoch(s);
		s->late += tm_mono_ns() > at + o.interval_ms * TM_MS;
	}
	s->failed = rc;
	if (s->control)
		tm_conn_cancel(s->control);
	return NULL;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int report(struct sim *sims)
{
	size_t n = 0, late = 0, failed = 0;
	uint64_t *all, bytes = 0;

	for (uint64_t i = 0; i < o.machines; i++)
		n += sims[i].nlatency;
	all = calloc(n + 1, sizeof(*all));
	if (!all)
		return 1;
	n = 0;
	for (uint64_t i = 0; i < o.machines; i++) {
		memcpy(all + n, sims[i].latency, sims[i].nlatency * sizeof(*all));
		n += sims[i].nlatency;
		late += sims[i].late;
		bytes += sims[i].stored;
		if (sims[i].failed && failed++ < 3)
			fprintf(stderr, "simagents: machine %" PRIu64 ": %s\n", i, sims[i].err.msg);
	}
	qsort(all, n, sizeof(*all), by_size);
	printf("machines %" PRIu64
	       ", failed %zu, epochs %zu, per second %.1f, late %zu, sent %.1f MB\n",
		o.machines, failed, n, (double)n / (double)o.seconds, late, (double)bytes / 1e6);
	if (n)
		printf("commit latency ms: p50 %.1f p99 %.1f max %.1f\n", (double)all[n / 2] / 1e6,
			(double)all[n * 99 / 100] / 1e6, (double)all[n - 1] / 1e6);
	free(all);
	return failed || !n;
}

static void sim_free(struct sim *s)
{
	tm_conn_put(s->control);
	tm_conn_put(s->data);
	tm_tls_put(s->tls);
	free(s->dir);
	free(s->handles);
	free(s->pieces);
	free(s->cells);
	free(s->latency);
}

static int parse(int argc, char **argv, struct tm_err *err)
{
	static const struct option longs[] = {{"server", 1, 0, 's'}, {"token", 1, 0, 't'},
		{"dir", 1, 0, 'd'}, {"machines", 1, 0, 'm'}, {"disks", 1, 0, 'k'},
		{"bytes", 1, 0, 'b'}, {"seconds", 1, 0, 'S'}, {"interval", 1, 0, 'i'}, {0}};
	const char *server = NULL, *token = NULL;
	int c, rc = 0;

	while (!rc && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			server = optarg;
			break;
		case 't':
			token = optarg;
			break;
		case 'd':
			o.dir = optarg;
			break;
		case 'm':
			rc = tm_u64_parse(optarg, &o.machines, err);
			break;
		case 'k':
			rc = tm_u64_parse(optarg, &o.disks, err);
			break;
		case 'b':
			rc = tm_size_parse(optarg, &o.bytes, err);
			break;
		case 'S':
			rc = tm_u64_parse(optarg, &o.seconds, err);
			break;
		case 'i':
			rc = tm_u64_parse(optarg, &o.interval_ms, err);
			break;
		default:
			return tm_fail(err, EINVAL, "usage: see the head of simagents.c");
		}
	}
	if (!rc && (!server || !token || !o.dir || !o.machines || !o.disks || o.disks > 255 ||
			   !o.interval_ms || !o.seconds || o.bytes > TM_DATA_MAX / 2))
		rc = tm_fail(err, EINVAL, "usage: see the head of simagents.c");
	if (!rc)
		rc = tm_addr_parse(server, TM_PORT, o.host, sizeof(o.host), &o.port, err);
	return rc ? rc : tm_token_parse(token, &o.token, err);
}

int main(int argc, char **argv)
{
	struct tm_err err;
	pthread_t *threads;
	struct sim *sims;
	int rc;

	if (parse(argc, argv, &err)) {
		fprintf(stderr, "simagents: %s\n", err.msg);
		return 2;
	}
	threads = calloc(o.machines, sizeof(*threads));
	sims = calloc(o.machines, sizeof(*sims));
	pthread_barrier_init(&o.ready, NULL, (unsigned int)o.machines + 1);
	o.begin = UINT64_MAX;
	for (uint64_t i = 0; i < o.machines; i++) {
		sims[i].no = (unsigned int)i;
		if (pthread_create(&threads[i], NULL, run, &sims[i])) {
			fprintf(stderr, "simagents: no thread\n");
			return 1;
		}
	}
	pthread_barrier_wait(&o.ready);
	o.begin = tm_mono_ns() + 100 * TM_MS;
	o.end = o.begin + o.seconds * TM_SEC;
	pthread_barrier_wait(&o.ready);
	for (uint64_t i = 0; i < o.machines; i++)
		pthread_join(threads[i], NULL);
	rc = report(sims);
	for (uint64_t i = 0; i < o.machines; i++)
		sim_free(&sims[i]);
	free(sims);
	free(threads);
	return rc;
}
