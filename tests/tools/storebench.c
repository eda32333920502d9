// SPDX-License-Identifier: Apache-2.0
/*
 * storebench make DIR EPOCHS MIB BLOCKS: a store in DIR with one disk of MIB, all of it written, and EPOCHS later epochs of BLOCKS
 * random single blocks each, every point kept; the point in the middle of them is put in use as DIR/open/bench. Prints
 * "open_ms checkpoint_ms store_mib": opening the store as the server does it, and making the checkpoint.
 *
 * storebench read CHECKPOINT READS: opens the point in use and reads so many random blocks. Prints
 * "open_ms first_us mean_us p50_us p99_us seeks blocks": the last two per read, from the engine: seeks in the index, blocks of it that
 * came from files.
 */
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/err.h"
#include "server/store/store.h"

#define ROOM  (1u << 20)
#define DEPTH 256u /* commits under way */

static const uint8_t machine[TM_UUID] = {1}, disk_uuid[TM_UUID] = {2}, tracking[TM_UUID] = {3};
static struct store *st;
static struct store_disk disk;
static struct tm_epoch_id head;
static struct tm_err err;
static uint64_t state = 88172645463325252u;
static uint8_t *room;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static unsigned int under_way; /* lock */

static void check(int rc)
{
	if (rc) {
		fprintf(stderr, "storebench: %s\n", err.msg);
		exit(1);
	}
}

static uint64_t draw(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

/* Half of each block compresses, half does not. */
static void fill(uint8_t *plain, size_t len)
{
	size_t i;

	for (i = 0; i < len; i += 16) {
		uint64_t v[2] = {draw(), 0x2020202020202020u};

		memcpy(plain + i, v, 16);
	}
}

static void put(uint64_t seq, size_t len)
{
	check(store_put(st, seq, disk.no, room, len, &err));
}

static void committed(
	void *arg, int ret, const struct store_result *result, const struct tm_err *why)
{
	if (ret)
		err = *why;
	check(ret);
	pthread_mutex_lock(&lock);
	under_way--;
	pthread_cond_signal(&idle);
	pthread_mutex_unlock(&lock);
}

static void wait_below(unsigned int n)
{
	pthread_mutex_lock(&lock);
	while (under_way >= n)
		pthread_cond_wait(&idle, &lock);
	pthread_mutex_unlock(&lock);
}

/* One epoch: with the piece, if there is one, and `blocks` random single blocks. Returns the point. */
static uint64_t epoch(uint64_t piece, unsigned int blocks, uint64_t disk_blocks)
{
	uint8_t plain[TM_BLOCK];
	struct store_point_disk pd = {.no = disk.no, .size = disk.size};
	struct store_point point = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &pd};
	struct store_commit c = {.parent = head, .new_line = head.cut == 0, .point = &point};
	uint64_t seq;
	size_t len = 0;

	memcpy(pd.uuid, disk_uuid, TM_UUID);
	check(store_attempt_begin(st, machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, &err));
	while (blocks--) {
		fill(plain, sizeof(plain));
		len += tm_cell_encode(draw() % disk_blocks, 1, plain, room + len);
		if (len > ROOM - TM_CELL_ROOM || !blocks) {
			put(seq, len);
			len = 0;
		}
	}
	memcpy(c.id.tracking, tracking, TM_UUID);
	c.id.cut = head.cut + 1;
	if (piece) {
		c.pieces = &piece;
		c.npieces = 1;
	}
	pthread_mutex_lock(&lock);
	under_way++;
	pthread_mutex_unlock(&lock);
	store_commit_start(st, seq, &c, committed, NULL);
	wait_below(DEPTH);
	head = c.id;
	return seq;
}

static uint64_t initial(uint64_t mib)
{
	uint8_t plain[TM_CHUNK];
	struct store_range all = {0, mib << 8};
	uint64_t seq, chunk;
	size_t len = 0;

	check(store_attempt_begin(st, machine, TM_ATTEMPT_INITIAL, disk.no, tracking, &seq, &err));
	for (chunk = 0; chunk < mib * 64; chunk++) {
		fill(plain, sizeof(plain));
		len += tm_cell_encode(chunk * TM_CHUNK_BLOCKS, TM_CHUNK_BLOCKS, plain, room + len);
		if (len > ROOM - TM_CELL_ROOM) {
			put(seq, len);
			len = 0;
		}
	}
	if (len)
		put(seq, len);
	check(store_part(st, seq, &all, 1, 1, &err));
	return seq;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int measure(const char *path, size_t n)
{
	double *took = calloc(n + 1, sizeof(*took)), t0, opened, sum = 0, first;
	rocksdb_perfcontext_t *perf;
	struct store_view *v;
	uint8_t buf[TM_BLOCK];
	uint64_t blocks;
	size_t i;

	if (!took || !n)
		return 1;
	t0 = now_us();
	check(store_view_open_dir(path, "1", 0, &v, &err));
	opened = (now_us() - t0) / 1e3;
	blocks = store_view_size(v) / TM_BLOCK;
	rocksdb_set_perf_level(rocksdb_enable_count);
	perf = rocksdb_perfcontext_create();
	rocksdb_perfcontext_reset(perf);
	for (i = 0; i < n; i++) {
		t0 = now_us();
		check(store_view_read(v, buf, sizeof(buf), draw() % blocks * TM_BLOCK, &err));
		took[i] = now_us() - t0;
		sum += took[i];
	}
	first = took[0];
	qsort(took, n, sizeof(*took), by_size);
	printf("%.1f %.0f %.1f %.1f %.1f %.2f %.3f\n", opened, first, sum / (double)n, took[n / 2],
		took[n - n / 100 - 1],
		(double)rocksdb_perfcontext_metric(perf, rocksdb_seek_on_memtable_count) /
			(double)n,
		(double)rocksdb_perfcontext_metric(perf, rocksdb_block_read_count) / (double)n);
	rocksdb_perfcontext_destroy(perf);
	store_view_close(v);
	free(took);
	return 0;
}

/* Returns the point in the middle. */
static uint64_t fill_store(const char *dir, unsigned int epochs, uint64_t mib, unsigned int blocks)
{
	uint64_t point, middle, piece;

	check(store_create(dir, &err));
	check(store_open(dir, NULL, &st, &err));
	memcpy(disk.machine, machine, TM_UUID);
	memcpy(disk.uuid, disk_uuid, TM_UUID);
	disk.size = mib << 20;
	check(store_disk_register(st, &disk, &err));
	piece = initial(mib);
	middle = point = epoch(piece, 0, mib << 8);
	for (unsigned int i = 1; i < epochs; i++) {
		point = epoch(0, blocks, mib << 8);
		if (i == epochs / 2)
			middle = point;
	}
	wait_below(1);
	store_close(st);
	return middle;
}

static int make(char **argv)
{
	uint64_t middle;
	struct store_info info;
	double t0, opened;
	char *path;

	room = malloc(ROOM + TM_CELL_ROOM);
	if (!room)
		return 1;
	middle = fill_store(argv[0], (unsigned int)strtoul(argv[1], NULL, 10),
		strtoull(argv[2], NULL, 10), (unsigned int)strtoul(argv[3], NULL, 10));
	t0 = now_us();
	check(store_open(argv[0], NULL, &st, &err));
	opened = now_us() - t0;
	check(store_info(st, &info, &err));
	t0 = now_us();
	check(store_checkpoint(st, machine, middle, "bench", &path, &err));
	printf("%.0f %.0f %llu\n", opened / 1e3, (now_us() - t0) / 1e3,
		(unsigned long long)((info.pack_bytes + info.index_bytes) >> 20));
	free(path);
	store_close(st);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "make"))
		return make(argv + 2);
	if (argc == 4 && !strcmp(argv[1], "read"))
		return measure(argv[2], strtoull(argv[3], NULL, 10));
	fprintf(stderr, "usage: storebench make DIR EPOCHS MIB BLOCKS | read CHECKPOINT READS\n");
	return 2;
}
