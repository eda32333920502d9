/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's parts together. Lock order: machine->save, then server->lock or machine->lock; never two machines. No lock but
 * `save` is held over a call into store, catalog or network.
 */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/conn.h"
#include "common/err.h"
#include "common/tls.h"
#include "common/wire.h"
#include "server/budget.h"
#include "server/catalog.h"
#include "server/store/store.h"

struct machine;
struct commit;

struct server_conf {
	char *listen;         /* ADDR:PORT */
	char *socket;         /* control socket */
	uint64_t data_max;    /* data connections of a machine */
	uint64_t credit;      /* bytes of a machine on the way */
	uint64_t memory;      /* bytes of frames being received, all machines together */
	uint64_t interval;    /* ns between cuts */
	uint64_t connections; /* at most, all together */
	uint64_t strangers;   /* of these without a finished HELLO */
	uint64_t silence;     /* ns without a frame after which a control connection is given up */
	uint64_t patience;    /* ns for one whole frame, sent or received, once it has begun */
	uint64_t keep;        /* ns that attempts of a lost session are kept */
	uint64_t
		reserve; /* bytes to keep free in the store's filesystem; 0 = 1/20 of it, 32 to 256 MiB */
	uint64_t retention; /* ns between looks at the policies */
	uint64_t reclaim;   /* bytes per second for getting space back */
	uint64_t cache;     /* bytes of the index cache */
};

struct server {
	char *dir, *pki;
	struct server_conf conf;
	struct store *store;
	struct catalog *catalog;
	struct tm_tls *tls;
	uint8_t uuid[TM_UUID];
	uint64_t incarnation;
	uint64_t started;  /* monotonic ns */
	uint64_t run_base; /* ns that the daemon had been running before this start */
	struct budget budget;
	bool full;     /* atomic: the store is below its reserve */
	bool stopping; /* atomic */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct machine *machines;         /* lock; only ever added to */
	struct commit *done, **done_tail; /* lock: finished commits for commit_finish() */
	bool drained;                     /* lock: no commit will come any more */
	unsigned int threads;             /* lock: connection threads */
	unsigned int strangers;           /* lock: of these without a finished HELLO */
};

/* Opens store, catalog, keys, and loads the machines. */
int server_open(struct server *s, const char *dir, struct tm_err *err);
/* All threads must have ended. Accepts a half-open server. */
void server_close(struct server *s);

/* Nanoseconds that the daemon has been running in all its life: no clock and no restart shortens it. */
uint64_t server_run_ns(const struct server *s);
/* Makes it durable; called once a minute and at the end. */
int server_run_save(struct server *s, struct tm_err *err);

#endif
