/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon does by itself once a second: space, lost attempts, left-over checkpoints, running time. */
#ifndef SERVER_CHORES_H
#define SERVER_CHORES_H

#include "server/server.h"

struct chores {
	uint64_t saved; /* monotonic ns: running time made durable */
	uint64_t swept; /* attempts and checkpoints looked through */
	bool warned;    /* a failed store has been reported */
};

void chores_run(struct server *s, struct chores *c);

#endif
