/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of block devices, many at a time: by io_uring into registered buffers, by libaio where io_uring is absent or forbidden.
 *
 * Any thread submits, one thread reaps. At most `depth` reads are under way; a submitter waits for its turn. All requests must
 * have been reaped before the reader is closed.
 */
#ifndef AGENT_READER_H
#define AGENT_READER_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum reader_engine { READER_AUTO, READER_URING, READER_AIO };

/* "auto", "io_uring", "libaio"; -EINVAL for anything else. */
int reader_engine_parse(const char *text, enum reader_engine *engine);

struct read_req {
	int fd;          /* opened with O_DIRECT */
	unsigned buffer; /* index among the registered buffers */
	void *to;        /* its memory */
	uint64_t offset;
	uint32_t len;
	int res; /* out: bytes read (fewer at the end of the disk), or negative errno */
};

struct reader;

/* Buffers: n pieces of `size` bytes, back to back, aligned to 4096; they outlive the reader. */
struct reader_buffers {
	void *base;
	size_t size;
	unsigned n;
};

int reader_open(enum reader_engine engine, unsigned depth, const struct reader_buffers *buffers,
	struct reader **reader, struct tm_err *err);
void reader_close(struct reader *r); /* NULL is fine */
const char *reader_name(const struct reader *r);

/* Takes over n requests (order is kept within the call); a failure shows in each request's res when it is reaped. */
void reader_submit(struct reader *r, struct read_req **reqs, unsigned n);

/* Waits up to timeout_ms for at least one; returns how many are in out (0 = none). */
unsigned reader_reap(struct reader *r, struct read_req **out, unsigned max, unsigned timeout_ms);

/*
 * What an engine does; internal to reader*.c. Called under the reader's lock, except wait, which one thread calls. submit: takes up
 * to n, returns how many (at least 1) or a negative errno. wait: until something is complete or the time is over. collect: what is.
 */
struct reader_ops {
	const char *name;
	int (*open)(
		unsigned depth, const struct reader_buffers *b, void **engine, struct tm_err *err);
	void (*close)(void *engine);
	int (*submit)(void *engine, struct read_req **reqs, unsigned n);
	void (*wait)(void *engine, unsigned timeout_ms);
	unsigned (*collect)(void *engine, struct read_req **out, unsigned max);
};
extern const struct reader_ops reader_uring, reader_aio;

#endif
