// SPDX-License-Identifier: Apache-2.0
// timeout: 60
/* The checker of the crash-consistency oracle: it accepts what a right module makes and refuses each kind of wrong. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/check.c"

#define WRITERS 4
#define FLIGHT  12 /* writes of one writer under way */

/* A model of disks on which writes take time: written when they complete. */
static struct layout lay = {.seed = 3,
	.run = 77,
	.disks = 2,
	.writers = WRITERS,
	.own = 8,
	.shared = 4,
	.grain = 1,
	.most = CHUNK_SECT,
	.first = 16};
static char *disk[2];
static done_t done[WRITERS];
static uint32_t submitted[WRITERS];
static struct flight {
	uint32_t seq;
	struct op op;
	char buf[CHUNK_SECT * SECTOR];
} flight[WRITERS][FLIGHT];

static char *place(uint32_t d, uint64_t sector)
{
	return disk[d] + (lay.first + sector) * SECTOR;
}

static size_t disk_bytes(void)
{
	return (size_t)(lay.first + layout_sectors(&lay)) * SECTOR;
}

static void submit(uint32_t w, struct flight *f)
{
	uint32_t seq = submitted[w] + 1;
	struct op op = op_at(&lay, w, seq);

	if (seq - done_low(done[w]) > WINDOW)
		return;
	for (int i = 0; i < FLIGHT; i++) {
		const struct flight *o = &flight[w][i];

		if (o->seq && o->op.disk == op.disk && o->op.sector < op.sector + op.count &&
			op.sector < o->op.sector + o->op.count)
			return;
	}
	submitted[w] = seq;
	f->seq = seq;
	f->op = op;
	rec_make(&lay, &op, w, seq, done, f->buf);
}

static void complete(uint32_t w, struct flight *f)
{
	memcpy(place(f->op.disk, f->op.sector), f->buf, f->op.count * SECTOR);
	done[w] = done_add(done[w], f->seq);
	f->seq = 0;
}

static void steps(int n)
{
	while (n--) {
		uint32_t w = (uint32_t)rand() % WRITERS;
		struct flight *f = &flight[w][rand() % FLIGHT];

		if (f->seq)
			complete(w, f);
		else
			submit(w, f);
	}
}

static void setup(void)
{
	srand(5);
	for (int d = 0; d < 2; d++) {
		disk[d] = calloc(1, disk_bytes());
		cr_assert(disk[d]);
	}
}

static void teardown(void)
{
	free(disk[0]);
	free(disk[1]);
}

static bool judge(struct checker *c, char *const image[2], struct verdict *v)
{
	for (uint32_t d = 0; d < 2; d++)
		checker_feed(c, d, 0, disk_bytes() / SECTOR, image[d]);
	return checker_judge(c, submitted, v);
}

TestSuite(oracle, .init = setup, .fini = teardown);

Test(oracle, places)
{
	for (uint32_t w = 0; w < WRITERS; w++) {
		for (uint32_t seq = 1; seq < 20000; seq++) {
			struct op op = op_at(&lay, w, seq);

			cr_assert_lt(op.disk, lay.disks);
			cr_assert(op.count >= 1 && op.count <= lay.most);
			cr_assert_leq(op.sector + op.count, layout_sectors(&lay));
			for (uint32_t i = 0; i < op.count; i++)
				cr_assert_eq(owner_of(&lay, op.sector + i), w);
		}
	}
}

Test(oracle, done_words)
{
	done_t d = 0;

	d = done_add(d, 3);
	d = done_add(d, 2);
	cr_assert_eq(done_low(d), 0);
	cr_assert_eq(done_mask(d), 6);
	d = done_add(d, 1);
	cr_assert_eq(done_low(d), 3);
	cr_assert_eq(done_mask(d), 0);
	d = done_add(d, 3 + WINDOW);
	cr_assert_eq(done_mask(d), 1U << 31);
	for (uint32_t s = 4; s < 3 + WINDOW; s++)
		d = done_add(d, s);
	cr_assert_eq(done_low(d), 3 + WINDOW);
}

/* Claims in any order and overlap come to the union of what they say. */
Test(oracle, claims_join)
{
	for (int round = 0; round < 2000; round++) {
		struct checker *c = checker_new(&lay);
		done_t d = 0, kept[40];
		bool all[200] = {0};

		for (int n = 0; n < 40; n++) {
			uint32_t seq = done_low(d) + 1 + (uint32_t)rand() % WINDOW;

			if (!(done_mask(d) >> (seq - done_low(d) - 1) & 1))
				d = done_add(d, seq);
			kept[n] = d;
		}
		for (int n = 0; n < 8; n++) {
			done_t k = kept[rand() % 40];

			checker_claim(c, 1, k);
			for (uint32_t s = 1; s <= done_low(k); s++)
				all[s] = true;
			for (uint32_t i = 0; i < 32; i++)
				all[done_low(k) + 1 + i] |= done_mask(k) >> i & 1;
		}
		for (uint32_t s = 1; s < 200; s++) {
			uint32_t low = done_low(c->claim[1]);
			bool has = s <= low ||
				   (s - low <= 32 && (done_mask(c->claim[1]) >> (s - low - 1) & 1));

			cr_assert_eq(has, all[s], "write %u", s);
		}
		checker_free(c);
	}
}

/* The disks as they are between any two completions are a right image: promise 1 holds for them. */
Test(oracle, accepts_right_images)
{
	struct checker *c = checker_new(&lay);
	struct verdict v;

	for (int cut = 0; cut < 300; cut++) {
		steps(1 + rand() % 300);
		for (uint32_t w = 0; w < WRITERS; w++)
			checker_claim(c, w, done[w]);
		cr_assert(judge(c, disk, &v), "cut %d: %s", cut, v.first);
	}
	cr_assert_gt(submitted[0], 1000);
	checker_free(c);
}

/* An image of two instants: disk 0 early, disk 1 late. From what is in it alone. */
Test(oracle, refuses_two_instants)
{
	char *old = malloc(disk_bytes());
	struct verdict v;
	int found = 0;

	for (int cut = 0; cut < 100; cut++) {
		struct checker *c = checker_new(&lay);
		char *image[2] = {old, disk[1]};

		steps(200);
		memcpy(old, disk[0], disk_bytes());
		steps(60);
		found += !judge(c, image, &v);
		checker_free(c);
	}
	cr_assert_geq(found, 80, "%d", found);
	free(old);
}

/* One write that was known complete is missing: its old content is there. */
Test(oracle, refuses_a_lost_write)
{
	char *image[2] = {malloc(disk_bytes()), malloc(disk_bytes())};
	struct verdict v;

	for (int cut = 0; cut < 50; cut++) {
		struct checker *c = checker_new(&lay);
		char *was[2] = {malloc(disk_bytes()), malloc(disk_bytes())};
		uint32_t w = (uint32_t)rand() % WRITERS, seq;
		struct op op;

		for (int d = 0; d < 2; d++)
			memcpy(was[d], disk[d], disk_bytes());
		seq = done_low(done[w]) + 1;
		while (done_low(done[w]) < seq)
			steps(1);
		op = op_at(&lay, w, seq);
		for (int d = 0; d < 2; d++)
			memcpy(image[d], disk[d], disk_bytes());
		memcpy(image[op.disk] + (lay.first + op.sector) * SECTOR,
			was[op.disk] + (lay.first + op.sector) * SECTOR, op.count * SECTOR);
		/* Told from outside, as nothing else may have been submitted since. */
		checker_claim(c, w, done[w]);
		cr_assert(!judge(c, image, &v));
		cr_assert_gt(v.count[WRONG_LOST], 0);
		checker_free(c);
		free(was[0]);
		free(was[1]);
		steps(500);
	}
	free(image[0]);
	free(image[1]);
}

Test(oracle, refuses_garbage_torn_future_and_back)
{
	struct checker *c;
	struct verdict v;
	struct flight *f = &flight[0][0];
	char keep[SECTOR];
	char *s;

	steps(20000);
	s = place(0, 5);
	cr_assert(!all_zero(s));
	memcpy(keep, s, SECTOR);

	c = checker_new(&lay);
	s[SECTOR / 2] ^= 1;
	cr_assert(!judge(c, disk, &v));
	cr_assert_eq(v.count[WRONG_GARBAGE], 1);
	checker_free(c);

	c = checker_new(&lay);
	memcpy(s, place(0, 6), SECTOR); /* a right record in the wrong place */
	cr_assert(!judge(c, disk, &v));
	cr_assert_eq(v.count[WRONG_GARBAGE], 1);
	memcpy(s, keep, SECTOR);
	cr_assert(judge(c, disk, &v));

	checker_free(c);

	/* One sector more than there should be of a write under way. */
	c = checker_new(&lay);
	cr_assert(judge(c, disk, &v));
	while (!f->seq || f->op.count < 2)
		steps(1);
	memcpy(place(f->op.disk, f->op.sector), f->buf, SECTOR);
	judge(c, disk, &v);
	cr_assert_eq(v.count[WRONG_TORN], 1);
	checker_free(c);

	c = checker_new(&lay);
	cr_assert_eq(checker_seq(c, 0, 5), 0);
	complete(0, f);
	cr_assert(judge(c, disk, &v));
	cr_assert_neq(checker_seq(c, 0, 5), 0);
	memset(s, 0, SECTOR); /* a sector that had a write has none */
	cr_assert(!judge(c, disk, &v));
	cr_assert_eq(v.count[WRONG_BACK], 1);
	checker_free(c);
}

Test(oracle, refuses_what_came_after_the_cut)
{
	struct checker *c = checker_new(&lay);
	uint32_t after[WRITERS];
	struct verdict v;

	steps(2000);
	cr_assert(judge(c, disk, &v));
	memcpy(after, submitted, sizeof(after));
	steps(500);
	for (uint32_t d = 0; d < 2; d++)
		checker_feed(c, d, 0, disk_bytes() / SECTOR, disk[d]);
	cr_assert(!checker_judge(c, after, &v));
	cr_assert_gt(v.count[WRONG_FUTURE], 0);
	checker_free(c);
}
