/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retention: a thread that drops points by their machines' policies and gets the space back, a little at a time, beside
 * everything else.
 */
#ifndef SERVER_KEEPER_H
#define SERVER_KEEPER_H

#include "server/machine.h"
#include "server/store/space.h"

struct keeper;

int keeper_start(struct server *s, struct keeper **k, struct tm_err *err);
/* Waits for the step under way. NULL is fine. */
void keeper_stop(struct keeper *k);

/* Settings of a machine that are its policy; the store's note of it has them under the same names. */
#define POLICY_TIERS     "policy"
#define POLICY_IMMUTABLE "immutable_s"

/*
 * Between looking at a policy and dropping or unpinning by it nobody changes it. The calls below are made with the machine's lock for this
 * (machine->policy) where that matters: policy_set() takes it itself.
 */

/* The machine's policy: its own, or the default. */
int policy_get(struct machine *m, struct retain_policy *p, struct tm_err *err);
/*
 * Durable on return. -EPERM: it would shorten the immutable window of points that are there.
 */
int policy_set(struct machine *m, const struct retain_policy *p, struct tm_err *err);

struct policy_effect {
	size_t points, drops; /* kept points, and how many of them would go */
	int64_t first_ns,
		last_ns; /* arrival of the oldest and newest one that would go; 0 = none */
	uint64_t bytes;  /* received for those that would go: at most this becomes free */
	struct {
		size_t points, drops;
	} tier[RETAIN_TIERS_MAX + 1]; /* by tier of the policy; the last used: older than all */
};
/* What a policy would drop now. */
int policy_effect(struct machine *m, const struct retain_policy *p, struct policy_effect *e,
	struct tm_err *err);

/* The points that the machine's policy drops now, ascending; *seqs is malloc'ed. */
int policy_plan(struct machine *m, uint64_t **seqs, size_t *n, struct tm_err *err);

/* Is the point within its immutable window? */
int policy_immutable(
	struct machine *m, const struct store_point *p, bool *immutable, struct tm_err *err);

#endif
