// SPDX-License-Identifier: Apache-2.0
/*
 * bench DISK r|w BLOCKS DEPTH COUNT SPAN: COUNT requests of BLOCKS blocks each to the first SPAN blocks (a power of two) of a disk,
 * DEPTH at a time, each place once before any comes again: at random places if BLOCKS is 1, else in order. An eighth as many
 * go before, to the SPAN blocks behind these, and are not measured: emulated code runs slowly the first time. Prints requests
 * per second, and the 50th, 99th and 99.9th percentile of a request's time in us, which includes that of submitting it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/crash/aio.h"
#include "tests/crash/tmk.h"

#define DEPTH_MAX 64

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

struct job {
	int fd;
	size_t bytes;
	uint64_t begin, places, count; /* begin: bytes */
	char *buf;
	uint64_t *took;
};

static uint64_t place(const struct job *j, uint64_t i)
{
	/* Odd times anything is a permutation modulo a power of two. */
	return j->begin +
	       (j->bytes == TMK_BLOCK ? i * 2654435761U % j->places : i % j->places) * j->bytes;
}

static void one_by_one(struct job *j, bool rd)
{
	for (uint64_t i = 0; i < j->count; i++) {
		uint64_t t = now_ns();
		ssize_t n = rd ? pread(j->fd, j->buf, j->bytes, (off_t)place(j, i))
			       : pwrite(j->fd, j->buf, j->bytes, (off_t)place(j, i));

		if (n != (ssize_t)j->bytes)
			fail("request: %s", strerror(errno));
		j->took[i] = now_ns() - t;
	}
}

static void many(struct job *j, unsigned int depth)
{
	struct aio *a = aio_new(depth, false);
	uint64_t since[DEPTH_MAX], next = 0, over = 0;
	unsigned int tag;
	int res;

	if (!a)
		fail("no queue: %s", strerror(errno));
	for (; next < depth && next < j->count; next++) {
		since[next] = now_ns();
		if (aio_write(
			    a, j->fd, j->buf, j->bytes, place(j, next), false, (unsigned int)next))
			fail("submit");
	}
	while (over < j->count) {
		int r = aio_reap(a, &tag, &res);

		if (r < 0 || (r && res != (int)j->bytes))
			fail("write: %d %d", r, res);
		if (!r)
			continue;
		j->took[over++] = now_ns() - since[tag];
		if (next < j->count) {
			since[tag] = now_ns();
			if (aio_write(a, j->fd, j->buf, j->bytes, place(j, next++), false, tag))
				fail("submit");
		}
	}
	aio_free(a);
}

/* Returns how long it took, ns. */
static uint64_t run(struct job *j, bool rd, unsigned int depth)
{
	uint64_t t = now_ns();

	if (depth == 1)
		one_by_one(j, rd);
	else
		many(j, depth);
	return now_ns() - t;
}

int main(int argc, char **argv)
{
	struct job j, warm;
	unsigned long depth;
	uint64_t t;
	bool rd;

	if (argc != 7)
		return 2;
	rd = argv[2][0] == 'r';
	j.bytes = strtoul(argv[3], NULL, 0) * TMK_BLOCK;
	depth = strtoul(argv[4], NULL, 0);
	j.count = strtoul(argv[5], NULL, 0);
	j.begin = 0;
	j.places = strtoul(argv[6], NULL, 0) * TMK_BLOCK / j.bytes;
	j.fd = open(argv[1], O_RDWR | O_DIRECT);
	j.took = calloc(j.count, sizeof(*j.took));
	if (j.fd < 0 || !j.took || !depth || depth > DEPTH_MAX || !j.places || (rd && depth > 1))
		fail("%s: %s", argv[1], strerror(errno));
	j.buf = alloc_pages(j.bytes);
	memset(j.buf, 0x5a, j.bytes);
	warm = j;
	warm.begin = j.places * j.bytes;
	warm.count = (j.count + 7) / 8;
	run(&warm, rd, (unsigned int)depth);
	t = run(&j, rd, (unsigned int)depth);
	qsort(j.took, j.count, sizeof(*j.took), order);
	printf("%.0f %.1f %.1f %.1f\n", (double)j.count * 1e9 / (double)t,
		(double)j.took[j.count / 2] / 1e3, (double)j.took[j.count * 99 / 100] / 1e3,
		(double)j.took[j.count * 999 / 1000] / 1e3);
	return 0;
}
