/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's memory and threads: a fixed number of read buffers (jobs) and of frames, one reader, a worker per core.
 *
 * A job is taken by whoever wants something read, goes to the reader, then to a worker, which calls its `work`; who gets it last
 * gives it back. Nothing else of a size that depends on the disks is allocated, so the agent's memory is what its configuration says.
 */
#ifndef AGENT_PIPELINE_H
#define AGENT_PIPELINE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/reader.h"
#include "common/cell.h"
#include "common/wire.h"

#define JOB_BYTES   (512u * 1024)
#define JOB_BLOCKS  (JOB_BYTES / TM_BLOCK)
#define JOB_EXTENTS 32u
#define REGION_JOBS (TM_REGION_CHUNKS * TM_CHUNK / JOB_BYTES)

struct pipeline;
struct stream;

struct job_extent {
	uint16_t at, count; /* blocks, from the job's first */
};

struct job {
	struct read_req req; /* first: the reader hands it back */
	struct job *next;
	struct pipeline *pipeline;
	uint64_t block;  /* first block read */
	uint32_t blocks; /* number of them; the part past the disk's end reads as zeros */
	uint64_t bad[JOB_BLOCKS / 64]; /* blocks that cannot be read; they are zero in the buffer */
	unsigned nbad;
	bool ready; /* what was read is in the buffer, narrowed and filled up */
	int error;  /* not 0: the disk is gone or the job is useless; negative errno */
	void (*work)(struct job *job);
	void *ctx;
	struct stream *stream;
	unsigned part; /* for the owner */
	/* What of it is wanted; ascending. */
	unsigned nextents;
	struct job_extent extent[JOB_EXTENTS];
};

/* A DATA frame being filled, sent, or waiting for its ACK. */
struct frame {
	struct frame *next;
	struct pipeline *pipeline;
	struct stream *stream;
	struct tm_msg_data head;
	size_t len;     /* bytes in cells */
	size_t last;    /* offset of the last cell */
	uint8_t *cells; /* TM_DATA_MAX bytes */
};

struct pipeline_opts {
	uint64_t memory; /* budget of the whole agent, bytes */
	enum reader_engine engine;
	unsigned depth;   /* reads under way */
	unsigned workers; /* 0 = one per core */
};

#define PIPELINE_MEMORY_MIN (32ull << 20)

int pipeline_start(const struct pipeline_opts *opts, struct pipeline **pl, struct tm_err *err);
void pipeline_stop(struct pipeline *pl); /* all jobs and frames must be back; NULL is fine */
const char *pipeline_engine(const struct pipeline *pl);
unsigned pipeline_workers(const struct pipeline *pl);

/* Takes n jobs at once (n <= REGION_JOBS), linked by next; waits until they are free. */
struct job *job_get(struct pipeline *pl, unsigned n);
void job_put(struct job *job);

/* Prepares: blocks [block, block + blocks) of the disk behind fd, which ends at `size` bytes. One extent covers all. */
void job_prepare(struct job *job, int fd, uint64_t block, uint32_t blocks, uint64_t size);
void job_submit(struct job *list); /* all jobs linked by next */
/* To the workers at once, without reading: its work is called (again). */
void job_requeue(struct job *job);

/* Waits until there is one. */
struct frame *frame_get(struct pipeline *pl);
void frame_put(struct frame *f);
/* True if fewer are free than there are workers: one that is kept half full may keep everybody from going on. */
bool frames_scarce(struct pipeline *pl);
unsigned frame_total(const struct pipeline *pl);

/* Bytes read from disks so far. */
uint64_t pipeline_read_bytes(const struct pipeline *pl);

#endif
