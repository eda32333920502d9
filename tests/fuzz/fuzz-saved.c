// SPDX-License-Identifier: Apache-2.0
/*
 * The module's saved maps, as it reads them back. Input: a byte of flags, the number of disks, 40 bytes for each, then the
 * extents. Header and sums are made right around them, unless the flags say otherwise; what is taken for whole has to be
 * safe to use, and the map made of it right.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kmod/map.c"
#include "kmod/saved.c"

#define WRONG_SUM   1
#define WRONG_DATA  2
#define NO_MEMORY   4 /* after a few pages */
#define SHORT       8 /* the file is cut off */
#define BLOCKS_MOST (1ULL << 38)

static long pages_left;

void *tm_page_get(void)
{
	return pages_left-- > 0 ? calloc(1, 4096) : NULL;
}

void tm_page_put(void *page)
{
	free(page);
}

/* Any sum will do here; the kernel's own takes a while. */
u32 crc32_le(u32 crc, const void *p, size_t n)
{
	const u8 *b = p;
	u64 sum = crc, word;

	for (; n >= sizeof(word); n -= sizeof(word), b += sizeof(word)) {
		memcpy(&word, b, sizeof(word));
		sum = (sum ^ word) * 0x9e3779b97f4a7c15ULL;
		sum ^= sum >> 29;
	}
	while (n--)
		sum = (sum ^ *b++) * 0x9e3779b97f4a7c15ULL;
	return (u32)(sum >> 32);
}

static int by_start(const void *a, const void *b)
{
	const struct tmk_extent *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* How many blocks the extents cover below end. */
static u64 covered(const struct tmk_extent *from, u64 n, u64 end)
{
	struct tmk_extent *x = calloc(n + 1, sizeof(*x));
	u64 at = 0, sum = 0;

	if (!x)
		abort();
	memcpy(x, from, n * sizeof(*x));
	qsort(x, n, sizeof(*x), by_start);
	for (u64 i = 0; i < n; i++) {
		u64 first = x[i].start > at ? x[i].start : at, stop;

		if (x[i].start >= end)
			break;
		stop = x[i].count < end - x[i].start ? x[i].start + x[i].count : end;
		if (stop > first) {
			sum += stop - first;
			at = stop;
		}
	}
	free(x);
	return sum;
}

static void use(struct tm_save *s, const struct tm_save_disk *d, bool exact)
{
	const struct tmk_extent *x = tm_save_extents(s) + d->first_run;
	u64 blocks = d->sectors / 8 % BLOCKS_MOST + 1, sum = 0;
	struct tm_map *map = tm_save_map(x, d->runs, blocks), *other = tm_map_new(blocks);

	if (!map || !other)
		abort();
	for (u64 i = 0; i < d->runs; i++) {
		u64 last = x[i].start + x[i].count - 1;

		if (!x[i].count || x[i].start >= blocks)
			continue;
		if (x[i].count > blocks - x[i].start)
			last = blocks - 1;
		if (!tm_map_test(map, x[i].start) || !tm_map_test(map, last) ||
			!tm_map_any(map, NULL, x[i].start, last + 1))
			abort();
	}
	if (exact ? tm_map_count(map, blocks) != covered(x, d->runs, blocks)
		  : tm_map_count(map, blocks) < covered(x, d->runs, blocks))
		abort();
	pages_left = 4096;
	tm_map_merge(other, map, blocks);
	if (tm_map_count(other, blocks) < tm_map_count(map, blocks))
		abort();
	x = tm_save_extents(s) + d->first_witness;
	for (u32 i = 0; i < d->witnesses; i++)
		sum += x[i].start ^ x[i].count;
	if (sum == 42)
		puts("so that it is read");
	tm_map_free(map);
	tm_map_free(other);
}

/* Fills in the disks; returns what is left of the input. */
static size_t disks(struct tm_save *s, const uint8_t *data, size_t size)
{
	const uint8_t *from = data;

	s->head.disks = *data++ % (TMK_MAX_DISKS + 4);
	for (unsigned i = 0; i < s->head.disks && i < TMK_MAX_DISKS; i++) {
		struct tm_save_disk *d = &s->disk[i];
		u64 v[5];

		if (size - (size_t)(data - from) < sizeof(v))
			break;
		memcpy(v, data, sizeof(v));
		data += sizeof(v);
		d->sectors = v[0];
		d->first_run = v[1];
		d->runs = v[2];
		d->first_witness = v[3];
		d->witnesses = (u32)v[4];
	}
	return size - (size_t)(data - from);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct tm_save header;
	u8 flags = size > 1 ? data[0] : 0;
	struct tm_save *s;
	size_t left, len;

	if (size < 2)
		return 0;
	memset(&header, 0, sizeof(header));
	left = disks(&header, data + 1, size - 1);
	len = TM_SAVE_HEADER + left;
	s = calloc(1, len);
	if (!s)
		abort();
	memcpy(s, &header, sizeof(header));
	memcpy(tm_save_extents(s), data + size - left, left);
	s->head.magic = flags & 16 ? left : TMK_MAP_SAVED;
	s->version = flags & 32 ? 1 : TM_SAVE_VERSION;
	s->state = flags & 64 ? 0 : TM_SAVE_CLEAN;
	s->tracking.nids = flags & 128 ? (u32)left : 0;
	s->data_bytes = left + (flags & SHORT ? 1 : 0);
	s->data_sum = crc32_le(~0u, tm_save_extents(s), left) ^ (flags & WRONG_DATA ? 1 : 0);
	s->sum = crc32_le(~0u, s, TM_SAVE_HEADER) ^ (flags & WRONG_SUM ? 1 : 0);
	if (tm_save_check(s, len) == TMK_RESTORED) {
		if (flags & (WRONG_SUM | WRONG_DATA | SHORT))
			abort();
		for (unsigned i = 0; i < s->head.disks; i++) {
			pages_left = flags & NO_MEMORY ? 3 : 4096;
			use(s, &s->disk[i], !(flags & NO_MEMORY) && s->disk[i].runs < 256);
		}
	}
	free(s);
	return 0;
}
