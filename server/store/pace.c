// SPDX-License-Identifier: Apache-2.0
/* How fast space may be got back. */
#include <time.h>

#include "server/store/internal.h"

#define LATE_NS 1000000u   /* a debt below a millisecond waits until it is worth a sleep */
#define NAP_NS  100000000u /* so soon it is noticed that the store is about to be closed */

static uint64_t mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int pace_pay(struct store *st, struct pace *p, uint64_t bytes, struct tm_err *err)
{
	struct timespec nap = {0};
	uint64_t now;
	int ret = store_ending(st, err);

	if (ret || !p->rate)
		return ret;
	p->owed += bytes;
	if (p->owed * 1000 < p->rate)
		return 0; /* the clock is not asked for each entry */
	now = mono_ns();
	if (p->next < now)
		p->next = now; /* what was not used is not saved up */
	p->next += (uint64_t)((double)p->owed * 1e9 / (double)p->rate);
	p->owed = 0;
	while (!ret && p->next > now + LATE_NS) {
		nap.tv_nsec = (long)(p->next - now < NAP_NS ? p->next - now : NAP_NS);
		nanosleep(&nap, NULL);
		now = mono_ns();
		ret = store_ending(st, err);
	}
	return ret;
}
