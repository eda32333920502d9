// SPDX-License-Identifier: Apache-2.0
#include "agent/epoch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/freeze.h"
#include "agent/scripts.h"
#include "agent/spool.h"
#include "agent/throttle.h"
#include "agent/tracker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

#define SETTLE_NS \
	(30 * TM_SEC) /* a device that takes longer breaks the epoch by the module's own deadline anyway */
#define LOOK_NS    (500 * TM_MS)
#define EXTENTS    512u
#define GAP_BLOCKS 8u /* clean blocks between dirty ones that are cheaper read than skipped */
#define TOGETHER   8u /* disks whose frames are filled side by side */

/* What one disk sends of the epoch. */
struct source {
	struct member *member;
	struct stream stream;
	const struct tmk_id *id;
	struct kmod *kmod;
	struct job *job; /* being filled with extents */
	uint32_t jobs;
};

static int drain_job(void *ctx, struct job *job)
{
	struct source *s = ctx;

	return kmod_drain(s->kmod->fd, s->id, s->member->kdisk, job);
}

static void submit(struct source *s)
{
	if (s->job)
		stream_submit(&s->stream, s->job);
	s->job = NULL;
}

/* Adds a run of at most JOB_BLOCKS to the job that is being filled, or begins another. */
static int add_run(struct source *s, uint64_t start, uint32_t count, struct tm_err *err)
{
	struct job *job = s->job;

	if (job) {
		uint64_t end = job->block + job->blocks;

		if (start - end <= GAP_BLOCKS && start + count - job->block <= JOB_BLOCKS &&
			job->nextents < JOB_EXTENTS) {
			job->extent[job->nextents++] = (struct job_extent){
				(uint16_t)(start - job->block), (uint16_t)count};
			job->blocks = (uint32_t)(start + count - job->block);
			return 0;
		}
		submit(s);
	}
	if (stream_wait_turn(&s->stream, err))
		return -err->code;
	s->job = job_get(s->stream.pipeline, 1);
	job_prepare(s->job, s->member->fd, start, count, s->stream.disk_size);
	return 0;
}

/* The length to read is known when the job is full. */
static void set_length(struct job *job, uint64_t size)
{
	uint64_t from = job->block * TM_BLOCK, len = (uint64_t)job->blocks * TM_BLOCK;

	job->req.len = (uint32_t)(from >= size ? 0 : len < size - from ? len : size - from);
}

static int add_extent(struct source *s, const struct tmk_extent *e, struct tm_err *err)
{
	uint64_t start = e->start, left = e->count;

	while (left) {
		uint32_t n = left < JOB_BLOCKS ? (uint32_t)left : JOB_BLOCKS;

		if (add_run(s, start, n, err))
			return -err->code;
		set_length(s->job, s->stream.disk_size);
		start += n;
		left -= n;
	}
	return 0;
}

/*
 * The link may take its time: answers to what went before are heard meanwhile, a schedule is kept, status stays true, and the agent
 * can end.
 */
static void meanwhile(struct agent *a, struct kmod *k)
{
	uint64_t now = tm_mono_ns(), until = UINT64_MAX;
	struct tmk_info info;
	struct tm_err err;
	LOCK_SCOPE(&a->lock);

	k->looked = now;
	throttle_step(a, now, &until);
	while (a->tracker->finish(a))
		;
	for (struct member *m = a->members; m; m = m->next)
		if (m->kdisk && kmod_info(k->fd, m->kdisk, &info, &err) == 0)
			m->backlog = (info.dirty + info.frozen) * TM_BLOCK;
	if (a->stop || a->rejoin) {
		tm_fail(&err, ECANCELED, "the agent ends the session");
		session_fail(a->session, &err, 0);
	}
}

static int read_dirty(struct source *s, struct tm_err *err)
{
	struct tmk_extent ext[EXTENTS];
	uint64_t cursor = 0;
	bool done = false;
	uint32_t n;
	int ret = 0;

	while (!ret && !done) {
		ret = kmod_ranges(s->kmod->fd, s->id, s->member->kdisk, &cursor, ext, EXTENTS, &n,
			&done, err);
		for (uint32_t i = 0; !ret && i < n; i++) {
			if (tm_mono_ns() - s->kmod->looked > LOOK_NS)
				meanwhile(s->member->agent, s->kmod);
			ret = add_extent(s, &ext[i], err);
		}
	}
	if (ret && s->job)
		job_put(tm_take(s->job));
	submit(s);
	return ret;
}

static void source_begin(struct source *s, struct agent *a, struct kmod *k, struct member *m,
	const struct tmk_id *id, const struct point *p)
{
	memset(s, 0, sizeof(*s));
	/* What nothing is preserved for need not leave the disk before the link can take it. */
	if (a->spool && p->c.kind != TM_POINT_NONE) {
		stream_init(&s->stream, a->pipeline, spool_push, a->spool);
		s->stream.gone = spool_gone;
	} else {
		stream_init(&s->stream, a->pipeline, ship_push, a->ship);
	}
	s->member = m;
	s->id = id;
	s->kmod = k;
	s->stream.urgent = true;
	s->stream.attempt = p->c.attempt;
	s->stream.handle = m->handle;
	s->stream.disk_size = m->info.ident.size;
	s->stream.drain = drain_job;
	s->stream.drain_ctx = s;
}

/* Takes the result; all frames are acknowledged or lost. */
static int source_end(struct source *s, struct tm_err *err)
{
	struct member *m = s->member;
	struct agent *a = m->agent;
	int ret = stream_flush(&s->stream, err);

	m->frames = s->stream.frames;
	m->digest = s->stream.digest;
	pthread_mutex_lock(&a->lock);
	m->sent_total += s->stream.sent_bytes;
	if (s->stream.bad_blocks) {
		m->bad = s->stream.bad_blocks;
		agent_error(a, TODO_DISK,
			"%s: %llu unreadable blocks; they are marked as bad in the points",
			m->info.path, (unsigned long long)m->bad);
	}
	pthread_mutex_unlock(&a->lock);
	stream_exit(&s->stream);
	return ret;
}

static bool takes_part(const struct member *m)
{
	return m->kdisk && m->handle;
}

static void fail_all(struct source *list, unsigned n, const struct tm_err *why)
{
	for (unsigned i = 0; i < n; i++)
		stream_fail(&list[i].stream, -why->code, why->msg);
}

static void finish_some(struct source *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		stream_finish(&list[i].stream);
}

/* All disks' blocks, a few disks at a time, on their way. Returns how many disks; *first: the failure. */
static unsigned send_all(struct source *list, struct agent *a, struct kmod *k,
	const struct tmk_id *id, const struct point *p, struct tm_err *first)
{
	unsigned n = 0, finished = 0;

	/* Members come and go in this thread only. */
	for (struct member *m = a->members; m && !first->code; m = m->next) {
		if (!takes_part(m))
			continue;
		source_begin(&list[n], a, k, m, id, p);
		(void)read_dirty(&list[n++], first);
		if (first->code || n - finished < TOGETHER)
			continue;
		finish_some(list + finished, n - finished);
		finished = n;
	}
	/* What of it waits anywhere is of no use any more. */
	if (first->code)
		fail_all(list, n, first);
	finish_some(list + finished, n - finished);
	return n;
}

static void wait_acks(struct source *list, unsigned n, struct agent *a, struct kmod *k)
{
	struct tm_err err = {0};

	for (unsigned i = 0; i < n; i++) {
		while (!stream_wait_acks(&list[i].stream, tm_mono_ns() + LOOK_NS))
			meanwhile(a, k);
		/* One disk's failure is the epoch's: what the others have in the spool is of no use any more. */
		if (!err.code && stream_error(&list[i].stream, &err))
			fail_all(list + i + 1, n - i - 1, &err);
	}
}

static int ship_all(struct agent *a, struct kmod *k, const struct tmk_id *id, const struct point *p,
	struct tm_err *err)
{
	struct source *list = calloc(TM_DISKS_MAX, sizeof(*list));
	struct tm_err first = {0}, e;
	unsigned n;

	if (!list)
		return tm_fail(err, ENOMEM, "no memory for an epoch");
	if (a->spool)
		spool_begin(a->spool, ship_push, a->ship);
	k->looked = tm_mono_ns();
	n = send_all(list, a, k, id, p, &first);
	wait_acks(list, n, a, k);
	for (unsigned i = 0; i < n; i++)
		if (source_end(&list[i], &e) && !first.code)
			first = e;
	free(list);
	if (first.code)
		*err = first;
	return -first.code;
}

static int settle(struct agent *a, struct kmod *k, struct tm_err *err)
{
	uint64_t end = tm_mono_ns() + SETTLE_NS;
	int ret;

	while ((ret = kmod_settle(k->fd, 500, err)) == -EAGAIN) {
		if (session_ended(a->session, err, NULL))
			return -err->code;
		if (tm_mono_ns() > end)
			return tm_fail(err, ETIMEDOUT,
				"writes of the epoch do not complete: is a disk hanging?");
	}
	return ret;
}

static void crash_only(struct point *p, const char *why)
{
	if (p->c.kind == TM_POINT_APP && !p->reason[0])
		snprintf(p->reason, sizeof(p->reason), "crash-consistent only: %.400s", why);
	p->c.kind = TM_POINT_CRASH;
}

/* The filesystems are frozen for the cut only; the agent touches none of them meanwhile. */
static int cut_frozen(
	struct agent *a, struct kmod *k, struct point *p, struct tmk_cut *cut, struct tm_err *err)
{
	const char *names[TM_DISKS_MAX];
	struct freeze *f = NULL;
	struct tm_err why;
	uint64_t began;
	size_t n = 0;
	int ret;

	for (struct member *m = a->members; m; m = m->next)
		if (takes_part(m))
			names[n++] = m->info.name;
	began = tm_mono_ns();
	if (freeze_begin(names, n, a->conf.freeze_limit, &f, &why))
		crash_only(p, why.msg);
	ret = kmod_cut(k->fd, false, cut, err);
	if (!f)
		return ret;
	if (freeze_end(f, &why))
		crash_only(p, why.msg);
	else
		p->freeze_ns = tm_mono_ns() - began;
	return ret;
}

/* Applications quiet, filesystems frozen, cut, and all of it undone again. */
static int cut_quiet(
	struct agent *a, struct kmod *k, struct point *p, struct tmk_cut *cut, struct tm_err *err)
{
	bool app = p->c.kind == TM_POINT_APP;
	struct tm_err why;
	int ret;

	if (app && scripts_run(a->conf.scripts, "pre", a->conf.script_limit, &why))
		crash_only(p, why.msg);
	ret = cut_frozen(a, k, p, cut, err);
	/* Fails also when what "pre" brought about did not last until the cut. */
	if (app && scripts_run(a->conf.scripts, "post", a->conf.script_limit, &why)) {
		tm_log(TM_LOG_WARNING, "%s", why.msg);
		crash_only(p, why.msg);
	}
	return ret;
}

static int make(struct agent *a, struct kmod *k, struct point *p, bool freeze, struct tmk_cut *cut,
	struct tm_err *err)
{
	bool catchup = p->c.kind == TM_POINT_NONE;

	if (freeze ? cut_quiet(a, k, p, cut, err) : kmod_cut(k->fd, catchup, cut, err))
		return -err->code;
	k->cut_hold_ns = cut->hold_ns;
	k->epoch_blocks = cut->blocks;
	kmod_id(&cut->id, &p->c.id);
	p->c.parent = k->tail;
	p->c.cut_realtime_ns = cut->realtime_ns;
	p->boottime = cut->boottime_ns;
	if (point_open(a, p, err) || settle(a, k, err))
		return -err->code;
	if (ship_all(a, k, &cut->id, p, err))
		return -err->code;
	pthread_mutex_lock(&a->lock);
	point_list(a, p);
	pthread_mutex_unlock(&a->lock);
	return point_send(a, p, err);
}

/* Is this point to be application-consistent by the schedule? It goes with an epoch that is made anyway: an idle machine needs none. */
static bool app_is_due(struct agent *a)
{
	uint64_t now = tm_mono_ns();

	if (!a->conf.app_interval)
		return false;
	if (!a->app_due)
		a->app_due = now + a->conf.app_interval;
	return now >= a->app_due;
}

int epoch_make(struct agent *a, struct kmod *k, bool catchup, struct tm_err *err)
{
	struct point *p = point_new();
	struct tmk_cut cut = {0};
	bool freeze = false, scheduled = false;
	int ret;

	pthread_mutex_lock(&a->lock);
	p->c.kind = catchup ? TM_POINT_NONE : TM_POINT_CRASH;
	if (!catchup) {
		freeze = point_take_requests(a, p);
		scheduled = app_is_due(a);
		a->urgent_round = false;
		if (scheduled) {
			p->c.kind = TM_POINT_APP;
			freeze = true;
		}
	}
	pthread_mutex_unlock(&a->lock);
	ret = make(a, k, p, freeze, &cut, err);
	if (!ret && scheduled) /* one that broke is made by the next epoch */
		a->app_due = tm_mono_ns() + a->conf.app_interval;
	if (!ret) {
		k->tail = p->c.id;
		k->queue[k->nqueue++] = (struct queued){p, cut.id};
		return 0;
	}
	kmod_abort(k->fd);
	if (p->c.attempt && !session_ended(a->session, NULL, NULL))
		piece_abort(a, p->c.attempt);
	pthread_mutex_lock(&a->lock);
	for (struct member *m = a->members; m; m = m->next)
		m->frames = 0;
	if (p->npieces)
		a->urgent_round = true;
	point_put_back(a, p);
	pthread_mutex_unlock(&a->lock);
	free(p);
	return ret;
}
