/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EPOCH_COMMIT: from the message through the rules (epoch.h) into the store and, once durable, the answer. Several epochs of a machine may
 * be on their way; they become durable in the order of their arrival.
 */
#ifndef SERVER_COMMIT_H
#define SERVER_COMMIT_H

#include "server/session.h"

struct commit_join {
	struct disk *disk;
	uint8_t tracking[TM_UUID];
};

struct commit {
	struct commit *next;      /* in m->commits: m->lock */
	struct commit *done_next; /* in server->done: server->lock */
	struct session *s;
	uint64_t seq;
	struct tm_epoch_id id;
	uint8_t kind;
	bool point;
	char missing[256];
	int64_t valid;             /* monotonic ns of the cut, as far as that can be known */
	uint16_t doomed;           /* m->lock: the refusal of an epoch before it; 0 = none */
	struct commit_join *joins; /* disks that become whole */
	uint32_t njoins;
	uint64_t *pieces;
	uint32_t npieces;
	struct store_point *p; /* what the point will say */
	/* the store's answer */
	int ret;
	struct store_result result;
	struct tm_err err;
};

void commit_free(struct commit *c);

/* Thread: brings finished commits to their end, until `stopping` and none is left. */
void *commit_finisher(void *server);
/* Waits until nothing of any machine is on its way to the disk. No session may be left. */
void commit_drain(struct server *s);

#endif
