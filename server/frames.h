/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames of one (attempt, part, disk) have been received, and their digest. Pure bookkeeping: no lock, no I/O.
 *
 * Frames arrive over several connections, so slightly out of order: the set is a few extents. A peer that leaves gaps everywhere
 * is refused before the set grows past FRAMES_GAPS.
 */
#ifndef SERVER_FRAMES_H
#define SERVER_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/extent.h"

#define FRAMES_GAPS 1024u

struct frames {
	struct tm_extents set;
	uint64_t digest; /* sum of the received frames' digests */
};

void frames_clear(struct frames *f); /* forgets all; usable again */
bool frames_has(const struct frames *f, uint32_t frame);
/* 1 = added, 0 = was there already (digest unchanged); -EBADMSG too many gaps; -ENOMEM. */
int frames_add(struct frames *f, uint32_t frame, uint64_t digest, struct tm_err *err);
/* Takes back what frames_add() added, for a frame whose cells could not be stored. -ENOMEM. */
int frames_remove(struct frames *f, uint32_t frame, uint64_t digest, struct tm_err *err);
/* True if exactly the frames [0, count) are here. */
bool frames_whole(const struct frames *f, uint32_t count);
/* The digest of one frame: of the bytes after tm_msg_data. */
uint64_t frames_digest(uint32_t frame, const void *cells, size_t len);

#endif
