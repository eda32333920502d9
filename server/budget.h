/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for frames on their way into the store: all machines together take no more than a fixed number of bytes. */
#ifndef SERVER_BUDGET_H
#define SERVER_BUDGET_H

#include <pthread.h>
#include <stdint.h>

struct budget {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	uint64_t limit;
	uint64_t used, peak; /* lock */
};

void budget_init(struct budget *b, uint64_t limit);
void budget_exit(struct budget *b);

/* Waits until `bytes` (at most the limit) are free. Holders give theirs back within the time-outs of a connection. */
void budget_take(struct budget *b, uint64_t bytes);
void budget_give(struct budget *b, uint64_t bytes);
/* How much the peak was. */
uint64_t budget_peak(struct budget *b);

#endif
