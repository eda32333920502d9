// SPDX-License-Identifier: Apache-2.0
// timeout: 120
/*
 * Single promises of the store, one by one.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "server/store/backup.h"
#include "server/store/internal.h"
#include "server/store/space.h"
#include "tests/unit/store-model.h"

static char dir[256];
static struct store *st;
static struct tm_err err;
static struct store_disk disk;
static const uint8_t machine[TM_UUID] = {7}, tracking[TM_UUID] = {8};
static const struct store_opts opts = {
	.reserve_bytes = UINT64_MAX, .buffer_bytes = 1 << 20, .prune_min = 1};

static void must(int ret)
{
	cr_assert_eq(ret, 0, "%s", err.msg);
}

static void reopen(void)
{
	store_close(st);
	must(store_open(dir, &opts, &st, &err));
}

static void setup(void)
{
	md_tmpdir(dir, sizeof(dir));
	must(store_create(dir, &err));
	must(store_open(dir, &opts, &st, &err));
	memset(&disk, 0, sizeof(disk));
	memcpy(disk.machine, machine, TM_UUID);
	disk.uuid[0] = 9;
	disk.size = 64 * TM_BLOCK;
	must(store_disk_register(st, &disk, &err));
}

static void teardown(void)
{
	store_close(st);
	md_rmdir(dir);
}

static void put(uint64_t seq, uint64_t block, uint32_t id)
{
	static _Alignas(64) char plain[TM_BLOCK];
	static char buf[TM_CELL_ROOM];

	md_fill(id, block, plain);
	must(store_put(st, seq, disk.no, buf, tm_cell_encode(block, 1, plain, buf), &err));
}

static uint64_t begin(int kind)
{
	uint64_t seq;

	must(store_attempt_begin(st, machine, kind, disk.no, tracking, &seq, &err));
	return seq;
}

static int commit(
	uint64_t seq, uint64_t cut, uint64_t parent, const uint64_t *piece, int with_point)
{
	struct store_point_disk d = {.no = disk.no, .size = disk.size};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d};
	struct store_commit c = {.id.cut = cut,
		.parent.cut = parent,
		.new_line = parent == 0,
		.pieces = piece,
		.npieces = piece != NULL,
		.point = with_point ? &p : NULL};

	return store_commit(st, seq, &c, NULL, &err);
}

static int reads_as(uint64_t point, uint64_t block, uint32_t id)
{
	char got[TM_BLOCK], want[TM_BLOCK];
	struct store_view *v;

	must(store_view_open(st, machine, disk.no, point, &v, &err));
	must(store_view_read(v, got, sizeof(got), block * TM_BLOCK, &err));
	store_view_close(v);
	md_fill(id, block, want);
	return !memcmp(got, want, TM_BLOCK);
}

TestSuite(rules, .init = setup, .fini = teardown, .timeout = 100);

Test(rules, one_process_at_a_time)
{
	struct store *second;

	cr_assert_eq(store_open(dir, &opts, &second, &err), -EBUSY);
	cr_assert_eq(store_create(dir, &err), -EEXIST);
}

Test(rules, numbers_are_never_given_twice)
{
	struct store_info a, b;
	uint64_t last = 0, seq;

	must(store_info(st, &a, &err));
	for (int i = 0; i < 5; i++) {
		seq = begin(TM_ATTEMPT_EPOCH);
		cr_assert_gt(seq, last);
		last = seq;
		reopen();
	}
	must(store_info(st, &b, &err));
	cr_assert_eq(b.incarnation, a.incarnation + 5);
	cr_assert_eq(memcmp(a.uuid, b.uuid, TM_UUID), 0);
}

Test(rules, nothing_unknown_is_deleted)
{
	char path[400];
	struct stat sb;
	int fd;

	for (const char **name =
			(const char *[]){"packs/mine", "packs/0000000a", "open/file", NULL};
		*name; name++) {
		snprintf(path, sizeof(path), "%s/%s", dir, *name);
		fd = open(path, O_WRONLY | O_CREAT, 0600);
		cr_assert_eq(write(fd, "not of this store", 17), 17);
		close(fd);
	}
	/* Longer than a header, so that it cannot pass for a pack that a crash left empty. */
	snprintf(path, sizeof(path), "%s/packs/0000000a", dir);
	fd = open(path, O_WRONLY);
	cr_assert_eq(ftruncate(fd, 8192), 0);
	close(fd);
	reopen();
	for (const char **name =
			(const char *[]){"packs-mine", "packs-0000000a", "open-file", NULL};
		*name; name++) {
		snprintf(path, sizeof(path), "%s/lost+found/%s", dir, *name);
		cr_assert_eq(stat(path, &sb), 0, "%s", path);
	}
}

Test(rules, an_epoch_follows_the_head)
{
	uint64_t a = begin(TM_ATTEMPT_EPOCH), b;
	struct store_head h;

	cr_assert_eq(store_head(st, machine, &h, &err), -ENOENT);
	must(commit(a, 1, 0, NULL, 1));
	b = begin(TM_ATTEMPT_EPOCH);
	put(b, 3, 5);
	cr_assert_eq(commit(b, 3, 2, NULL, 1), -EINVAL, "wrong parent");
	must(commit(b, 2, 1, NULL, 0));
	must(store_head(st, machine, &h, &err));
	cr_assert_eq(h.seq, b);
	cr_assert_eq(h.id.cut, 2);
	cr_assert_eq(h.point, a, "the second was only stored");
	cr_assert(reads_as(a, 3, 0));
	cr_assert(reads_as(0, 3, 5));
	cr_assert_eq(commit(b, 2, 1, NULL, 0), -ESTALE);
	cr_assert_eq(store_abort(st, b, &err), -ESTALE);
}

Test(rules, an_overtaken_attempt_is_stale)
{
	uint64_t a = begin(TM_ATTEMPT_EPOCH), b = begin(TM_ATTEMPT_EPOCH);

	must(commit(b, 1, 0, NULL, 1));
	cr_assert_eq(commit(a, 2, 1, NULL, 1), -ESTALE);
}

Test(rules, a_piece_is_resumed_and_shows_with_its_epoch)
{
	struct store_range part = {0, 8}, *done;
	uint64_t piece = begin(TM_ATTEMPT_INITIAL), epoch, seq;
	uint32_t parts;
	size_t n;

	put(piece, 1, 11);
	must(store_part(st, piece, &part, 1, 0, &err));
	put(piece, 9, 12); /* in no part: a crash may lose it */
	reopen();
	must(store_attempt_resume(
		st, disk.no, TM_ATTEMPT_INITIAL, tracking, &seq, &done, &n, &parts, &err));
	cr_assert(seq == piece && n == 1 && parts == 1 && done[0].block == 0 && done[0].count == 8);
	free(done);
	cr_assert_eq(store_attempt_resume(st, disk.no, TM_ATTEMPT_INITIAL, machine, &seq, &done, &n,
			     &parts, &err),
		-ENOENT, "another tracking");
	epoch = begin(TM_ATTEMPT_EPOCH);
	cr_assert_eq(commit(epoch, 1, 0, &piece, 1), -EINVAL, "not complete");
	put(piece, 9, 13);
	part = (struct store_range){8, 56};
	must(store_part(st, piece, &part, 1, 1, &err));
	must(commit(epoch, 1, 0, &piece, 1));
	cr_assert(reads_as(epoch, 1, 11));
	cr_assert(reads_as(epoch, 9, 13));
	cr_assert_eq(store_put(st, piece, disk.no, "", 0, &err), -ESTALE);
}

Test(rules, below_the_reserve_nothing_is_lost)
{
	struct store_opts full = opts;
	struct store_info info;
	uint64_t seq = begin(TM_ATTEMPT_EPOCH);

	put(seq, 1, 21);
	must(commit(seq, 1, 0, NULL, 1));
	store_close(st);
	full.reserve_bytes = UINT64_MAX - 1;
	must(store_open(dir, &full, &st, &err));
	cr_assert_eq(
		store_attempt_begin(st, machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, &err), -ENOSPC);
	must(store_info(st, &info, &err));
	cr_assert(info.full && !info.failed);
	cr_assert(reads_as(0, 1, 21));
}

Test(rules, notes)
{
	char *note;
	size_t len;

	cr_assert_eq(store_note_get(st, machine, &note, &len, &err), -ENOENT);
	must(store_note_set(st, machine, "host a", 6, &err));
	reopen();
	must(store_note_get(st, machine, &note, &len, &err));
	cr_assert_str_eq(note, "host a");
	free(note);
}

static int none(void *arg, const uint8_t m[TM_UUID])
{
	return 1;
}

Test(rules, a_removed_machine_is_gone_its_numbers_too)
{
	struct store_collected r;
	uint32_t old = disk.no;
	uint64_t seq = begin(TM_ATTEMPT_EPOCH);
	struct store_view *v;

	put(seq, 1, 31);
	cr_assert_eq(store_machine_remove(st, machine, &err), -EBUSY, "an attempt is open");
	must(commit(seq, 1, 0, NULL, 1));
	must(store_machine_remove(st, machine, &err));
	cr_assert_eq(store_view_open(st, machine, old, 0, &v, &err), -ENOENT);
	reopen();
	cr_assert_eq(store_machines(st, none, NULL, &err), 0);
	must(store_collect(st, NULL, &r, &err));
	cr_assert_eq(r.live_bytes, 0);
	must(store_disk_register(st, &disk, &err));
	cr_assert_gt(disk.no, old, "a number must not come back");
	seq = begin(TM_ATTEMPT_EPOCH);
	must(commit(seq, 1, 0, NULL, 1));
	cr_assert(reads_as(0, 1, 0), "nothing of the old disk shows");
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* n epochs that bring the same 16 blocks each, every one a point; ends with packs that nobody holds. */
static void history(uint64_t *points, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		points[i] = begin(TM_ATTEMPT_EPOCH);
		for (uint64_t b = 0; b < 16; b++)
			put(points[i], b, (uint32_t)(100 + i));
		must(commit(points[i], i + 1, i, NULL, 1));
	}
	reopen();
}

Test(rules, packs_are_walked_only_where_it_frees_enough)
{
	struct store_collect_opts lazy = {.lazy = 1};
	uint64_t points[40], debt, cost;
	struct store_collected r;

	history(points, 40);
	must(store_collect(st, &lazy, &r, &err));
	cr_assert(r.walked && !r.removed, "after opening nothing is known yet");
	must(store_collect(st, &lazy, &r, &err));
	cr_assert(!r.walked && r.live_bytes > 0, "nothing has changed since");

	must(store_points_drop(st, machine, points, 2, &err));
	must(store_debt(st, machine, &debt, &cost, &err));
	cr_assert(debt > 2 * 16 * sizeof(struct tm_cell) && cost > 0);
	must(store_compact(st, machine, &err));
	must(store_collect(st, &lazy, &r, &err));
	cr_assert(!r.walked && r.dead_bytes > 0, "a twentieth is not worth it");

	must(store_points_drop(st, machine, points + 2, 37, &err));
	must(store_compact(st, machine, &err));
	must(store_debt(st, machine, &debt, &cost, &err));
	cr_assert_eq(debt, 0);
	must(store_collect(st, &lazy, &r, &err));
	cr_assert(r.walked && r.removed && r.freed_bytes > r.copied_bytes);
	must(store_collect(st, &lazy, &r, &err));
	cr_assert(!r.walked);
	for (uint64_t b = 0; b < 16; b++)
		cr_assert(reads_as(points[39], b, 139));
}

Test(rules, an_aborted_attempt_is_owed)
{
	uint64_t seq = begin(TM_ATTEMPT_INITIAL), debt, cost;

	put(seq, 1, 5);
	must(store_part(st, seq, NULL, 0, 0, &err));
	must(store_abort(st, seq, &err));
	must(store_debt(st, machine, &debt, &cost, &err));
	cr_assert_gt(debt, sizeof(struct tm_cell));
}

Test(rules, getting_space_back_keeps_to_its_rate)
{
	struct store_collect_opts slow = {.rate = 50000};
	uint64_t points[40];
	double begun;

	/* 640 entries are walked over. */
	history(points, 40);
	begun = now_s();
	must(store_collect(st, &slow, NULL, &err));
	cr_assert_gt(now_s() - begun, 0.4);
}

/* A piece of two blocks, complete. */
static uint64_t piece_of(int kind, uint32_t id)
{
	uint64_t seq = begin(kind);

	put(seq, 1, id);
	put(seq, 2, id);
	must(store_part(st, seq, NULL, 0, 1, &err));
	return seq;
}

static uint64_t epoch(uint64_t cut, uint64_t block, uint32_t id, const uint64_t *piece)
{
	uint64_t seq = begin(TM_ATTEMPT_EPOCH);

	put(seq, block, id);
	must(commit(seq, cut, cut - 1, piece, 1));
	return seq;
}

static void compact(void)
{
	must(store_compact(st, machine, &err));
}

Test(rules, a_record_goes_when_nobody_can_tell_the_difference)
{
	uint64_t first = epoch(1, 1, 1, NULL), piece = piece_of(TM_ATTEMPT_CATCHUP, 2);
	uint64_t between = epoch(2, 3, 3, NULL), last = epoch(3, 4, 4, &piece);
	char got[TM_BLOCK], want[TM_BLOCK];
	struct store_view *v;

	compact();
	cr_assert_eq(st->nvis, 1, "a point does not see what is there already");
	cr_assert(reads_as(between, 1, 1) && reads_as(between, 2, 0));
	must(store_view_open(st, machine, disk.no, between, &v, &err));
	must(store_points_drop(st, machine, &between, 1, &err));
	compact();
	cr_assert_eq(st->nvis, 1, "a reader does not see it, either");
	must(store_view_read(v, got, sizeof(got), TM_BLOCK, &err));
	md_fill(1, 1, want);
	cr_assert(!memcmp(got, want, TM_BLOCK));
	store_view_close(v);
	compact();
	cr_assert_eq(st->nvis, 0);
	for (int i = 0; i < 3; i++) {
		cr_assert(reads_as(first, 1, 1) && reads_as(first, 2, 0) && reads_as(first, 3, 0));
		cr_assert(reads_as(last, 1, 2) && reads_as(last, 2, 2) && reads_as(last, 3, 3));
		cr_assert(reads_as(last, 4, 4) && reads_as(0, 1, 2));
		if (i == 1)
			reopen();
		else
			compact();
		cr_assert_eq(st->nvis, 0);
	}
}

Test(rules, records_of_open_and_of_aborted_attempts)
{
	uint64_t point = epoch(1, 1, 1, NULL), open = begin(TM_ATTEMPT_CATCHUP), lost, last;

	put(open, 1, 5);
	must(store_part(st, open, NULL, 0, 0, &err));
	lost = piece_of(TM_ATTEMPT_RESYNC, 6);
	must(store_abort(st, lost, &err));
	cr_assert_eq(st->nvis, 2);
	compact();
	cr_assert_eq(st->nvis, 1, "only what has ended goes");
	reopen();
	cr_assert_eq(st->nvis, 1);
	cr_assert(reads_as(point, 1, 1) && reads_as(point, 2, 0));
	/* What is open still comes. */
	put(open, 2, 5);
	must(store_part(st, open, NULL, 0, 1, &err));
	last = epoch(2, 3, 3, &open);
	compact();
	cr_assert_eq(st->nvis, 0);
	cr_assert(reads_as(point, 1, 1) && reads_as(last, 1, 5) && reads_as(last, 2, 5));
}

Test(rules, the_record_of_an_initial_sync_stays_as_long_as_its_entries)
{
	uint64_t piece = piece_of(TM_ATTEMPT_INITIAL, 2), points[3];

	points[0] = epoch(1, 3, 3, &piece);
	compact();
	cr_assert_eq(st->nvis, 1);
	cr_assert(reads_as(points[0], 1, 2));
	points[1] = epoch(2, 1, 4, NULL);
	points[2] = epoch(3, 2, 5, NULL);
	must(store_points_drop(st, machine, points, 2, &err));
	/* It makes no walk worth it, but goes with the next. */
	must(store_abort(st, begin(TM_ATTEMPT_CATCHUP), &err));
	compact();
	cr_assert_eq(st->nvis, 0);
	cr_assert(reads_as(points[2], 1, 4) && reads_as(points[2], 2, 5) &&
		  reads_as(points[2], 3, 3));
}

static int most_of_it(void *arg, uint64_t done, uint64_t total)
{
	return done > total / 4 * 3;
}

Test(rules, a_backup_that_was_broken_off_is_gone_on_with)
{
	struct backup_opts cut = {.progress = most_of_it};
	struct backup_result r;
	uint64_t point = 0;
	char copy[280], back[280], path[400];

	snprintf(copy, sizeof(copy), "%.255s.copy", dir);
	snprintf(back, sizeof(back), "%.255s.back", dir);
	/* Each opening begins a pack. */
	for (uint32_t i = 0; i < 8; i++) {
		point = begin(TM_ATTEMPT_EPOCH);
		for (uint64_t b = 0; b < 64; b++)
			put(point, b, 3 * (i + 1));
		must(commit(point, i + 1, i, NULL, 1));
		reopen();
	}
	cr_assert_eq(store_backup(st, copy, &cut, &r, &err), -ECANCELED);
	must(store_backup(st, copy, NULL, &r, &err));
	cr_assert_leq(r.copied_bytes + 64 * TM_BLOCK, r.bytes, "%llu of %llu are copied again",
		(unsigned long long)r.copied_bytes, (unsigned long long)r.bytes);
	snprintf(path, sizeof(path), "%s/partial.json", copy);
	cr_assert_neq(access(path, F_OK), 0);

	/* What was left and has been cut since is copied again. */
	md_rmdir(copy);
	cr_assert_eq(store_backup(st, copy, &cut, &r, &err), -ECANCELED);
	snprintf(path, sizeof(path), "for p in %s/packs/*; do truncate -s 5000 $p; done", copy);
	cr_assert_eq(system(path), 0);
	must(store_backup(st, copy, NULL, &r, &err));
	cr_assert_eq(r.copied_bytes, r.bytes);

	store_close(st);
	must(store_restore(copy, back, &r, &err));
	cr_assert_eq(r.damaged, 0);
	must(store_open(back, &opts, &st, &err));
	for (uint64_t b = 0; b < 64; b++)
		cr_assert(reads_as(point, b, 24));
	md_rmdir(copy);
	store_close(st);
	md_rmdir(back);
	must(store_open(dir, &opts, &st, &err));
}

static int only_one(void *arg, const struct store_checkpoint_info *info)
{
	struct store_checkpoint_info *out = arg;

	if (*out->name)
		return 1;
	*out = *info;
	return 0;
}

static struct store_checkpoint_info point_in_use(void)
{
	struct store_checkpoint_info info = {.name = ""};

	must(store_checkpoints(st, only_one, &info, &err));
	return info;
}

Test(rules, the_space_of_a_point_in_use_is_told_and_comes_back)
{
	struct store_checkpoint_info info;
	struct store_collected r;
	uint64_t points[40], before;
	char got[TM_BLOCK], want[TM_BLOCK], number[16], *path;
	struct store_view *v;

	history(points, 40);
	must(store_checkpoint(st, machine, points[0], "one", &path, &err));
	before = point_in_use().bytes;
	must(store_points_drop(st, machine, points, 39, &err));
	compact();
	must(store_collect(st, NULL, &r, &err));
	cr_assert_gt(r.removed, 0);

	snprintf(number, sizeof(number), "%u", disk.no);
	must(store_view_open_dir(path, number, 0, &v, &err));
	info = point_in_use();
	cr_assert(info.in_use && info.seq == points[0]);
	cr_assert_geq(info.bytes, before + r.freed_bytes, "what the store gave up is its own now");
	for (uint64_t b = 0; b < 16; b++) {
		must(store_view_read(v, got, sizeof(got), b * TM_BLOCK, &err));
		md_fill(100, b, want);
		cr_assert(!memcmp(got, want, TM_BLOCK));
	}
	cr_assert_eq(store_checkpoint_remove(st, "one", 0, &err), -EBUSY);
	store_view_close(v);
	cr_assert(!point_in_use().in_use);
	must(store_checkpoint_remove(st, "one", 0, &err));
	cr_assert_eq(access(path, F_OK), -1);
	free(path);
}
