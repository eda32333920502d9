/* SPDX-License-Identifier: Apache-2.0 */
/* What collect.c and choose.c share. */
#ifndef TM_STORE_COLLECT_H
#define TM_STORE_COLLECT_H

#include "server/store/internal.h"
#include "server/store/space.h"

struct pile {
	uint32_t no, disk;
	uint64_t size, live;
	uint8_t keep; /* not to be moved now: an entry in it can't be */
	uint8_t move;
};

struct collector {
	struct store *st;
	const struct store_collect_opts *o;
	struct store_collected *r;
	struct pile *p; /* ascending by number */
	size_t n, room;
	struct vis *vis;
	size_t nvis;
	uint8_t *disk; /* by number: is there one? */
	uint32_t ndisks, next_disk;
	struct tm_err *err;
	/* copying */
	rocksdb_writebatch_t *b;
	struct touched *out;
	size_t nout;
	uint64_t pending;
	struct pace pace;
};

/* Bytes that may be copied now: getting space back may use the reserve, but for a sixteenth. */
uint64_t collect_room(const struct collector *c);
/* By the ledger: is a walk over the index worth it? Says in the result what it estimates. */
int collect_worth(struct collector *c);
/* After the walk: marks what is to be moved. */
void collect_choose(struct collector *c);

#endif
