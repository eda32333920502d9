// SPDX-License-Identifier: Apache-2.0
#include "agent/pipeline.h"

#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/log.h"

#define REAP_MAX 32

struct pipeline {
	struct reader *reader;
	struct reader_buffers buffers;
	struct job *jobs;
	struct frame *frames;
	uint8_t *cells;
	unsigned njobs, nframes, nworkers, running;
	pthread_t *threads;  /* workers, then the reaper */
	uint64_t read_bytes; /* atomic */

	pthread_mutex_t lock;
	pthread_cond_t job_free, frame_free, work;
	struct job *free_jobs; /* lock, as all below */
	unsigned nfree;
	struct frame *free_frames;
	unsigned nfree_frames;
	struct job *queue, **tail; /* read, for the workers */
	bool stop;
};

const char *pipeline_engine(const struct pipeline *pl)
{
	return reader_name(pl->reader);
}

unsigned pipeline_workers(const struct pipeline *pl)
{
	return pl->nworkers;
}

unsigned frame_total(const struct pipeline *pl)
{
	return pl->nframes;
}

uint64_t pipeline_read_bytes(const struct pipeline *pl)
{
	return __atomic_load_n(&pl->read_bytes, __ATOMIC_RELAXED);
}

struct job *job_get(struct pipeline *pl, unsigned n)
{
	LOCK_SCOPE(&pl->lock);
	struct job *list = NULL, *job;

	while (pl->nfree < n)
		pthread_cond_wait(&pl->job_free, &pl->lock);
	pl->nfree -= n;
	while (n--) {
		job = pl->free_jobs;
		pl->free_jobs = job->next;
		job->next = list;
		list = job;
	}
	return list;
}

void job_put(struct job *job)
{
	struct pipeline *pl = job->pipeline;
	LOCK_SCOPE(&pl->lock);

	job->next = pl->free_jobs;
	pl->free_jobs = job;
	pl->nfree++;
	pthread_cond_broadcast(&pl->job_free);
}

void job_prepare(struct job *job, int fd, uint64_t block, uint32_t blocks, uint64_t size)
{
	uint64_t from = block * TM_BLOCK, len = (uint64_t)blocks * TM_BLOCK;

	job->req.fd = fd;
	job->req.offset = from;
	job->req.len = (uint32_t)(from >= size ? 0 : len < size - from ? len : size - from);
	job->req.res = 0;
	job->block = block;
	job->blocks = blocks;
	job->error = 0;
	job->ready = false;
	job->nbad = 0;
	memset(job->bad, 0, sizeof(job->bad));
	job->nextents = 1;
	job->extent[0] = (struct job_extent){0, (uint16_t)blocks};
}

void job_submit(struct job *list)
{
	struct read_req *reqs[REAP_MAX];
	struct pipeline *pl = list->pipeline;
	unsigned n = 0;

	while (list) {
		struct job *job = list;

		list = job->next;
		reqs[n++] = &job->req;
		if (n == REAP_MAX || !list) {
			reader_submit(pl->reader, reqs, n);
			n = 0;
		}
	}
}

struct frame *frame_get(struct pipeline *pl)
{
	LOCK_SCOPE(&pl->lock);
	struct frame *f;

	while (!pl->free_frames)
		pthread_cond_wait(&pl->frame_free, &pl->lock);
	f = pl->free_frames;
	pl->free_frames = f->next;
	pl->nfree_frames--;
	f->next = NULL;
	f->len = 0;
	f->last = 0;
	memset(&f->head, 0, sizeof(f->head));
	return f;
}

void frame_put(struct frame *f)
{
	struct pipeline *pl = f->pipeline;
	LOCK_SCOPE(&pl->lock);

	f->stream = NULL;
	f->next = pl->free_frames;
	pl->free_frames = f;
	pl->nfree_frames++;
	pthread_cond_signal(&pl->frame_free);
}

bool frames_scarce(struct pipeline *pl)
{
	LOCK_SCOPE(&pl->lock);

	return pl->nfree_frames < pl->nworkers;
}

/* A device that is gone fails every read: that is no bad sector. */
static bool device_gone(int fd, int error)
{
	uint64_t size = 0;

	if (error == -ENXIO || error == -ENODEV || error == -ENOMEDIUM || error == -EBADF)
		return true;
	return ioctl(fd, BLKGETSIZE64, &size) == 0 && size == 0;
}

/* A read failed or came short: reads block by block what can be read, marks the rest as bad. */
static void narrow(struct job *job)
{
	unsigned first_bad = 0;
	uint8_t *buf = job->req.to;

	for (uint32_t i = 0; i < job->blocks; i++) {
		uint32_t at = i * TM_BLOCK;
		uint32_t len = at >= job->req.len ? 0 : job->req.len - at;
		int ret;

		len = len < TM_BLOCK ? len : TM_BLOCK;
		ret = len ? tm_pread_full(job->req.fd, buf + at, len, job->req.offset + at) : 0;
		if (ret >= 0)
			continue;
		if (device_gone(job->req.fd, ret)) {
			job->error = ret;
			return;
		}
		memset(buf + at, 0, TM_BLOCK);
		if (!job->nbad++)
			first_bad = i;
		job->bad[i / 64] |= 1ull << (i % 64);
	}
	if (job->nbad)
		tm_log(TM_LOG_ERR,
			"read error: %u blocks of 4096 bytes unreadable, from sector %llu on",
			job->nbad, (unsigned long long)(job->block + first_bad) * (TM_BLOCK / 512));
}

static void finish_read(struct job *job)
{
	uint64_t full = (uint64_t)job->blocks * TM_BLOCK;

	if (job->req.res < 0 || (uint32_t)job->req.res < job->req.len)
		narrow(job);
	if (job->req.len < full)
		memset((uint8_t *)job->req.to + job->req.len, 0, full - job->req.len);
	job->ready = true;
	__atomic_fetch_add(&job->pipeline->read_bytes, job->req.len, __ATOMIC_RELAXED);
}

static void *worker(void *arg)
{
	struct pipeline *pl = arg;
	struct job *job;

	for (;;) {
		pthread_mutex_lock(&pl->lock);
		while (!pl->queue && !pl->stop)
			pthread_cond_wait(&pl->work, &pl->lock);
		job = pl->queue;
		if (job && !(pl->queue = job->next))
			pl->tail = &pl->queue;
		pthread_mutex_unlock(&pl->lock);
		if (!job)
			return NULL;
		if (!job->ready)
			finish_read(job);
		job->work(job);
	}
}

static void queue_locked(struct pipeline *pl, struct job *job)
{
	job->next = NULL;
	*pl->tail = job;
	pl->tail = &job->next;
	pthread_cond_signal(&pl->work);
}

void job_requeue(struct job *job)
{
	LOCK_SCOPE(&job->pipeline->lock);
	queue_locked(job->pipeline, job);
}

static void *reaper(void *arg)
{
	struct pipeline *pl = arg;
	struct read_req *done[REAP_MAX];
	unsigned n;

	for (;;) {
		n = reader_reap(pl->reader, done, REAP_MAX, 500);
		LOCK_SCOPE(&pl->lock);
		for (unsigned i = 0; i < n; i++)
			queue_locked(pl, (struct job *)done[i]);
		if (!n && pl->stop)
			return NULL;
	}
}

/* Splits the budget: what is left after buffers and frames is for stacks, TLS and the code itself. */
static int allocate(struct pipeline *pl, uint64_t memory)
{
	pl->njobs = (unsigned)(memory * 30 / 100 / JOB_BYTES);
	pl->nframes = (unsigned)(memory * 42 / 100 / TM_DATA_MAX);
	pl->jobs = calloc(pl->njobs, sizeof(*pl->jobs));
	pl->frames = calloc(pl->nframes, sizeof(*pl->frames));
	pl->threads = calloc(pl->nworkers + 1, sizeof(*pl->threads));
	pl->buffers = (struct reader_buffers){.size = JOB_BYTES, .n = pl->njobs};
	pl->buffers.base = mmap(NULL, (size_t)pl->njobs * JOB_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pl->cells = mmap(NULL, (size_t)pl->nframes * TM_DATA_MAX, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pl->jobs || !pl->frames || !pl->threads || pl->buffers.base == MAP_FAILED ||
		pl->cells == MAP_FAILED)
		return -ENOMEM;
	for (unsigned i = 0; i < pl->njobs; i++) {
		struct job *job = &pl->jobs[i];

		job->pipeline = pl;
		job->req.buffer = i;
		job->req.to = (uint8_t *)pl->buffers.base + (size_t)i * JOB_BYTES;
		job->next = pl->free_jobs;
		pl->free_jobs = job;
	}
	pl->nfree = pl->njobs;
	for (unsigned i = 0; i < pl->nframes; i++) {
		pl->frames[i].pipeline = pl;
		pl->frames[i].cells = pl->cells + (size_t)i * TM_DATA_MAX;
		pl->frames[i].next = pl->free_frames;
		pl->free_frames = &pl->frames[i];
	}
	pl->nfree_frames = pl->nframes;
	return 0;
}

static void end_threads(struct pipeline *pl)
{
	pthread_mutex_lock(&pl->lock);
	pl->stop = true;
	pthread_cond_broadcast(&pl->work);
	pthread_mutex_unlock(&pl->lock);
	for (unsigned i = 0; i < pl->running; i++)
		pthread_join(pl->threads[i], NULL);
}

void pipeline_stop(struct pipeline *pl)
{
	if (!pl)
		return;
	end_threads(pl);
	reader_close(pl->reader);
	if (pl->buffers.base && pl->buffers.base != MAP_FAILED)
		munmap(pl->buffers.base, (size_t)pl->njobs * JOB_BYTES);
	if (pl->cells && pl->cells != MAP_FAILED)
		munmap(pl->cells, (size_t)pl->nframes * TM_DATA_MAX);
	pthread_cond_destroy(&pl->job_free);
	pthread_cond_destroy(&pl->frame_free);
	pthread_cond_destroy(&pl->work);
	pthread_mutex_destroy(&pl->lock);
	free(pl->jobs);
	free(pl->frames);
	free(pl->threads);
	free(pl);
}

static int start_threads(struct pipeline *pl)
{
	while (pl->running <= pl->nworkers) {
		int ret = pthread_create(&pl->threads[pl->running], NULL,
			pl->running < pl->nworkers ? worker : reaper, pl);

		if (ret)
			return -ret;
		pl->running++;
	}
	return 0;
}

int pipeline_start(const struct pipeline_opts *opts, struct pipeline **out, struct tm_err *err)
{
	struct pipeline *pl = calloc(1, sizeof(*pl));
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	int ret;

	if (!pl)
		return tm_fail(err, ENOMEM, "no memory for the pipeline");
	pthread_mutex_init(&pl->lock, NULL);
	pthread_cond_init(&pl->job_free, NULL);
	pthread_cond_init(&pl->frame_free, NULL);
	pthread_cond_init(&pl->work, NULL);
	pl->tail = &pl->queue;
	pl->nworkers = opts->workers ? opts->workers : cores > 0 ? (unsigned)cores : 1;
	ret = allocate(pl, opts->memory);
	if (ret)
		ret = tm_fail(err, -ret, "no memory for buffers of %llu MiB",
			(unsigned long long)opts->memory >> 20);
	else
		ret = reader_open(opts->engine, opts->depth, &pl->buffers, &pl->reader, err);
	if (!ret && (ret = start_threads(pl)))
		ret = tm_fail(err, -ret, "no threads: %s", strerror(-ret));
	if (ret) {
		pipeline_stop(pl);
		return -err->code;
	}
	*out = pl;
	return 0;
}
