/* SPDX-License-Identifier: Apache-2.0 */
/* Members' threads: which runs what, and when. Called by the machine's thread with agent->lock held, but for jobs_join(). */
#ifndef AGENT_JOBS_H
#define AGENT_JOBS_H

#include "agent/agent.h"

/* Brings members in line with the state's disks: opens and announces new ones, closes what is unprotected. May drop the lock. */
void members_update(struct agent *a, uint64_t now, uint64_t *until);
/* The session is over. */
void members_close(struct agent *a);

/* Ends threads that have finished, and takes their results. */
void jobs_reap(struct agent *a);
/* Turns requests (verify, resync) into jobs. */
void jobs_requests(struct agent *a);
/* Starts what is due, a few at a time. */
void jobs_start(struct agent *a, uint64_t now);
/* Waits for all threads; the session has failed before. No lock held. */
void jobs_join(struct agent *a);

#endif
