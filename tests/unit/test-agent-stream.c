// SPDX-License-Identifier: Apache-2.0
// threaded
/* Reader, workers and stream on a file, with both engines: the frames, decoded, are the file again. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "agent/stream.h"

#define SIZE   ((5u << 20) + 512u * 3)
#define BLOCKS ((SIZE + TM_BLOCK - 1) / TM_BLOCK)

static struct {
	pthread_mutex_t lock;
	uint8_t *image;          /* what the frames say; BLOCKS blocks and a chunk more */
	uint8_t got[BLOCKS + 4]; /* times that a block came */
	uint64_t digest, frames, bad, bytes;
	int fail; /* loses this frame, if positive */
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void take_cell(const struct tm_cell *c)
{
	struct tm_err err;

	for (uint32_t i = 0; i < c->count; i++)
		sink.got[c->block + i]++;
	if (c->codec == TM_CODEC_BAD)
		sink.bad += c->count;
	else if (c->codec == TM_CODEC_ZERO)
		memset(sink.image + c->block * TM_BLOCK, 0, (size_t)c->count * TM_BLOCK);
	else
		cr_assert_eq(tm_cell_decode(c, c + 1, sink.image + c->block * TM_BLOCK, &err), 0);
}

static void push(void *ctx, struct frame *f)
{
	struct tm_err err;
	size_t at = 0, size;
	uint32_t n = 0;
	bool lose;

	cr_assert_leq(f->len, TM_DATA_MAX);
	pthread_mutex_lock(&sink.lock);
	for (; at < f->len; at += size, n++) {
		cr_assert_eq(tm_cell_check(f->cells + at, f->len - at, BLOCKS, &size, &err), 0,
			"%s", err.msg);
		take_cell((struct tm_cell *)(f->cells + at));
	}
	cr_assert_eq(n, f->head.ncells);
	sink.digest += XXH3_64bits_withSeed(f->cells, f->len, f->head.frame);
	sink.bytes += f->len;
	lose = sink.fail && ++sink.frames == (uint64_t)sink.fail;
	pthread_mutex_unlock(&sink.lock);
	if (lose)
		stream_lost(f, -ECONNRESET, "lost");
	else
		stream_acked(f);
}

static void random_bytes(uint8_t *to, size_t len)
{
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < len; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(to + i, &x, 8);
	}
}

/* Random data, a compressible stretch, and zeros. */
static int make_file(uint8_t *content)
{
	char path[] = "/var/tmp/test-agent-stream.XXXXXX";
	int fd = mkstemp(path);

	cr_assert_geq(fd, 0);
	memset(content, 0, SIZE);
	random_bytes(content, 2u << 20);
	memset(content + (3u << 20), 'c', 300000);
	content[SIZE - 1] = 1;
	cr_assert_eq(write(fd, content, SIZE), SIZE);
	close(fd);
	fd = open(path, O_RDONLY | O_DIRECT);
	if (fd < 0) /* a filesystem without it */
		fd = open(path, O_RDONLY);
	unlink(path);
	return fd;
}

static void run(enum reader_engine engine, unsigned depth)
{
	struct pipeline_opts opts = {
		.memory = PIPELINE_MEMORY_MIN, .engine = engine, .depth = depth, .workers = 2};
	uint8_t *content = malloc(SIZE);
	struct tm_err err = {0};
	struct pipeline *pl;
	struct stream s;
	int fd = make_file(content);

	sink.image = calloc(BLOCKS + 4, TM_BLOCK);
	cr_assert_eq(pipeline_start(&opts, &pl, &err), 0, "%s", err.msg);
	stream_init(&s, pl, push, NULL);
	s.disk_size = SIZE;
	cr_assert_eq(stream_read(&s, fd, 0, BLOCKS / 2, &err), 0);
	cr_assert_eq(stream_read(&s, fd, BLOCKS / 2, BLOCKS - BLOCKS / 2, &err), 0);
	cr_assert_eq(stream_flush(&s, &err), 0, "%s", err.msg);
	cr_assert_eq(memcmp(sink.image, content, SIZE), 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		cr_assert_eq(sink.got[i], 1, "block %u came %u times", i, sink.got[i]);
	cr_assert_eq(s.digest, sink.digest);
	cr_assert_eq(s.sent_bytes, sink.bytes);
	cr_assert_eq(s.done_blocks, BLOCKS);
	cr_assert_lt(sink.bytes, 2200000); /* zeros are not sent, the rest is compressed */
	stream_next_part(&s);
	cr_assert_eq(s.part, 1);
	cr_assert_eq(s.frames, 0);
	stream_exit(&s);
	pipeline_stop(pl);
	close(fd);
	free(content);
	free(sink.image);
}

Test(stream, io_uring)
{
	run(READER_URING, 16);
}

Test(stream, libaio)
{
	run(READER_AIO, 16);
}

Test(stream, one_read_at_a_time)
{
	run(READER_AIO, 1);
}

Test(stream, bad_blocks_and_a_lost_frame)
{
	struct pipeline_opts opts = {
		.memory = PIPELINE_MEMORY_MIN, .engine = READER_AIO, .depth = 4, .workers = 1};
	uint8_t *plain = malloc(64 * TM_BLOCK);
	uint64_t bad[2] = {1ull << 5 | 1ull << 9, 0};
	struct tm_err err = {0};
	struct pipeline *pl;
	struct stream s;

	sink.image = calloc(BLOCKS + 4, TM_BLOCK);
	memset(plain, 'p', 64 * TM_BLOCK);
	cr_assert_eq(pipeline_start(&opts, &pl, &err), 0, "%s", err.msg);
	stream_init(&s, pl, push, NULL);
	s.disk_size = SIZE;
	stream_encode(&s, 8, 32, plain, bad, 0);
	cr_assert_eq(stream_flush(&s, &err), 0);
	cr_assert_eq(sink.bad, 2);
	cr_assert_eq(s.bad_blocks, 2);
	cr_assert_eq(sink.image[(8 + 6) * TM_BLOCK], 'p');
	cr_assert_eq(sink.image[(8 + 5) * TM_BLOCK], 0);
	sink.fail = 1;
	stream_encode(&s, 64, 4, plain, NULL, 0);
	cr_assert_eq(stream_flush(&s, &err), -ECONNRESET);
	/* A failed stream sends no more, and fails whoever goes on. */
	stream_encode(&s, 128, 4, plain, NULL, 0);
	cr_assert_eq(stream_flush(&s, &err), -ECONNRESET);
	cr_assert_eq(sink.got[128], 0);
	cr_assert_eq(stream_read(&s, -1, 0, 1, &err), -ECONNRESET);
	stream_exit(&s);
	pipeline_stop(pl);
	free(plain);
	free(sink.image);
}

/* Cells of one raw chunk that fill a frame. */
#define FULL (TM_DATA_MAX / (sizeof(struct tm_cell) + TM_CHUNK))

static struct {
	uint8_t *plain;
	bool done;
} other;

/* While one worker hands its full frame on, another one fills a frame to the brim and leaves it. */
static void push_beside(void *ctx, struct frame *f)
{
	if (!other.done) {
		other.done = true;
		stream_encode(f->stream, 512, FULL * TM_CHUNK_BLOCKS, other.plain, NULL, 0);
	}
	push(ctx, f);
}

Test(stream, full_frame_left_by_another)
{
	struct pipeline_opts opts = {
		.memory = PIPELINE_MEMORY_MIN, .engine = READER_AIO, .depth = 4, .workers = 1};
	uint32_t count = (FULL + 1) * TM_CHUNK_BLOCKS;
	struct tm_err err = {0};
	struct pipeline *pl;
	struct stream s;

	other.plain = malloc((size_t)count * TM_BLOCK);
	random_bytes(other.plain, (size_t)count * TM_BLOCK);
	sink.image = calloc(BLOCKS + 4, TM_BLOCK);
	cr_assert_eq(pipeline_start(&opts, &pl, &err), 0, "%s", err.msg);
	stream_init(&s, pl, push_beside, NULL);
	s.disk_size = SIZE;
	stream_encode(&s, 0, count, other.plain, NULL, 0);
	cr_assert_eq(stream_flush(&s, &err), 0, "%s", err.msg);
	cr_assert(other.done);
	for (uint32_t i = 0; i < count; i++)
		cr_assert_eq(sink.got[i], 1, "block %u came %u times", i, sink.got[i]);
	cr_assert_eq(memcmp(sink.image, other.plain, (size_t)count * TM_BLOCK), 0);
	cr_assert_eq(memcmp(sink.image + 512 * TM_BLOCK, other.plain, FULL * TM_CHUNK), 0);
	stream_exit(&s);
	pipeline_stop(pl);
	free(other.plain);
	free(sink.image);
}

#define MANY 40

/* More streams than frames, each with something that does not fill one. */
Test(stream, more_streams_than_frames, .timeout = 60)
{
	struct pipeline_opts opts = {
		.memory = PIPELINE_MEMORY_MIN, .engine = READER_AIO, .depth = 4, .workers = 4};
	uint8_t *plain = malloc(TM_BLOCK);
	struct tm_err err = {0};
	struct stream s[MANY];
	struct pipeline *pl;

	sink.image = calloc(BLOCKS + 4, TM_BLOCK);
	random_bytes(plain, TM_BLOCK);
	cr_assert_eq(pipeline_start(&opts, &pl, &err), 0, "%s", err.msg);
	cr_assert_lt(frame_total(pl), MANY);
	for (unsigned i = 0; i < MANY; i++) {
		stream_init(&s[i], pl, push, NULL);
		s[i].disk_size = SIZE;
	}
	for (unsigned block = 0; block < 3 * MANY; block++)
		stream_encode(&s[block % MANY], block, 1, plain, NULL, 0);
	for (unsigned i = 0; i < MANY; i++) {
		cr_assert_eq(stream_flush(&s[i], &err), 0, "%s", err.msg);
		stream_exit(&s[i]);
	}
	for (unsigned block = 0; block < 3 * MANY; block++) {
		cr_assert_eq(sink.got[block], 1);
		cr_assert_eq(memcmp(sink.image + block * TM_BLOCK, plain, TM_BLOCK), 0);
	}
	pipeline_stop(pl);
	free(plain);
	free(sink.image);
}
