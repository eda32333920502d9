/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's parts together.
 *
 * The machine's thread (machine.c) owns sessions and members and decides everything; members' threads (initial sync, resync, verify)
 * do one job each and report; control clients leave requests and wait. agent->lock guards all of it; state->lock is taken inside it or
 * alone. Neither is held over reads, the network or the disk, but for state_save().
 */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/enroll.h"
#include "agent/pipeline.h"
#include "agent/session.h"
#include "agent/ship.h"
#include "agent/spool.h"
#include "agent/spoolfile.h"
#include "agent/state.h"
#include "agent/sync.h"
#include "common/rate.h"
#include "common/schedule.h"

struct agent_conf {
	char *engine;
	uint64_t memory, workers, queue_depth, connections;
	uint64_t interval;      /* ns between points of the scan tracker; 0 = only on demand */
	uint64_t app_interval;  /* ns between application-consistent points; 0 = only on demand */
	uint64_t reconnect_max; /* ms */
	uint64_t part;          /* bytes of an initial sync that are made durable at a time */
	uint64_t freeze_limit;  /* ns */
	uint64_t throttle;
	char *throttle_schedule;
	char *scripts;          /* folder of pre- and post-scripts */
	uint64_t script_limit;  /* ns */
	char *maps;             /* folder of the file for the module's maps; empty: the state's */
	uint64_t spool;         /* bytes; 0 = none */
	char *spool_path;       /* its folder; empty: the state's */
	bool verify_after_boot; /* compare though the map came back */
};

enum request_kind { REQUEST_POINT = 1, REQUEST_VERIFY, REQUEST_RESYNC };

/* Something to be done once; lives with who waits for it (control) or until it is answered (command of the server). */
struct request {
	struct request *next;
	enum request_kind kind;
	uint8_t point_kind; /* POINT: enum tm_point_kind wanted */
	bool freeze;        /* POINT: freeze the filesystems */
	char label[TM_LABEL_MAX + 1];
	uint8_t disk[TM_UUID]; /* VERIFY, RESYNC; zero = all */
	uint64_t command;      /* of the server, to be answered and freed; 0 = somebody waits */
	bool taken;
	const void *by; /* POINT: the point that will answer it */
	bool done;
	bool dropped;      /* who waited has gone: free it when done */
	struct tm_err err; /* code 0: done well */
	uint64_t point, differ;
	uint8_t made; /* POINT: enum tm_point_kind that it became */
	char text[TM_TEXT_MAX + 1];
};

/* The scan tracker's. */
struct round {
	bool active;
	bool want_freeze;
	struct point *point;
	struct freeze *freeze;
	struct quiet *quiet;  /* watches that nothing is mounted meanwhile */
	struct tm_err failed; /* code not 0: a pass failed */
};

struct agent {
	struct agent_conf conf;
	struct state state;
	struct pipeline *pipeline;
	struct spool *spool; /* of the kernel tracker's epochs; NULL: none */
	struct spoolfile spoolfile;
	char spool_error[TM_TEXT_MAX + 1]; /* why there is none */
	struct tm_rate rate;
	struct tm_schedule schedule; /* of the rate; never changes */
	uint8_t instance[TM_UUID];

	pthread_mutex_t lock;
	pthread_cond_t changed; /* anything below */
	uint64_t changes;       /* lock: counts agent_wake() */
	pthread_t thread;
	bool stop;
	bool enrolled; /* lock, as all below */
	bool rejoin;   /* enrolment changed: begin again */
	struct enroll_identity id;
	struct session *session; /* NULL: not connected */
	struct ship *ship;
	bool held; /* by the server */
	bool paused;
	struct member *members;
	unsigned running; /* members' threads */
	struct request *requests;
	const struct tracker *tracker;
	struct kmod *kmod; /* the kernel tracker's; the machine's thread */
	struct round round;
	uint64_t round_due; /* monotonic ns of the next automatic point */
	uint64_t
		app_due; /* monotonic ns of the next application-consistent point by schedule; 0 = not begun */
	bool urgent_round;           /* a piece is ready: commit it soon */
	struct tm_epoch_id head;     /* parent of the next epoch; zero = none or new line */
	uint64_t rpo_ms;             /* as the server counts; UINT64_MAX = no point */
	uint64_t newest;             /* id of the newest point */
	bool full;                   /* the server's store */
	char error[TM_TEXT_MAX + 1]; /* last error */
	const char *todo;            /* what to do about it; static */
	uint64_t error_time;         /* wall clock, shown */
	uint64_t alarms;
	uint64_t read_rate, wire_rate, wire_past, last_read, last_wire, last_beat;
	uint64_t compared_bytes, sent_cells; /* since the start */
	uint64_t freeze_ns;                  /* of the last frozen point */
};

/* Advice that several errors have. */
#define TODO_STATE "look at the folder of --state: free space, and whether it can be written"
#define TODO_DISK  "replace the disk; in points such blocks read as errors, never as other data"
#define TODO_SPOOL \
	"put it elsewhere (spool_path, tidemark-agent(8)): slow links are done without it"

/*
 * Notes the last error for status and heartbeat, and logs it; the same one again is logged once. todo: what to do about it, for
 * whoever asks for the status; lives for ever. Caller holds the lock.
 */
void agent_error(struct agent *a, const char *todo, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Waits while paused. 0, or a negative errno if the session has ended or the agent stops. */
int agent_turn(struct agent *a, struct tm_err *err);

/* Something changed: wakes all who wait, and keeps the machine's thread from going to sleep over it. Caller holds the lock. */
void agent_wake(struct agent *a);
/* The same, taking the lock. */
void agent_kick(struct agent *a);

/* machine.c */
int machine_start(struct agent *a, struct tm_err *err);
void machine_stop(struct agent *a);

/* Ends a request: its waiter or the server hears of it. Caller holds the lock. */
void request_end(struct agent *a, struct request *rq, const struct tm_err *err);

#endif
