/* SPDX-License-Identifier: Apache-2.0 */
/* Throttling: a token bucket. Thread safe; many threads may draw from one bucket. */
#ifndef TM_RATE_H
#define TM_RATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct tm_rate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t per_sec; /* bytes; 0 = no limit */
	uint64_t next;    /* monotonic ns at which the bucket is out of debt */
	bool stopped;
};

void tm_rate_init(struct tm_rate *r, uint64_t bytes_per_sec);
void tm_rate_exit(struct tm_rate *r);

/* Changes the rate at once, also for those who wait now. 0 = no limit. */
void tm_rate_set(struct tm_rate *r, uint64_t bytes_per_sec);
uint64_t tm_rate_get(struct tm_rate *r);

/*
 * Books `bytes` and waits until the rate allows them; up to a tenth of a second's worth passes at once. Returns false if
 * tm_rate_stop() came first.
 */
bool tm_rate_wait(struct tm_rate *r, uint64_t bytes);

/* Wakes all who wait, now and later (until tm_rate_start). */
void tm_rate_stop(struct tm_rate *r);
void tm_rate_start(struct tm_rate *r);

#endif
