// SPDX-License-Identifier: Apache-2.0
/*
 * What is known of packs without a walk over the index: what was alive when it was last counted, and what compaction has dropped since. Only
 * a hint whether a walk is worth it; what is removed and what is moved is told by the walk alone. Lost with the process: the first collection
 * walks.
 */
#include <stdlib.h>
#include <time.h>

#include "server/store/internal.h"

#define SURE_S 86400 /* after that a walk finds what no note told of */

struct ledger_note {
	struct ledger_note *next;
	uint64_t live, dead;
	uint32_t no;
	uint8_t counted;
};

static struct ledger_note **slot(struct ledger *l, uint32_t no)
{
	struct ledger_note **p = &l->bucket[no % LEDGER_BUCKETS];

	while (*p && (*p)->no != no)
		p = &(*p)->next;
	return p;
}

static struct ledger_note *note(struct ledger *l, uint32_t no)
{
	struct ledger_note **p = slot(l, no), *n = *p;

	if (n)
		return n;
	n = calloc(1, sizeof(*n));
	if (n) {
		n->no = no;
		*p = n;
	} else {
		l->walked_s = 0;
	}
	return n;
}

static int64_t now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + 1;
}

void ledger_dead(struct ledger *l, uint32_t no, uint64_t bytes)
{
	struct ledger_note *n;

	pthread_mutex_lock(&l->lock);
	n = note(l, no);
	if (n)
		n->dead += bytes;
	pthread_mutex_unlock(&l->lock);
}

void ledger_unsure(struct ledger *l)
{
	pthread_mutex_lock(&l->lock);
	l->walked_s = 0;
	pthread_mutex_unlock(&l->lock);
}

void ledger_walk(struct ledger *l)
{
	pthread_mutex_lock(&l->lock);
	for (int i = 0; i < LEDGER_BUCKETS; i++)
		for (struct ledger_note *n = l->bucket[i]; n; n = n->next)
			n->dead = 0;
	l->walked_s = 0;
	l->begun_s = now_s();
	pthread_mutex_unlock(&l->lock);
}

void ledger_counted(struct ledger *l, uint32_t no, uint64_t live)
{
	struct ledger_note *n;

	pthread_mutex_lock(&l->lock);
	n = note(l, no);
	if (n) {
		n->live = live;
		n->counted = 1;
	}
	pthread_mutex_unlock(&l->lock);
}

void ledger_walked(struct ledger *l)
{
	pthread_mutex_lock(&l->lock);
	l->walked_s = l->begun_s;
	pthread_mutex_unlock(&l->lock);
}

void ledger_gone(struct ledger *l, uint32_t no)
{
	struct ledger_note **p, *n;

	pthread_mutex_lock(&l->lock);
	p = slot(l, no);
	n = *p;
	if (n)
		*p = n->next;
	pthread_mutex_unlock(&l->lock);
	free(n);
}

int ledger_sure(struct ledger *l)
{
	int sure;

	pthread_mutex_lock(&l->lock);
	sure = l->walked_s && now_s() < l->walked_s + SURE_S;
	pthread_mutex_unlock(&l->lock);
	return sure;
}

uint64_t ledger_live(struct ledger *l, uint32_t no, uint64_t used)
{
	const struct ledger_note *n;
	uint64_t live = used;

	pthread_mutex_lock(&l->lock);
	n = *slot(l, no);
	if (n && n->counted)
		live = n->live;
	if (n)
		live = live > n->dead ? live - n->dead : 0;
	pthread_mutex_unlock(&l->lock);
	return live;
}

void ledger_free(struct ledger *l)
{
	for (int i = 0; i < LEDGER_BUCKETS; i++)
		while (l->bucket[i]) {
			struct ledger_note *n = l->bucket[i];

			l->bucket[i] = n->next;
			free(n);
		}
	pthread_mutex_destroy(&l->lock);
}
