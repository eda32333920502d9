// SPDX-License-Identifier: Apache-2.0
/* Prints the rate of this machine's time-stamp counter in kHz, or nothing when two measurements disagree. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

struct mark {
	uint64_t ns;
	uint64_t tsc;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Both clocks at nearly one instant: of many tries the one that was least disturbed. */
static struct mark take_mark(void)
{
	struct mark best = {0, 0};
	uint64_t shortest = UINT64_MAX;

	for (int i = 0; i < 100; i++) {
		uint64_t before = __rdtsc();
		uint64_t ns = now_ns();
		uint64_t took = __rdtsc() - before;

		if (took < shortest) {
			shortest = took;
			best = (struct mark){ns, before + took / 2};
		}
	}
	return best;
}

static uint64_t measure(void)
{
	struct timespec nap = {0, 50000000};
	struct mark a = take_mark();

	nanosleep(&nap, NULL);
	struct mark b = take_mark();

	return (b.tsc - a.tsc) * 1000000 / (b.ns - a.ns);
}

int main(void)
{
	uint64_t a = measure();
	uint64_t b = measure();

	if (llabs((long long)(a - b)) <= (long long)(a / 10000))
		printf("%llu\n", (unsigned long long)b);
	return 0;
}
