// SPDX-License-Identifier: Apache-2.0
#include "common/rate.h"

#include "common/cleanup.h"
#include "common/clock.h"

#define BURST_NS (TM_SEC / 10)

void tm_rate_init(struct tm_rate *r, uint64_t bytes_per_sec)
{
	*r = (struct tm_rate){.per_sec = bytes_per_sec};
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
}

void tm_rate_exit(struct tm_rate *r)
{
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->changed);
}

static uint64_t cost_ns(uint64_t bytes, uint64_t per_sec)
{
	__extension__ unsigned __int128 ns = (unsigned __int128)bytes * TM_SEC / per_sec;

	return ns > 3600 * TM_SEC ? 3600 * TM_SEC : (uint64_t)ns;
}

void tm_rate_set(struct tm_rate *r, uint64_t bytes_per_sec)
{
	LOCK_SCOPE(&r->lock);
	uint64_t now = tm_mono_ns();

	/* The debt is bytes, not time: what was booked at the old rate is waited for at the new one. */
	if (r->per_sec && bytes_per_sec && r->next > now) {
		double bytes = (double)(r->next - now) * (double)r->per_sec / 1e9;

		r->next = now + cost_ns((uint64_t)bytes, bytes_per_sec);
	} else {
		r->next = 0;
	}
	r->per_sec = bytes_per_sec;
	pthread_cond_broadcast(&r->changed);
}

uint64_t tm_rate_get(struct tm_rate *r)
{
	LOCK_SCOPE(&r->lock);

	return r->per_sec;
}

bool tm_rate_wait(struct tm_rate *r, uint64_t bytes)
{
	LOCK_SCOPE(&r->lock);
	uint64_t now = tm_mono_ns();

	/* Everyone waits for the debt that is there, then books: a large piece never waits for itself. */
	while (!r->stopped && r->per_sec && r->next > now + BURST_NS) {
		struct timespec until = tm_timespec(r->next - BURST_NS);

		pthread_cond_clockwait(&r->changed, &r->lock, CLOCK_MONOTONIC, &until);
		now = tm_mono_ns();
	}
	if (r->stopped)
		return false;
	if (r->per_sec)
		r->next = (r->next > now ? r->next : now) + cost_ns(bytes, r->per_sec);
	return true;
}

void tm_rate_stop(struct tm_rate *r)
{
	LOCK_SCOPE(&r->lock);

	r->stopped = true;
	pthread_cond_broadcast(&r->changed);
}

void tm_rate_start(struct tm_rate *r)
{
	LOCK_SCOPE(&r->lock);

	r->stopped = false;
}
