/* SPDX-License-Identifier: Apache-2.0 */
/*
 * COMPARE: which of the source's chunks or regions have the same checksum as the newest committed state. Reads through one view of the
 * disk per pass (seed); data connections compare in parallel.
 */
#ifndef SERVER_COMPARE_H
#define SERVER_COMPARE_H

#include "server/session.h"

/* Answers one COMPARE on a data connection. 0, or -1 with r; a connection that broke shows at the next receive. */
int compare_serve(
	struct session *s, struct tm_conn *c, const void *body, size_t len, struct refusal *r);

/* Lets go of the disk's view; it ends with its last user, or with compare_reap(). Caller holds m->lock. */
void compare_drop(struct machine *m, struct disk *d);
/* Closes the views that nobody uses any more. Caller holds no lock. */
void compare_reap(struct machine *m);

#endif
