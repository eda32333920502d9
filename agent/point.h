/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An epoch on its way to the server, and the point that it becomes. What both trackers do alike: begin the attempt, list disks and
 * pieces, commit, take the answer to members, state and requests.
 *
 * Called by the machine's thread only. Functions marked L want agent->lock held; the others talk to the server and must not hold it.
 */
#ifndef AGENT_POINT_H
#define AGENT_POINT_H

#include "agent/agent.h"

struct point {
	struct tm_msg_epoch_commit c;
	struct tm_epoch_disk disks[TM_DISKS_MAX];
	uint64_t pieces[TM_DISKS_MAX];
	uint32_t ndisks, npieces;
	char label[TM_LABEL_MAX + 1];
	char reason[TM_TEXT_MAX + 1]; /* why it is not what was asked for */
	uint64_t began, boottime;     /* monotonic ns; of the cut */
	uint64_t freeze_ns;           /* how long filesystems stood still; 0 = they did not */
	struct call call;
	bool sent;
	/* the answer */
	uint64_t id; /* 0 = stored, but no point */
	char text[TM_TEXT_MAX + 1];
	uint16_t refusal;
};

/* A new one; aborts without memory (12 KiB). */
struct point *point_new(void);

/* L: takes the requests for a point that wait; the first label given is its own. True if one wants the filesystems frozen. */
bool point_take_requests(struct agent *a, struct point *p);

/* Begins the attempt under c.id and c.parent. */
int point_open(struct agent *a, struct point *p, struct tm_err *err);

/* L: lists the disks that take part, and the complete pieces. */
void point_list(struct agent *a, struct point *p);

/* Sends the commit; point_wait() takes the answer. */
int point_send(struct agent *a, struct point *p, struct tm_err *err);
bool point_answered(struct agent *a, const struct point *p);
int point_wait(struct agent *a, struct point *p, struct tm_err *err);

/* L: after success: its pieces are visible, its disks joined; the requests are answered. */
void point_done(struct agent *a, struct point *p);
/* L: after failure: pieces are dropped (the lock is dropped meanwhile), the requests are told. */
void point_failed(struct agent *a, struct point *p, const struct tm_err *err);

/* L: the session is over: the requests wait for the next one. */
void point_put_back(struct agent *a, struct point *p);

bool member_joined(const struct member *m);

/* A new line of epochs can only begin with a piece of every disk that has joined. L. */
bool line_ready(const struct agent *a);

/* Begins one: nothing of ours is where the server thinks; every disk is compared before the next point. */
int new_line(struct agent *a, const char *why, struct tm_err *err);

/* The server lacks what it had acknowledged: says what is gone. */
void alarm_gone(struct agent *a, const struct tm_msg_welcome *w);

#endif
