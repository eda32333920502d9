/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine as the running server knows it: its disks, open attempts, commits on their way, its session. Made when the daemon starts or
 * the machine is enrolled, and kept until the daemon ends.
 */
#ifndef SERVER_MACHINE_H
#define SERVER_MACHINE_H

#include "common/extent.h"
#include "server/frames.h"
#include "server/server.h"

struct session;
struct compare_view;
struct command_wait;

struct disk {
	struct catalog_disk c; /* machine->lock; written down by disk_save() */
	uint32_t no;           /* the store's */
	uint32_t handle;       /* index + 1 */
	/* machine->lock from here */
	bool open; /* in this session, under: */
	uint8_t tracking[TM_UUID];
	struct tm_disk_beat beat;  /* newest heartbeat */
	struct compare_view *view; /* compare.c */
};

/* Frames of one disk in an attempt's open part. */
struct attempt_disk {
	uint32_t handle;
	struct frames frames;
};

struct attempt {
	struct attempt *next;
	uint64_t seq;
	uint8_t kind;                  /* enum tm_attempt_kind */
	uint8_t instance[TM_UUID];     /* of the agent that knows the frames of the open part */
	uint8_t tracking[TM_UUID];     /* piece kinds */
	uint32_t handle;               /* piece kinds */
	struct tm_epoch_id id, parent; /* EPOCH */
	/* machine->lock from here */
	uint64_t session;  /* that it belongs to; 0 = lost */
	uint64_t orphaned; /* monotonic ns */
	uint32_t part;     /* open one */
	bool complete;     /* piece: the last part is durable */
	bool closed;       /* no more frames: being committed, forgotten or aborted */
	bool lost;         /* closed because the store lost it: only to be aborted */
	bool flushing;     /* a part is on its way to the disk */
	unsigned int busy; /* frames being stored */
	struct attempt_disk *disks;
	uint32_t ndisks;
	struct tm_extents
		blocks; /* INITIAL: what the open part, and a part that failed for lack of space, holds */
	bool uncounted; /* INITIAL: not all that came is in `blocks` */
	bool again;     /* the flush of the part before failed for lack of space */
	uint64_t bytes;
};

#define MACHINE_DISKS    1024u /* closed ones included */
#define MACHINE_FAILED   8u
#define MACHINE_ATTEMPTS 1024u

struct machine {
	struct machine *next;
	struct server *server;
	uint8_t uuid[TM_UUID];
	char name[48];          /* UUID as text */
	bool revoked, held;     /* atomic: looked at before each frame is acted on */
	pthread_mutex_t policy; /* policy changes, drops, unpinning: one at a time; before `save` */
	pthread_mutex_t save;   /* rows of this machine are written to the catalog one at a time */
	pthread_mutex_t lock;   /* all below */
	pthread_cond_t changed; /* session, attempt->busy, attempt->part, commits */
	char host[TM_NAME_MAX + 1];
	struct session *session; /* at most one */
	uint8_t instance
		[TM_UUID]; /* of the agent that had the newest session before the daemon started */
	bool arriving;     /* a HELLO is being decided on */
	struct disk **disks;
	uint32_t ndisks;
	struct attempt *attempts;    /* newest first */
	struct commit *commits;      /* on their way, oldest first */
	struct store_head head;      /* seq 0: none */
	struct command_wait *waits;  /* commands without an answer */
	uint64_t commands;           /* sent so far */
	struct compare_view *unused; /* to be closed */
	struct {
		struct tm_epoch_id id;
		uint16_t code;
	} failed[MACHINE_FAILED]; /* epochs whose commit failed lately: their successors are not in doubt */
	unsigned int nfailed;
	int64_t valid; /* monotonic ns up to which the newest point is known to be the source's state */
	uint8_t newest_kind;
	uint64_t last_beat; /* monotonic ns; 0 = none */
	uint64_t read_rate, wire_rate;
	bool paused;
	char error[TM_TEXT_MAX + 1]; /* agent's last */
	char agent[TM_NAME_MAX + 1]; /* its version */
	uint64_t received;           /* bytes of cells since the daemon started */
	uint64_t epochs, points;     /* committed since then */
	uint64_t compacted;          /* the keeper's: monotonic ns */
};

/* Loads every machine of the catalog, and what the store knows of it. */
int machines_open(struct server *s, struct tm_err *err);
void machines_close(struct server *s);
/* The machine, loaded if it is new in the catalog. -ENOENT. */
int machine_get(
	struct server *s, const uint8_t uuid[TM_UUID], struct machine **m, struct tm_err *err);

/* Of an open disk by its handle; NULL. Caller holds m->lock. */
struct disk *machine_disk(struct machine *m, uint32_t handle);
/* By UUID, open or not; NULL. Caller holds m->lock. */
struct disk *machine_disk_find(struct machine *m, const uint8_t uuid[TM_UUID]);
/* The control thread's: adds a disk that is registered in the store. -ENOSPC: too many. */
int machine_disk_add(struct machine *m, const struct catalog_disk *c, uint32_t no, struct disk **d,
	struct tm_err *err);
/* Writes the disk's row as it is now. */
int disk_save(struct machine *m, struct disk *d, struct tm_err *err);
/* Writes what the catalog knows of the machine into the store, from which `rebuild` takes it. */
int machine_note(struct machine *m, struct tm_err *err);
/* Stops the machine with an alarm until an operator decides; its session ends at the next frame. */
void machine_hold(struct machine *m, const char *why);
/* Now minus the time of the newest point; UINT64_MAX = no point. Caller holds m->lock. */
uint64_t machine_rpo_ms(const struct machine *m);

/* ---- attempt.c: caller holds m->lock everywhere ---- */
struct attempt *attempt_find(struct machine *m, uint64_t seq);
struct attempt *attempt_find_epoch(struct machine *m, const struct tm_epoch_id *id);
/* Nobody else is ending or committing it. */
bool attempt_may_end(const struct attempt *a);
struct attempt *attempt_add(struct machine *m, uint64_t seq, int kind); /* NULL: no memory */
/* The frames of a disk in the open part; NULL: none, or with `make` no memory. */
struct frames *attempt_frames(struct attempt *a, uint32_t handle, bool make);
void attempt_forget(struct attempt *a); /* the open part's frames */
/* Takes it out of the list and frees it; waits for busy frames first. */
void attempt_drop(struct machine *m, struct attempt *a);
/* The same, and tells the store. The lock is dropped meanwhile. Only if attempt_may_end(). */
void attempt_abort(struct machine *m, struct attempt *a);
/* Those of lost sessions that nobody will go on with: other instances', and epochs that were lost before `since`. */
void attempts_sweep(struct machine *m, const uint8_t *instance, uint64_t since);

#endif
