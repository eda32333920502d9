/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent must not forget, in DIR/state.json; every change is durable before the function that makes it returns.
 * (Who the machine is and where its server is: enroll.h.)
 *
 * One process owns the folder (a lock). Thread safe: hold `lock` around reads of fields and around changes with state_save().
 */
#ifndef AGENT_STATE_H
#define AGENT_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/disk.h"
#include "common/err.h"
#include "common/wire.h"

struct state_disk {
	uint8_t uuid[TM_UUID];     /* for life; a replaced disk gets another */
	uint8_t tracking[TM_UUID]; /* under which the server knows it */
	char path[80];             /* where it was last */
	struct disk_ident ident;
	uint8_t kernel[TM_UUID]; /* the module's tracking UUID that this one goes with */
	uint8_t tracker;         /* enum tm_tracker */
	bool leaving;            /* unprotected; the server has to be told yet */
	bool compare;            /* wanted after a boot, and not done yet */
	char doubt
		[160]; /* not empty: why it must be compared with the server before the next point */
};

struct state {
	char *dir;
	int lock_fd;
	pthread_mutex_t lock;
	uint64_t counter; /* sessions begun; stored before a HELLO tells it */
	/* Scan tracker: its line of epochs. */
	uint8_t tracking[TM_UUID];
	uint64_t cut;
	struct tm_epoch_id acked; /* newest epoch that the server has said to be durable */
	struct tm_epoch_id sent;  /* commit sent, no answer yet; zero = none */
	uint64_t
		point; /* newest acknowledged point's id and wall-clock time, to name what is gone */
	uint64_t point_time;
	bool paused;
	uint64_t throttle; /* bytes per second; 0 = none */
	struct state_disk *disks;
	size_t ndisks;
};

/* Takes the lock of the folder (-EBUSY: another agent has it) and reads the file; none is a new state. */
int state_open(const char *dir, struct state *st, struct tm_err *err);
void state_close(struct state *st);

/* Writes the file. Caller holds the lock. */
int state_save(struct state *st, struct tm_err *err);

/* Appends a disk, or removes one; saved. Caller holds the lock. On failure the state is as before. */
int state_add(struct state *st, const struct state_disk *disk, struct tm_err *err);
int state_remove(struct state *st, const uint8_t uuid[TM_UUID], struct tm_err *err);

struct state_disk *state_find(struct state *st, const uint8_t uuid[TM_UUID]);

/* Counts a session and makes the number durable. */
int state_count(struct state *st, uint64_t *counter, struct tm_err *err);
/* The server has refused that session: its number may be used again. */
int state_uncount(struct state *st, struct tm_err *err);

/* Forgets server, epochs and disks (leave). The session counter stays. */
int state_forget(struct state *st, struct tm_err *err);

#endif
