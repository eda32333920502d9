/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol between agent and process server, version 1. One TCP port, TLS 1.3 only.
 *
 * Every frame is a header and `length` bytes. The header never changes. All integers are little-endian, structs are packed
 * and used in place (cell.h asserts the byte order). Variable parts follow the fixed struct in the order that the comment
 * gives; a message whose length does not come out exactly is refused. Whoever receives a frame of a wrong magic, type, flags,
 * length, sequence or contents answers ERROR where it still can, closes the connection, and keeps nothing of the frame.
 *
 * Connections. A client without a certificate may send ENROLL, nothing else. An agent opens one control connection (HELLO)
 * and then data connections (HELLO_DATA with the session of its WELCOME). DATA, ACK and COMPARE travel on data connections,
 * all else on the control connection. A new control connection of the same agent instance takes its predecessor's place.
 *
 * Requests on one connection are answered in order, except EPOCH_COMMIT and PART_COMMIT: these are answered when durable, and
 * other answers may come before. The server answers ERROR to a request that it refuses; if ERROR.fatal is 0 the connection goes on.
 */
#ifndef TM_WIRE_H
#define TM_WIRE_H

#include <assert.h>
#include <stdint.h>

#include "common/cell.h"

#define TM_WIRE_MAGIC   0x314b4d54u /* "TMK1" */
#define TM_WIRE_VERSION 1
#define TM_FRAME_MAX    (1152u * 1024) /* bytes of a frame's payload, at most */
#define TM_DATA_MAX     (1024u * 1024) /* bytes of cells that a DATA frame is filled up to */
#define TM_DISKS_MAX    256u           /* disks of one machine */
#define TM_LABEL_MAX    255u
#define TM_NAME_MAX     255u /* host, disk and serial strings */
#define TM_TEXT_MAX     480u /* error and reason texts */
#define TM_UUID         16u

struct tm_frame {
	uint32_t magic;
	uint16_t type;   /* enum tm_msg */
	uint16_t flags;  /* 0 */
	uint32_t length; /* of the payload, at most TM_FRAME_MAX */
	uint32_t seq;    /* frames sent on this connection in this direction before, modulo 2^32 */
} __attribute__((packed));
static_assert(sizeof(struct tm_frame) == 16, "frame header");

enum tm_msg {
	TM_MSG_ERROR = 1,      /* tm_msg_error, text */
	TM_MSG_ENROLL = 2,     /* tm_msg_enroll, host, csr (DER) */
	TM_MSG_ENROLLED = 3,   /* tm_msg_enrolled, certificate (DER), CA (DER) */
	TM_MSG_HELLO = 4,      /* tm_msg_hello, host, agent version, hardware description */
	TM_MSG_WELCOME = 5,    /* tm_msg_welcome */
	TM_MSG_HELLO_DATA = 6, /* tm_msg_hello_data */
	TM_MSG_OK = 7, /* empty: HELLO_DATA, DISK_CLOSE, ABORT and COMMAND_RESULT are accepted */
	TM_MSG_DISK_OPEN = 8,      /* tm_msg_disk_open, name, serial */
	TM_MSG_DISK_STATE = 9,     /* tm_msg_disk_state, tm_range[nranges] */
	TM_MSG_DISK_CLOSE = 10,    /* tm_msg_disk_close */
	TM_MSG_ATTEMPT_BEGIN = 11, /* tm_msg_attempt_begin */
	TM_MSG_ATTEMPT = 12,       /* tm_msg_attempt, tm_frames_got[n] */
	TM_MSG_DATA = 13,          /* tm_msg_data, cells */
	TM_MSG_ACK = 14,           /* tm_msg_ack */
	TM_MSG_PART_COMMIT = 15,   /* tm_msg_part_commit */
	TM_MSG_PART_DONE = 16,     /* tm_msg_part_done */
	TM_MSG_EPOCH_COMMIT =
		17, /* tm_msg_epoch_commit, tm_epoch_disk[ndisks], piece attempts u64[npieces], label, reason */
	TM_MSG_EPOCH_DONE = 18,     /* tm_msg_epoch_done, text */
	TM_MSG_ABORT = 19,          /* tm_msg_abort */
	TM_MSG_COMPARE = 20,        /* tm_msg_compare, tm_hash128[n] */
	TM_MSG_COMPARED = 21,       /* tm_msg_compared, bitmap of (n + 7) / 8 bytes: 1 = equal */
	TM_MSG_HEARTBEAT = 22,      /* tm_msg_heartbeat, tm_disk_beat[ndisks], last error */
	TM_MSG_HEARTBEAT_OK = 23,   /* tm_msg_heartbeat_ok */
	TM_MSG_COMMAND = 24,        /* server to agent: tm_msg_command, label */
	TM_MSG_COMMAND_RESULT = 25, /* tm_msg_command_result, text */
};

/* Whose data: drawn at the cut; a number alone identifies nothing. All zero = none. */
struct tm_epoch_id {
	uint8_t tracking[TM_UUID]; /* new at every attach that could not prove continuity */
	uint64_t cut;              /* number of the cut under this tracking */
	uint8_t nonce[TM_UUID];
} __attribute__((packed));
static_assert(sizeof(struct tm_epoch_id) == 40, "epoch id");

enum tm_refusal {
	TM_E_PROTO = 1,   /* malformed; always fatal */
	TM_E_AUTH = 2,    /* no or wrong certificate, token, machine; revoked */
	TM_E_VERSION = 3, /* no common version */
	TM_E_HELD = 4,    /* the machine is on hold until an operator decides (serverctl adopt) */
	TM_E_STALE = 5,   /* attempt unknown or ended, session superseded */
	TM_E_PARENT =
		6, /* the epoch's parent is not the head: doubt, resync under a new tracking UUID */
	TM_E_FULL = 7,     /* store below its reserve: keep tracking, try again later */
	TM_E_IO = 8,       /* the store failed; try again */
	TM_E_STATE = 9,    /* not now: for example a commit of a disk that is not whole */
	TM_E_BUSY = 10,    /* too many sessions or attempts */
	TM_E_DAMAGED = 11, /* sums or digest of received frames differ: send again */
};

struct tm_msg_error {
	uint16_t code; /* enum tm_refusal */
	uint8_t fatal; /* 1: the sender closes the connection */
	uint8_t pad;
	uint16_t about;    /* type of the refused message; 0 = none */
	uint16_t text_len; /* at most TM_TEXT_MAX */
	uint64_t attempt;  /* that it concerns; 0 = none */
} __attribute__((packed));

struct tm_msg_enroll {
	uint8_t token_id[16];
	uint8_t secret[32];
	uint8_t machine[TM_UUID];
	uint16_t host_len, csr_len; /* csr at most 8 KiB */
} __attribute__((packed));

struct tm_msg_enrolled {
	uint8_t server[TM_UUID];
	uint16_t cert_len, ca_len;
} __attribute__((packed));

struct tm_msg_hello {
	uint16_t version_min, version_max;
	uint32_t features;         /* bits that the agent can; none yet */
	uint8_t machine[TM_UUID];  /* must be the certificate's */
	uint8_t instance[TM_UUID]; /* drawn at each start of the agent process */
	uint64_t
		counter; /* sessions of this machine so far, this one included; stored before it is sent; never repeated */
	uint8_t hardware
		[16]; /* xxh3-128 of the hardware description (DMI UUID, serials of the boot disks) */
	uint16_t host_len, agent_len,
		hardware_len; /* each at most TM_NAME_MAX; hardware at most 4096 */
} __attribute__((packed));

struct tm_msg_welcome {
	uint16_t version;
	uint16_t data_max; /* data connections, at most */
	uint32_t features;
	uint64_t session;
	uint8_t server[TM_UUID];
	uint64_t incarnation; /* of the store; grows at each opening */
	uint64_t
		credit; /* bytes of DATA sent and not yet acknowledged, at most, all data connections together */
	uint32_t interval_ms;    /* least time between cuts */
	uint32_t flags;          /* TM_WELCOME_* */
	struct tm_epoch_id head; /* newest epoch of the machine that is durable here; zero = none */
	uint64_t head_attempt;
} __attribute__((packed));
#define TM_WELCOME_NO_POINT \
	1 /* the head is stored, but no point: the next epoch is wanted even if nothing changed */

struct tm_msg_hello_data {
	uint8_t machine[TM_UUID];
	uint64_t session;
	uint32_t index; /* below data_max */
	uint32_t pad;
} __attribute__((packed));

enum tm_tracker { TM_TRACKER_KMOD = 1, TM_TRACKER_SCAN = 2 };

struct tm_msg_disk_open {
	uint8_t disk[TM_UUID]; /* the agent's, for life */
	uint8_t tracking[TM_UUID];
	uint64_t size;   /* bytes, a multiple of 512 */
	uint32_t sector; /* 512 or 4096 */
	uint8_t tracker; /* enum tm_tracker */
	uint8_t pad;
	uint16_t name_len, serial_len;
} __attribute__((packed));

/* A run of blocks. */
struct tm_range {
	uint64_t block, count;
} __attribute__((packed));

enum tm_disk_phase {
	TM_DISK_NEW = 0, /* nothing here */
	TM_DISK_INITIAL =
		1, /* initial sync begun under this tracking; `attempt` resumes it, ranges are durable already */
	TM_DISK_WHOLE = 2, /* has joined its machine's points */
	TM_DISK_RESYNC =
		3, /* whole in earlier points; now in doubt (size or tracking changed): resync, no points meanwhile */
};

/* The ranges are as many as fit the frame, lowest first; what is missing is only sent twice. */
struct tm_msg_disk_state {
	uint8_t disk[TM_UUID];
	uint32_t handle; /* the disk in DATA frames; valid for the session */
	uint8_t phase;   /* enum tm_disk_phase */
	uint8_t pad[3];
	uint64_t attempt;   /* phase INITIAL: to resume */
	uint32_t next_part; /* phase INITIAL */
	uint32_t nranges;
} __attribute__((packed));

struct tm_msg_disk_close {
	uint8_t disk[TM_UUID]; /* stop protecting; its old points stay */
} __attribute__((packed));

enum tm_attempt_kind {
	TM_ATTEMPT_EPOCH = 1, /* all disks of the machine; one part, 0 */
	TM_ATTEMPT_INITIAL =
		2, /* one disk, piece by piece; visible with an EPOCH_COMMIT that lists it */
	TM_ATTEMPT_RESYNC = 3,  /* likewise: only what differs from the newest committed state */
	TM_ATTEMPT_CATCHUP = 4, /* likewise: dirty blocks, unpreserved */
};

struct tm_msg_attempt_begin {
	uint64_t
		attempt; /* 0 = a new one; else go on with this one after a lost session or a restart */
	uint8_t kind;  /* enum tm_attempt_kind */
	uint8_t fresh; /* going on: 1 = forget the frames of the part that is open (the agent does not know them any more) */
	uint8_t pad[2];
	uint32_t handle;               /* piece kinds: the disk; EPOCH: 0 */
	struct tm_epoch_id id, parent; /* EPOCH only, else zero */
} __attribute__((packed));

/* Frames [first, first + count) of the open part are here already. */
struct tm_frames_got {
	uint32_t handle, first, count;
} __attribute__((packed));

struct tm_msg_attempt {
	uint64_t attempt;
	uint32_t part; /* the open part; frames count from 0 in each part */
	uint32_t n;    /* tm_frames_got that follow */
} __attribute__((packed));

struct tm_msg_data {
	uint64_t attempt;
	uint32_t handle;
	uint32_t part;
	uint32_t
		frame; /* number within (attempt, part, handle), without gaps; a repeated one is acknowledged and ignored */
	uint32_t ncells; /* cells that follow back to back and fill the frame */
} __attribute__((packed));

/* Received and checked (not durable): the agent may forget these bytes unless the attempt fails. */
struct tm_msg_ack {
	uint64_t attempt;
	uint32_t handle, part, frame, pad;
} __attribute__((packed));

/*
 * The digest of a part on a disk is the sum modulo 2^64 of its frames' digests; a frame's digest is the xxh3-64, seeded with
 * its number, of the bytes after tm_msg_data.
 */
struct tm_msg_part_commit {
	uint64_t attempt;
	uint32_t handle, part, frames;
	uint8_t last; /* 1: the piece is complete */
	uint8_t pad[3];
	uint64_t digest;
} __attribute__((packed));

struct tm_msg_part_done {
	uint64_t attempt;
	uint32_t part, pad;
} __attribute__((packed));

enum tm_point_kind {
	TM_POINT_NONE =
		0, /* EPOCH_COMMIT only: a round of catch-up. Its blocks are of no one instant; they are to be stored, and count with the next epoch */
	TM_POINT_CRASH = 1,
	TM_POINT_APP = 2,
	TM_POINT_SCAN = 3,
};

struct tm_epoch_disk {
	uint32_t handle;
	uint32_t frames;
	uint64_t digest;
	uint64_t size; /* bytes of the disk at the cut */
} __attribute__((packed));

struct tm_msg_epoch_commit {
	struct tm_epoch_id id,
		parent; /* parent = the head; or zero with resync pieces for every joined disk (new tracking) */
	uint64_t attempt;
	uint64_t cut_realtime_ns; /* shown, never computed with */
	uint64_t age_ns;          /* CLOCK_BOOTTIME from the cut to this sending */
	uint32_t ndisks;          /* every open disk that takes part, also those without frames */
	uint32_t npieces;         /* complete piece attempts that become visible with this epoch */
	uint8_t kind;             /* enum tm_point_kind */
	uint8_t pad;
	uint16_t
		freeze_ms; /* how long its filesystems stood still; 0 = they did not; 65535 = that or longer */
	uint16_t label_len, reason_len; /* reason: why not app-consistent as was asked */
} __attribute__((packed));

enum tm_epoch_result { TM_EPOCH_STORED = 1, TM_EPOCH_POINT = 2 };

struct tm_msg_epoch_done {
	uint64_t attempt; /* the point's id if result is POINT */
	uint8_t result;   /* enum tm_epoch_result; a refusal comes as ERROR */
	uint8_t pad;
	uint16_t text_len; /* STORED: what is missing for a point */
	uint32_t pad2;
} __attribute__((packed));

struct tm_msg_abort {
	uint64_t attempt;
} __attribute__((packed));

struct tm_hash128 {
	uint64_t low, high;
} __attribute__((packed));

#define TM_REGION_CHUNKS 256u /* 4 MiB */

/*
 * Checksums of what the source holds, against the newest committed state of the disk (an open piece of it not counted).
 * level 0: one hash per chunk = xxh3-128, seeded, of its 16 KiB (past the end: zeros). level 1: one per region = xxh3-128, seeded,
 * of its chunks' hashes in order (16 bytes each; a last region has fewer chunks).
 */
struct tm_msg_compare {
	uint64_t seed;  /* random, the agent's, one per pass */
	uint64_t first; /* chunk (level 0) or region (level 1) */
	uint32_t handle;
	uint32_t n; /* hashes; at most 4096 */
	uint8_t level;
	uint8_t pad[7];
} __attribute__((packed));

struct tm_msg_compared {
	uint64_t first;
	uint32_t handle;
	uint32_t n;
	uint8_t level;
	uint8_t pad[7];
} __attribute__((packed));

struct tm_disk_beat {
	uint32_t handle;
	uint8_t state; /* as agent/sync.h names them; shown by serverctl */
	uint8_t pad[3];
	uint64_t done, total; /* bytes of the running initial sync, resync or catch-up */
	uint64_t backlog;     /* bytes dirty and not yet durable at the server */
} __attribute__((packed));

struct tm_msg_heartbeat {
	uint64_t read_rate, wire_rate; /* bytes per second */
	struct tm_epoch_id
		clean; /* nothing was written since this epoch (proof that the map is empty); zero = no such proof */
	uint64_t clean_age_ns; /* age of that proof */
	uint32_t ndisks;
	uint16_t error_len; /* last error, at most TM_TEXT_MAX; empty = none */
	uint8_t paused;
	uint8_t pad;
} __attribute__((packed));

struct tm_msg_heartbeat_ok {
	uint64_t
		rpo_ms; /* age of the newest point as the server counts it; UINT64_MAX = no point */
	uint64_t newest; /* id of the newest point; 0 = none */
	uint8_t full;    /* 1: the store is below its reserve */
	uint8_t pad[7];
} __attribute__((packed));

enum tm_command {
	TM_CMD_POINT = 1,
	TM_CMD_RESYNC = 2,
	TM_CMD_VERIFY = 3,
	TM_CMD_THROTTLE = 4,
	TM_CMD_QUIESCE = 5,
	TM_CMD_DETACH = 6
};

struct tm_msg_command {
	uint64_t id;      /* names it in the result */
	uint16_t command; /* enum tm_command */
	uint8_t kind;     /* POINT: enum tm_point_kind */
	uint8_t pad;
	uint16_t label_len;
	uint16_t pad2;
	uint8_t disk[TM_UUID]; /* RESYNC, VERIFY: the disk; zero = all */
	uint64_t rate;         /* THROTTLE: bytes per second, 0 = none */
} __attribute__((packed));

struct tm_msg_command_result {
	uint64_t id;
	uint64_t point; /* POINT: its id */
	uint8_t ok;
	uint8_t pad;
	uint16_t text_len;
	uint32_t pad2;
} __attribute__((packed));

#endif
