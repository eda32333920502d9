/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that write what oracle.h says, by O_DIRECT, many writes at a time: through io_uring, or through the kernel's AIO
 * where there is no io_uring.
 */
#ifndef TESTS_CRASH_WRITERS_H
#define TESTS_CRASH_WRITERS_H

#include <pthread.h>
#include <stdatomic.h>

#include "tests/crash/oracle.h"
#include "tests/crash/tmk.h"

enum engine { ENGINE_AUTO, ENGINE_URING, ENGINE_AIO };

struct writers;
struct writer {
	struct writers *all;
	uint32_t index;
	pthread_t thread;
	uint64_t longest_us; /* of one write, from its submission to its completion */
	char error[160];     /* "" = none */
};

struct writers {
	struct layout l;
	int fd[DISKS_MAX]; /* O_WRONLY | O_DIRECT: where each disk is written to */
	uint32_t depth;    /* at most WINDOW */
	enum engine engine;
	bool error_ok; /* failed writes are counted, not fatal: what they did is unknown, so the oracle is off */
	uint32_t nap_us; /* between writes; 0 = none */
	_Atomic done_t done[WRITERS_MAX];
	_Atomic uint32_t submitted[WRITERS_MAX];
	_Atomic uint64_t errors;
	atomic_bool stop;
	struct writer w[WRITERS_MAX];
};

/* Starts all; after writers_stop() they go on where they were. 0 or -errno. */
int writers_start(struct writers *ws);
/* Waits until all their writes are complete. Returns the first error told, or NULL. */
const char *writers_stop(struct writers *ws);
/* An error of a writer that still runs or not, or NULL. */
const char *writers_error(const struct writers *ws);
/* Writes submitted by all so far. */
uint64_t writers_count(struct writers *ws);
uint64_t writers_longest(const struct writers *ws);
/* True if io_uring works here. */
bool uring_works(void);

#endif
