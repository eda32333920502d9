/* SPDX-License-Identifier: Apache-2.0 */
/* The rules by which an epoch becomes a point, is stored only, or is refused. Pure logic. */
#ifndef SERVER_EPOCH_H
#define SERVER_EPOCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/refusal.h"

/* One disk of the machine as the epoch finds it. */
struct epoch_disk {
	const char *name;
	bool open;   /* in this session */
	bool joined; /* the machine has no points without it */
	bool whole; /* its committed state is continued by this session's tracking, or will be by an epoch on its way */
	bool listed;  /* takes part in the epoch */
	bool frames;  /* and has brought data of its own */
	bool piece;   /* a complete initial sync or resync becomes visible with the epoch */
	bool catchup; /* or a complete catch-up */
};

struct epoch_parent {
	bool has_head; /* an epoch of the machine was committed, or is on its way */
	bool none;     /* the epoch names no parent */
	bool head;     /* its parent is that head */
};

struct epoch_verdict {
	bool point;
	bool new_line;     /* the parent need not be the head */
	char missing[256]; /* why it is no point */
};

/* 0, or -1 with r. */
int epoch_judge(const struct epoch_parent *parent, const struct epoch_disk *disks, size_t n,
	struct epoch_verdict *v, struct refusal *r);

#endif
