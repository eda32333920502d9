// SPDX-License-Identifier: Apache-2.0
#include "agent/jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/round.h"
#include "agent/tracker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

#define RUNNING_MAX \
	4u /* more would share the frames so thinly that they could wait for each other */
#define RETRY_NS (5 * TM_SEC)
#define LOOK_NS  (5 * TM_SEC)

static void request_text(struct request *rq, const struct member *m)
{
	size_t at = strlen(rq->text);

	if (m->differ)
		snprintf(rq->text + at, sizeof(rq->text) - at, "%s%s: %llu chunks of 16 KiB differ",
			at ? "; " : "", m->info.name, (unsigned long long)m->differ);
}

/* ---- members ---- */

static struct member *member_find(struct agent *a, const uint8_t uuid[TM_UUID])
{
	struct member *m = a->members;

	while (m && !tm_uuid_equal(m->uuid, uuid))
		m = m->next;
	return m;
}

static void member_free(struct member *m)
{
	if (m->fd >= 0)
		close(m->fd);
	tm_extents_clear(&m->have);
	free(m);
}

static void unlink_member(struct agent *a, struct member *m)
{
	struct member **p = &a->members;

	while (*p != m)
		p = &(*p)->next;
	*p = m->next;
	member_free(m);
}

static void member_add(struct agent *a, const struct state_disk *d)
{
	struct member *m = calloc(1, sizeof(*m)), **p = &a->members;

	if (!m)
		return;
	m->agent = a;
	m->fd = -1;
	memcpy(m->uuid, d->uuid, TM_UUID);
	snprintf(m->info.path, sizeof(m->info.path), "%s", d->path);
	snprintf(m->info.name, sizeof(m->info.name), "%.63s", strrchr(d->path, '/') + 1);
	m->info.ident = d->ident;
	m->tracker = d->tracker;
	while (*p)
		p = &(*p)->next;
	*p = m;
}

static int close_at_server(struct agent *a, struct member *m, struct tm_err *err)
{
	struct tm_msg_disk_close c;
	struct tm_out out;
	struct call call;
	int ret;

	memcpy(c.disk, m->uuid, TM_UUID);
	if (tm_build_disk_close(&out, &c, err))
		return -err->code;
	ret = session_call(a->session, &call, &out, TM_MSG_OK, 0, err);
	call_free(&call);
	return ret;
}

/* Unprotected: tells the server, then forgets. What was not told stays in the state and is told in the next session. */
static void member_leave(struct agent *a, struct member *m)
{
	struct tm_err err = {0};
	int ret;

	pthread_mutex_unlock(&a->lock);
	ret = close_at_server(a, m, &err);
	if (!ret) {
		a->tracker->detach(m);
		LOCK_SCOPE(&a->state.lock);
		ret = state_remove(&a->state, m->uuid, &err);
	}
	pthread_mutex_lock(&a->lock);
	if (ret) {
		agent_error(a, "nothing: it is tried again", "%s: not unprotected yet: %s",
			m->info.path, err.msg);
		m->retry = tm_mono_ns() + RETRY_NS;
		return;
	}
	tm_log_of(TM_LOG_NOTICE, NULL, m->info.path, "%s is not protected any more", m->info.path);
	unlink_member(a, m);
	agent_wake(a);
}

static void member_join(struct agent *a, struct member *m)
{
	struct tm_err err = {0};
	int ret;

	pthread_mutex_unlock(&a->lock);
	ret = m->fd >= 0 ? 0 : member_open(m, &err);
	if (!ret && disk_size(m->info.path) != m->info.ident.size) {
		close(m->fd);
		m->fd = -1;
		ret = member_open(m, &err);
	}
	if (!ret)
		ret = a->tracker->attach(m, &err);
	if (!ret)
		ret = member_announce(m, &err);
	pthread_mutex_lock(&a->lock);
	m->error[0] = '\0';
	if (!ret)
		return;
	if (m->fd < 0)
		m->state = SYNC_GONE;
	snprintf(m->error, sizeof(m->error), "%.159s", err.msg);
	agent_error(a,
		m->fd < 0
			? "put the disk back; or \"agentctl unprotect\" it, and \"protect\" the new one"
			: "see the disk's line and the log; it is tried again",
		"%s", err.msg);
	m->retry = tm_mono_ns() + RETRY_NS;
}

/* A disk that changed its size or went away is opened anew, which finds out. */
static void look_at(struct agent *a, struct member *m)
{
	if (!m->handle || m->running || m->in_round ||
		disk_size(m->info.path) == m->info.ident.size)
		return;
	m->handle = 0;
	m->piece = 0;
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
}

void members_update(struct agent *a, uint64_t now, uint64_t *until)
{
	struct member *m, *next;

	pthread_mutex_lock(&a->state.lock);
	for (size_t i = 0; i < a->state.ndisks; i++) {
		const struct state_disk *d = &a->state.disks[i];

		if (!member_find(a, d->uuid))
			member_add(a, d);
		m = member_find(a, d->uuid);
		if (!m)
			continue;
		if (d->leaving && !m->closing)
			m->retry =
				0; /* of a disk that cannot be had: the server keeps asking for its part until it is told */
		m->closing = d->leaving;
	}
	pthread_mutex_unlock(&a->state.lock);
	/* Nobody tells of a disk that changed its size or went away. */
	if (a->members && now + LOOK_NS < *until)
		*until = now + LOOK_NS;
	for (m = a->members; m; m = next) {
		next = m->next;
		look_at(a, m);
		if (m->retry > now) {
			*until = m->retry < *until ? m->retry : *until;
			continue;
		}
		if (m->closing && !m->running && !m->in_round)
			member_leave(a, m);
		else if (!m->closing && !m->handle)
			member_join(a, m);
	}
}

void members_close(struct agent *a)
{
	struct member *m;

	while ((m = a->members))
		unlink_member(a, m);
}

/* ---- jobs ---- */

static void *job_thread(void *arg)
{
	struct member *m = arg;
	struct agent *a = m->agent;
	struct tm_err err = {0};
	uint64_t piece = 0;
	int ret;

	if (m->job == JOB_INITIAL)
		ret = initial_run(m, &piece, &err);
	else
		ret = compare_run(m, m->job == JOB_VERIFY, &piece, &err);
	LOCK_SCOPE(&a->lock);
	m->result = err;
	m->result.code = -ret;
	m->made = ret ? 0 : piece;
	m->finished = true;
	agent_wake(a);
	return NULL;
}

static void job_failed(struct agent *a, struct member *m)
{
	struct round *r = &a->round;

	snprintf(m->error, sizeof(m->error), "%.159s", m->result.msg);
	m->retry = tm_mono_ns() + RETRY_NS;
	if (!session_ended(a->session, NULL, NULL))
		agent_error(a, "nothing: it is tried again, and goes on from what is durable",
			"%s: %s", m->info.path, m->result.msg);
	if (m->in_round && r->active)
		round_fail(a, m);
	/* What the server knows of the piece has to be asked anew. */
	m->handle = 0;
}

static void verified(struct agent *a, struct member *m)
{
	tm_log_of(m->differ ? TM_LOG_WARNING : TM_LOG_INFO, NULL, m->info.path,
		"%s verified: %llu chunks of 16 KiB differ", m->info.path,
		(unsigned long long)m->differ);
	m->verified = true;
}

void jobs_reap(struct agent *a)
{
	for (struct member *m = a->members; m; m = m->next) {
		enum member_job job = m->job;

		if (!m->running || !m->finished)
			continue;
		pthread_mutex_unlock(&a->lock);
		pthread_join(m->thread, NULL);
		pthread_mutex_lock(&a->lock);
		m->running = m->finished = false;
		m->job = JOB_NONE;
		a->running--;
		a->sent_cells += m->sent_bytes;
		m->sent_total += m->sent_bytes;
		m->sent_bytes = 0;
		if (m->result.code) {
			job_failed(a, m);
			continue;
		}
		m->error[0] = '\0';
		m->piece = m->made;
		if (m->bad)
			agent_error(a, TODO_DISK,
				"%s: %llu unreadable blocks; they are marked as bad in the points",
				m->info.path, (unsigned long long)m->bad);
		if (job == JOB_RESYNC)
			m->verified = true;
		if (job == JOB_VERIFY)
			verified(a, m);
		else if (job != JOB_PASS)
			a->urgent_round = true; /* so that it becomes visible */
	}
}

void jobs_join(struct agent *a)
{
	bool any;

	do {
		any = false;
		pthread_mutex_lock(&a->lock);
		for (struct member *m = a->members; m; m = m->next) {
			if (m->running && !m->finished)
				any = true;
		}
		if (any)
			pthread_cond_wait(&a->changed, &a->lock);
		jobs_reap(a);
		pthread_mutex_unlock(&a->lock);
	} while (any);
}

/* What a member should do by itself. */
static enum member_job next_job(const struct member *m)
{
	if (!m->handle || m->piece || m->closing)
		return JOB_NONE;
	if (m->job != JOB_NONE)
		return m->job;
	switch (m->phase) {
	case TM_DISK_NEW:
	case TM_DISK_INITIAL:
		return JOB_INITIAL;
	case TM_DISK_RESYNC:
		return JOB_RESYNC;
	default:
		return m->resync ? JOB_RESYNC : m->verify ? JOB_VERIFY : JOB_NONE;
	}
}

void jobs_start(struct agent *a, uint64_t now)
{
	for (struct member *m = a->members; m && a->running < RUNNING_MAX; m = m->next) {
		enum member_job job = next_job(m);

		if (m->running || job == JOB_NONE || m->retry > now || a->paused)
			continue;
		m->job = job;
		m->sent_bytes = 0;
		m->started = now;
		m->done = m->began_at = job == JOB_INITIAL ? m->have.blocks * TM_BLOCK : 0;
		m->total = m->info.ident.size;
		m->finished = false;
		if (job == JOB_VERIFY)
			m->verify = false;
		if (job == JOB_RESYNC)
			m->resync = false;
		if (pthread_create(&m->thread, NULL, job_thread, m)) {
			m->retry = now + RETRY_NS;
			continue;
		}
		m->running = true;
		a->running++;
	}
}

/* ---- requests ---- */

/* A verify or resync goes to every disk it names; it is done when all of them are. */
static void begin_request(struct agent *a, struct request *rq)
{
	struct tm_err err = {0};
	unsigned n = 0;

	for (struct member *m = a->members; m; m = m->next) {
		if (!tm_uuid_is_zero(rq->disk) && !tm_uuid_equal(rq->disk, m->uuid))
			continue;
		if (!m->handle || m->phase != TM_DISK_WHOLE)
			continue;
		n++;
		m->verified = false;
		if (rq->kind == REQUEST_VERIFY)
			m->verify = true;
		else
			m->resync = true;
	}
	rq->taken = true;
	if (!n) {
		tm_fail(&err, EAGAIN, "no disk is in sync yet");
		request_end(a, rq, &err);
	}
}

static bool concerns(const struct request *rq, const struct member *m)
{
	return tm_uuid_is_zero(rq->disk) || tm_uuid_equal(rq->disk, m->uuid);
}

/* Still to be done? A resync counts when its piece has become visible. */
static bool busy_for(const struct request *rq, const struct member *m)
{
	if (rq->kind == REQUEST_VERIFY)
		return m->verify || (m->running && m->job == JOB_VERIFY);
	return m->resync || m->piece || (m->running && m->job == JOB_RESYNC);
}

static void check_request(struct agent *a, struct request *rq)
{
	struct tm_err none = {0};

	for (struct member *m = a->members; m; m = m->next)
		if (concerns(rq, m) && busy_for(rq, m))
			return;
	for (struct member *m = a->members; m; m = m->next) {
		if (!concerns(rq, m) || !m->verified)
			continue;
		request_text(rq, m);
		rq->differ += m->differ;
	}
	rq->point = a->newest;
	request_end(a, rq, &none);
}

void jobs_requests(struct agent *a)
{
	struct request *rq, *next;

	for (rq = a->requests; rq; rq = next) {
		next = rq->next;
		if (rq->done || rq->kind == REQUEST_POINT)
			continue;
		if (!rq->taken)
			begin_request(a, rq);
		else
			check_request(a, rq);
	}
}
