// SPDX-License-Identifier: Apache-2.0
// timeout: 120
/*
 * Moments of the store that a run hits once in thousands, brought about by hand: the pass that drops what no point sees is begun, the
 * store goes on, the pass ends; epochs are in the index but not among the points; a failed write happened all the same.
 */
#include <criterion/criterion.h>
#include <limits.h>
#include <unistd.h>

#include "server/store/internal.h"
#include "server/store/space.h"
#include "tests/unit/store-model.h"

static char dir[256];
static struct store *st;
static struct tm_err err;
static struct store_disk disk;
static const uint8_t machine[TM_UUID] = {7}, tracking[TM_UUID] = {8};
static const struct store_opts opts = {
	.reserve_bytes = UINT64_MAX, .buffer_bytes = 1 << 20, .items_max = 4};

static void must(int ret)
{
	cr_assert_eq(ret, 0, "%s", err.msg);
}

static void setup(void)
{
	md_tmpdir(dir, sizeof(dir));
	must(store_create(dir, &err));
	must(store_open(dir, &opts, &st, &err));
	memset(&disk, 0, sizeof(disk));
	memcpy(disk.machine, machine, TM_UUID);
	disk.uuid[0] = 9;
	disk.size = 256 * TM_BLOCK;
	must(store_disk_register(st, &disk, &err));
}

static void teardown(void)
{
	store_close(st);
	md_rmdir(dir);
}

/* Block `block` (count 1) or its whole chunk (4), each block with contents `id`. */
static void put(uint64_t seq, uint64_t block, uint32_t count, uint32_t id)
{
	static _Alignas(64) char plain[TM_CHUNK];
	static char buf[TM_CELL_ROOM];

	for (uint32_t i = 0; i < count; i++)
		md_fill(id, block + i, plain + (size_t)i * TM_BLOCK);
	must(store_put(st, seq, disk.no, buf, tm_cell_encode(block, count, plain, buf), &err));
}

/* Enough of other blocks that what was put before them is in the index now. */
static void spill(uint64_t seq)
{
	for (uint64_t b = 128; b < 134; b++)
		put(seq, b, 1, 99);
}

static uint64_t begin(int kind)
{
	uint64_t seq;

	must(store_attempt_begin(st, machine, kind, disk.no, tracking, &seq, &err));
	return seq;
}

static int try_commit(uint64_t seq, uint64_t cut, const uint64_t *piece)
{
	struct store_point_disk d = {.no = disk.no, .size = disk.size};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d};
	struct store_commit c = {.id.cut = cut,
		.parent.cut = cut - 1,
		.new_line = cut == 1,
		.pieces = piece,
		.npieces = piece != NULL,
		.point = &p};

	return store_commit(st, seq, &c, NULL, &err);
}

static void commit(uint64_t seq, uint64_t cut, const uint64_t *piece)
{
	must(try_commit(seq, cut, piece));
}

static uint64_t epoch(uint64_t cut, uint64_t block, uint32_t count, uint32_t id)
{
	uint64_t seq = begin(TM_ATTEMPT_EPOCH);

	put(seq, block, count, id);
	commit(seq, cut, NULL);
	return seq;
}

/* The chunk, then blocks over it, spilled. Both stand in the index with the same number, the blocks win. */
static void put_both(uint64_t seq)
{
	put(seq, 8, 4, 2);
	for (uint64_t b = 8; b < 12; b++)
		put(seq, b, 1, 3);
	spill(seq);
}

static void reads_as(uint64_t point, uint64_t block, uint32_t count, uint32_t id)
{
	char got[TM_BLOCK], want[TM_BLOCK];
	struct store_view *v;

	must(store_view_open(st, machine, disk.no, point, &v, &err));
	for (uint64_t b = block; b < block + count; b++) {
		must(store_view_read(v, got, sizeof(got), b * TM_BLOCK, &err));
		md_fill(id, b, want);
		cr_assert_eq(memcmp(got, want, TM_BLOCK), 0, "point %llu, block %llu",
			(unsigned long long)point, (unsigned long long)b);
	}
	store_view_close(v);
}

static struct squash *squash(void)
{
	struct squash *q = squash_begin(st, disk.no, &err);

	cr_assert(q, "%s", err.msg);
	return q;
}

static size_t entries(enum cf cf, uint64_t from, uint64_t to)
{
	rocksdb_iterator_t *it = index_iter(&st->ix, cf, 1);
	char key[KEY_LEN];
	size_t n = 0, len;

	key_make(key, disk.no, from, UINT64_MAX);
	for (rocksdb_iter_seek(it, key, sizeof(key));
		rocksdb_iter_valid(it) && key_unit(rocksdb_iter_key(it, &len)) < to;
		rocksdb_iter_next(it))
		n++;
	rocksdb_iter_destroy(it);
	return n;
}

TestSuite(moments, .init = setup, .fini = teardown, .timeout = 100);

/* The blocks are gone again when the chunk comes anew: it must not be taken for hidden by them. */
Test(moments, an_epoch_that_changed_meanwhile)
{
	uint64_t one = epoch(1, 8, 4, 1), two = begin(TM_ATTEMPT_EPOCH);
	struct squash *q;

	put_both(two);
	q = squash();
	put(two, 8, 4, 4);
	spill(two);
	commit(two, 2, NULL);
	must(squash_end(q));
	reads_as(one, 8, 4, 1);
	reads_as(two, 8, 4, 4);
}

Test(moments, a_piece_that_changed_meanwhile)
{
	uint64_t one = epoch(1, 8, 4, 1), piece = begin(TM_ATTEMPT_RESYNC), two;
	struct store_range done = {8, 4};
	struct squash *q;

	put_both(piece);
	must(store_part(st, piece, &done, 1, 0, &err));
	q = squash();
	put(piece, 8, 4, 4);
	must(store_part(st, piece, &done, 1, 1, &err));
	two = begin(TM_ATTEMPT_EPOCH);
	commit(two, 2, &piece);
	must(squash_end(q));
	reads_as(one, 8, 4, 1);
	reads_as(two, 8, 4, 4);
}

/* What it is for: the chunk that blocks of later epochs hide goes once no point sees it, and not before. */
Test(moments, a_hidden_chunk_goes)
{
	uint64_t one = epoch(1, 8, 4, 1), two = begin(TM_ATTEMPT_EPOCH), three;

	for (uint64_t b = 8; b < 12; b++)
		put(two, b, 1, 2);
	spill(two);
	commit(two, 2, NULL);
	must(squash_end(squash()));
	cr_assert_eq(entries(CF_CHUNK, 2, 3), 1);
	must(store_points_drop(st, machine, &one, 1, &err));
	must(squash_end(squash()));
	cr_assert_eq(entries(CF_CHUNK, 2, 3), 0);
	reads_as(two, 8, 4, 2);
	/* And the other way round, with what an aborted attempt left. */
	three = begin(TM_ATTEMPT_EPOCH);
	put_both(three);
	must(store_abort(st, three, &err));
	three = epoch(3, 8, 4, 5);
	must(squash_end(squash()));
	cr_assert_eq(entries(CF_BLOCK, 8, 12), 4);
	must(store_points_drop(st, machine, &two, 1, &err));
	must(squash_end(squash()));
	cr_assert_eq(entries(CF_BLOCK, 8, 12), 0);
	cr_assert_eq(entries(CF_CHUNK, 2, 3), 1);
	reads_as(three, 8, 4, 5);
}

/* Of two epochs in one batch the first is superseded before it is known that it is a point. */
Test(moments, epochs_between_index_and_points)
{
	uint64_t one = epoch(1, 8, 4, 1), two = begin(TM_ATTEMPT_EPOCH), three;
	struct machine *m = machine_find(st, machine);

	for (uint64_t b = 8; b < 12; b++)
		put(two, b, 1, 2);
	commit(two, 2, NULL);
	three = epoch(3, 8, 4, 3);
	cr_assert_eq(m->head_seq, three);
	/* As it is while the batch with `two` and `three` is written. */
	m->head_seq = one;
	m->npoints = 1;
	must(squash_end(squash()));
	must(store_compact(st, machine, &err));
	m->npoints = 3;
	m->head_seq = three;
	reads_as(one, 8, 4, 1);
	reads_as(two, 8, 4, 2);
	reads_as(three, 8, 4, 3);
	/* The same without points in between. */
	m->npoints = 1;
	must(squash_end(squash()));
	cr_assert_eq(entries(CF_BLOCK, 8, 12), 0);
	m->npoints = 3;
}

/* The index is closed after an error: the committer opens it again, now or as soon as that is possible. */
Test(moments, the_index_comes_back)
{
	uint64_t one = epoch(1, 8, 4, 1), two, lost;
	char current[PATH_MAX], away[PATH_MAX];
	int ret = -EIO;

	store_index_shut(st);
	two = epoch(2, 8, 4, 2);
	snprintf(current, sizeof(current), "%s/index/CURRENT", dir);
	snprintf(away, sizeof(away), "%s/CURRENT", dir);
	cr_assert_eq(rename(current, away), 0);
	store_index_shut(st);
	lost = begin(TM_ATTEMPT_EPOCH);
	put(lost, 8, 4, 3);
	cr_assert_eq(try_commit(lost, 3, NULL), -EIO);
	cr_assert_eq(store_point_pin(st, machine, one, 1, &err), -EIO);
	cr_assert_eq(rename(away, current), 0);
	for (int i = 0; ret && i < 300; i++) {
		ret = store_point_pin(st, machine, one, 1, &err);
		usleep(100000);
	}
	cr_assert_eq(ret, 0);
	reads_as(one, 8, 4, 1);
	reads_as(two, 8, 4, 2);
	reads_as(epoch(3, 8, 4, 4), 8, 4, 4);
}

/* Who wants to close does not wait; what is long ends. */
Test(moments, interrupted)
{
	uint64_t one = epoch(1, 8, 4, 1);

	store_interrupt(st);
	must(store_compact(st, machine, &err));
	cr_assert_eq(store_collect(st, NULL, NULL, &err), -ECANCELED);
	reads_as(one, 8, 4, 1);
	reads_as(epoch(2, 8, 4, 2), 8, 4, 2);
}
