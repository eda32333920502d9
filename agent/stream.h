/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream: what one attempt sends of one disk, as cells in numbered frames, part after part.
 *
 * One thread drives it: reads, then flush, then the commit message with `frames` and `digest`, then the next part. Workers fill its
 * frames side by side; each holds one while it works on it.
 */
#ifndef AGENT_STREAM_H
#define AGENT_STREAM_H

#include <pthread.h>

#include "agent/pipeline.h"
#include "common/extent.h"

/* Where full frames go: takes the frame over and calls stream_acked() or stream_lost() for it, once. */
typedef void (*stream_push_fn)(void *ctx, struct frame *f);

struct stream {
	struct pipeline *pipeline;
	stream_push_fn push;
	void *push_ctx;
	void (*gone)(
		void *push_ctx); /* a frame that was pushed is acknowledged or lost; may be NULL */
	bool urgent;             /* goes before others */
	uint64_t attempt;
	uint32_t handle;
	uint64_t disk_size;
	unsigned max_jobs; /* that it may have under way */

	/* Patches and releases what was read (kernel tracker), called by a worker; NULL: nothing to do. */
	int (*drain)(void *ctx, struct job *job);
	void *drain_ctx;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t part;   /* lock, as all below */
	uint32_t frames; /* numbered so far in this part */
	uint64_t digest; /* sum of their digests */
	unsigned jobs;   /* under way */
	unsigned unacked;
	struct frame *open;     /* not full, held by no worker */
	struct tm_extents zero; /* long zero ranges, kept together until the flush */
	int error;              /* negative errno of the first failure; text in why */
	char why[160];
	uint64_t done_blocks; /* encoded or compared */
	uint64_t sent_bytes;  /* cells, acknowledged */
	uint64_t data_blocks; /* that had to travel as data */
	uint64_t bad_blocks;
};

void stream_init(struct stream *s, struct pipeline *pl, stream_push_fn push, void *push_ctx);
void stream_exit(struct stream *s); /* drops open frames; no job may be under way */

/* Reads blocks and encodes them; returns when the reads are submitted. Fails if the stream has failed. */
int stream_read(struct stream *s, int fd, uint64_t block, uint64_t count, struct tm_err *err);

/* The same for one prepared job with its extents; the stream takes it over. */
void stream_submit(struct stream *s, struct job *job);

/* Waits until fewer than max_jobs are under way; the stream's failure, if there is one. */
int stream_wait_turn(struct stream *s, struct tm_err *err);

/* Encodes blocks that are in memory: [block, block + count) at plain; bad: bit map from bit `bit` on, or NULL. Any thread. */
void stream_encode(struct stream *s, uint64_t block, uint32_t count, const uint8_t *plain,
	const uint64_t *bad, unsigned bit);

/* Waits for all reads and sends what is open: nothing is left to do but to wait for the ACKs. */
void stream_finish(struct stream *s);
/* Waits for the ACKs of a finished stream until then (monotonic ns). False: not all have come. */
bool stream_wait_acks(struct stream *s, uint64_t until);
/* Both, without a limit; the stream's failure, if there is one. */
int stream_flush(struct stream *s, struct tm_err *err);

/* Begins the next part: numbers and digest from 0. Only after a flush. */
void stream_next_part(struct stream *s);

/* For the pushing side. stream_fail() keeps the first reason. */
void stream_acked(struct frame *f);
void stream_lost(struct frame *f, int error, const char *why);
void stream_fail(struct stream *s, int error, const char *why);

/* The failure as an error; 0 if there is none. */
int stream_error(struct stream *s, struct tm_err *err);

#endif
