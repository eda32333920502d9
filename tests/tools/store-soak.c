// SPDX-License-Identifier: Apache-2.0
/*
 * store-soak DIR EPOCHS STEP DISK_MIB WORKLOAD [pin|all]
 *
 * Days in minutes: EPOCHS epochs of a few small writes, STEP simulated seconds apart, under the default retention policy (scaled to the
 * simulated span: 15 days = the whole run) and a real store with dropping, compaction and collection. WORKLOAD: uniform, skewed, log. "pin": the oldest
 * point is pinned all the time; "all": every point is kept. At the end every kept point is compared with an independently computed image, and the space
 * used with what an ideal store would need. Prints a line of figures; exit 1 if a point differs or the space exceeds the bound.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/store/space.h"

#define NS          1000000000ull
#define WRITES      6 /* per epoch */
#define SPAN_S      (15 * 86400ull)
#define READ_BLOCKS 256u

struct cell {
	uint32_t size;
	uint8_t seen;
};

static struct store *st;
static struct store_disk disk = {.machine = {1}, .uuid = {2}, .name = "sda"};
static struct tm_err err;
static unsigned long epochs, step, blocks;
static const char *workload;
static struct retain_point *pt; /* kept points, simulated times */
static size_t npt;
static uint32_t *cell_of; /* block -> number of the cell that it shows */
static struct cell *cells;
static uint32_t ncells;
static uint64_t received;

static void must(int ret, const char *what)
{
	if (ret) {
		fprintf(stderr, "store-soak: %s: %s\n", what, err.msg);
		exit(1);
	}
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* The i-th write of an epoch: where and how many blocks (1 or a chunk). */
static void write_of(unsigned long epoch, unsigned i, uint64_t *block, uint32_t *count)
{
	uint64_t r = mix(epoch * WRITES + i), at;

	*count = r % 5 == 0 ? TM_CHUNK_BLOCKS : 1;
	if (!strcmp(workload, "log")) {
		*count = TM_CHUNK_BLOCKS;
		at = (epoch * WRITES + i) * TM_CHUNK_BLOCKS % blocks;
	} else if (!strcmp(workload, "skewed") && r >> 8 & 7) {
		at = mix(r) % (blocks / 50 + 1);
	} else {
		at = mix(r) % blocks;
	}
	*block = *count > 1 ? at / TM_CHUNK_BLOCKS * TM_CHUNK_BLOCKS : at;
}

/* Half of it compresses. */
static void contents(unsigned long epoch, uint64_t block, char *out)
{
	uint64_t x = mix(epoch << 24 ^ block), *w = (uint64_t *)out;

	for (size_t i = 0; i < TM_BLOCK / 8; i++)
		w[i] = i % 2 ? x : mix(x + i);
}

static uint32_t size_of_write(unsigned long epoch, uint64_t block, uint32_t count, char *out)
{
	static _Alignas(64) char plain[TM_CHUNK];

	for (uint32_t i = 0; i < count; i++)
		contents(epoch, block + i, plain + (size_t)i * TM_BLOCK);
	return (uint32_t)tm_cell_encode(block, count, plain, out);
}

static uint64_t commit(unsigned long epoch)
{
	static char buf[WRITES * TM_CELL_ROOM];
	struct store_point_disk d = {.no = disk.no, .size = disk.size};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d};
	struct store_commit c = {
		.id.cut = epoch, .parent.cut = epoch - 1, .new_line = epoch == 1, .point = &p};
	uint64_t seq, block;
	uint32_t count;
	size_t len = 0;

	must(store_attempt_begin(st, disk.machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, &err), "begin");
	for (unsigned i = 0; i < WRITES; i++) {
		write_of(epoch, i, &block, &count);
		len += size_of_write(epoch, block, count, buf + len);
	}
	must(store_put(st, seq, disk.no, buf, len, &err), "put");
	must(store_commit(st, seq, &c, NULL, &err), "commit");
	received += len;
	return seq;
}

static void retain(const struct retain_policy *policy)
{
	uint8_t *drop = malloc(npt + 1);
	uint64_t *seqs = malloc((npt + 1) * sizeof(*seqs));
	size_t n = 0, kept = 0;

	retain_plan(policy, pt, npt, pt[npt - 1].run_ns, drop);
	for (size_t i = 0; i < npt; i++)
		if (drop[i])
			seqs[n++] = pt[i].seq;
		else
			pt[kept++] = pt[i];
	npt = kept;
	must(n ? store_points_drop(st, disk.machine, seqs, n, &err) : 0, "drop");
	free(seqs);
	free(drop);
}

static void collect(struct store_collected *r)
{
	must(store_compact(st, disk.machine, &err), "compact");
	must(store_collect(st, NULL, r, &err), "collect");
}

/* What one more epoch makes of the disk, without the store. */
static void advance(unsigned long epoch)
{
	static char buf[TM_CELL_ROOM];
	uint64_t block;
	uint32_t count;

	for (unsigned i = 0; i < WRITES; i++) {
		write_of(epoch, i, &block, &count);
		cells[++ncells] = (struct cell){.size = size_of_write(epoch, block, count, buf)};
		for (uint32_t k = 0; k < count; k++)
			cell_of[block + k] = ncells;
	}
}

static void verify_point(uint64_t seq)
{
	static char got[READ_BLOCKS * TM_BLOCK], want[TM_BLOCK];
	struct store_view *v;

	must(store_view_open(st, disk.machine, disk.no, seq, &v, &err), "view");
	for (uint64_t b = 0; b < blocks; b++) {
		uint32_t c = cell_of[b];

		if (b % READ_BLOCKS == 0)
			must(store_view_read(v, got, sizeof(got), b * TM_BLOCK, &err), "read");
		memset(want, 0, sizeof(want));
		if (c)
			contents((c - 1) / WRITES + 1, b, want);
		if (memcmp(got + b % READ_BLOCKS * TM_BLOCK, want, TM_BLOCK)) {
			fprintf(stderr, "store-soak: point %llu, block %llu differs\n",
				(unsigned long long)seq, (unsigned long long)b);
			exit(1);
		}
		cells[c].seen = c != 0;
	}
	store_view_close(v);
}

/* Every kept point, at most `most` of them evenly; marks what they see. */
static void verify(size_t most)
{
	size_t next = 0, every = npt / most + 1;

	for (unsigned long e = 1; e <= epochs; e++) {
		advance(e);
		if (next == npt || pt[next].run_ns / NS != e * step)
			continue;
		if (next % every == 0 || next == npt - 1)
			verify_point(pt[next].seq);
		else
			for (uint64_t b = 0; b < blocks; b++)
				cells[cell_of[b]].seen = cell_of[b] != 0;
		next++;
	}
	if (next != npt) {
		fprintf(stderr, "store-soak: %zu points kept, %zu found\n", npt, next);
		exit(1);
	}
}

static uint64_t written(void)
{
	FILE *f = fopen("/proc/self/io", "r");
	unsigned long long n = 0;
	char line[100];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "write_bytes: %llu", &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

int main(int argc, char **argv)
{
	/* Small packs and buffers: a small run sees what a large one would. */
	struct store_opts o = {
		.reserve_bytes = UINT64_MAX, .pack_bytes = 4 << 20, .buffer_bytes = 4 << 20};
	struct retain_policy policy;
	struct store_collected r;
	uint64_t ideal = 0, used, bound;
	int pin, all, failed;

	if (argc < 6) {
		fprintf(stderr, "usage: store-soak DIR EPOCHS STEP DISK_MIB WORKLOAD [pin|all]\n");
		return 2;
	}
	epochs = strtoul(argv[2], NULL, 10);
	step = strtoul(argv[3], NULL, 10);
	blocks = strtoul(argv[4], NULL, 10) << 8;
	workload = argv[5];
	pin = argc > 6 && !strcmp(argv[6], "pin");
	all = argc > 6 && !strcmp(argv[6], "all");
	disk.size = blocks * TM_BLOCK;
	retain_default(&policy);
	for (uint32_t i = 0; i < policy.ntiers; i++) {
		/* Intervals too, but never finer than the points are. */
		policy.tier[i].age_s = policy.tier[i].age_s * (epochs * step) / SPAN_S + 1;
		policy.tier[i].every_s = policy.tier[i].every_s * (epochs * step) / SPAN_S;
	}
	pt = calloc(epochs + 1, sizeof(*pt));
	cell_of = calloc(blocks, sizeof(*cell_of));
	cells = calloc(epochs * WRITES + 2, sizeof(*cells));
	if (!pt || !cell_of || !cells)
		return 1;
	must(store_create(argv[1], &err), "create");
	must(store_open(argv[1], &o, &st, &err), "open");
	must(store_disk_register(st, &disk, &err), "disk");
	for (unsigned long e = 1; e <= epochs; e++) {
		pt[npt++] = (struct retain_point){.seq = commit(e),
			.arrival_ns = (int64_t)(e * step * NS),
			.run_ns = e * step * NS,
			.kind = TM_POINT_CRASH,
			.pinned = pin && e == 1};
		if (!all && e % 50 == 0)
			retain(&policy);
		if (e % (epochs / 10 + 1) == 0)
			collect(&r);
	}
	if (!all)
		retain(&policy);
	collect(&r);
	collect(&r);
	verify(200);
	for (uint32_t i = 1; i <= ncells; i++)
		ideal += cells[i].seen ? cells[i].size : 0;
	used = r.live_bytes + r.dead_bytes;
	bound = ideal + ideal / 4 + disk.size;
	failed = used > bound;
	printf("%s%s: %lu epochs, %zu points, received %llu KiB, written %llu KiB, ideal %llu KiB, used %llu KiB (%llu dead), bound %llu KiB%s\n",
		workload, argc > 6 ? argv[6] : "", epochs, npt, (unsigned long long)received >> 10,
		(unsigned long long)written() >> 10, (unsigned long long)ideal >> 10,
		(unsigned long long)used >> 10, (unsigned long long)r.dead_bytes >> 10,
		(unsigned long long)bound >> 10, failed ? ": TOO MUCH" : "");
	store_close(st);
	return failed;
}
