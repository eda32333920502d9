// SPDX-License-Identifier: Apache-2.0
#include "common/cell.h"

#include <errno.h>
#include <lz4.h>
#include <string.h>
#include <xxhash.h>

int tm_all_zero(const void *p, size_t len)
{
	const uint64_t *w = p;
	const uint64_t *end = w + len / sizeof(*w);

	/* Eight words a turn: the compiler makes vectors of it, and data shows in the first line almost always. */
	for (; w < end; w += 8)
		if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
			return 0;
	return 1;
}

size_t tm_cell_encode_empty(uint64_t block, uint32_t count, enum tm_codec codec, void *out)
{
	struct tm_cell c = {.block = block, .count = count, .codec = codec};

	memcpy(out, &c, sizeof(c));
	return sizeof(c);
}

/* The bytes that LZ4 must not exceed to be worth it: a sixteenth saved. */
static int worth_it(size_t plain)
{
	return (int)(plain - plain / 16);
}

size_t tm_cell_encode(uint64_t block, uint32_t count, const void *plain, void *out)
{
	size_t len = (size_t)count * TM_BLOCK;
	struct tm_cell c = {.block = block, .count = count};
	char *data = (char *)out + sizeof(c);
	int n;

	if (tm_all_zero(plain, len))
		return tm_cell_encode_empty(block, count, TM_CODEC_ZERO, out);
	n = LZ4_compress_default(plain, data, (int)len, worth_it(len));
	if (n > 0) {
		c.codec = TM_CODEC_LZ4;
		c.len = (uint16_t)n;
	} else {
		c.codec = TM_CODEC_RAW;
		c.len = (uint16_t)len;
		memcpy(data, plain, len);
	}
	c.plain_sum = XXH3_64bits(plain, len);
	c.stored_sum = XXH3_64bits_withSeed(data, c.len, block);
	memcpy(out, &c, sizeof(c));
	return sizeof(c) + c.len;
}

static int check_empty(const struct tm_cell *c, struct tm_err *err)
{
	if (c->count == 0 || c->len || c->plain_sum || c->stored_sum)
		return tm_fail(err, EBADMSG, "cell: malformed empty cell (%u blocks, %u bytes)",
			c->count, c->len);
	return 0;
}

static int check_data(const struct tm_cell *c, struct tm_err *err)
{
	uint32_t plain = c->count * TM_BLOCK;

	if (c->count != 1 && (c->count != TM_CHUNK_BLOCKS || c->block % TM_CHUNK_BLOCKS))
		return tm_fail(err, EBADMSG,
			"cell: %u blocks from block %llu are neither a block nor a chunk", c->count,
			(unsigned long long)c->block);
	if (c->codec == TM_CODEC_RAW ? c->len != plain : !c->len || c->len >= plain)
		return tm_fail(
			err, EBADMSG, "cell: %u bytes stored for %u blocks", c->len, c->count);
	return 0;
}

int tm_cell_check(
	const void *buf, size_t avail, uint64_t disk_blocks, size_t *size, struct tm_err *err)
{
	const char *data = (const char *)buf + sizeof(struct tm_cell);
	uint64_t limit;
	struct tm_cell c;
	int ret;

	if (avail < sizeof(c))
		return tm_fail(err, EBADMSG, "cell: header cut short (%zu bytes left)", avail);
	memcpy(&c, buf, sizeof(c));
	if (c.key_id || c.codec > TM_CODEC_BAD)
		return tm_fail(err, EBADMSG, "cell: unknown codec %u or key %u", c.codec, c.key_id);
	ret = c.codec >= TM_CODEC_ZERO ? check_empty(&c, err) : check_data(&c, err);
	if (ret)
		return ret;
	/* The last chunk may reach past the end of the disk; no cell goes beyond that chunk. */
	limit = (disk_blocks + TM_CHUNK_BLOCKS - 1) / TM_CHUNK_BLOCKS * TM_CHUNK_BLOCKS;
	if (disk_blocks > TM_DISK_MAX / TM_BLOCK || c.block >= disk_blocks ||
		c.count > limit - c.block)
		return tm_fail(err, EBADMSG,
			"cell: blocks %llu+%u are outside the disk of %llu blocks",
			(unsigned long long)c.block, c.count, (unsigned long long)disk_blocks);
	if (c.len > avail - sizeof(c))
		return tm_fail(err, EBADMSG, "cell: %u bytes announced, %zu left", c.len,
			avail - sizeof(c));
	if (c.len && XXH3_64bits_withSeed(data, c.len, c.block) != c.stored_sum)
		return tm_fail(err, EBADMSG,
			"cell: stored bytes of block %llu do not match their sum",
			(unsigned long long)c.block);
	*size = sizeof(c) + c.len;
	return 0;
}

int tm_cell_decode(const struct tm_cell *cell, const void *stored, void *plain, struct tm_err *err)
{
	size_t len = (size_t)cell->count * TM_BLOCK;

	if (cell->codec == TM_CODEC_BAD)
		return tm_fail(err, EIO, "block %llu was unreadable at the source",
			(unsigned long long)cell->block);
	if (cell->count == 0 || cell->count > TM_CHUNK_BLOCKS)
		return tm_fail(err, EBADMSG, "cell: cannot decode %u blocks", cell->count);
	if (cell->codec == TM_CODEC_ZERO) {
		memset(plain, 0, len);
		return 0;
	}
	if (cell->codec == TM_CODEC_RAW && cell->len == len)
		memcpy(plain, stored, len);
	else if (cell->codec != TM_CODEC_LZ4 ||
		 LZ4_decompress_safe(stored, plain, cell->len, (int)len) != (int)len)
		return tm_fail(err, EBADMSG, "cell: bytes of block %llu are damaged",
			(unsigned long long)cell->block);
	if (XXH3_64bits(plain, len) != cell->plain_sum)
		return tm_fail(err, EBADMSG, "cell: contents of block %llu do not match their sum",
			(unsigned long long)cell->block);
	return 0;
}
