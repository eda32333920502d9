/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building and parsing the messages of wire.h.
 *
 * Building: tm_build_NAME(&out, ...) checks what it is given, sets the lengths and counts in its own copy of the fixed struct, and
 * leaves `out` ready for tm_conn_send_msg(). out points into the caller's variable parts until then.
 *
 * Parsing: tm_parse_NAME(body, len, &in, err) accepts only what comes out exactly: length, counts, enums, padding zero, offsets
 * within a disk of TM_DISK_MAX, texts valid UTF-8 without control characters. -EBADMSG with err otherwise. Texts are copied and
 * NUL-terminated; pointers in `in` point into body. What needs the session's knowledge (handles, attempts, heads) is the session's.
 */
#ifndef TM_MSG_H
#define TM_MSG_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/err.h"
#include "common/wire.h"

/* What a connection accepts now (tm_conn_expect). */
enum tm_stage {
	TM_STAGE_NONE = 0,   /* nothing */
	TM_STAGE_ENROLL,     /* server, peer without certificate: ENROLL */
	TM_STAGE_HELLO,      /* server, peer with certificate: HELLO, HELLO_DATA */
	TM_STAGE_CONTROL,    /* server, control connection */
	TM_STAGE_DATA,       /* server, data connection: DATA, COMPARE */
	TM_STAGE_ENROLLEE,   /* agent: ENROLLED */
	TM_STAGE_WELCOME,    /* agent: WELCOME (control) or OK (data) */
	TM_STAGE_AGENT,      /* agent, control connection */
	TM_STAGE_AGENT_DATA, /* agent, data connection: ACK, COMPARED */
};

/* The longest payload of this type at this stage; -1 if the type is not expected. ERROR is, except at NONE and ENROLL. */
int64_t tm_msg_limit(enum tm_stage stage, uint16_t type);

const char *tm_msg_name(uint16_t type);     /* "HELLO"; "unknown" */
const char *tm_refusal_name(uint16_t code); /* "parent"; "unknown" */

#define TM_HARDWARE_MAX    4096u
#define TM_COMPARE_MAX     4096u
#define TM_RANGES_MAX      65536u /* in one DISK_STATE */
#define TM_GOT_MAX         65536u /* in one ATTEMPT */
#define TM_PIECES_MAX      TM_DISKS_MAX
#define TM_ENROLL_CSR_MAX  8192u
#define TM_ENROLL_CERT_MAX 8192u

struct tm_out {
	uint16_t type;
	int niov;
	struct iovec iov[6]; /* iov[0] is fixed[] */
	uint8_t fixed[160];
};

/* Bytes of the payload. */
size_t tm_out_length(const struct tm_out *out);

/* Strings may be NULL for empty; NULL-terminated. Lengths and counts in *m are set, not read, unless a parameter is missing for them. */
int tm_build_error(
	struct tm_out *out, const struct tm_msg_error *m, const char *text, struct tm_err *err);
int tm_build_enroll(struct tm_out *out, const struct tm_msg_enroll *m, const char *host,
	const void *csr, size_t csr_len, struct tm_err *err);
int tm_build_enrolled(struct tm_out *out, const struct tm_msg_enrolled *m, const void *cert,
	size_t cert_len, const void *ca, size_t ca_len, struct tm_err *err);
int tm_build_hello(struct tm_out *out, const struct tm_msg_hello *m, const char *host,
	const char *agent, const char *hardware, struct tm_err *err);
int tm_build_welcome(struct tm_out *out, const struct tm_msg_welcome *m, struct tm_err *err);
int tm_build_hello_data(struct tm_out *out, const struct tm_msg_hello_data *m, struct tm_err *err);
int tm_build_ok(struct tm_out *out, struct tm_err *err);
int tm_build_disk_open(struct tm_out *out, const struct tm_msg_disk_open *m, const char *name,
	const char *serial, struct tm_err *err);
int tm_build_disk_state(struct tm_out *out, const struct tm_msg_disk_state *m,
	const struct tm_range *ranges, uint32_t nranges, struct tm_err *err);
int tm_build_disk_close(struct tm_out *out, const struct tm_msg_disk_close *m, struct tm_err *err);
int tm_build_attempt_begin(
	struct tm_out *out, const struct tm_msg_attempt_begin *m, struct tm_err *err);
int tm_build_attempt(struct tm_out *out, const struct tm_msg_attempt *m,
	const struct tm_frames_got *got, uint32_t n, struct tm_err *err);
int tm_build_data(struct tm_out *out, const struct tm_msg_data *m, const void *cells, size_t len,
	struct tm_err *err); /* m->ncells is the caller's */
int tm_build_ack(struct tm_out *out, const struct tm_msg_ack *m, struct tm_err *err);
int tm_build_part_commit(
	struct tm_out *out, const struct tm_msg_part_commit *m, struct tm_err *err);
int tm_build_part_done(struct tm_out *out, const struct tm_msg_part_done *m, struct tm_err *err);
int tm_build_epoch_commit(struct tm_out *out, const struct tm_msg_epoch_commit *m,
	const struct tm_epoch_disk *disks, uint32_t ndisks, const uint64_t *pieces,
	uint32_t npieces, const char *label, const char *reason, struct tm_err *err);
int tm_build_epoch_done(struct tm_out *out, const struct tm_msg_epoch_done *m, const char *text,
	struct tm_err *err);
int tm_build_abort(struct tm_out *out, const struct tm_msg_abort *m, struct tm_err *err);
int tm_build_compare(struct tm_out *out, const struct tm_msg_compare *m,
	const struct tm_hash128 *hashes, uint32_t n, struct tm_err *err);
int tm_build_compared(struct tm_out *out, const struct tm_msg_compared *m, const uint8_t *bitmap,
	uint32_t n, struct tm_err *err);
int tm_build_heartbeat(struct tm_out *out, const struct tm_msg_heartbeat *m,
	const struct tm_disk_beat *disks, uint32_t ndisks, const char *error, struct tm_err *err);
int tm_build_heartbeat_ok(
	struct tm_out *out, const struct tm_msg_heartbeat_ok *m, struct tm_err *err);
int tm_build_command(
	struct tm_out *out, const struct tm_msg_command *m, const char *label, struct tm_err *err);
int tm_build_command_result(struct tm_out *out, const struct tm_msg_command_result *m,
	const char *text, struct tm_err *err);

struct tm_in_error {
	const struct tm_msg_error *m;
	char text[TM_TEXT_MAX + 1];
};
struct tm_in_enroll {
	const struct tm_msg_enroll *m;
	char host[TM_NAME_MAX + 1];
	const void *csr; /* m->csr_len bytes */
};
struct tm_in_enrolled {
	const struct tm_msg_enrolled *m;
	const void *cert, *ca; /* m->cert_len, m->ca_len bytes */
};
struct tm_in_hello {
	const struct tm_msg_hello *m;
	char host[TM_NAME_MAX + 1], agent[TM_NAME_MAX + 1], hardware[TM_HARDWARE_MAX + 1];
};
struct tm_in_disk_open {
	const struct tm_msg_disk_open *m;
	char name[TM_NAME_MAX + 1], serial[TM_NAME_MAX + 1];
};
struct tm_in_disk_state {
	const struct tm_msg_disk_state *m;
	const struct tm_range *ranges; /* m->nranges: ascending, disjoint, none empty */
};
struct tm_in_attempt {
	const struct tm_msg_attempt *m;
	const struct tm_frames_got *got; /* m->n */
};
struct tm_in_data {
	const struct tm_msg_data *m;
	const uint8_t *cells; /* len bytes; each cell is the caller's to check (tm_cell_check) */
	size_t len;
};
struct tm_in_epoch_commit {
	const struct tm_msg_epoch_commit *m;
	const struct tm_epoch_disk *disks; /* m->ndisks, handles all different */
	const uint8_t *pieces;             /* m->npieces times u64, unaligned: tm_in_piece() */
	char label[TM_LABEL_MAX + 1], reason[TM_TEXT_MAX + 1];
};
struct tm_in_epoch_done {
	const struct tm_msg_epoch_done *m;
	char text[TM_TEXT_MAX + 1];
};
struct tm_in_compare {
	const struct tm_msg_compare *m;
	const struct tm_hash128 *hashes; /* m->n */
};
struct tm_in_compared {
	const struct tm_msg_compared *m;
	const uint8_t *bitmap; /* (m->n + 7) / 8 bytes; bits past n are zero */
};
struct tm_in_heartbeat {
	const struct tm_msg_heartbeat *m;
	const struct tm_disk_beat *disks; /* m->ndisks */
	char error[TM_TEXT_MAX + 1];
};
struct tm_in_command {
	const struct tm_msg_command *m;
	char label[TM_LABEL_MAX + 1];
};
struct tm_in_command_result {
	const struct tm_msg_command_result *m;
	char text[TM_TEXT_MAX + 1];
};

int tm_parse_error(const void *body, size_t len, struct tm_in_error *in, struct tm_err *err);
int tm_parse_enroll(const void *body, size_t len, struct tm_in_enroll *in, struct tm_err *err);
int tm_parse_enrolled(const void *body, size_t len, struct tm_in_enrolled *in, struct tm_err *err);
int tm_parse_hello(const void *body, size_t len, struct tm_in_hello *in, struct tm_err *err);
int tm_parse_welcome(
	const void *body, size_t len, const struct tm_msg_welcome **m, struct tm_err *err);
int tm_parse_hello_data(
	const void *body, size_t len, const struct tm_msg_hello_data **m, struct tm_err *err);
int tm_parse_ok(const void *body, size_t len, struct tm_err *err);
int tm_parse_disk_open(
	const void *body, size_t len, struct tm_in_disk_open *in, struct tm_err *err);
int tm_parse_disk_state(
	const void *body, size_t len, struct tm_in_disk_state *in, struct tm_err *err);
int tm_parse_disk_close(
	const void *body, size_t len, const struct tm_msg_disk_close **m, struct tm_err *err);
int tm_parse_attempt_begin(
	const void *body, size_t len, const struct tm_msg_attempt_begin **m, struct tm_err *err);
int tm_parse_attempt(const void *body, size_t len, struct tm_in_attempt *in, struct tm_err *err);
int tm_parse_data(const void *body, size_t len, struct tm_in_data *in, struct tm_err *err);
int tm_parse_ack(const void *body, size_t len, const struct tm_msg_ack **m, struct tm_err *err);
int tm_parse_part_commit(
	const void *body, size_t len, const struct tm_msg_part_commit **m, struct tm_err *err);
int tm_parse_part_done(
	const void *body, size_t len, const struct tm_msg_part_done **m, struct tm_err *err);
int tm_parse_epoch_commit(
	const void *body, size_t len, struct tm_in_epoch_commit *in, struct tm_err *err);
int tm_parse_epoch_done(
	const void *body, size_t len, struct tm_in_epoch_done *in, struct tm_err *err);
int tm_parse_abort(const void *body, size_t len, const struct tm_msg_abort **m, struct tm_err *err);
int tm_parse_compare(const void *body, size_t len, struct tm_in_compare *in, struct tm_err *err);
int tm_parse_compared(const void *body, size_t len, struct tm_in_compared *in, struct tm_err *err);
int tm_parse_heartbeat(
	const void *body, size_t len, struct tm_in_heartbeat *in, struct tm_err *err);
int tm_parse_heartbeat_ok(
	const void *body, size_t len, const struct tm_msg_heartbeat_ok **m, struct tm_err *err);
int tm_parse_command(const void *body, size_t len, struct tm_in_command *in, struct tm_err *err);
int tm_parse_command_result(
	const void *body, size_t len, struct tm_in_command_result *in, struct tm_err *err);

/* Piece i of an EPOCH_COMMIT. */
uint64_t tm_in_piece(const struct tm_in_epoch_commit *in, uint32_t i);

#endif
