// SPDX-License-Identifier: Apache-2.0
#include "server/budget.h"

#include "common/cleanup.h"

void budget_init(struct budget *b, uint64_t limit)
{
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->freed, NULL);
	b->limit = limit;
	b->used = b->peak = 0;
}

void budget_exit(struct budget *b)
{
	pthread_cond_destroy(&b->freed);
	pthread_mutex_destroy(&b->lock);
}

void budget_take(struct budget *b, uint64_t bytes)
{
	LOCK_SCOPE(&b->lock);

	while (b->used && b->used + bytes > b->limit)
		pthread_cond_wait(&b->freed, &b->lock);
	b->used += bytes;
	if (b->used > b->peak)
		b->peak = b->used;
}

void budget_give(struct budget *b, uint64_t bytes)
{
	LOCK_SCOPE(&b->lock);

	b->used -= bytes;
	pthread_cond_broadcast(&b->freed);
}

uint64_t budget_peak(struct budget *b)
{
	LOCK_SCOPE(&b->lock);

	return b->peak;
}
