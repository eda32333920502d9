// SPDX-License-Identifier: Apache-2.0
/*
 * storebench DIR EPOCHS MIB BLOCKS READS: makes a store in DIR with one disk of MIB, all of it written, and EPOCHS later
 * epochs of BLOCKS random single blocks each; then opens the point in the middle of them and reads READS random blocks.
 * Prints "EPOCHS open_ms mean_us p50_us p99_us store_mib".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/err.h"
#include "server/store/store.h"

#define ROOM (1u << 20)

static const uint8_t machine[TM_UUID] = {1}, disk_uuid[TM_UUID] = {2}, tracking[TM_UUID] = {3};
static struct store *st;
static struct store_disk disk;
static struct tm_epoch_id head;
static struct tm_err err;
static uint64_t state = 88172645463325252u;
static uint8_t *room;

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

/* One epoch: with the piece, if there is one, and `blocks` random single blocks. Returns the point. */
static uint64_t epoch(uint64_t piece, unsigned int blocks, uint64_t disk_blocks)
{
	uint8_t plain[TM_BLOCK];
	struct store_point_disk pd = {.no = disk.no, .size = disk.size};
	struct store_point point = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &pd};
	struct store_commit c = {.parent = head, .new_line = head.cut == 0, .point = &point};
	struct store_result result;
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
	check(store_commit(st, seq, &c, &result, &err));
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

static void reads(uint64_t point, unsigned int epochs, uint64_t blocks, size_t n)
{
	double *took = calloc(n, sizeof(*took)), t0, opened, sum = 0;
	struct store_view *v;
	uint8_t buf[TM_BLOCK];
	struct store_info info;
	char *path;
	size_t i;

	if (!took)
		exit(1);
	check(store_info(st, &info, &err));
	check(store_checkpoint(st, machine, point, "bench", &path, &err));
	t0 = now_us();
	check(store_view_open_dir(path, "1", 0, &v, &err));
	opened = (now_us() - t0) / 1e3;
	for (i = 0; i < n; i++) {
		t0 = now_us();
		check(store_view_read(v, buf, sizeof(buf), draw() % blocks * TM_BLOCK, &err));
		took[i] = now_us() - t0;
		sum += took[i];
	}
	qsort(took, n, sizeof(*took), by_size);
	printf("%u %.0f %.1f %.1f %.1f %llu\n", epochs, opened, sum / (double)n, took[n / 2],
		took[n - n / 100 - 1],
		(unsigned long long)((info.pack_bytes + info.index_bytes) >> 20));
	store_view_close(v);
	check(store_checkpoint_remove(st, "bench", 0, &err));
	free(path);
	free(took);
}

int main(int argc, char **argv)
{
	unsigned int i, epochs;
	uint64_t mib, point, middle, piece;

	if (argc != 6) {
		fprintf(stderr, "usage: storebench DIR EPOCHS MIB BLOCKS READS\n");
		return 2;
	}
	epochs = (unsigned int)strtoul(argv[2], NULL, 10);
	mib = strtoull(argv[3], NULL, 10);
	room = malloc(ROOM + TM_CELL_ROOM);
	if (!room || !epochs || !mib)
		return 1;
	check(store_create(argv[1], &err));
	check(store_open(argv[1], NULL, &st, &err));
	memcpy(disk.machine, machine, TM_UUID);
	memcpy(disk.uuid, disk_uuid, TM_UUID);
	disk.size = mib << 20;
	check(store_disk_register(st, &disk, &err));
	piece = initial(mib);
	middle = point = epoch(piece, 0, mib << 8);
	for (i = 1; i < epochs; i++) {
		point = epoch(0, (unsigned int)strtoul(argv[4], NULL, 10), mib << 8);
		if (i == epochs / 2)
			middle = point;
	}
	reads(middle, epochs, mib << 8, strtoull(argv[5], NULL, 10));
	store_close(st);
	return 0;
}
