/* SPDX-License-Identifier: Apache-2.0 */
/* The port: accepts connections, each in a thread of its own, not more of them than configured. */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include "server/server.h"

struct listener;

/* Listens at conf.listen and starts accepting. *port is the actual one. */
int listener_start(struct server *s, struct listener **l, uint16_t *port, struct tm_err *err);

/* Stops accepting, breaks every connection and waits for their threads. NULL is fine. */
void listener_stop(struct listener *l);

#endif
