// SPDX-License-Identifier: Apache-2.0
/* Input: cells back to back, as in a DATA frame. The sums are made right, so that the search gets behind them. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/cell.h"

/* Mends the sum over the stored bytes where the header leaves that open. */
static void mend(uint8_t *p, size_t left)
{
	struct tm_cell c;

	if (left < sizeof(c))
		return;
	memcpy(&c, p, sizeof(c));
	if (c.len && c.len <= left - sizeof(c)) {
		c.stored_sum = XXH3_64bits_withSeed(p + sizeof(c), c.len, c.block);
		memcpy(p, &c, sizeof(c));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t plain[TM_CHUNK];
	struct tm_err err;
	uint8_t *buf = malloc(size ? size : 1);
	size_t at = 0, n;

	if (!buf)
		return 0;
	memcpy(buf, data, size);
	while (at < size) {
		mend(buf + at, size - at);
		if (tm_cell_check(buf + at, size - at, 1000, &n, &err) < 0)
			break;
		if (n < sizeof(struct tm_cell) || n > size - at)
			abort();
		const struct tm_cell *c = (const void *)(buf + at);
		if (c->count <= TM_CHUNK_BLOCKS)
			tm_cell_decode(c, buf + at + sizeof(*c), plain, &err);
		at += n;
	}
	free(buf);
	return 0;
}
