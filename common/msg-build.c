// SPDX-License-Identifier: Apache-2.0
/* Building: each function checks what it is given, so that nothing leaves that the other side has to refuse. */
#include <errno.h>
#include <string.h>

#include "common/msg.h"
#include "common/units.h"

/* The fixed struct, copied into `out`; the type checks that it is the message's. */
#define BEGIN(out, type, name, m) \
	((struct name *)begin(out, type, (const struct name *){m}, sizeof(struct name)))

static void *begin(struct tm_out *out, uint16_t type, const void *m, size_t size)
{
	memset(out, 0, sizeof(*out));
	out->type = type;
	memcpy(out->fixed, m, size);
	out->iov[0] = (struct iovec){out->fixed, size};
	out->niov = 1;
	return out->fixed;
}

static void add(struct tm_out *out, const void *p, size_t len)
{
	if (len)
		out->iov[out->niov++] = (struct iovec){(void *)(uintptr_t)p, len};
}

/* Length of a text that may be NULL; too long or unprintable is the caller's mistake. */
static int add_text(
	struct tm_out *out, const char *s, size_t max, const char *what, struct tm_err *err)
{
	size_t n = s ? strlen(s) : 0;

	if (n > max)
		return tm_fail(err, EINVAL, "%s: %s is longer than %zu bytes",
			tm_msg_name(out->type), what, max);
	if (!tm_text_valid(s, n))
		return tm_fail(
			err, EINVAL, "%s: %s is not plain text", tm_msg_name(out->type), what);
	add(out, s, n);
	return (int)n;
}

static int too_many(struct tm_out *out, uint64_t n, uint64_t max, struct tm_err *err)
{
	return tm_fail(err, EINVAL, "%s: %llu parts, at most %llu", tm_msg_name(out->type),
		(unsigned long long)n, (unsigned long long)max);
}

int tm_build_error(
	struct tm_out *out, const struct tm_msg_error *m, const char *text, struct tm_err *err)
{
	struct tm_msg_error *f = BEGIN(out, TM_MSG_ERROR, tm_msg_error, m);
	int n = add_text(out, text, TM_TEXT_MAX, "text", err);

	f->text_len = (uint16_t)n;
	f->pad = 0;
	return n < 0 ? n : 0;
}

int tm_build_enroll(struct tm_out *out, const struct tm_msg_enroll *m, const char *host,
	const void *csr, size_t csr_len, struct tm_err *err)
{
	struct tm_msg_enroll *f = BEGIN(out, TM_MSG_ENROLL, tm_msg_enroll, m);
	int n = add_text(out, host, TM_NAME_MAX, "host", err);

	if (n < 0)
		return n;
	if (!csr_len || csr_len > TM_ENROLL_CSR_MAX)
		return too_many(out, csr_len, TM_ENROLL_CSR_MAX, err);
	f->host_len = (uint16_t)n;
	f->csr_len = (uint16_t)csr_len;
	add(out, csr, csr_len);
	return 0;
}

int tm_build_enrolled(struct tm_out *out, const struct tm_msg_enrolled *m, const void *cert,
	size_t cert_len, const void *ca, size_t ca_len, struct tm_err *err)
{
	struct tm_msg_enrolled *f = BEGIN(out, TM_MSG_ENROLLED, tm_msg_enrolled, m);

	if (!cert_len || !ca_len || cert_len > TM_ENROLL_CERT_MAX || ca_len > TM_ENROLL_CERT_MAX)
		return too_many(out, cert_len + ca_len, 2 * TM_ENROLL_CERT_MAX, err);
	f->cert_len = (uint16_t)cert_len;
	f->ca_len = (uint16_t)ca_len;
	add(out, cert, cert_len);
	add(out, ca, ca_len);
	return 0;
}

int tm_build_hello(struct tm_out *out, const struct tm_msg_hello *m, const char *host,
	const char *agent, const char *hardware, struct tm_err *err)
{
	struct tm_msg_hello *f = BEGIN(out, TM_MSG_HELLO, tm_msg_hello, m);
	int h, a, w;

	if ((h = add_text(out, host, TM_NAME_MAX, "host", err)) < 0 ||
		(a = add_text(out, agent, TM_NAME_MAX, "agent version", err)) < 0 ||
		(w = add_text(out, hardware, TM_HARDWARE_MAX, "hardware", err)) < 0)
		return -err->code;
	f->host_len = (uint16_t)h;
	f->agent_len = (uint16_t)a;
	f->hardware_len = (uint16_t)w;
	return 0;
}

int tm_build_welcome(struct tm_out *out, const struct tm_msg_welcome *m, struct tm_err *err)
{
	BEGIN(out, TM_MSG_WELCOME, tm_msg_welcome, m);
	return 0;
}

int tm_build_hello_data(struct tm_out *out, const struct tm_msg_hello_data *m, struct tm_err *err)
{
	BEGIN(out, TM_MSG_HELLO_DATA, tm_msg_hello_data, m)->pad = 0;
	return 0;
}

int tm_build_ok(struct tm_out *out, struct tm_err *err)
{
	memset(out, 0, sizeof(*out));
	out->type = TM_MSG_OK;
	return 0;
}

int tm_build_disk_open(struct tm_out *out, const struct tm_msg_disk_open *m, const char *name,
	const char *serial, struct tm_err *err)
{
	struct tm_msg_disk_open *f = BEGIN(out, TM_MSG_DISK_OPEN, tm_msg_disk_open, m);
	int n, s;

	if ((n = add_text(out, name, TM_NAME_MAX, "name", err)) < 0 ||
		(s = add_text(out, serial, TM_NAME_MAX, "serial", err)) < 0)
		return -err->code;
	f->pad = 0;
	f->name_len = (uint16_t)n;
	f->serial_len = (uint16_t)s;
	return 0;
}

int tm_build_disk_state(struct tm_out *out, const struct tm_msg_disk_state *m,
	const struct tm_range *ranges, uint32_t nranges, struct tm_err *err)
{
	struct tm_msg_disk_state *f = BEGIN(out, TM_MSG_DISK_STATE, tm_msg_disk_state, m);

	if (nranges > TM_RANGES_MAX)
		return too_many(out, nranges, TM_RANGES_MAX, err);
	memset(f->pad, 0, sizeof(f->pad));
	f->nranges = nranges;
	add(out, ranges, nranges * sizeof(*ranges));
	return 0;
}

int tm_build_disk_close(struct tm_out *out, const struct tm_msg_disk_close *m, struct tm_err *err)
{
	BEGIN(out, TM_MSG_DISK_CLOSE, tm_msg_disk_close, m);
	return 0;
}

int tm_build_attempt_begin(
	struct tm_out *out, const struct tm_msg_attempt_begin *m, struct tm_err *err)
{
	struct tm_msg_attempt_begin *f = BEGIN(out, TM_MSG_ATTEMPT_BEGIN, tm_msg_attempt_begin, m);

	memset(f->pad, 0, sizeof(f->pad));
	return 0;
}

int tm_build_attempt(struct tm_out *out, const struct tm_msg_attempt *m,
	const struct tm_frames_got *got, uint32_t n, struct tm_err *err)
{
	struct tm_msg_attempt *f = BEGIN(out, TM_MSG_ATTEMPT, tm_msg_attempt, m);

	if (n > TM_GOT_MAX)
		return too_many(out, n, TM_GOT_MAX, err);
	f->n = n;
	add(out, got, n * sizeof(*got));
	return 0;
}

int tm_build_data(struct tm_out *out, const struct tm_msg_data *m, const void *cells, size_t len,
	struct tm_err *err)
{
	BEGIN(out, TM_MSG_DATA, tm_msg_data, m);
	if (!len || len > TM_FRAME_MAX - sizeof(*m))
		return too_many(out, len, TM_FRAME_MAX - sizeof(*m), err);
	add(out, cells, len);
	return 0;
}

int tm_build_ack(struct tm_out *out, const struct tm_msg_ack *m, struct tm_err *err)
{
	BEGIN(out, TM_MSG_ACK, tm_msg_ack, m)->pad = 0;
	return 0;
}

int tm_build_part_commit(struct tm_out *out, const struct tm_msg_part_commit *m, struct tm_err *err)
{
	struct tm_msg_part_commit *f = BEGIN(out, TM_MSG_PART_COMMIT, tm_msg_part_commit, m);

	memset(f->pad, 0, sizeof(f->pad));
	return 0;
}

int tm_build_part_done(struct tm_out *out, const struct tm_msg_part_done *m, struct tm_err *err)
{
	BEGIN(out, TM_MSG_PART_DONE, tm_msg_part_done, m)->pad = 0;
	return 0;
}

int tm_build_epoch_commit(struct tm_out *out, const struct tm_msg_epoch_commit *m,
	const struct tm_epoch_disk *disks, uint32_t ndisks, const uint64_t *pieces,
	uint32_t npieces, const char *label, const char *reason, struct tm_err *err)
{
	struct tm_msg_epoch_commit *f = BEGIN(out, TM_MSG_EPOCH_COMMIT, tm_msg_epoch_commit, m);
	int l, r;

	if (ndisks > TM_DISKS_MAX || npieces > TM_PIECES_MAX)
		return too_many(out, ndisks > npieces ? ndisks : npieces, TM_DISKS_MAX, err);
	add(out, disks, ndisks * sizeof(*disks));
	add(out, pieces, npieces * sizeof(*pieces));
	if ((l = add_text(out, label, TM_LABEL_MAX, "label", err)) < 0 ||
		(r = add_text(out, reason, TM_TEXT_MAX, "reason", err)) < 0)
		return -err->code;
	f->pad = 0;
	f->ndisks = ndisks;
	f->npieces = npieces;
	f->label_len = (uint16_t)l;
	f->reason_len = (uint16_t)r;
	return 0;
}

int tm_build_epoch_done(
	struct tm_out *out, const struct tm_msg_epoch_done *m, const char *text, struct tm_err *err)
{
	struct tm_msg_epoch_done *f = BEGIN(out, TM_MSG_EPOCH_DONE, tm_msg_epoch_done, m);
	int n = add_text(out, text, TM_TEXT_MAX, "text", err);

	f->pad = 0;
	f->pad2 = 0;
	f->text_len = (uint16_t)n;
	return n < 0 ? n : 0;
}

int tm_build_abort(struct tm_out *out, const struct tm_msg_abort *m, struct tm_err *err)
{
	BEGIN(out, TM_MSG_ABORT, tm_msg_abort, m);
	return 0;
}

int tm_build_compare(struct tm_out *out, const struct tm_msg_compare *m,
	const struct tm_hash128 *hashes, uint32_t n, struct tm_err *err)
{
	struct tm_msg_compare *f = BEGIN(out, TM_MSG_COMPARE, tm_msg_compare, m);

	if (!n || n > TM_COMPARE_MAX)
		return too_many(out, n, TM_COMPARE_MAX, err);
	memset(f->pad, 0, sizeof(f->pad));
	f->n = n;
	add(out, hashes, n * sizeof(*hashes));
	return 0;
}

int tm_build_compared(struct tm_out *out, const struct tm_msg_compared *m, const uint8_t *bitmap,
	uint32_t n, struct tm_err *err)
{
	struct tm_msg_compared *f = BEGIN(out, TM_MSG_COMPARED, tm_msg_compared, m);

	if (!n || n > TM_COMPARE_MAX)
		return too_many(out, n, TM_COMPARE_MAX, err);
	memset(f->pad, 0, sizeof(f->pad));
	f->n = n;
	add(out, bitmap, (n + 7) / 8);
	return 0;
}

int tm_build_heartbeat(struct tm_out *out, const struct tm_msg_heartbeat *m,
	const struct tm_disk_beat *disks, uint32_t ndisks, const char *error, struct tm_err *err)
{
	struct tm_msg_heartbeat *f = BEGIN(out, TM_MSG_HEARTBEAT, tm_msg_heartbeat, m);
	int n;

	if (ndisks > TM_DISKS_MAX)
		return too_many(out, ndisks, TM_DISKS_MAX, err);
	add(out, disks, ndisks * sizeof(*disks));
	n = add_text(out, error, TM_TEXT_MAX, "last error", err);
	f->pad = 0;
	f->ndisks = ndisks;
	f->error_len = (uint16_t)n;
	return n < 0 ? n : 0;
}

int tm_build_heartbeat_ok(
	struct tm_out *out, const struct tm_msg_heartbeat_ok *m, struct tm_err *err)
{
	struct tm_msg_heartbeat_ok *f = BEGIN(out, TM_MSG_HEARTBEAT_OK, tm_msg_heartbeat_ok, m);

	memset(f->pad, 0, sizeof(f->pad));
	return 0;
}

int tm_build_command(
	struct tm_out *out, const struct tm_msg_command *m, const char *label, struct tm_err *err)
{
	struct tm_msg_command *f = BEGIN(out, TM_MSG_COMMAND, tm_msg_command, m);
	int n = add_text(out, label, TM_LABEL_MAX, "label", err);

	f->pad = 0;
	f->pad2 = 0;
	f->label_len = (uint16_t)n;
	return n < 0 ? n : 0;
}

int tm_build_command_result(struct tm_out *out, const struct tm_msg_command_result *m,
	const char *text, struct tm_err *err)
{
	struct tm_msg_command_result *f =
		BEGIN(out, TM_MSG_COMMAND_RESULT, tm_msg_command_result, m);
	int n = add_text(out, text, TM_TEXT_MAX, "text", err);

	f->pad = 0;
	f->pad2 = 0;
	f->text_len = (uint16_t)n;
	return n < 0 ? n : 0;
}
