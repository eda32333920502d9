/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The crash-consistency oracle: what writers write, and how an image is judged by what is in it.
 *
 * Every sector of the hot area of every disk belongs to one writer for good. A writer's n-th write goes to a place that
 * follows from (seed, writer, n) alone, and every sector of it says: writer, n, and which writes of each writer were
 * known to be complete when it was submitted. So an image can be judged by itself: whatever is known complete by
 * anything in the image must be in it, or overwritten by its writer's later writes.
 */
#ifndef TESTS_CRASH_ORACLE_H
#define TESTS_CRASH_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR      512
#define BLOCK_SECT  8
#define CHUNK_SECT  128 /* 64 KiB: what a writer owns together */
#define WRITERS_MAX 8
#define WINDOW      32 /* a writer runs at most this far ahead of its oldest incomplete write */

/*
 * Which writes of one writer are complete: all up to low, and low + 1 + i for every bit i of mask.
 * One word, so that it is read and written in one go.
 */
typedef uint64_t done_t;
static inline uint32_t done_low(done_t d)
{
	return (uint32_t)(d >> 32);
}
static inline uint32_t done_mask(done_t d)
{
	return (uint32_t)d;
}
/* With write `seq` complete too; low < seq <= low + WINDOW. */
done_t done_add(done_t d, uint32_t seq);

/* One sector as written. */
struct rec {
	uint64_t magic;
	uint64_t run; /* drawn per run: nothing of an earlier one is taken for ours */
	uint32_t writer, seq;
	uint32_t disk, pad;
	uint64_t sector;
	done_t known[WRITERS_MAX];
	uint64_t fill[SECTOR / 8 - 6 - WRITERS_MAX];
	uint64_t sum;
};
#define REC_MAGIC 0x746d6f7261636c65ULL

/* The hot area: on each disk `own` chunks (each one writer's) from sector `first` on, then `shared` blocks whose sectors belong
 * to writers in turn (only where sectors are of 512 bytes). */
struct layout {
	uint64_t seed, run;
	uint32_t disks, writers;
	uint32_t own;    /* chunks; a multiple of writers */
	uint32_t shared; /* blocks */
	uint32_t grain;  /* sectors of the smallest write: 1 or 8 */
	uint32_t most;   /* sectors of the largest: at most CHUNK_SECT */
	uint64_t first;  /* sector, a multiple of BLOCK_SECT */
};

/* Sectors of the hot area of one disk. */
static inline uint64_t layout_sectors(const struct layout *l)
{
	return (uint64_t)l->own * CHUNK_SECT + (uint64_t)l->shared * BLOCK_SECT;
}

struct op {
	uint32_t disk;
	uint32_t count;  /* sectors */
	uint64_t sector; /* relative to layout.first */
	bool fua;
};

/* The place of writer w's write number seq (1, 2, ...). */
struct op op_at(const struct layout *l, uint32_t w, uint32_t seq);
/* Who may write a sector (relative to layout.first). */
uint32_t owner_of(const struct layout *l, uint64_t sector);
/* Makes the sectors of op into buf (op.count * SECTOR bytes). */
void rec_make(const struct layout *l, const struct op *op, uint32_t w, uint32_t seq,
	const done_t *known, void *buf);

/* Kinds of what may be wrong with an image. */
enum wrong {
	WRONG_GARBAGE, /* a sector is no record, or one of elsewhere */
	WRONG_LOST, /* a write known complete is neither there nor overwritten: promise 1 is broken */
	WRONG_TORN,   /* part of a write only */
	WRONG_FUTURE, /* a write submitted after the cut returned */
	WRONG_BACK,   /* a sector went back to an older write than an earlier image had */
	WRONG_KINDS,
};
extern const char *const wrong_name[WRONG_KINDS];

struct verdict {
	uint64_t count[WRONG_KINDS];
	char first[256]; /* the first one found, told in words; "" = none */
};

/* A checker: follows one image from cut to cut; each cut costs what changed. One thread. */
struct checker;
struct checker *checker_new(const struct layout *l);
void checker_free(struct checker *c);
/* Torn writes are no fault: what is above the disk may split them. */
void checker_allow_torn(struct checker *c);
/* Drained data came into the image: count sectors of a disk from `sector` on (of the disk); what is not hot is left out. */
void checker_feed(
	struct checker *c, uint32_t disk, uint64_t sector, uint64_t count, const void *data);
/* From outside the image: these writes were complete before the cut began. */
void checker_claim(struct checker *c, uint32_t w, done_t done);
/* Judges the image as fed so far. submitted[w]: the last write submitted when the cut had returned; NULL: unknown.
 * True if nothing is wrong; *v is set in any case. */
bool checker_judge(struct checker *c, const uint32_t *submitted, struct verdict *v);
/* The newest write of a sector in the image, 0 = none (for tests and reports). */
uint32_t checker_seq(const struct checker *c, uint32_t disk, uint64_t sector);

#endif
