// SPDX-License-Identifier: Apache-2.0
#include "agent/stream.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/clock.h"

/* Zero ranges kept back for merging; beyond that they are written to a frame. */
#define ZERO_EXTENTS 1024

void stream_init(struct stream *s, struct pipeline *pl, stream_push_fn push, void *push_ctx)
{
	memset(s, 0, sizeof(*s));
	s->pipeline = pl;
	s->push = push;
	s->push_ctx = push_ctx;
	s->max_jobs = 24;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	tm_extents_init(&s->zero);
}

void stream_exit(struct stream *s)
{
	struct frame *f;

	while ((f = s->open)) {
		s->open = f->next;
		frame_put(f);
	}
	tm_extents_clear(&s->zero);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
}

static void fail_locked(struct stream *s, int error, const char *why)
{
	if (!s->error) {
		s->error = error;
		snprintf(s->why, sizeof(s->why), "%s", why);
	}
	pthread_cond_broadcast(&s->changed);
}

void stream_fail(struct stream *s, int error, const char *why)
{
	LOCK_SCOPE(&s->lock);
	fail_locked(s, error, why);
}

static int error_locked(struct stream *s, struct tm_err *err)
{
	return s->error ? tm_fail(err, -s->error, "%s", s->why) : 0;
}

int stream_error(struct stream *s, struct tm_err *err)
{
	LOCK_SCOPE(&s->lock);
	return error_locked(s, err);
}

void stream_acked(struct frame *f)
{
	struct stream *s = f->stream;

	if (s->gone)
		s->gone(s->push_ctx);
	LOCK_SCOPE(&s->lock);
	s->unacked--;
	s->sent_bytes += f->len;
	pthread_cond_broadcast(&s->changed);
	frame_put(f);
}

void stream_lost(struct frame *f, int error, const char *why)
{
	struct stream *s = f->stream;

	if (s->gone)
		s->gone(s->push_ctx);
	LOCK_SCOPE(&s->lock);
	s->unacked--;
	fail_locked(s, error, why);
	frame_put(f);
}

/* An open frame, or a new one. The caller holds it alone. */
static struct frame *claim(struct stream *s)
{
	struct frame *f;

	pthread_mutex_lock(&s->lock);
	f = s->open;
	if (f)
		s->open = f->next;
	pthread_mutex_unlock(&s->lock);
	if (!f) {
		f = frame_get(s->pipeline);
		f->stream = s;
	}
	return f;
}

/* Numbers the frame and hands it on. */
static void send_frame(struct stream *s, struct frame *f)
{
	uint64_t digest;

	pthread_mutex_lock(&s->lock);
	f->head.attempt = s->attempt;
	f->head.handle = s->handle;
	f->head.part = s->part;
	f->head.frame = s->frames++;
	s->unacked++;
	pthread_mutex_unlock(&s->lock);
	digest = XXH3_64bits_withSeed(f->cells, f->len, f->head.frame);
	pthread_mutex_lock(&s->lock);
	s->digest += digest;
	pthread_mutex_unlock(&s->lock);
	s->push(s->push_ctx, f);
}

/*
 * Keeps the frame open for more, unless frames are scarce: many streams that each keep some half full while all workers wait for one
 * more would wait for ever. As many as there are workers are thus always on their way, or free.
 */
static void release(struct stream *s, struct frame *f)
{
	if (f->head.ncells && frames_scarce(s->pipeline)) {
		send_frame(s, f);
		return;
	}
	LOCK_SCOPE(&s->lock);

	f->next = s->open;
	s->open = f;
}

/* f, if a cell has room in it; else f is sent and another one taken, which may have been left full, too. */
static struct frame *with_room(struct stream *s, struct frame *f)
{
	while (f->len + TM_CELL_ROOM > TM_DATA_MAX) {
		send_frame(s, f);
		f = claim(s);
	}
	return f;
}

/* A zero cell grows the one before it if it goes on from there. */
static bool extend_zero(struct frame *f, uint64_t block, uint32_t count)
{
	struct tm_cell *c = (struct tm_cell *)(f->cells + f->last);

	if (!f->head.ncells || c->codec != TM_CODEC_ZERO || c->block + c->count != block ||
		c->count > UINT32_MAX - count)
		return false;
	c->count += count;
	return true;
}

static void put_empty(struct frame *f, uint64_t block, uint32_t count, enum tm_codec codec)
{
	if (codec == TM_CODEC_ZERO && extend_zero(f, block, count))
		return;
	f->last = f->len;
	f->len += tm_cell_encode_empty(block, count, codec, f->cells + f->len);
	f->head.ncells++;
}

static void put_cell(struct frame *f, uint64_t block, uint32_t count, const uint8_t *plain)
{
	uint8_t *out = f->cells + f->len;
	size_t n = tm_cell_encode(block, count, plain, out);

	if (((struct tm_cell *)out)->codec == TM_CODEC_ZERO && extend_zero(f, block, count))
		return;
	f->last = f->len;
	f->len += n;
	f->head.ncells++;
}

static bool is_bad(const uint64_t *bad, unsigned bit)
{
	return bad && (bad[bit / 64] >> (bit % 64) & 1);
}

/* Blocks from `block` on that go into one cell: a whole chunk if it is all there and readable, else one. */
static uint32_t cell_blocks(uint64_t block, uint32_t left, const uint64_t *bad, unsigned bit)
{
	if (block % TM_CHUNK_BLOCKS || left < TM_CHUNK_BLOCKS)
		return 1;
	for (unsigned i = 0; i < TM_CHUNK_BLOCKS; i++)
		if (is_bad(bad, bit + i))
			return 1;
	return TM_CHUNK_BLOCKS;
}

static bool keep_zero(struct stream *s, uint64_t block, uint32_t count)
{
	LOCK_SCOPE(&s->lock);
	return s->zero.n < ZERO_EXTENTS && tm_extents_add(&s->zero, block, count) == 0;
}

void stream_encode(struct stream *s, uint64_t block, uint32_t count, const uint8_t *plain,
	const uint64_t *bad, unsigned bit)
{
	struct frame *f;
	uint32_t n, nbad = 0;

	if (!bad && count >= TM_CHUNK_BLOCKS * 4 && tm_all_zero(plain, (size_t)count * TM_BLOCK) &&
		keep_zero(s, block, count))
		return;
	f = claim(s);
	for (uint32_t i = 0; i < count; i += n) {
		f = with_room(s, f);
		n = cell_blocks(block + i, count - i, bad, bit + i);
		if (n == 1 && is_bad(bad, bit + i)) {
			put_empty(f, block + i, 1, TM_CODEC_BAD);
			nbad++;
		} else {
			put_cell(f, block + i, n, plain + (size_t)i * TM_BLOCK);
		}
	}
	release(s, f);
	if (nbad) {
		pthread_mutex_lock(&s->lock);
		s->bad_blocks += nbad;
		pthread_mutex_unlock(&s->lock);
	}
}

static void encode_job(struct job *job)
{
	struct stream *s = job->stream;
	uint64_t blocks = 0;
	int ret = job->error;

	if (!ret && s->drain)
		ret = s->drain(s->drain_ctx, job);
	for (unsigned i = 0; !ret && i < job->nextents; i++) {
		struct job_extent e = job->extent[i];

		stream_encode(s, job->block + e.at, e.count,
			(uint8_t *)job->req.to + (size_t)e.at * TM_BLOCK,
			job->nbad ? job->bad : NULL, e.at);
		blocks += e.count;
	}
	job_put(job);
	LOCK_SCOPE(&s->lock);
	if (ret)
		fail_locked(s, ret,
			ret == -ESTALE ? "the epoch was broken"
				       : "the disk cannot be read any more");
	s->done_blocks += blocks;
	s->jobs--;
	pthread_cond_broadcast(&s->changed);
}

void stream_submit(struct stream *s, struct job *job)
{
	job->stream = s;
	job->work = encode_job;
	job->next = NULL;
	pthread_mutex_lock(&s->lock);
	s->jobs++;
	pthread_mutex_unlock(&s->lock);
	job_submit(job);
}

int stream_wait_turn(struct stream *s, struct tm_err *err)
{
	LOCK_SCOPE(&s->lock);

	while (s->jobs >= s->max_jobs && !s->error)
		pthread_cond_wait(&s->changed, &s->lock);
	return error_locked(s, err);
}

#define READ_BATCH 8

int stream_read(struct stream *s, int fd, uint64_t block, uint64_t count, struct tm_err *err)
{
	struct job *list, *job;
	unsigned want;

	while (count) {
		if (stream_wait_turn(s, err))
			return -err->code;
		want = (unsigned)((count + JOB_BLOCKS - 1) / JOB_BLOCKS);
		list = job_get(s->pipeline, want < READ_BATCH ? want : READ_BATCH);
		pthread_mutex_lock(&s->lock);
		for (job = list; job; job = job->next)
			s->jobs++;
		pthread_mutex_unlock(&s->lock);
		for (job = list; job; job = job->next) {
			uint32_t n = count < JOB_BLOCKS ? (uint32_t)count : JOB_BLOCKS;

			job_prepare(job, fd, block, n, s->disk_size);
			job->stream = s;
			job->work = encode_job;
			block += n;
			count -= n;
		}
		job_submit(list);
	}
	return 0;
}

static void write_zeros(struct stream *s)
{
	struct frame *f = claim(s);
	struct tm_extent e;
	uint64_t at;

	for (at = 0; tm_extents_next(&s->zero, at, &e); at = e.start + e.count) {
		while (e.count) {
			uint32_t n = e.count > UINT32_MAX - TM_CHUNK_BLOCKS + 1
					     ? UINT32_MAX - TM_CHUNK_BLOCKS + 1
					     : (uint32_t)e.count;

			f = with_room(s, f);
			put_empty(f, e.start, n, TM_CODEC_ZERO);
			e.start += n;
			e.count -= n;
		}
	}
	tm_extents_clear(&s->zero);
	release(s, f);
}

void stream_finish(struct stream *s)
{
	struct tm_err ignored;
	struct frame *f;
	bool failed;

	pthread_mutex_lock(&s->lock);
	while (s->jobs)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	failed = stream_error(s, &ignored) != 0; /* then nothing more is sent */
	if (s->zero.n && !failed)
		write_zeros(s);
	while ((f = s->open)) {
		s->open = f->next;
		if (f->head.ncells && !failed)
			send_frame(s, f);
		else
			frame_put(f);
	}
}

bool stream_wait_acks(struct stream *s, uint64_t until)
{
	struct timespec ts = tm_timespec(until);
	LOCK_SCOPE(&s->lock);

	while (s->unacked &&
		pthread_cond_clockwait(&s->changed, &s->lock, CLOCK_MONOTONIC, &ts) != ETIMEDOUT)
		;
	return !s->unacked;
}

int stream_flush(struct stream *s, struct tm_err *err)
{
	stream_finish(s);
	LOCK_SCOPE(&s->lock);
	while (s->unacked)
		pthread_cond_wait(&s->changed, &s->lock);
	return error_locked(s, err);
}

void stream_next_part(struct stream *s)
{
	LOCK_SCOPE(&s->lock);

	s->part++;
	s->frames = 0;
	s->digest = 0;
}
