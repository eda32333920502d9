// SPDX-License-Identifier: Apache-2.0
#include "common/msg.h"

#include "common/cleanup.h"

#define TEXT (TM_TEXT_MAX)
#define CMP  (sizeof(struct tm_msg_compare) + TM_COMPARE_MAX * sizeof(struct tm_hash128))

#define AT(stage) (1u << TM_STAGE_##stage)
#define TO_AGENT  (AT(ENROLLEE) | AT(WELCOME) | AT(AGENT) | AT(AGENT_DATA))
#define TO_SERVER (AT(HELLO) | AT(CONTROL) | AT(DATA))

static const struct {
	const char *name;
	uint32_t stages;
	uint32_t limit;
} types[] = {
	[TM_MSG_ERROR] = {"ERROR", TO_AGENT | TO_SERVER, sizeof(struct tm_msg_error) + TEXT},
	[TM_MSG_ENROLL] = {"ENROLL", AT(ENROLL),
		sizeof(struct tm_msg_enroll) + TM_NAME_MAX + TM_ENROLL_CSR_MAX},
	[TM_MSG_ENROLLED] = {"ENROLLED", AT(ENROLLEE),
		sizeof(struct tm_msg_enrolled) + 2 * TM_ENROLL_CERT_MAX},
	[TM_MSG_HELLO] = {"HELLO", AT(HELLO),
		sizeof(struct tm_msg_hello) + 2 * TM_NAME_MAX + TM_HARDWARE_MAX},
	[TM_MSG_WELCOME] = {"WELCOME", AT(WELCOME), sizeof(struct tm_msg_welcome)},
	[TM_MSG_HELLO_DATA] = {"HELLO_DATA", AT(HELLO), sizeof(struct tm_msg_hello_data)},
	[TM_MSG_OK] = {"OK", AT(WELCOME) | AT(AGENT) | AT(AGENT_DATA), 0},
	[TM_MSG_DISK_OPEN] = {"DISK_OPEN", AT(CONTROL),
		sizeof(struct tm_msg_disk_open) + 2 * TM_NAME_MAX},
	[TM_MSG_DISK_STATE] = {"DISK_STATE", AT(AGENT),
		sizeof(struct tm_msg_disk_state) + TM_RANGES_MAX * sizeof(struct tm_range)},
	[TM_MSG_DISK_CLOSE] = {"DISK_CLOSE", AT(CONTROL), sizeof(struct tm_msg_disk_close)},
	[TM_MSG_ATTEMPT_BEGIN] = {"ATTEMPT_BEGIN", AT(CONTROL),
		sizeof(struct tm_msg_attempt_begin)},
	[TM_MSG_ATTEMPT] = {"ATTEMPT", AT(AGENT),
		sizeof(struct tm_msg_attempt) + TM_GOT_MAX * sizeof(struct tm_frames_got)},
	[TM_MSG_DATA] = {"DATA", AT(DATA), TM_FRAME_MAX},
	[TM_MSG_ACK] = {"ACK", AT(AGENT_DATA), sizeof(struct tm_msg_ack)},
	[TM_MSG_PART_COMMIT] = {"PART_COMMIT", AT(CONTROL), sizeof(struct tm_msg_part_commit)},
	[TM_MSG_PART_DONE] = {"PART_DONE", AT(AGENT), sizeof(struct tm_msg_part_done)},
	[TM_MSG_EPOCH_COMMIT] = {"EPOCH_COMMIT", AT(CONTROL),
		sizeof(struct tm_msg_epoch_commit) + TM_DISKS_MAX * sizeof(struct tm_epoch_disk) +
			TM_PIECES_MAX * 8 + TM_LABEL_MAX + TEXT},
	[TM_MSG_EPOCH_DONE] = {"EPOCH_DONE", AT(AGENT), sizeof(struct tm_msg_epoch_done) + TEXT},
	[TM_MSG_ABORT] = {"ABORT", AT(CONTROL), sizeof(struct tm_msg_abort)},
	[TM_MSG_COMPARE] = {"COMPARE", AT(DATA), CMP},
	[TM_MSG_COMPARED] = {"COMPARED", AT(AGENT_DATA),
		sizeof(struct tm_msg_compared) + TM_COMPARE_MAX / 8},
	[TM_MSG_HEARTBEAT] = {"HEARTBEAT", AT(CONTROL),
		sizeof(struct tm_msg_heartbeat) + TM_DISKS_MAX * sizeof(struct tm_disk_beat) +
			TEXT},
	[TM_MSG_HEARTBEAT_OK] = {"HEARTBEAT_OK", AT(AGENT), sizeof(struct tm_msg_heartbeat_ok)},
	[TM_MSG_COMMAND] = {"COMMAND", AT(AGENT), sizeof(struct tm_msg_command) + TM_LABEL_MAX},
	[TM_MSG_COMMAND_RESULT] = {"COMMAND_RESULT", AT(CONTROL),
		sizeof(struct tm_msg_command_result) + TEXT},
};
static_assert(
	sizeof(struct tm_msg_disk_state) + TM_RANGES_MAX * sizeof(struct tm_range) <= TM_FRAME_MAX,
	"ranges fit a frame");
static_assert(
	sizeof(struct tm_msg_attempt) + TM_GOT_MAX * sizeof(struct tm_frames_got) <= TM_FRAME_MAX,
	"got ranges fit a frame");

static const char *const refusals[] = {
	[TM_E_PROTO] = "protocol",
	[TM_E_AUTH] = "not allowed",
	[TM_E_VERSION] = "version",
	[TM_E_HELD] = "on hold",
	[TM_E_STALE] = "stale",
	[TM_E_PARENT] = "parent",
	[TM_E_FULL] = "store full",
	[TM_E_IO] = "store failed",
	[TM_E_STATE] = "state",
	[TM_E_BUSY] = "busy",
	[TM_E_DAMAGED] = "damaged",
};

int64_t tm_msg_limit(enum tm_stage stage, uint16_t type)
{
	if (type >= TM_ARRAY_SIZE(types) || !(types[type].stages & 1u << stage))
		return -1;
	return types[type].limit;
}

const char *tm_msg_name(uint16_t type)
{
	return type < TM_ARRAY_SIZE(types) && types[type].name ? types[type].name : "unknown";
}

const char *tm_refusal_name(uint16_t code)
{
	return code < TM_ARRAY_SIZE(refusals) && refusals[code] ? refusals[code] : "unknown";
}

size_t tm_out_length(const struct tm_out *out)
{
	size_t n = 0;

	for (int i = 0; i < out->niov; i++)
		n += out->iov[i].iov_len;
	return n;
}
