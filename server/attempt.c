// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"
#include "server/machine.h"

struct attempt *attempt_find(struct machine *m, uint64_t seq)
{
	for (struct attempt *a = m->attempts; a; a = a->next)
		if (a->seq == seq)
			return a;
	return NULL;
}

struct attempt *attempt_find_epoch(struct machine *m, const struct tm_epoch_id *id)
{
	for (struct attempt *a = m->attempts; a; a = a->next)
		if (a->kind == TM_ATTEMPT_EPOCH && tm_epoch_equal(&a->id, id))
			return a;
	return NULL;
}

bool attempt_may_end(const struct attempt *a)
{
	return !a->closed || a->lost;
}

struct attempt *attempt_add(struct machine *m, uint64_t seq, int kind)
{
	struct attempt *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->seq = seq;
	a->kind = (uint8_t)kind;
	a->next = m->attempts;
	m->attempts = a;
	return a;
}

struct frames *attempt_frames(struct attempt *a, uint32_t handle, bool make)
{
	struct attempt_disk *p;

	for (uint32_t i = 0; i < a->ndisks; i++)
		if (a->disks[i].handle == handle)
			return &a->disks[i].frames;
	if (!make)
		return NULL;
	p = reallocarray(a->disks, a->ndisks + 1, sizeof(*p));
	if (!p)
		return NULL;
	a->disks = p;
	p += a->ndisks++;
	memset(p, 0, sizeof(*p));
	p->handle = handle;
	return &p->frames;
}

void attempt_forget(struct attempt *a)
{
	for (uint32_t i = 0; i < a->ndisks; i++)
		frames_clear(&a->disks[i].frames);
	free(a->disks);
	a->disks = NULL;
	a->ndisks = 0;
}

static void wait_idle(struct machine *m, struct attempt *a)
{
	while (a->busy || a->flushing)
		pthread_cond_wait(&m->changed, &m->lock);
}

void attempt_drop(struct machine *m, struct attempt *a)
{
	struct attempt **p;

	a->closed = true;
	wait_idle(m, a);
	for (p = &m->attempts; *p && *p != a; p = &(*p)->next)
		;
	if (*p)
		*p = a->next;
	attempt_forget(a);
	tm_extents_clear(&a->blocks);
	free(a);
	pthread_cond_broadcast(&m->changed);
}

void attempt_abort(struct machine *m, struct attempt *a)
{
	struct tm_err err;
	uint64_t seq = a->seq;
	int rc;

	a->closed = true;
	a->lost = false;
	wait_idle(m, a);
	pthread_mutex_unlock(&m->lock);
	rc = store_abort(m->server->store, seq, &err);
	if (rc && rc != -ESTALE)
		tm_log_of(TM_LOG_WARNING, m->name, NULL,
			"machine %s: attempt %llu not ended in the store: %s", m->name,
			(unsigned long long)seq, err.msg);
	pthread_mutex_lock(&m->lock);
	attempt_drop(m, a);
}

/*
 * An initial sync is gone on with by whoever has the disk under the same tracking; all else is known to the process that began it
 * only. What is being ended or committed is left alone.
 */
static bool forgotten(const struct attempt *a, const uint8_t *instance, uint64_t since)
{
	if (a->session || !attempt_may_end(a) || a->flushing || a->kind == TM_ATTEMPT_INITIAL)
		return false;
	if (instance && !tm_uuid_equal(a->instance, instance))
		return true;
	return a->kind == TM_ATTEMPT_EPOCH && a->orphaned < since;
}

void attempts_sweep(struct machine *m, const uint8_t *instance, uint64_t since)
{
	struct attempt *a = m->attempts;

	while (a) {
		if (forgotten(a, instance, since)) {
			attempt_abort(m, a);
			a = m->attempts; /* the lock was dropped */
		} else {
			a = a->next;
		}
	}
}
