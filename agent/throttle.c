// SPDX-License-Identifier: Apache-2.0
#include "agent/throttle.h"

#include "common/cleanup.h"
#include "common/clock.h"

#define LOOK_NS (5 * TM_SEC) /* the wall clock may jump */

static uint64_t rate_now(const struct agent *a, const char **by)
{
	uint64_t rate = a->conf.throttle;

	*by = rate ? "configuration" : "";
	if (a->state.throttle) {
		*by = "command";
		return a->state.throttle;
	}
	if (tm_schedule_at(&a->schedule, tm_minute_of_day(), &rate))
		*by = "schedule";
	return rate;
}

void throttle_apply(struct agent *a)
{
	LOCK_SCOPE(&a->state.lock);
	const char *by;
	uint64_t rate = rate_now(a, &by);

	if (rate != tm_rate_get(&a->rate))
		tm_rate_set(&a->rate, rate);
}

void throttle_step(struct agent *a, uint64_t now, uint64_t *until)
{
	if (!a->schedule.n)
		return;
	throttle_apply(a);
	if (now + LOOK_NS < *until)
		*until = now + LOOK_NS;
}

const char *throttle_by(const struct agent *a)
{
	const char *by;

	rate_now(a, &by);
	return by;
}
