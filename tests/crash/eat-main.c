// SPDX-License-Identifier: Apache-2.0
/*
 * eat [-m MIB]: goes round and round over memory, writing every page and checking what it wrote the time before. Prints
 * "swapping" after the second round. SIGTERM: one more check of all, and exit 0; 1 = memory came back wrong.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/crash/tmk.h"

#define WORDS 512

static volatile sig_atomic_t over;

static void stop(int sig)
{
	over = 1;
}

/* Checks page i as of a round, and writes it for the next one. */
static void page(uint64_t *p, uint64_t i, uint64_t round)
{
	for (int k = 0; k < WORDS; k += 7) {
		if (round && p[k] != (round << 40 | i << 10 | (uint64_t)k))
			fail("page %llu, word %d: %llx after round %llu", (unsigned long long)i, k,
				(unsigned long long)p[k], (unsigned long long)round);
		p[k] = (round + 1) << 40 | i << 10 | (uint64_t)k;
	}
}

int main(int argc, char **argv)
{
	uint64_t pages = 64 << 8, round;
	char *mem;
	int o;

	while ((o = getopt(argc, argv, "m:")) != -1) {
		if (o != 'm')
			return 2;
		pages = strtoull(optarg, NULL, 0) << 8;
	}
	signal(SIGTERM, stop);
	mem = alloc_pages(pages * TMK_BLOCK);
	for (round = 0; !over; round++) {
		for (uint64_t i = 0; i < pages; i++)
			page((uint64_t *)(mem + i * TMK_BLOCK), i, round);
		if (round == 1) {
			puts("swapping");
			fflush(stdout);
		}
	}
	for (uint64_t i = 0; i < pages; i++)
		page((uint64_t *)(mem + i * TMK_BLOCK), i, round);
	printf("%llu rounds\n", (unsigned long long)round);
	return 0;
}
