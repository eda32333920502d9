// SPDX-License-Identifier: Apache-2.0
#include "agent/spool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/log.h"

#define ALIGN 4096u /* of what is written past the page cache */

/* A frame that lies in the file; its place is its index times TM_DATA_MAX. */
struct slot {
	struct slot *next;
	struct stream *stream; /* waits for the frame, so it lives */
	struct tm_msg_data head;
	size_t len;
	XXH128_hash_t sum;
};

struct spool {
	struct pipeline *pipeline;
	int fd;
	struct slot *slots;
	size_t nslots;
	stream_push_fn push;
	void *push_ctx;
	unsigned max_under_way;
	pthread_t thread;
	bool running;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct slot *free; /* lock, as all below */
	struct slot *head, **tail;
	size_t used, peak;
	uint64_t written;
	unsigned under_way; /* frames handed on and not gone */
	bool given_up, stop;
	char error[sizeof(((struct spool_stats *)0)->error)];
};

static off_t place(const struct spool *sp, const struct slot *s)
{
	return (off_t)(s - sp->slots) * TM_DATA_MAX;
}

static size_t padded(size_t len)
{
	return (len + ALIGN - 1) / ALIGN * ALIGN;
}

static void put_slot(struct spool *sp, struct slot *s)
{
	LOCK_SCOPE(&sp->lock);

	s->next = sp->free;
	sp->free = s;
	sp->used--;
}

void spool_give_up(struct spool *sp, const char *why)
{
	LOCK_SCOPE(&sp->lock);

	if (!sp->given_up)
		snprintf(sp->error, sizeof(sp->error), "%s", why);
	sp->given_up = true;
}

static void fail(struct spool *sp, const char *what, int error)
{
	char why[120];

	snprintf(why, sizeof(why), "the spool is out of use: %s: %s", what, strerror(-error));
	tm_log(TM_LOG_ERR, "%s", why);
	spool_give_up(sp, why);
}

void spool_gone(void *ctx)
{
	struct spool *sp = ctx;
	LOCK_SCOPE(&sp->lock);

	sp->under_way--;
	pthread_cond_signal(&sp->changed);
}

/* A place in the file for one more frame; NULL: it goes on at once, and is counted. */
static struct slot *want_slot(struct spool *sp)
{
	LOCK_SCOPE(&sp->lock);
	struct slot *s = sp->free;

	if (sp->under_way < sp->max_under_way || sp->given_up || !s) {
		sp->under_way++;
		return NULL;
	}
	sp->free = s->next;
	if (++sp->used > sp->peak)
		sp->peak = sp->used;
	return s;
}

static int store(struct spool *sp, struct slot *s, struct frame *f)
{
	size_t len = padded(f->len);

	s->stream = f->stream;
	s->head = f->head;
	s->len = f->len;
	s->sum = XXH3_128bits(f->cells, f->len);
	memset(f->cells + f->len, 0, len - f->len);
	return tm_pwrite_full(sp->fd, f->cells, len, (uint64_t)place(sp, s));
}

void spool_push(void *ctx, struct frame *f)
{
	struct spool *sp = ctx;
	struct slot *s = want_slot(sp);
	int ret;

	if (s) {
		ret = store(sp, s, f);
		if (!ret) {
			frame_put(f);
			LOCK_SCOPE(&sp->lock);
			s->next = NULL;
			*sp->tail = s;
			sp->tail = &s->next;
			sp->written++;
			pthread_cond_signal(&sp->changed);
			return;
		}
		fail(sp, "it cannot be written", ret);
		put_slot(sp, s);
		LOCK_SCOPE(&sp->lock);
		sp->under_way++;
	}
	sp->push(sp->push_ctx, f);
}

/* The oldest frame's slot, when it may go on; it is counted as under way. NULL: the end. */
static struct slot *next(struct spool *sp)
{
	LOCK_SCOPE(&sp->lock);
	struct slot *s;

	while (!sp->stop && (!sp->head || sp->under_way >= sp->max_under_way))
		pthread_cond_wait(&sp->changed, &sp->lock);
	s = sp->head;
	if (!s || sp->stop)
		return NULL;
	sp->head = s->next;
	if (!sp->head)
		sp->tail = &sp->head;
	sp->under_way++;
	return s;
}

static int load(struct spool *sp, const struct slot *s, struct frame *f)
{
	XXH128_hash_t sum;
	int ret = tm_pread_full(sp->fd, f->cells, padded(s->len), (uint64_t)place(sp, s));

	if (ret)
		return ret;
	sum = XXH3_128bits(f->cells, s->len);
	return XXH128_isEqual(sum, s->sum) ? 0 : -EBADMSG;
}

/* Takes the frame back from the file and hands it on. Of a stream that has failed there is nothing left to send. */
static void hand_on(struct spool *sp, struct slot *s)
{
	struct frame *f = frame_get(sp->pipeline);
	struct tm_err err;
	int ret = stream_error(s->stream, &err);

	f->stream = s->stream;
	f->head = s->head;
	f->len = s->len;
	if (ret) {
		put_slot(sp, s);
		stream_lost(f, ret, err.msg);
		return;
	}
	ret = load(sp, s, f);
	put_slot(sp, s);
	if (!ret) {
		sp->push(sp->push_ctx, f);
		return;
	}
	fail(sp, "it gave back something else than was put into it", ret);
	stream_lost(f, -EIO, "the spool cannot be read");
}

static void *run(void *arg)
{
	struct spool *sp = arg;
	struct slot *s;

	while ((s = next(sp)))
		hand_on(sp, s);
	return NULL;
}

int spool_open(struct pipeline *pl, int fd, uint64_t size, struct spool **out, struct tm_err *err)
{
	struct spool *sp = calloc(1, sizeof(*sp));
	size_t n = size / TM_DATA_MAX;

	if (!sp || !(sp->slots = calloc(n ? n : 1, sizeof(*sp->slots)))) {
		free(sp);
		close(fd);
		return tm_fail(err, ENOMEM, "no memory for the spool");
	}
	sp->pipeline = pl;
	sp->fd = fd;
	sp->nslots = n;
	sp->tail = &sp->head;
	sp->max_under_way = frame_total(pl) / 2;
	for (; n; n--) {
		sp->slots[n - 1].next = sp->free;
		sp->free = &sp->slots[n - 1];
	}
	pthread_mutex_init(&sp->lock, NULL);
	pthread_cond_init(&sp->changed, NULL);
	sp->running = pthread_create(&sp->thread, NULL, run, sp) == 0;
	if (!sp->running) {
		spool_close(sp);
		return tm_fail(err, EAGAIN, "no thread for the spool");
	}
	*out = sp;
	return 0;
}

void spool_close(struct spool *sp)
{
	if (!sp)
		return;
	pthread_mutex_lock(&sp->lock);
	sp->stop = true;
	pthread_cond_signal(&sp->changed);
	pthread_mutex_unlock(&sp->lock);
	if (sp->running)
		pthread_join(sp->thread, NULL);
	close(sp->fd);
	pthread_cond_destroy(&sp->changed);
	pthread_mutex_destroy(&sp->lock);
	free(sp->slots);
	free(sp);
}

void spool_begin(struct spool *sp, stream_push_fn push, void *ctx)
{
	LOCK_SCOPE(&sp->lock);

	sp->push = push;
	sp->push_ctx = ctx;
}

void spool_stats(struct spool *sp, struct spool_stats *st)
{
	LOCK_SCOPE(&sp->lock);

	st->size = sp->given_up ? 0 : (uint64_t)sp->nslots * TM_DATA_MAX;
	st->used = (uint64_t)sp->used * TM_DATA_MAX;
	st->peak = (uint64_t)sp->peak * TM_DATA_MAX;
	st->written = sp->written;
	memcpy(st->error, sp->error, sizeof(st->error));
}

int spool_fd(const struct spool *sp)
{
	return sp->fd;
}
