// SPDX-License-Identifier: Apache-2.0
/*
 * store-soak DIR EPOCHS STEP DISK_MIB WORKLOAD [pin|all]
 *
 * Days in minutes: EPOCHS epochs of a few small writes, STEP simulated seconds apart, in a real store under the default retention policy
 * (its ages scaled, so that 15 days are the whole run): points are dropped each simulated minute, space is got back each ten if it is worth
 * it, by the server's rule. WORKLOAD: uniform, skewed, log (wrapping). "pin": the oldest point is pinned, all others go after five days;
 * "all": every point is kept. Now and then the store is closed and opened.
 *
 * At the end every kept point is read as a whole and compared with an image made without the store, holes too (of many points those of
 * each 16th). Exit 1 if one differs, if the store is larger than 1.25 times what an ideal one would hold (the cells that kept points see, as
 * received) plus one disk, or if more than 6 times what was received was written. Prints a line of figures.
 */
#include <fts.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "server/store/space.h"

#define NS         1000000000ull
#define WRITES     4u /* per epoch */
#define SPAN_S     (15 * 86400ull)
#define DEPTH      8u /* commits under way, as if of so many machines */
#define WRITES_MAX 6u /* bytes written per byte received */

struct cell {
	uint32_t size;
	uint8_t seen;
};

struct write {
	uint64_t block;
	uint32_t count;
	uint8_t zero;
};

static struct store *st;
static struct store_disk disk = {.machine = {1}, .uuid = {2}, .name = "sda"};
static struct tm_err err;
static unsigned long epochs, step, blocks;
static const char *dir, *workload;
static struct store_opts opts = {.reserve_bytes = UINT64_MAX, .stats = 1};
static struct retain_point *pt; /* kept points, simulated times */
static size_t npt;
static struct cell *cells; /* by number of the write, from 1; 0 = nothing */
static struct store_io wrote;
static uint64_t received, index_cpu_us, open_us;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static unsigned under_way; /* lock */

static void must(int ret, const char *what)
{
	if (ret) {
		fprintf(stderr, "store-soak: %s: %s\n", what, err.msg);
		exit(1);
	}
}

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* ---- What is written ---- */

/* Round and round: a chunk, then single blocks at the beginning of the next ones, and the log's head. */
static struct write log_write(unsigned long epoch, unsigned i)
{
	uint64_t chunk = epoch * (WRITES - 1) + i;

	if (i == WRITES - 1)
		return (struct write){.count = 1};
	return (struct write){
		.block = chunk * TM_CHUNK_BLOCKS % blocks, .count = i ? 1 : TM_CHUNK_BLOCKS};
}

/* The i-th write of an epoch. One of 16 is a discard, of the others a fifth are whole chunks. */
static struct write write_of(unsigned long epoch, unsigned i)
{
	uint64_t r = mix(epoch * WRITES + i), at = mix(r) % blocks;
	struct write w = {.count = r % 5 ? 1 : TM_CHUNK_BLOCKS, .zero = (r >> 16) % 16 == 0};

	if (!strcmp(workload, "log"))
		return log_write(epoch, i);
	if (!strcmp(workload, "skewed") && r >> 8 & 7)
		at = mix(r) % (blocks / 50 + 1);
	if (w.zero)
		w.count = 1 + (uint32_t)(r >> 24) % 16;
	w.block = w.count == TM_CHUNK_BLOCKS ? at / TM_CHUNK_BLOCKS * TM_CHUNK_BLOCKS : at;
	if (w.block + w.count > blocks)
		w.count = (uint32_t)(blocks - w.block);
	return w;
}

/* What an epoch writes: no block twice, as a source's map of dirty blocks has it. w[i].count 0: nothing. */
static void writes_of(unsigned long epoch, struct write w[WRITES])
{
	for (unsigned i = 0; i < WRITES; i++) {
		w[i] = write_of(epoch, i);
		for (unsigned k = 0; k < i; k++)
			if (w[i].block < w[k].block + w[k].count &&
				w[k].block < w[i].block + w[i].count)
				w[i].count = 0;
	}
}

/* Half of it compresses. */
static void contents(unsigned long epoch, uint64_t block, char *out)
{
	uint64_t x = mix(epoch << 24 ^ block), *w = (uint64_t *)out;

	for (size_t i = 0; i < TM_BLOCK / 8; i++)
		w[i] = i % 2 ? x : mix(x + i);
}

static size_t encode(unsigned long epoch, const struct write *w, char *out)
{
	static _Alignas(64) char plain[TM_CHUNK];

	if (w->zero)
		return tm_cell_encode_empty(w->block, w->count, TM_CODEC_ZERO, out);
	for (uint32_t i = 0; i < w->count; i++)
		contents(epoch, w->block + i, plain + (size_t)i * TM_BLOCK);
	return tm_cell_encode(w->block, w->count, plain, out);
}

/* ---- The run ---- */

static void committed(
	void *arg, int ret, const struct store_result *result, const struct tm_err *why)
{
	if (ret) {
		fprintf(stderr, "store-soak: commit: %s\n", why->msg);
		exit(1);
	}
	pthread_mutex_lock(&lock);
	under_way--;
	pthread_cond_signal(&idle);
	pthread_mutex_unlock(&lock);
}

static void wait_below(unsigned n)
{
	pthread_mutex_lock(&lock);
	while (under_way >= n)
		pthread_cond_wait(&idle, &lock);
	pthread_mutex_unlock(&lock);
}

static uint64_t commit(unsigned long epoch)
{
	static char buf[WRITES * TM_CELL_ROOM];
	struct store_point_disk d = {.no = disk.no, .size = disk.size};
	struct store_point p = {
		.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d, .run_ns = epoch * step * NS};
	struct store_commit c = {
		.id.cut = epoch, .parent.cut = epoch - 1, .new_line = epoch == 1, .point = &p};
	struct write w[WRITES];
	uint64_t seq;
	size_t len = 0, n;

	writes_of(epoch, w);
	must(store_attempt_begin(st, disk.machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, &err), "begin");
	for (unsigned i = 0; i < WRITES; i++) {
		if (!w[i].count)
			continue;
		len += n = encode(epoch, &w[i], buf + len);
		if (!w[i].zero)
			cells[(epoch - 1) * WRITES + i + 1].size = (uint32_t)n;
	}
	must(store_put(st, seq, disk.no, buf, len, &err), "put");
	received += len;
	pthread_mutex_lock(&lock);
	under_way++;
	pthread_mutex_unlock(&lock);
	store_commit_start(st, seq, &c, committed, NULL);
	wait_below(DEPTH);
	return seq;
}

static void retain(const struct retain_policy *policy)
{
	uint8_t *drop = malloc(npt + 1);
	uint64_t *seqs = malloc((npt + 1) * sizeof(*seqs));
	size_t n = 0, kept = 0;

	if (!drop || !seqs)
		exit(1);
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

/* As the server's keeper: what compaction costs is in proportion to what has been dropped. */
static void reclaim(struct store_collected *r, int lazy)
{
	struct store_collect_opts o = {.lazy = (uint8_t)lazy};
	uint64_t debt = 1, cost = 0;

	must(lazy ? store_debt(st, disk.machine, &debt, &cost, &err) : 0, "debt");
	if (!debt || debt / 2 < cost)
		return;
	must(store_compact(st, disk.machine, &err), "compact");
	must(store_collect(st, &o, r, &err), "collect");
}

static void count_written(void)
{
	struct store_io io;

	store_io(st, &io);
	wrote.packs += io.packs;
	wrote.log += io.log;
	wrote.flushed += io.flushed;
	wrote.compacted += io.compacted;
	index_cpu_us += io.compact_us;
}

static void reopen(void)
{
	uint64_t t;

	wait_below(1);
	count_written();
	store_close(st);
	t = now_us();
	must(store_open(dir, &opts, &st, &err), "open");
	t = now_us() - t;
	open_us = t > open_us ? t : open_us;
}

static void run(const struct retain_policy *policy, int pin)
{
	unsigned long minute = 60 / step + 1, look = 600 / step + 1;
	struct store_collected r;

	for (unsigned long e = 1; e <= epochs; e++) {
		pt[npt++] = (struct retain_point){.seq = commit(e),
			.arrival_ns = (int64_t)(e * step * NS),
			.run_ns = e * step * NS,
			.kind = TM_POINT_CRASH,
			.pinned = pin && e == 1};
		if (pin && e == 1) {
			wait_below(1);
			must(store_point_pin(st, disk.machine, pt[0].seq, 1, &err), "pin");
		}
		if (policy && e % minute == 0) {
			wait_below(1);
			retain(policy);
		}
		if (e % look == 0)
			reclaim(&r, 1);
		if (e % (epochs / 8 + 1) == 0)
			reopen();
	}
	wait_below(1);
	if (policy)
		retain(policy);
}

/* ---- Afterwards ---- */

/* The disk without the store: its contents and which write each block shows. */
static char *image;
static uint32_t *shown;

static void advance(unsigned long epoch)
{
	struct write w[WRITES];

	writes_of(epoch, w);
	for (unsigned i = 0; i < WRITES; i++) {
		for (uint64_t b = w[i].block; b < w[i].block + w[i].count; b++) {
			shown[b] = w[i].zero ? 0 : (uint32_t)((epoch - 1) * WRITES + i + 1);
			if (w[i].zero)
				memset(image + b * TM_BLOCK, 0, TM_BLOCK);
			else
				contents(epoch, b, image + b * TM_BLOCK);
		}
	}
}

static int check_extent(void *arg, uint64_t off, uint64_t len, enum store_extent_kind kind)
{
	for (uint64_t b = off / TM_BLOCK; b < (off + len) / TM_BLOCK; b++)
		if ((shown[b] == 0) != (kind == STORE_ZERO))
			return 1;
	*(uint64_t *)arg += len;
	return 0;
}

static void verify_holes(struct store_view *v, uint64_t seq)
{
	uint64_t mapped = 0;

	if (!store_view_extents(v, 0, disk.size, check_extent, &mapped, &err) &&
		mapped == disk.size)
		return;
	fprintf(stderr, "store-soak: point %llu: holes differ\n", (unsigned long long)seq);
	exit(1);
}

static void verify_point(uint64_t seq, int holes)
{
	static char got[1 << 20];
	struct store_view *v;

	must(store_view_open(st, disk.machine, disk.no, seq, &v, &err), "view");
	for (uint64_t off = 0; off < disk.size; off += sizeof(got)) {
		must(store_view_read(v, got, sizeof(got), off, &err), "read");
		if (memcmp(got, image + off, sizeof(got))) {
			fprintf(stderr, "store-soak: point %llu differs in the MiB at %llu\n",
				(unsigned long long)seq, (unsigned long long)off);
			exit(1);
		}
	}
	if (holes)
		verify_holes(v, seq);
	store_view_close(v);
	for (uint64_t b = 0; b < blocks; b++)
		cells[shown[b]].seen = shown[b] != 0;
}

static void verify(void)
{
	size_t next = 0;

	for (unsigned long e = 1; e <= epochs; e++) {
		advance(e);
		if (next == npt || pt[next].run_ns != e * step * NS)
			continue;
		verify_point(pt[next].seq, npt < 10000 || next % 16 == 0);
		next++;
	}
	if (next != npt) {
		fprintf(stderr, "store-soak: %zu points kept, %zu found\n", npt, next);
		exit(1);
	}
}

/* Bytes of the store's files: of the packs, or of all else. */
static uint64_t on_disk(int packs)
{
	char path[4096], *paths[] = {path, NULL};
	uint64_t n = 0;
	FTSENT *e;
	FTS *f;

	snprintf(path, sizeof(path), "%s/%s", dir, packs ? "packs" : "index");
	f = fts_open(paths, FTS_PHYSICAL, NULL);
	if (!f)
		exit(1);
	while ((e = fts_read(f)))
		if (e->fts_info == FTS_F)
			n += (uint64_t)e->fts_statp->st_size;
	fts_close(f);
	return n;
}

static double per_byte(uint64_t n)
{
	return (double)n / (double)received;
}

static int report(int pinned, int all, const uint64_t *took)
{
	uint64_t ideal = 0, packs = on_disk(1), index = on_disk(0), bound;
	uint64_t written = wrote.packs + wrote.log + wrote.flushed + wrote.compacted;
	int large, much;

	for (uint64_t i = 1; i <= epochs * WRITES; i++)
		ideal += cells[i].seen ? cells[i].size : 0;
	bound = ideal + ideal / 4 + disk.size;
	large = packs + index > bound;
	much = written > WRITES_MAX * received;
	printf("%s%s: %lu epochs, %zu points exact; received %llu MiB; ideal %llu, packs %llu + index %llu of at most %llu MiB%s; "
	       "written %.2f times%s (packs %.2f, log %.2f, index %.2f + %.2f); opened in %llu ms; index CPU %llu s; %llu s, verified in %llu s\n",
		workload,
		pinned ? " pin"
		: all  ? " all"
		       : "",
		epochs, npt, (unsigned long long)received >> 20, (unsigned long long)ideal >> 20,
		(unsigned long long)packs >> 20, (unsigned long long)index >> 20,
		(unsigned long long)bound >> 20, large ? ": TOO MUCH" : "", per_byte(written),
		much ? ": TOO MUCH" : "", per_byte(wrote.packs), per_byte(wrote.log),
		per_byte(wrote.flushed), per_byte(wrote.compacted),
		(unsigned long long)open_us / 1000, (unsigned long long)index_cpu_us / 1000000,
		(unsigned long long)(took[1] - took[0]) / 1000000,
		(unsigned long long)(took[2] - took[1]) / 1000000);
	return large || much;
}

/* A small run has small packs and buffers: it sees what a large one would. */
static void sizes(void)
{
	if (epochs >= 100000) {
		opts.pack_bytes = 64 << 20;
		return;
	}
	opts.pack_bytes = 1 << 20;
	opts.buffer_bytes = 2 << 20;
}

int main(int argc, char **argv)
{
	struct retain_policy policy;
	struct store_collected r = {.freed_bytes = 1};
	int pin, all;
	uint64_t took[3];

	if (argc < 6) {
		fprintf(stderr, "usage: store-soak DIR EPOCHS STEP DISK_MIB WORKLOAD [pin|all]\n");
		return 2;
	}
	dir = argv[1];
	epochs = strtoul(argv[2], NULL, 10);
	step = strtoul(argv[3], NULL, 10);
	blocks = strtoul(argv[4], NULL, 10) << 8;
	workload = argv[5];
	pin = argc > 6 && !strcmp(argv[6], "pin");
	all = argc > 6 && !strcmp(argv[6], "all");
	disk.size = blocks * TM_BLOCK;
	sizes();
	retain_default(&policy);
	for (uint32_t i = 0; i < policy.ntiers; i++) {
		policy.tier[i].age_s = policy.tier[i].age_s * (epochs * step) / SPAN_S + 1;
		policy.tier[i].every_s = policy.tier[i].every_s * (epochs * step) / SPAN_S;
	}
	if (pin)
		policy.tier[2].age_s /= 3;
	pt = calloc(epochs + 1, sizeof(*pt));
	cells = calloc(epochs * WRITES + 1, sizeof(*cells));
	shown = calloc(blocks, sizeof(*shown));
	image = calloc(blocks, TM_BLOCK);
	if (!pt || !cells || !shown || !image)
		return 1;
	must(store_create(dir, &err), "create");
	must(store_open(dir, &opts, &st, &err), "open");
	must(store_disk_register(st, &disk, &err), "disk");
	took[0] = now_us();
	run(all ? NULL : &policy, pin);
	/* Until compaction has caught up. */
	for (int i = 0; i < 10 && r.freed_bytes; i++)
		reclaim(&r, 0);
	count_written();
	took[1] = now_us();
	verify();
	took[2] = now_us();
	store_close(st);
	return report(pin, all, took);
}
