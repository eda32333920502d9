// SPDX-License-Identifier: Apache-2.0
/*
 * Resync, verify, and the passes of the scan tracker: the disk is read region by region, its hashes compared with the server's newest
 * state, first one for a whole region, then one per chunk; what differs is sent from the buffers that were hashed, which are
 * kept until then, so that what was compared and what is sent are the same.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "agent/agent.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define REGIONS       6u /* under way per comparison */
#define REGION_BLOCKS (TM_REGION_CHUNKS * TM_CHUNK_BLOCKS)
#define JOB_CHUNKS    (JOB_BLOCKS / TM_CHUNK_BLOCKS)

struct comparison;

struct region {
	struct compare_req rq; /* first: done() gets it */
	struct comparison *cmp;
	struct region *next;
	struct job *jobs[REGION_JOBS];
	unsigned njobs, left; /* cmp->lock */
	uint64_t first;       /* chunk */
	uint32_t chunks;
	bool bad; /* some of it cannot be read */
	struct tm_hash128 hash[TM_REGION_CHUNKS], sum;
	uint8_t equal[TM_REGION_CHUNKS / 8];
};

struct comparison {
	struct member *member;
	struct stream *stream;
	bool verify;
	uint64_t seed;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct region *free; /* lock, as below */
	unsigned busy;
	uint64_t done_blocks, differ, first_differ;
	struct region region[REGIONS];
};

static void region_end(struct region *r, const char *why)
{
	struct comparison *c = r->cmp;

	for (unsigned i = 0; i < r->njobs; i++)
		job_put(r->jobs[i]);
	r->njobs = 0;
	if (why)
		stream_fail(c->stream, -EIO, why);
	LOCK_SCOPE(&c->lock);
	r->next = c->free;
	c->free = r;
	c->busy--;
	c->done_blocks += (uint64_t)r->chunks * TM_CHUNK_BLOCKS;
	pthread_cond_broadcast(&c->changed);
}

static struct tm_hash128 hash128(const void *p, size_t len, uint64_t seed)
{
	XXH128_hash_t h = XXH3_128bits_withSeed(p, len, seed);

	return (struct tm_hash128){.low = h.low64, .high = h.high64};
}

static void ask(
	struct region *r, uint8_t level, void (*done)(struct compare_req *, const uint8_t *))
{
	r->rq.m = (struct tm_msg_compare){.seed = r->cmp->seed,
		.first = level ? r->first / TM_REGION_CHUNKS : r->first,
		.handle = r->cmp->member->handle,
		.level = level};
	r->rq.hashes = level ? &r->sum : r->hash;
	r->rq.n = level ? 1 : r->chunks;
	r->rq.done = done;
	ship_compare(r->cmp->member->agent->ship, &r->rq);
}

static bool chunk_bad(const struct job *job, unsigned chunk)
{
	unsigned bit = chunk * TM_CHUNK_BLOCKS;

	return job->nbad && (job->bad[bit / 64] >> (bit % 64) & 0xf);
}

/* A worker: sends the chunks that differ, or only counts them. */
static void send_different(struct job *first)
{
	struct region *r = first->ctx;
	struct comparison *c = r->cmp;
	uint64_t blocks = (c->member->info.ident.size + TM_BLOCK - 1) / TM_BLOCK, differ = 0;

	for (unsigned i = 0; i < r->chunks; i++) {
		struct job *job = r->jobs[i / JOB_CHUNKS];
		unsigned at = i % JOB_CHUNKS;
		uint64_t block = (r->first + i) * TM_CHUNK_BLOCKS;

		if ((r->equal[i / 8] >> (i % 8) & 1) && !chunk_bad(job, at))
			continue;
		if (c->verify && spoolfile_at(&c->member->agent->spoolfile, c->member->info.major,
					 c->member->info.minor, block, TM_CHUNK_BLOCKS))
			continue;
		if (!differ++) {
			LOCK_SCOPE(&c->lock);
			if (block < c->first_differ)
				c->first_differ = block;
		}
		if (c->verify)
			continue;
		/* A last chunk beyond the end: its blocks one by one would leave out none that counts. */
		stream_encode(c->stream, block,
			blocks - block < TM_CHUNK_BLOCKS && chunk_bad(job, at)
				? (uint32_t)(blocks - block)
				: TM_CHUNK_BLOCKS,
			(uint8_t *)job->req.to + (size_t)at * TM_CHUNK, job->nbad ? job->bad : NULL,
			at * TM_CHUNK_BLOCKS);
	}
	pthread_mutex_lock(&c->lock);
	c->differ += differ;
	pthread_mutex_unlock(&c->lock);
	region_end(r, NULL);
}

static void chunks_compared(struct compare_req *rq, const uint8_t *bitmap)
{
	struct region *r = (struct region *)rq;

	if (!bitmap) {
		region_end(r, "the comparison was not answered");
		return;
	}
	memcpy(r->equal, bitmap, (r->chunks + 7) / 8);
	r->jobs[0]->work = send_different;
	job_requeue(r->jobs[0]);
}

static void region_compared(struct compare_req *rq, const uint8_t *bitmap)
{
	struct region *r = (struct region *)rq;

	if (!bitmap)
		region_end(r, "the comparison was not answered");
	else if (bitmap[0] & 1)
		region_end(r, NULL);
	else
		ask(r, 0, chunks_compared);
}

/* A worker: hashes one job's chunks; the last of a region asks the server. */
static void hash_job(struct job *job)
{
	struct region *r = job->ctx;
	struct comparison *c = r->cmp;
	unsigned base = job->part * JOB_CHUNKS;
	bool last;

	for (unsigned i = 0; i < JOB_CHUNKS && base + i < r->chunks; i++)
		r->hash[base + i] =
			hash128((uint8_t *)job->req.to + (size_t)i * TM_CHUNK, TM_CHUNK, c->seed);
	if (job->error)
		stream_fail(c->stream, job->error, "the disk cannot be read any more");
	pthread_mutex_lock(&c->lock);
	r->bad |= job->nbad != 0;
	last = --r->left == 0;
	pthread_mutex_unlock(&c->lock);
	if (!last)
		return;
	r->sum = hash128(r->hash, r->chunks * sizeof(r->hash[0]), c->seed);
	if (r->bad)
		ask(r, 0, chunks_compared);
	else
		ask(r, 1, region_compared);
}

static struct region *take_region(struct comparison *c)
{
	LOCK_SCOPE(&c->lock);
	struct region *r;

	while (!c->free)
		pthread_cond_wait(&c->changed, &c->lock);
	r = c->free;
	c->free = r->next;
	c->busy++;
	return r;
}

static void start_region(struct comparison *c, struct region *r, uint64_t chunk, uint64_t chunks)
{
	struct member *m = c->member;
	struct job *list, *job;
	unsigned i = 0;

	r->first = chunk;
	r->chunks = chunks < TM_REGION_CHUNKS ? (uint32_t)chunks : TM_REGION_CHUNKS;
	r->bad = false;
	r->njobs = r->left = (r->chunks + JOB_CHUNKS - 1) / JOB_CHUNKS;
	list = job_get(m->agent->pipeline, r->njobs);
	for (job = list; job; job = job->next, i++) {
		uint32_t n = r->chunks - i * JOB_CHUNKS;

		n = n < JOB_CHUNKS ? n : JOB_CHUNKS;
		job_prepare(job, m->fd, (chunk + i * JOB_CHUNKS) * TM_CHUNK_BLOCKS,
			n * TM_CHUNK_BLOCKS, m->info.ident.size);
		job->ctx = r;
		job->part = i;
		job->work = hash_job;
		r->jobs[i] = job;
	}
	job_submit(list);
}

static void show(struct comparison *c, uint64_t *past)
{
	struct member *m = c->member;
	uint64_t done, sent, bad, differ;

	pthread_mutex_lock(&c->lock);
	done = c->done_blocks * TM_BLOCK;
	differ = c->differ;
	pthread_mutex_unlock(&c->lock);
	pthread_mutex_lock(&c->stream->lock);
	sent = c->stream->sent_bytes;
	bad = c->stream->bad_blocks;
	pthread_mutex_unlock(&c->stream->lock);
	LOCK_SCOPE(&m->agent->lock);
	m->done = done < m->total ? done : m->total;
	m->sent_bytes = sent;
	m->bad = bad;
	m->differ = differ;
	m->agent->compared_bytes += done - *past;
	*past = done;
}

static int walk(struct comparison *c, struct tm_err *err)
{
	uint64_t chunks = (c->member->info.ident.size + TM_CHUNK - 1) / TM_CHUNK, past = 0;
	int ret = 0;

	for (uint64_t at = 0; !ret && at < chunks; at += TM_REGION_CHUNKS) {
		ret = agent_turn(c->member->agent, err);
		if (!ret)
			ret = stream_error(c->stream, err);
		if (!ret)
			start_region(c, take_region(c), at, chunks - at);
		if (at / TM_REGION_CHUNKS % 4 == 0)
			show(c, &past);
	}
	pthread_mutex_lock(&c->lock);
	while (c->busy)
		pthread_cond_wait(&c->changed, &c->lock);
	pthread_mutex_unlock(&c->lock);
	show(c, &past);
	return ret ? ret : stream_error(c->stream, err);
}

static void prepare(struct comparison *c, struct member *m, struct stream *s, bool verify)
{
	memset(c, 0, sizeof(*c));
	c->member = m;
	c->stream = s;
	c->verify = verify;
	c->first_differ = UINT64_MAX;
	if (getrandom(&c->seed, sizeof(c->seed), 0) != sizeof(c->seed))
		c->seed = tm_mono_ns();
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->changed, NULL);
	for (unsigned i = 0; i < REGIONS; i++) {
		c->region[i].cmp = c;
		c->region[i].next = c->free;
		c->free = &c->region[i];
	}
	pthread_mutex_lock(&m->agent->lock);
	m->total = m->info.ident.size;
	m->done = m->differ = 0;
	pthread_mutex_unlock(&m->agent->lock);
}

int compare_run(struct member *m, bool verify, uint64_t *piece, struct tm_err *err)
{
	struct comparison *c = malloc(sizeof(*c));
	struct tm_err ignored;
	uint64_t attempt = 0;
	struct stream s;
	int ret = 0;

	if (!c)
		return tm_fail(err, ENOMEM, "no memory for a comparison");
	stream_init(&s, m->agent->pipeline, ship_push, m->agent->ship);
	s.handle = m->handle;
	s.disk_size = m->info.ident.size;
	prepare(c, m, &s, verify);
	if (!verify)
		ret = piece_begin(m, TM_ATTEMPT_RESYNC, &attempt, &s.part, err);
	s.attempt = attempt;
	if (!ret)
		ret = walk(c, err);
	if (!ret && !verify)
		ret = piece_commit(m, &s, true, err);
	if (ret) {
		stream_fail(&s, ret, err->msg);
		stream_flush(&s, &ignored);
	}
	stream_exit(&s);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c);
	if (!ret)
		*piece = attempt;
	return ret;
}
