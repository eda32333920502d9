/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Points in use, as serverctl serves and exports them: STORE/open/serve-N. Whoever reads holds the folder's lock file locked (shared); the
 * daemon removes those that nobody has held for a while, whatever became of their users.
 */
#ifndef SERVER_CHECKPOINT_H
#define SERVER_CHECKPOINT_H

#include "server/machine.h"

/* *path is malloc'ed. */
int checkpoint_make(struct machine *m, uint64_t point, char **path, struct tm_err *err);

/* At its user's end: removes it unless it is in use. Only names that checkpoint_make() gave. */
int checkpoint_release(struct server *s, const char *name, struct tm_err *err);

/* Removes those left over. Called by one thread only, every few seconds. */
void checkpoints_sweep(struct server *s);

#endif
