/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to a store while no daemon runs on it. */
#ifndef SERVER_INIT_H
#define SERVER_INIT_H

#include "common/err.h"

/* Makes store, catalog, CA and DIR/server.conf. listen may be NULL. -EEXIST if there is one. */
int init_store(const char *dir, const char *listen, struct tm_err *err);

/* The catalog is lost or damaged: makes a new one from what the store holds. An old one is kept beside it. Nothing is deleted. */
int rebuild_catalog(const char *dir, struct tm_err *err);

#endif
