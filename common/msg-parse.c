// SPDX-License-Identifier: Apache-2.0
/* Parsing: nothing of a message is trusted before it was looked at here. */
#include <errno.h>
#include <string.h>

#include "common/msg.h"
#include "common/units.h"

#define BLOCKS_MAX (TM_DISK_MAX / TM_BLOCK)

/* What is left of a message. The first thing that is wrong is noted; all later steps then do nothing. */
struct cursor {
	const uint8_t *p;
	size_t left;
	uint16_t type;
	struct tm_err *err;
	int failed;
};

static void bad(struct cursor *c, const char *what)
{
	if (!c->failed)
		c->failed = tm_fail(c->err, EBADMSG, "%s: %s", tm_msg_name(c->type), what);
}

static const void *take(struct cursor *c, uint64_t len)
{
	const void *p = c->p;

	if (c->failed || len > c->left) {
		bad(c, "shorter than it says");
		return NULL;
	}
	c->p += len;
	c->left -= (size_t)len;
	return p;
}

static void check(struct cursor *c, int ok, const char *what)
{
	if (!ok)
		bad(c, what);
}

static void zero(struct cursor *c, const void *p, size_t len)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < len; i++)
		check(c, !b[i], "padding is not zero");
}

/* Copies a text of len bytes to out, which has room for max and a NUL. */
static void text(struct cursor *c, size_t len, size_t max, char *out)
{
	const char *p;

	out[0] = 0;
	check(c, len <= max, "a text is too long");
	p = take(c, len);
	if (!p)
		return;
	check(c, tm_text_valid(p, len), "a text is not plain UTF-8");
	memcpy(out, p, len);
	out[len] = 0;
}

static int end(struct cursor *c)
{
	check(c, !c->left, "longer than it says");
	return c->failed;
}

/* Starts on the body: the fixed struct at its head, or return. */
#define BEGIN(msgtype, ptr)                             \
	struct cursor c = {body, len, msgtype, err, 0}; \
	(ptr) = take(&c, sizeof(*(ptr)));               \
	if (!(ptr))                                     \
	return c.failed

int tm_parse_error(const void *body, size_t len, struct tm_in_error *in, struct tm_err *err)
{
	BEGIN(TM_MSG_ERROR, in->m);
	check(&c, in->m->code >= TM_E_PROTO && in->m->code <= TM_E_DAMAGED, "unknown code");
	check(&c, in->m->fatal <= 1, "fatal is neither 0 nor 1");
	zero(&c, &in->m->pad, 1);
	text(&c, in->m->text_len, TM_TEXT_MAX, in->text);
	return end(&c);
}

int tm_parse_enroll(const void *body, size_t len, struct tm_in_enroll *in, struct tm_err *err)
{
	BEGIN(TM_MSG_ENROLL, in->m);
	text(&c, in->m->host_len, TM_NAME_MAX, in->host);
	check(&c, in->m->csr_len && in->m->csr_len <= TM_ENROLL_CSR_MAX,
		"request of a wrong length");
	in->csr = take(&c, in->m->csr_len);
	return end(&c);
}

int tm_parse_enrolled(const void *body, size_t len, struct tm_in_enrolled *in, struct tm_err *err)
{
	BEGIN(TM_MSG_ENROLLED, in->m);
	check(&c, in->m->cert_len && in->m->cert_len <= TM_ENROLL_CERT_MAX,
		"certificate of a wrong length");
	check(&c, in->m->ca_len && in->m->ca_len <= TM_ENROLL_CERT_MAX, "CA of a wrong length");
	in->cert = take(&c, in->m->cert_len);
	in->ca = take(&c, in->m->ca_len);
	return end(&c);
}

int tm_parse_hello(const void *body, size_t len, struct tm_in_hello *in, struct tm_err *err)
{
	BEGIN(TM_MSG_HELLO, in->m);
	check(&c, in->m->version_min && in->m->version_min <= in->m->version_max,
		"versions out of order");
	text(&c, in->m->host_len, TM_NAME_MAX, in->host);
	text(&c, in->m->agent_len, TM_NAME_MAX, in->agent);
	text(&c, in->m->hardware_len, TM_HARDWARE_MAX, in->hardware);
	return end(&c);
}

int tm_parse_welcome(
	const void *body, size_t len, const struct tm_msg_welcome **m, struct tm_err *err)
{
	BEGIN(TM_MSG_WELCOME, *m);
	check(&c, (*m)->version != 0, "no version");
	check(&c, (*m)->data_max != 0, "no data connections");
	check(&c, !((*m)->flags & ~TM_WELCOME_NO_POINT), "unknown flags");
	return end(&c);
}

int tm_parse_hello_data(
	const void *body, size_t len, const struct tm_msg_hello_data **m, struct tm_err *err)
{
	BEGIN(TM_MSG_HELLO_DATA, *m);
	zero(&c, &(*m)->pad, sizeof((*m)->pad));
	return end(&c);
}

int tm_parse_ok(const void *body, size_t len, struct tm_err *err)
{
	struct cursor c = {body, len, TM_MSG_OK, err, 0};

	return end(&c);
}

int tm_parse_disk_open(const void *body, size_t len, struct tm_in_disk_open *in, struct tm_err *err)
{
	BEGIN(TM_MSG_DISK_OPEN, in->m);
	check(&c, in->m->size && in->m->size % 512 == 0 && in->m->size <= TM_DISK_MAX,
		"size is not a disk's");
	check(&c, in->m->sector == 512 || in->m->sector == 4096, "sector is neither 512 nor 4096");
	check(&c, in->m->tracker == TM_TRACKER_KMOD || in->m->tracker == TM_TRACKER_SCAN,
		"unknown tracker");
	zero(&c, &in->m->pad, 1);
	text(&c, in->m->name_len, TM_NAME_MAX, in->name);
	text(&c, in->m->serial_len, TM_NAME_MAX, in->serial);
	return end(&c);
}

int tm_parse_disk_state(
	const void *body, size_t len, struct tm_in_disk_state *in, struct tm_err *err)
{
	uint64_t last = 0;

	BEGIN(TM_MSG_DISK_STATE, in->m);
	check(&c, in->m->phase <= TM_DISK_RESYNC, "unknown phase");
	zero(&c, in->m->pad, sizeof(in->m->pad));
	check(&c, in->m->nranges <= TM_RANGES_MAX, "too many ranges");
	in->ranges = take(&c, (uint64_t)in->m->nranges * sizeof(*in->ranges));
	for (uint32_t i = 0; !c.failed && i < in->m->nranges; i++) {
		const struct tm_range *r = &in->ranges[i];

		check(&c,
			r->block >= last && r->count && r->block < BLOCKS_MAX &&
				r->count <= BLOCKS_MAX - r->block,
			"ranges out of order or bounds");
		last = r->block + r->count;
	}
	return end(&c);
}

int tm_parse_disk_close(
	const void *body, size_t len, const struct tm_msg_disk_close **m, struct tm_err *err)
{
	BEGIN(TM_MSG_DISK_CLOSE, *m);
	return end(&c);
}

int tm_parse_attempt_begin(
	const void *body, size_t len, const struct tm_msg_attempt_begin **m, struct tm_err *err)
{
	static const struct tm_epoch_id none;

	BEGIN(TM_MSG_ATTEMPT_BEGIN, *m);
	check(&c, (*m)->kind >= TM_ATTEMPT_EPOCH && (*m)->kind <= TM_ATTEMPT_CATCHUP,
		"unknown kind");
	check(&c, (*m)->fresh <= 1, "fresh is neither 0 nor 1");
	zero(&c, (*m)->pad, sizeof((*m)->pad));
	if ((*m)->kind == TM_ATTEMPT_EPOCH) {
		check(&c, !(*m)->handle, "an epoch has no handle");
		check(&c, memcmp(&(*m)->id, &none, sizeof(none)) != 0, "an epoch needs its id");
	} else {
		zero(&c, &(*m)->id, 2 * sizeof(none));
	}
	return end(&c);
}

int tm_parse_attempt(const void *body, size_t len, struct tm_in_attempt *in, struct tm_err *err)
{
	BEGIN(TM_MSG_ATTEMPT, in->m);
	check(&c, in->m->attempt != 0, "no attempt");
	check(&c, in->m->n <= TM_GOT_MAX, "too many ranges");
	in->got = take(&c, (uint64_t)in->m->n * sizeof(*in->got));
	for (uint32_t i = 0; !c.failed && i < in->m->n; i++)
		check(&c, in->got[i].count && in->got[i].count <= UINT32_MAX - in->got[i].first,
			"frame ranges out of bounds");
	return end(&c);
}

int tm_parse_data(const void *body, size_t len, struct tm_in_data *in, struct tm_err *err)
{
	BEGIN(TM_MSG_DATA, in->m);
	check(&c, in->m->attempt != 0, "no attempt");
	check(&c, len <= TM_FRAME_MAX, "too long");
	check(&c, in->m->ncells && in->m->ncells <= c.left / sizeof(struct tm_cell),
		"number of cells does not fit the frame");
	in->len = c.left;
	in->cells = take(&c, c.left);
	return end(&c);
}

int tm_parse_ack(const void *body, size_t len, const struct tm_msg_ack **m, struct tm_err *err)
{
	BEGIN(TM_MSG_ACK, *m);
	zero(&c, &(*m)->pad, sizeof((*m)->pad));
	return end(&c);
}

int tm_parse_part_commit(
	const void *body, size_t len, const struct tm_msg_part_commit **m, struct tm_err *err)
{
	BEGIN(TM_MSG_PART_COMMIT, *m);
	check(&c, (*m)->attempt != 0, "no attempt");
	check(&c, (*m)->last <= 1, "last is neither 0 nor 1");
	zero(&c, (*m)->pad, sizeof((*m)->pad));
	return end(&c);
}

int tm_parse_part_done(
	const void *body, size_t len, const struct tm_msg_part_done **m, struct tm_err *err)
{
	BEGIN(TM_MSG_PART_DONE, *m);
	zero(&c, &(*m)->pad, sizeof((*m)->pad));
	return end(&c);
}

/* No handle twice: at most 256 of them, so comparing all pairs costs little. */
static void handles_differ(struct cursor *c, const struct tm_epoch_disk *d, uint32_t n)
{
	for (uint32_t i = 0; !c->failed && i < n; i++) {
		check(c, d[i].size && d[i].size % 512 == 0 && d[i].size <= TM_DISK_MAX,
			"size is not a disk's");
		for (uint32_t j = 0; j < i; j++)
			check(c, d[i].handle != d[j].handle, "a disk is listed twice");
	}
}

int tm_parse_epoch_commit(
	const void *body, size_t len, struct tm_in_epoch_commit *in, struct tm_err *err)
{
	static const struct tm_epoch_id none;

	BEGIN(TM_MSG_EPOCH_COMMIT, in->m);
	check(&c, in->m->attempt != 0, "no attempt");
	check(&c, memcmp(&in->m->id, &none, sizeof(none)) != 0, "no epoch id");
	check(&c, in->m->kind <= TM_POINT_SCAN, "unknown kind");
	check(&c, in->m->kind != TM_POINT_NONE || !in->m->label_len, "a label, but no point");
	zero(&c, &in->m->pad, 1);
	check(&c, in->m->ndisks && in->m->ndisks <= TM_DISKS_MAX, "wrong number of disks");
	check(&c, in->m->npieces <= TM_PIECES_MAX, "too many pieces");
	in->disks = take(&c, (uint64_t)in->m->ndisks * sizeof(*in->disks));
	in->pieces = take(&c, (uint64_t)in->m->npieces * sizeof(uint64_t));
	handles_differ(&c, in->disks, in->m->ndisks);
	text(&c, in->m->label_len, TM_LABEL_MAX, in->label);
	text(&c, in->m->reason_len, TM_TEXT_MAX, in->reason);
	return end(&c);
}

uint64_t tm_in_piece(const struct tm_in_epoch_commit *in, uint32_t i)
{
	uint64_t v;

	memcpy(&v, in->pieces + (size_t)i * sizeof(v), sizeof(v));
	return v;
}

int tm_parse_epoch_done(
	const void *body, size_t len, struct tm_in_epoch_done *in, struct tm_err *err)
{
	BEGIN(TM_MSG_EPOCH_DONE, in->m);
	check(&c, in->m->result == TM_EPOCH_STORED || in->m->result == TM_EPOCH_POINT,
		"unknown result");
	zero(&c, &in->m->pad, 1);
	zero(&c, &in->m->pad2, sizeof(in->m->pad2));
	text(&c, in->m->text_len, TM_TEXT_MAX, in->text);
	return end(&c);
}

int tm_parse_abort(const void *body, size_t len, const struct tm_msg_abort **m, struct tm_err *err)
{
	BEGIN(TM_MSG_ABORT, *m);
	check(&c, (*m)->attempt != 0, "no attempt");
	return end(&c);
}

/* Hashes [first, first + n) of chunks or regions lie on a disk of the largest size. */
static void compare_bounds(struct cursor *c, uint8_t level, uint64_t first, uint32_t n)
{
	uint64_t max = BLOCKS_MAX / TM_CHUNK_BLOCKS;

	check(c, level <= 1, "unknown level");
	if (level == 1)
		max /= TM_REGION_CHUNKS;
	check(c, n && n <= TM_COMPARE_MAX, "wrong number of hashes");
	check(c, first < max && n <= max - first, "beyond any disk");
}

int tm_parse_compare(const void *body, size_t len, struct tm_in_compare *in, struct tm_err *err)
{
	BEGIN(TM_MSG_COMPARE, in->m);
	compare_bounds(&c, in->m->level, in->m->first, in->m->n);
	zero(&c, in->m->pad, sizeof(in->m->pad));
	in->hashes = take(&c, (uint64_t)in->m->n * sizeof(*in->hashes));
	return end(&c);
}

int tm_parse_compared(const void *body, size_t len, struct tm_in_compared *in, struct tm_err *err)
{
	BEGIN(TM_MSG_COMPARED, in->m);
	compare_bounds(&c, in->m->level, in->m->first, in->m->n);
	zero(&c, in->m->pad, sizeof(in->m->pad));
	in->bitmap = take(&c, ((uint64_t)in->m->n + 7) / 8);
	if (!c.failed && in->m->n % 8)
		check(&c, !(in->bitmap[in->m->n / 8] >> in->m->n % 8), "bits beyond the end");
	return end(&c);
}

int tm_parse_heartbeat(const void *body, size_t len, struct tm_in_heartbeat *in, struct tm_err *err)
{
	BEGIN(TM_MSG_HEARTBEAT, in->m);
	check(&c, in->m->ndisks <= TM_DISKS_MAX, "too many disks");
	check(&c, in->m->paused <= 1, "paused is neither 0 nor 1");
	zero(&c, &in->m->pad, 1);
	in->disks = take(&c, (uint64_t)in->m->ndisks * sizeof(*in->disks));
	for (uint32_t i = 0; !c.failed && i < in->m->ndisks; i++)
		zero(&c, in->disks[i].pad, sizeof(in->disks[i].pad));
	text(&c, in->m->error_len, TM_TEXT_MAX, in->error);
	return end(&c);
}

int tm_parse_heartbeat_ok(
	const void *body, size_t len, const struct tm_msg_heartbeat_ok **m, struct tm_err *err)
{
	BEGIN(TM_MSG_HEARTBEAT_OK, *m);
	check(&c, (*m)->full <= 1, "full is neither 0 nor 1");
	zero(&c, (*m)->pad, sizeof((*m)->pad));
	return end(&c);
}

int tm_parse_command(const void *body, size_t len, struct tm_in_command *in, struct tm_err *err)
{
	BEGIN(TM_MSG_COMMAND, in->m);
	check(&c, in->m->command >= TM_CMD_POINT && in->m->command <= TM_CMD_DETACH,
		"unknown command");
	check(&c,
		in->m->command == TM_CMD_POINT
			? in->m->kind >= TM_POINT_CRASH && in->m->kind <= TM_POINT_SCAN
			: !in->m->kind,
		"unknown kind");
	zero(&c, &in->m->pad, 1);
	zero(&c, &in->m->pad2, sizeof(in->m->pad2));
	text(&c, in->m->label_len, TM_LABEL_MAX, in->label);
	return end(&c);
}

int tm_parse_command_result(
	const void *body, size_t len, struct tm_in_command_result *in, struct tm_err *err)
{
	BEGIN(TM_MSG_COMMAND_RESULT, in->m);
	check(&c, in->m->ok <= 1, "ok is neither 0 nor 1");
	zero(&c, &in->m->pad, 1);
	zero(&c, &in->m->pad2, sizeof(in->m->pad2));
	text(&c, in->m->text_len, TM_TEXT_MAX, in->text);
	return end(&c);
}
