// SPDX-License-Identifier: Apache-2.0
// timeout: 60
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/cell.h"

#define BLOCKS 1000u

static _Alignas(64) unsigned char plain[TM_CHUNK], back[TM_CHUNK];
static unsigned char out[TM_CELL_ROOM];

static void fill(const char *how, size_t len)
{
	srand(7);
	for (size_t i = 0; i < len; i++)
		plain[i] = !strcmp(how, "zero")     ? 0
			   : !strcmp(how, "random") ? rand()
						    : "abcd"[i / 100 % 4];
}

static void round_trip(uint64_t block, uint32_t count, const char *how, int codec)
{
	size_t len = count * TM_BLOCK, n, size = 0;
	struct tm_cell c;
	struct tm_err err;

	fill(how, len);
	n = tm_cell_encode(block, count, plain, out);
	memcpy(&c, out, sizeof(c));
	cr_assert_eq(c.codec, codec, "%s: codec %d", how, c.codec);
	cr_assert_eq(c.block, block);
	cr_assert_eq(c.count, count);
	cr_assert_eq(n, sizeof(c) + c.len);
	cr_assert_eq(tm_cell_check(out, n, BLOCKS, &size, &err), 0);
	cr_assert_eq(size, n);
	memset(back, 0xee, sizeof(back));
	cr_assert_eq(tm_cell_decode(&c, out + sizeof(c), back, &err), 0);
	cr_assert_eq(memcmp(back, plain, len), 0);
}

Test(cell, round_trips)
{
	round_trip(8, 4, "text", TM_CODEC_LZ4);
	round_trip(9, 1, "text", TM_CODEC_LZ4);
	round_trip(8, 4, "random", TM_CODEC_RAW);
	round_trip(999, 1, "random", TM_CODEC_RAW);
	round_trip(8, 4, "zero", TM_CODEC_ZERO);
	round_trip(0, 1, "zero", TM_CODEC_ZERO);
}

Test(cell, all_zero_sees_every_byte)
{
	fill("zero", TM_CHUNK);
	cr_assert(tm_all_zero(plain, TM_CHUNK));
	for (size_t i = 0; i < TM_CHUNK; i++) {
		plain[i] = 1;
		cr_assert_not(tm_all_zero(plain, TM_CHUNK), "byte %zu", i);
		plain[i] = 0;
	}
}

Test(cell, every_flipped_bit_is_noticed)
{
	size_t n, size;
	struct tm_err err;
	struct tm_cell c;
	int checked, decoded;

	fill("text", TM_CHUNK);
	n = tm_cell_encode(8, 4, plain, out);
	for (size_t bit = 0; bit < n * 8; bit++) {
		out[bit / 8] ^= 1u << bit % 8;
		checked = tm_cell_check(out, n, BLOCKS, &size, &err);
		if (!checked) {
			/* plain_sum is covered by decoding; an LZ4 marked raw, or a shorter length, by the check. */
			memcpy(&c, out, sizeof(c));
			decoded = tm_cell_decode(&c, out + sizeof(c), back, &err);
			cr_assert_eq(decoded, -EBADMSG, "bit %zu goes unnoticed", bit);
		} else {
			cr_assert_eq(checked, -EBADMSG);
			cr_assert_eq(err.code, EBADMSG);
		}
		out[bit / 8] ^= 1u << bit % 8;
	}
}

Test(cell, cut_short_is_refused)
{
	size_t n, size;
	struct tm_err err;
	unsigned char *exact;

	fill("text", TM_BLOCK);
	n = tm_cell_encode(3, 1, plain, out);
	for (size_t avail = 0; avail < n; avail++) {
		/* A buffer of its own, so that the address sanitizer sees a touch past its end. */
		exact = malloc(avail + !avail);
		memcpy(exact, out, avail);
		cr_assert_eq(tm_cell_check(exact, avail, BLOCKS, &size, &err), -EBADMSG,
			"%zu bytes", avail);
		free(exact);
	}
}

static int check(struct tm_cell c, uint64_t disk_blocks)
{
	static unsigned char buf[sizeof(struct tm_cell) + TM_CHUNK];
	struct tm_err err;
	size_t size;

	if (c.len <= TM_CHUNK && c.codec < TM_CODEC_ZERO)
		c.stored_sum = XXH3_64bits_withSeed(buf + sizeof(c), c.len, c.block);
	memcpy(buf, &c, sizeof(c));
	return tm_cell_check(buf, sizeof(buf), disk_blocks, &size, &err);
}

Test(cell, form_and_bounds)
{
	struct tm_cell raw1 = {.block = 5, .count = 1, .len = TM_BLOCK, .codec = TM_CODEC_RAW};
	struct tm_cell raw4 = {.block = 4, .count = 4, .len = TM_CHUNK, .codec = TM_CODEC_RAW};
	struct tm_cell zero = {.block = 5, .count = 3, .codec = TM_CODEC_ZERO};
	struct tm_cell c;

	cr_assert_eq(check(raw1, 6), 0);
	cr_assert_neq(check(raw1, 5), 0, "past the end");
	cr_assert_eq(check(raw4, 5), 0, "the last chunk may reach past the end");
	cr_assert_neq(check(raw4, 4), 0);
	cr_assert_eq(check(zero, 6), 0);
	cr_assert_eq(check(zero, 8), 0);
	c = zero, c.count = 4;
	cr_assert_neq(check(c, 8), 0);
	c = zero, c.count = 0;
	cr_assert_neq(check(c, 8), 0);
	c = zero, c.count = UINT32_MAX, c.block = UINT64_MAX - 7;
	cr_assert_neq(check(c, 8), 0);
	c = zero, c.len = 1;
	cr_assert_neq(check(c, 8), 0);
	c = zero, c.plain_sum = 1;
	cr_assert_neq(check(c, 8), 0);
	c = zero, c.codec = TM_CODEC_BAD;
	cr_assert_eq(check(c, 8), 0);
	c = zero, c.codec = 4;
	cr_assert_neq(check(c, 8), 0);
	c = raw4, c.block = 6;
	cr_assert_neq(check(c, 100), 0, "chunk not aligned");
	c = raw4, c.count = 2, c.len = 2 * TM_BLOCK;
	cr_assert_neq(check(c, 100), 0);
	c = raw1, c.key_id = 1;
	cr_assert_neq(check(c, 100), 0);
	c = raw1, c.len = TM_BLOCK - 1;
	cr_assert_neq(check(c, 100), 0);
	c = raw1, c.codec = TM_CODEC_LZ4;
	cr_assert_neq(check(c, 100), 0, "LZ4 must be shorter than plain");
	cr_assert_neq(check(raw1, UINT64_MAX), 0, "no disk is that large");
}

Test(cell, bad_reads_as_eio)
{
	struct tm_cell c = {.block = 5, .count = 1, .codec = TM_CODEC_BAD};
	struct tm_err err;

	cr_assert_eq(tm_cell_decode(&c, NULL, back, &err), -EIO);
	cr_assert(strstr(err.msg, "5"));
}
