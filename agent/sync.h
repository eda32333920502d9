/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members: the protected disks of a session, and what is done with each: initial sync, resync, a pass of the scan tracker, verify.
 */
#ifndef AGENT_SYNC_H
#define AGENT_SYNC_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/disk.h"
#include "agent/stream.h"
#include "common/wire.h"

struct agent;

/* As in heartbeats; the names are sync_state_name()'s. */
enum sync_state {
	SYNC_WAITING = 0, /* not looked at yet, or not connected */
	SYNC_INITIAL = 1,
	SYNC_CONTINUOUS = 2,
	SYNC_RESYNC = 3,
	SYNC_CATCHUP = 4,
	SYNC_PAUSED = 5,
	SYNC_HELD = 6,
	SYNC_GONE = 7,
};
const char *sync_state_name(enum sync_state state);

enum member_job { JOB_NONE, JOB_INITIAL, JOB_RESYNC, JOB_PASS, JOB_VERIFY };

struct member {
	struct member *next;
	struct agent *agent;
	uint8_t uuid[TM_UUID];
	uint8_t tracking[TM_UUID];
	struct disk_info info;
	uint8_t tracker;
	int fd; /* O_DIRECT; -1 = not open */
	/* agent->lock */
	enum sync_state state;
	char error[160];
	uint32_t handle;        /* 0 = not opened at the server */
	uint8_t phase;          /* enum tm_disk_phase */
	uint64_t attempt;       /* INITIAL: to resume */
	struct tm_extents have; /* INITIAL: durable already */
	enum member_job job;
	bool running, finished;
	uint64_t retry;  /* monotonic ns: not before */
	uint32_t frames; /* of the epoch that is being made; the machine's thread */
	uint64_t digest;
	uint32_t kdisk; /* the module's number of it; 0 = not attached */
	uint64_t piece; /* complete attempt waiting for the next epoch; 0 = none */
	uint64_t
		made; /* by the job that has just finished; becomes `piece` in the machine's thread */
	bool in_round;
	bool verify, resync; /* asked for */
	bool verified;       /* done: `differ` answers it */
	bool closing;        /* unprotect: DISK_CLOSE when no job runs */
	pthread_t thread;
	struct tm_err result;
	/* progress and counters; lock */
	uint64_t done, total, began_at;
	uint64_t started;                /* monotonic ns */
	uint64_t backlog;                /* bytes that are dirty and not durable at the server */
	uint64_t differ;                 /* chunks that differed in the last comparison */
	uint64_t bad;                    /* blocks that could not be read in the last job */
	uint64_t sent_bytes, sent_total; /* cells: of the running job, of all before */
	uint64_t last_point;
};

/* Opens the disk; checks that it is the one remembered. */
int member_open(struct member *m, struct tm_err *err);

/* Opens it at the server: phase, handle, what is there. Caller holds no lock. */
int member_announce(struct member *m, struct tm_err *err);

/* The jobs; each runs in the member's own thread and returns when its piece is complete. */
int initial_run(struct member *m, uint64_t *piece, struct tm_err *err);
int compare_run(struct member *m, bool verify, uint64_t *piece, struct tm_err *err);

/* ATTEMPT_BEGIN of a piece; *attempt: 0 = new. The open part's frames, if any, are forgotten. */
int piece_begin(
	struct member *m, uint8_t kind, uint64_t *attempt, uint32_t *part, struct tm_err *err);
/* Flushes the stream, makes its part durable, begins the next. */
int piece_commit(struct member *m, struct stream *s, bool last, struct tm_err *err);
void piece_abort(struct agent *a, uint64_t attempt);

#endif
