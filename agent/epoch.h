/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel tracker's epochs: cut, settle, drain, ship. */
#ifndef AGENT_EPOCH_H
#define AGENT_EPOCH_H

#include "agent/bootmap.h"
#include "agent/kmod.h"
#include "agent/point.h"

struct kmod {
	int fd;
	struct queued {
		struct point *point;
		struct tmk_id id;
	} queue[TMK_MAX_UNACKED]; /* sent, not answered, oldest first */
	unsigned nqueue;
	struct tm_epoch_id tail; /* parent of the next epoch */
	uint64_t next_cut;       /* monotonic ns */
	unsigned breaks;         /* in a row */
	uint64_t
		round_blocks; /* of the last round of catch-up since a usual epoch was tried; 0 = none */
	uint64_t rounds;      /* of catch-up, in all */
	bool owed; /* what the server stored last is no point: one is due even if nothing changes */
	uint64_t broken;       /* in all */
	uint64_t looked;       /* when a long epoch last looked after the rest */
	uint64_t noted;        /* when the newest point was last written down */
	uint64_t cut_hold_ns;  /* how long the last cut held writes */
	uint64_t epoch_blocks; /* of the last epoch */
	struct bootmap map;    /* no runs: maps cannot be saved here */
	char *boot_report;     /* of this boot; may be NULL */
};

/*
 * Makes one epoch of all attached disks and sends its commit: on success it is in the queue. No lock held. -ESTALE: it was broken, its
 * blocks are dirty again. catchup: nothing is preserved for it, so that it cannot break for want of memory, and it is no point; the
 * server stores it as part of what the next usual epoch makes one instant of.
 */
int epoch_make(struct agent *a, struct kmod *k, bool catchup, struct tm_err *err);

#endif
