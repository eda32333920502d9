/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three clocks, in nanoseconds. Deadlines and rates use the monotonic one, ages of cuts the boottime one (it goes on while
 * the machine sleeps); the wall clock is shown to people and never computed with.
 */
#ifndef TM_CLOCK_H
#define TM_CLOCK_H

#include <stdint.h>
#include <time.h>

#define TM_MS  1000000ull
#define TM_SEC 1000000000ull

static inline uint64_t tm_clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * TM_SEC + (uint64_t)ts.tv_nsec;
}

static inline uint64_t tm_mono_ns(void)
{
	return tm_clock_ns(CLOCK_MONOTONIC);
}

static inline uint64_t tm_boot_ns(void)
{
	return tm_clock_ns(CLOCK_BOOTTIME);
}

static inline uint64_t tm_real_ns(void)
{
	return tm_clock_ns(CLOCK_REALTIME);
}

/* The moment as pthread_cond_clockwait() and clock_nanosleep() want it. */
static inline struct timespec tm_timespec(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / TM_SEC), .tv_nsec = (long)(ns % TM_SEC)};
}

#endif
