/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cells: what travels on the wire and lies in packs, unchanged for life.
 *
 * A cell is a whole aligned chunk (4 blocks, 16 KiB) or a single block, compressed by itself. The agent makes it, the server
 * checks the sum over the stored bytes and keeps header and bytes verbatim, a reader checks both sums. A zero or bad cell has
 * no bytes and may cover any run of blocks. A block past the end of the disk, or the part of the last block past it, reads
 * as zeros at the source.
 */
#ifndef TM_CELL_H
#define TM_CELL_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define TM_BLOCK        4096u
#define TM_CHUNK_BLOCKS 4u
#define TM_CHUNK        (TM_BLOCK * TM_CHUNK_BLOCKS)
#define TM_DISK_MAX     (1ull << 50) /* bytes of one disk: 1 PiB */

enum tm_codec {
	TM_CODEC_RAW = 0,  /* len == count * TM_BLOCK */
	TM_CODEC_LZ4 = 1,  /* LZ4 block; 0 < len < count * TM_BLOCK */
	TM_CODEC_ZERO = 2, /* reads as zeros; no bytes */
	TM_CODEC_BAD = 3,  /* unreadable at the source; no bytes; reads as EIO */
};

/* Little-endian, 32 bytes, followed by len bytes. Frames and packs hold these back to back, without padding. */
struct tm_cell {
	uint64_t block;     /* first block on the disk */
	uint32_t count;     /* blocks: 1, or 4 from a multiple of 4; ZERO and BAD: any number > 0 */
	uint16_t len;       /* stored bytes that follow; at most TM_CHUNK */
	uint8_t codec;      /* enum tm_codec */
	uint8_t key_id;     /* reserved for encryption at rest; 0 */
	uint64_t plain_sum; /* xxh3-64 of the plain bytes; 0 for ZERO and BAD */
	uint64_t
		stored_sum; /* xxh3-64 of the len stored bytes, seeded with block, so that a misplaced cell shows; 0 for ZERO and BAD */
} __attribute__((packed));
static_assert(sizeof(struct tm_cell) == 32, "cell header");
static_assert(
	__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian and used in place");

/* The most bytes tm_cell_encode() can produce for one chunk (header included): four raw single blocks. */
#define TM_CELL_ROOM (4 * (sizeof(struct tm_cell) + TM_BLOCK))

/*
 * Encodes one cell of `count` blocks (1 or 4) from `plain` to `out` (room for TM_CELL_ROOM): header, then bytes. All zeros
 * becomes ZERO; LZ4 where it saves at least 1/16, else RAW. Returns the bytes written. Never fails, allocates nothing.
 */
size_t tm_cell_encode(uint64_t block, uint32_t count, const void *plain, void *out);

/* Writes a ZERO or BAD cell header of `count` blocks; returns its size. */
size_t tm_cell_encode_empty(uint64_t block, uint32_t count, enum tm_codec codec, void *out);

/*
 * Checks one cell at `buf` (avail bytes, from a peer or a file, not trusted): form, bounds against disk_blocks, and the sum of the stored
 * bytes. Returns header + bytes in *size. -EBADMSG with err set if anything is wrong; nothing beyond avail is touched.
 */
int tm_cell_check(
	const void *buf, size_t avail, uint64_t disk_blocks, size_t *size, struct tm_err *err);

/*
 * Decodes a checked cell with data (RAW, LZ4) to `plain` (count * TM_BLOCK bytes) and verifies plain_sum. ZERO of at most 4
 * blocks clears plain. -EBADMSG if the contents are damaged, -EIO for BAD.
 */
int tm_cell_decode(const struct tm_cell *cell, const void *stored, void *plain, struct tm_err *err);

/* True if the len bytes (a multiple of 64, 8-byte aligned) are all zero. */
int tm_all_zero(const void *p, size_t len);

#endif
