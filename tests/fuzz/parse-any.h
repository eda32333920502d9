/* SPDX-License-Identifier: Apache-2.0 */
/* Calls the parser of a message type; touches everything that a successful one hands out. */
#ifndef TESTS_PARSE_ANY_H
#define TESTS_PARSE_ANY_H

#include <string.h>

#include "common/msg.h"

static inline uint64_t touch(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += b[i];
	return sum;
}

/* parse_any_sum keeps the compiler from leaving the touching out. */
static volatile uint64_t parse_any_sum;

static inline int parse_any(uint16_t type, const void *body, size_t len, struct tm_err *err)
{
	union {
		struct tm_in_error error;
		struct tm_in_enroll enroll;
		struct tm_in_enrolled enrolled;
		struct tm_in_hello hello;
		struct tm_in_disk_open disk_open;
		struct tm_in_disk_state disk_state;
		struct tm_in_attempt attempt;
		struct tm_in_data data;
		struct tm_in_epoch_commit commit;
		struct tm_in_epoch_done done;
		struct tm_in_compare compare;
		struct tm_in_compared compared;
		struct tm_in_heartbeat beat;
		struct tm_in_command command;
		struct tm_in_command_result result;
		const struct tm_msg_welcome *welcome;
		const struct tm_msg_hello_data *hello_data;
		const struct tm_msg_disk_close *disk_close;
		const struct tm_msg_attempt_begin *begin;
		const struct tm_msg_ack *ack;
		const struct tm_msg_part_commit *part_commit;
		const struct tm_msg_part_done *part_done;
		const struct tm_msg_abort *abort;
		const struct tm_msg_heartbeat_ok *beat_ok;
	} in;
	uint64_t sum = 0;
	int r;

	switch (type) {
	case TM_MSG_ERROR:
		r = tm_parse_error(body, len, &in.error, err);
		return r < 0 ? r : (sum += strlen(in.error.text), 0);
	case TM_MSG_ENROLL:
		r = tm_parse_enroll(body, len, &in.enroll, err);
		if (r == 0)
			sum += touch(in.enroll.csr, in.enroll.m->csr_len) + strlen(in.enroll.host);
		break;
	case TM_MSG_ENROLLED:
		r = tm_parse_enrolled(body, len, &in.enrolled, err);
		if (r == 0)
			sum += touch(in.enrolled.cert, in.enrolled.m->cert_len) +
			       touch(in.enrolled.ca, in.enrolled.m->ca_len);
		break;
	case TM_MSG_HELLO:
		r = tm_parse_hello(body, len, &in.hello, err);
		if (r == 0)
			sum += strlen(in.hello.host) + strlen(in.hello.agent) +
			       strlen(in.hello.hardware);
		break;
	case TM_MSG_WELCOME:
		r = tm_parse_welcome(body, len, &in.welcome, err);
		if (r == 0)
			sum += touch(in.welcome, sizeof(*in.welcome));
		break;
	case TM_MSG_HELLO_DATA:
		r = tm_parse_hello_data(body, len, &in.hello_data, err);
		break;
	case TM_MSG_OK:
		r = tm_parse_ok(body, len, err);
		break;
	case TM_MSG_DISK_OPEN:
		r = tm_parse_disk_open(body, len, &in.disk_open, err);
		break;
	case TM_MSG_DISK_STATE:
		r = tm_parse_disk_state(body, len, &in.disk_state, err);
		if (r == 0)
			sum += touch(in.disk_state.ranges,
				in.disk_state.m->nranges * sizeof(struct tm_range));
		break;
	case TM_MSG_DISK_CLOSE:
		r = tm_parse_disk_close(body, len, &in.disk_close, err);
		break;
	case TM_MSG_ATTEMPT_BEGIN:
		r = tm_parse_attempt_begin(body, len, &in.begin, err);
		break;
	case TM_MSG_ATTEMPT:
		r = tm_parse_attempt(body, len, &in.attempt, err);
		if (r == 0)
			sum += touch(
				in.attempt.got, in.attempt.m->n * sizeof(struct tm_frames_got));
		break;
	case TM_MSG_DATA:
		r = tm_parse_data(body, len, &in.data, err);
		if (r == 0)
			sum += touch(in.data.cells, in.data.len);
		break;
	case TM_MSG_ACK:
		r = tm_parse_ack(body, len, &in.ack, err);
		break;
	case TM_MSG_PART_COMMIT:
		r = tm_parse_part_commit(body, len, &in.part_commit, err);
		break;
	case TM_MSG_PART_DONE:
		r = tm_parse_part_done(body, len, &in.part_done, err);
		break;
	case TM_MSG_EPOCH_COMMIT:
		r = tm_parse_epoch_commit(body, len, &in.commit, err);
		for (uint32_t i = 0; r == 0 && i < in.commit.m->npieces; i++)
			sum += tm_in_piece(&in.commit, i);
		if (r == 0)
			sum += touch(in.commit.disks,
				in.commit.m->ndisks * sizeof(struct tm_epoch_disk));
		break;
	case TM_MSG_EPOCH_DONE:
		r = tm_parse_epoch_done(body, len, &in.done, err);
		break;
	case TM_MSG_ABORT:
		r = tm_parse_abort(body, len, &in.abort, err);
		break;
	case TM_MSG_COMPARE:
		r = tm_parse_compare(body, len, &in.compare, err);
		if (r == 0)
			sum += touch(
				in.compare.hashes, in.compare.m->n * sizeof(struct tm_hash128));
		break;
	case TM_MSG_COMPARED:
		r = tm_parse_compared(body, len, &in.compared, err);
		if (r == 0)
			sum += touch(in.compared.bitmap, (in.compared.m->n + 7) / 8);
		break;
	case TM_MSG_HEARTBEAT:
		r = tm_parse_heartbeat(body, len, &in.beat, err);
		if (r == 0)
			sum += touch(
				in.beat.disks, in.beat.m->ndisks * sizeof(struct tm_disk_beat));
		break;
	case TM_MSG_HEARTBEAT_OK:
		r = tm_parse_heartbeat_ok(body, len, &in.beat_ok, err);
		break;
	case TM_MSG_COMMAND:
		r = tm_parse_command(body, len, &in.command, err);
		break;
	case TM_MSG_COMMAND_RESULT:
		r = tm_parse_command_result(body, len, &in.result, err);
		break;
	default:
		return -1;
	}
	parse_any_sum += sum;
	return r;
}

/* A good message of each type, built by msg.h from fixed contents; false past the last. */
static inline int sample(uint16_t type, struct tm_out *out, struct tm_err *err)
{
	static const struct tm_epoch_id id = {.tracking = {1, 2, 3}, .cut = 7, .nonce = {9}};
	static const struct tm_range ranges[] = {{0, 5}, {5, 1}, {1000, 1u << 20}};
	static const struct tm_frames_got got[] = {{1, 0, 10}, {2, 5, 1}};
	static const struct tm_epoch_disk disks[] = {{1, 3, 0x1234, 1 << 30}, {2, 0, 0, 1 << 20}};
	static const uint64_t pieces[] = {41, 42};
	static const struct tm_hash128 hashes[3] = {{1, 2}, {3, 4}, {5, 6}};
	static const struct tm_disk_beat beats[2] = {{.handle = 1, .state = 2}, {.handle = 2}};
	static const uint8_t cells[64] = {1};
	static const uint8_t bits[2] = {0xff, 0x03};

	switch (type) {
	case TM_MSG_ERROR:
		return tm_build_error(out,
			&(struct tm_msg_error){.code = TM_E_PARENT, .fatal = 1, .attempt = 5},
			"the parent is not the head", err);
	case TM_MSG_ENROLL:
		return tm_build_enroll(
			out, &(struct tm_msg_enroll){.machine = {5}}, "web-1", "request", 7, err);
	case TM_MSG_ENROLLED:
		return tm_build_enrolled(out, &(struct tm_msg_enrolled){.server = {5}},
			"certificate", 11, "authority", 9, err);
	case TM_MSG_HELLO:
		return tm_build_hello(out,
			&(struct tm_msg_hello){.version_min = 1, .version_max = 2, .counter = 3},
			"web-1", "0.1.0", "DMI x, sda ST1", err);
	case TM_MSG_WELCOME:
		return tm_build_welcome(out,
			&(struct tm_msg_welcome){.version = 1, .data_max = 4, .head = id}, err);
	case TM_MSG_HELLO_DATA:
		return tm_build_hello_data(
			out, &(struct tm_msg_hello_data){.session = 3, .index = 1}, err);
	case TM_MSG_OK:
		return tm_build_ok(out, err);
	case TM_MSG_DISK_OPEN:
		return tm_build_disk_open(out,
			&(struct tm_msg_disk_open){
				.size = 1 << 30, .sector = 512, .tracker = TM_TRACKER_SCAN},
			"sda", "S3RIAL", err);
	case TM_MSG_DISK_STATE:
		return tm_build_disk_state(out,
			&(struct tm_msg_disk_state){.handle = 1, .phase = TM_DISK_INITIAL}, ranges,
			3, err);
	case TM_MSG_DISK_CLOSE:
		return tm_build_disk_close(out, &(struct tm_msg_disk_close){.disk = {7}}, err);
	case TM_MSG_ATTEMPT_BEGIN:
		return tm_build_attempt_begin(out,
			&(struct tm_msg_attempt_begin){.kind = TM_ATTEMPT_EPOCH, .id = id}, err);
	case TM_MSG_ATTEMPT:
		return tm_build_attempt(out, &(struct tm_msg_attempt){.attempt = 9}, got, 2, err);
	case TM_MSG_DATA:
		return tm_build_data(out, &(struct tm_msg_data){.attempt = 9, .ncells = 2}, cells,
			sizeof(cells), err);
	case TM_MSG_ACK:
		return tm_build_ack(out, &(struct tm_msg_ack){.attempt = 9}, err);
	case TM_MSG_PART_COMMIT:
		return tm_build_part_commit(
			out, &(struct tm_msg_part_commit){.attempt = 9, .last = 1}, err);
	case TM_MSG_PART_DONE:
		return tm_build_part_done(out, &(struct tm_msg_part_done){.attempt = 9}, err);
	case TM_MSG_EPOCH_COMMIT:
		return tm_build_epoch_commit(out,
			&(struct tm_msg_epoch_commit){
				.id = id, .attempt = 9, .kind = TM_POINT_CRASH},
			disks, 2, pieces, 2, "before upgrade", "no hooks", err);
	case TM_MSG_EPOCH_DONE:
		return tm_build_epoch_done(out,
			&(struct tm_msg_epoch_done){.attempt = 9, .result = TM_EPOCH_STORED},
			"sdb resyncs", err);
	case TM_MSG_ABORT:
		return tm_build_abort(out, &(struct tm_msg_abort){.attempt = 9}, err);
	case TM_MSG_COMPARE:
		return tm_build_compare(
			out, &(struct tm_msg_compare){.seed = 1, .level = 1}, hashes, 3, err);
	case TM_MSG_COMPARED:
		return tm_build_compared(
			out, &(struct tm_msg_compared){.first = 16}, bits, 10, err);
	case TM_MSG_HEARTBEAT:
		return tm_build_heartbeat(out, &(struct tm_msg_heartbeat){.clean = id}, beats, 2,
			"disk sdb is slow", err);
	case TM_MSG_HEARTBEAT_OK:
		return tm_build_heartbeat_ok(out, &(struct tm_msg_heartbeat_ok){.rpo_ms = 5}, err);
	case TM_MSG_COMMAND:
		return tm_build_command(out,
			&(struct tm_msg_command){.command = TM_CMD_POINT, .kind = TM_POINT_APP},
			"nightly", err);
	case TM_MSG_COMMAND_RESULT:
		return tm_build_command_result(
			out, &(struct tm_msg_command_result){.id = 4, .ok = 1}, "done", err);
	default:
		return 1;
	}
}

/* The payload as it travels; returns its length. */
static inline size_t flatten(const struct tm_out *out, uint8_t *buf)
{
	size_t n = 0;

	for (int i = 0; i < out->niov; i++) {
		memcpy(buf + n, out->iov[i].iov_base, out->iov[i].iov_len);
		n += out->iov[i].iov_len;
	}
	return n;
}

#endif
