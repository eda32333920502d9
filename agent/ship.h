/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data connections of a session: frames and comparisons go out over whichever is free; a frame is kept until its ACK and sent
 * again over another connection if its own dies. Within the server's credit, throttled by a token bucket.
 *
 * A link that cannot be made again for a while, or a refusal that concerns all, ends the session.
 */
#ifndef AGENT_SHIP_H
#define AGENT_SHIP_H

#include "agent/session.h"
#include "agent/stream.h"
#include "common/rate.h"

struct ship;

struct ship_opts {
	struct session_opts to;
	uint8_t machine[TM_UUID];
	unsigned connections; /* wanted; the server's data_max bounds it */
	struct tm_rate *rate; /* shared with later ships */
};

/* A comparison under way. `done` is called once by a ship thread; bitmap NULL: failed. Must not block. */
struct compare_req {
	struct compare_req *next;
	struct tm_msg_compare m;
	const struct tm_hash128 *hashes;
	uint32_t n;
	void (*done)(struct compare_req *rq, const uint8_t *bitmap);
	bool urgent;
};

int ship_start(const struct ship_opts *opts, struct session *session, struct ship **ship,
	struct tm_err *err);
/* Any thread but the ship's own, any number of times; each call returns when it is done. Everything still queued or unacknowledged is lost (stream_lost). After it, pushes are lost at once. */
void ship_stop(struct ship *ship);
void ship_free(struct ship *ship); /* after ship_stop, when nobody pushes any more; NULL is fine */

void ship_push(void *ship, struct frame *f); /* a stream_push_fn */
void ship_compare(struct ship *ship, struct compare_req *rq);

/* Bytes on the wire of all data connections so far, and connections that stand now. */
void ship_stats(struct ship *ship, struct tm_conn_stats *stats, unsigned *links);

#endif
