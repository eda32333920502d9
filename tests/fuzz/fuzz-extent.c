// SPDX-License-Identifier: Apache-2.0
/* Input: operations of 3 bytes on a set of 4096 blocks, each compared with a plain bitmap. */
#include <stdlib.h>
#include <string.h>

#include "common/extent.h"

#define BLOCKS 4096u

static bool map[BLOCKS];

static void same(const struct tm_extents *s)
{
	struct tm_extent e;
	uint64_t at = 0, total = 0;
	size_t n = 0;

	for (uint64_t from = 0; tm_extents_next(s, from, &e); from = e.start + e.count) {
		for (; at < e.start; at++)
			if (map[at])
				abort();
		for (; at < e.start + e.count; at++)
			if (at >= BLOCKS || !map[at])
				abort();
		total += e.count;
		n++;
	}
	for (; at < BLOCKS; at++)
		if (map[at])
			abort();
	/* Neighbours are merged, or n would differ from the number of runs. */
	for (size_t i = 0; i < BLOCKS; i++)
		if (map[i] && (i == 0 || !map[i - 1]))
			n--;
	if (n || s->blocks != total)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tm_extents s;

	tm_extents_init(&s);
	memset(map, 0, sizeof(map));
	for (size_t i = 0; i + 3 <= size; i += 3) {
		unsigned start = (data[i] | data[i + 1] << 8) % BLOCKS;
		unsigned count = data[i + 2] & 63;
		bool add = !(data[i + 2] & 64);

		if (data[i + 2] & 128)
			count *= 16;
		if (count > BLOCKS - start)
			count = BLOCKS - start;
		if (add ? tm_extents_add(&s, start, count) : tm_extents_remove(&s, start, count))
			abort();
		memset(map + start, add, count);
		if (tm_extents_has(&s, start) != map[start])
			abort();
		if (i % 48 == 0)
			same(&s);
	}
	same(&s);
	tm_extents_clear(&s);
	return 0;
}
