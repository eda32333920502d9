// SPDX-License-Identifier: Apache-2.0
// threaded
/* The spool: what is put into it comes out again as it was, or its stream fails; never anything else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <xxhash.h>

#include "agent/spool.h"
#include "agent/spoolfile.h"

#define CHUNKS_PER_FRAME (TM_DATA_MAX / (sizeof(struct tm_cell) + TM_CHUNK))

/* A link that takes frames only when it is told to. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t came;
	struct frame *held, **tail;
	unsigned nheld, total;
	uint64_t digest, bytes;
	bool open;
} line = {.lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER};

static struct pipeline *pl;
static struct spool *spool;
static int fd;

static void take(struct frame *f)
{
	line.digest += XXH3_64bits_withSeed(f->cells, f->len, f->head.frame);
	line.bytes += f->len;
	line.total++;
	pthread_cond_broadcast(&line.came);
	pthread_mutex_unlock(&line.lock);
	stream_acked(f);
	pthread_mutex_lock(&line.lock);
}

static void push(void *ctx, struct frame *f)
{
	pthread_mutex_lock(&line.lock);
	if (line.open) {
		take(f);
	} else {
		f->next = NULL;
		*line.tail = f;
		line.tail = &f->next;
		line.nheld++;
		pthread_cond_broadcast(&line.came);
	}
	pthread_mutex_unlock(&line.lock);
}

/* Takes what is held; with `open` all that comes later, too. */
static void let_go(bool open, int lose)
{
	struct frame *f;

	pthread_mutex_lock(&line.lock);
	line.open = open;
	while ((f = line.held)) {
		if (!(line.held = f->next))
			line.tail = &line.held;
		line.nheld--;
		if (!lose) {
			take(f);
			continue;
		}
		pthread_mutex_unlock(&line.lock);
		stream_lost(f, lose, "cut off");
		pthread_mutex_lock(&line.lock);
	}
	pthread_mutex_unlock(&line.lock);
}

static void begin(uint64_t size)
{
	struct pipeline_opts opts = {
		.memory = PIPELINE_MEMORY_MIN, .engine = READER_AIO, .depth = 4, .workers = 2};
	char path[] = "/var/tmp/test-spool.XXXXXX";
	struct tm_err err = {0};

	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	unlink(path);
	line.tail = &line.held;
	cr_assert_eq(pipeline_start(&opts, &pl, &err), 0, "%s", err.msg);
	cr_assert_eq(spool_open(pl, fd, size, &spool, &err), 0, "%s", err.msg);
	spool_begin(spool, push, NULL);
}

static void end(void)
{
	struct spool_stats st;

	spool_stats(spool, &st);
	cr_assert_eq(st.used, 0);
	spool_close(spool);
	pipeline_stop(pl);
}

static void stream_begin(struct stream *s)
{
	stream_init(s, pl, spool_push, spool);
	s->gone = spool_gone;
	s->disk_size = 1ull << 40;
}

/* Makes this many frames of noise. */
static void make(struct stream *s, unsigned frames, uint64_t block, uint64_t seed)
{
	size_t len = CHUNKS_PER_FRAME * TM_CHUNK;
	uint8_t *plain = malloc(len);
	uint64_t x = seed * 0x9e3779b97f4a7c15 + 1;

	for (unsigned f = 0; f < frames; f++, block += len / TM_BLOCK) {
		for (size_t i = 0; i < len; i += 8) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			memcpy(plain + i, &x, 8);
		}
		stream_encode(s, block, (uint32_t)(len / TM_BLOCK), plain, NULL, 0);
	}
	free(plain);
}

static uint64_t used(void)
{
	struct spool_stats st;

	spool_stats(spool, &st);
	return st.used / TM_DATA_MAX;
}

Test(spool, waits_for_the_link_and_comes_back_as_it_was, .timeout = 120)
{
	unsigned under_way;
	struct stream s;
	struct tm_err err;

	begin(24 * TM_DATA_MAX);
	under_way = frame_total(pl) / 2;
	for (unsigned round = 1; round <= 3; round++) { /* its places are used again */
		stream_begin(&s);
		line.digest = line.total = 0;
		line.open = false;
		make(&s, 20 + under_way, 0, round);
		stream_finish(&s);
		cr_assert_eq(s.frames, 20 + under_way);
		cr_assert_eq(used(), 20);
		cr_assert_eq(line.nheld, under_way);
		cr_assert(!stream_wait_acks(&s, 0));
		let_go(true, 0);
		cr_assert_eq(stream_flush(&s, &err), 0);
		cr_assert_eq(line.total, 20 + under_way);
		cr_assert_eq(line.digest, s.digest);
		cr_assert_eq(s.sent_bytes, line.bytes);
		line.bytes = 0;
		stream_exit(&s);
	}
	end();
}

static void *make_beside(void *arg)
{
	make(arg, 30, 1 << 20, 77);
	return NULL;
}

Test(spool, two_streams_when_it_is_full, .timeout = 120)
{
	struct stream s, t;
	pthread_t thread;
	struct tm_err err;

	begin(3 * TM_DATA_MAX);
	stream_begin(&s);
	stream_begin(&t);
	cr_assert_eq(pthread_create(&thread, NULL, make_beside, &t), 0);
	/* The other one stops for want of memory until the link takes something. */
	pthread_mutex_lock(&line.lock);
	while (line.nheld < frame_total(pl) - 1)
		pthread_cond_wait(&line.came, &line.lock);
	pthread_mutex_unlock(&line.lock);
	cr_assert_eq(used(), 3);
	let_go(true, 0);
	make(&s, 30, 0, 78);
	pthread_join(thread, NULL);
	cr_assert_eq(stream_flush(&s, &err), 0);
	cr_assert_eq(stream_flush(&t, &err), 0);
	cr_assert_eq(line.total, 60);
	cr_assert_eq(line.digest, s.digest + t.digest);
	stream_exit(&s);
	stream_exit(&t);
	end();
}

Test(spool, damage_fails_the_stream, .timeout = 120)
{
	struct spool_stats st;
	struct stream s;
	struct tm_err err;
	char byte;

	begin(24 * TM_DATA_MAX);
	stream_begin(&s);
	make(&s, 24, 0, 5);
	stream_finish(&s);
	cr_assert_geq(used(), 10);
	/* One bit of the third frame. */
	cr_assert_eq(pread(fd, &byte, 1, 2 * TM_DATA_MAX + 5000), 1);
	byte ^= 4;
	cr_assert_eq(pwrite(fd, &byte, 1, 2 * TM_DATA_MAX + 5000), 1);
	let_go(true, 0);
	cr_assert_eq(stream_flush(&s, &err), -EIO);
	cr_assert_lt(line.total, 24);
	cr_assert_neq(line.digest, s.digest);
	stream_exit(&s);
	/* It is not trusted again: frames go on without it. */
	spool_stats(spool, &st);
	cr_assert_eq(st.size, 0);
	cr_assert_neq(st.error[0], '\0');
	line.digest = 0;
	stream_begin(&s);
	make(&s, 30, 0, 6);
	cr_assert_eq(stream_flush(&s, &err), 0);
	cr_assert_eq(line.digest, s.digest);
	stream_exit(&s);
	end();
}

Test(spool, cut_short_fails_the_stream, .timeout = 120)
{
	struct stream s;
	struct tm_err err;

	begin(24 * TM_DATA_MAX);
	stream_begin(&s);
	make(&s, 24, 0, 8);
	stream_finish(&s);
	cr_assert_eq(ftruncate(fd, TM_DATA_MAX / 2), 0);
	let_go(true, 0);
	cr_assert_eq(stream_flush(&s, &err), -EIO);
	stream_exit(&s);
	end();
}

/* A write that fails in the middle of a frame: it stays in memory, and the spool is out of use. */
Test(spool, failing_writes, .timeout = 120)
{
	struct rlimit lim = {6 * TM_DATA_MAX + 4096, RLIM_INFINITY};
	struct spool_stats st;
	struct stream s;
	struct tm_err err;
	pthread_t thread;

	signal(SIGXFSZ, SIG_IGN);
	begin(24 * TM_DATA_MAX);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
	stream_begin(&s);
	cr_assert_eq(pthread_create(&thread, NULL, make_beside, &s), 0);
	pthread_mutex_lock(&line.lock);
	while (line.nheld < frame_total(pl) - 1)
		pthread_cond_wait(&line.came, &line.lock);
	pthread_mutex_unlock(&line.lock);
	spool_stats(spool, &st);
	cr_assert_eq(st.size, 0);
	cr_assert_eq(used(), 6);
	let_go(true, 0);
	pthread_join(thread, NULL);
	cr_assert_eq(stream_flush(&s, &err), 0, "%s", err.msg);
	cr_assert_eq(line.total, 30);
	cr_assert_eq(line.digest, s.digest);
	stream_exit(&s);
	end();
}

/* The session ends: nothing of what waits is sent, all comes back. */
Test(spool, what_waits_goes_when_the_stream_fails, .timeout = 120)
{
	struct stream s;
	struct tm_err err;

	begin(24 * TM_DATA_MAX);
	stream_begin(&s);
	make(&s, 24, 0, 9);
	stream_finish(&s);
	stream_fail(&s, -ESTALE, "broken");
	let_go(false, -ECONNRESET);
	cr_assert_eq(stream_flush(&s, &err), -ESTALE);
	cr_assert_eq(line.total, 0);
	stream_exit(&s);
	end();
}

Test(spool, which_blocks_are_its_own)
{
	struct tmk_extent x[] = {{100, 10}, {200, 1}};
	struct spoolfile f = {.disk = makedev(8, 16), .extents = x, .nextents = 2};

	cr_assert(!spoolfile_at(&f, 8, 16, 96, 4));
	cr_assert(spoolfile_at(&f, 8, 16, 97, 4));
	cr_assert(spoolfile_at(&f, 8, 16, 109, 1));
	cr_assert(!spoolfile_at(&f, 8, 16, 110, 90));
	cr_assert(spoolfile_at(&f, 8, 16, 150, 100));
	cr_assert(!spoolfile_at(&f, 8, 0, 100, 4));
}
