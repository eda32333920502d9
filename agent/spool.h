/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool: where the frames of an epoch wait for a slow link, so that the epoch is drained at the disk's pace and no
 * before-images are kept for it any longer.
 *
 * Frames go on at once while few are under way; more are written to a file and read back in turn, each checked by its sum. It holds
 * frames of one epoch at a time and nothing that survives the agent: an epoch whose frames are lost is aborted, its blocks are dirty again.
 * When it is full, frames stay in memory, and whoever makes more of them waits.
 */
#ifndef AGENT_SPOOL_H
#define AGENT_SPOOL_H

#include "agent/stream.h"

struct spool;

struct spool_stats {
	uint64_t size, used, peak; /* bytes; size 0: out of use */
	uint64_t written;          /* frames, in all */
	char error[TM_TEXT_MAX + 1];
};

#define SPOOL_SIZE_MAX (256ull << 30)

/*
 * Takes fd over, a file of `size` bytes with space of its own that is written past the page cache, and a thread. Frames come from pl;
 * half of them at most are under way.
 */
int spool_open(
	struct pipeline *pl, int fd, uint64_t size, struct spool **spool, struct tm_err *err);
/* All frames must have come back. NULL is fine. */
void spool_close(struct spool *spool);

/* Where frames go to from here on. Only while it holds none. */
void spool_begin(struct spool *spool, stream_push_fn push, void *ctx);

/* A stream_push_fn; the stream's `gone` must be spool_gone. */
void spool_push(void *spool, struct frame *f);
void spool_gone(void *spool);

/* Nothing is put into it any more, and why. */
void spool_give_up(struct spool *spool, const char *why);
void spool_stats(struct spool *spool, struct spool_stats *stats);
int spool_fd(const struct spool *spool);

#endif
