// SPDX-License-Identifier: Apache-2.0
/*
 * store-full DIR BALLAST: commits epochs to a new store in DIR until the filesystem is full (a file BALLAST takes what is left), sees that
 * errors come and nothing worse, removes BALLAST, and sees that the same open store goes on and that all points are exact.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/store/store.h"

#define BLOCKS 512u
#define WRITES 24u
#define POINTS 4096u

static struct store *st;
static struct store_disk disk = {.machine = {1}, .uuid = {2}, .size = (uint64_t)BLOCKS * TM_BLOCK};
static struct tm_err err;
static uint32_t image[BLOCKS],
	tried[BLOCKS]; /* contents, by number: committed, and with the epoch under way */
static struct {
	uint64_t seq;
	uint32_t image[BLOCKS];
} point[POINTS];
static unsigned npoints;
static uint32_t number;

static void die(const char *what)
{
	fprintf(stderr, "store-full: %s: %s\n", what, err.msg);
	exit(1);
}

static void fill(uint32_t id, char *out)
{
	uint64_t x = id * 0x9e3779b97f4a7c15ull, *w = (uint64_t *)out;

	for (size_t i = 0; i < TM_BLOCK / 8; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		w[i] = id ? x : 0;
	}
}

/* One epoch of random blocks; 0 if it was committed. */
static int epoch(void)
{
	static char buf[WRITES * (sizeof(struct tm_cell) + TM_BLOCK)], plain[TM_BLOCK];
	struct store_point_disk d = {.no = disk.no, .size = disk.size};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d};
	struct store_commit c = {.id.cut = ++number, .new_line = 1, .point = &p};
	size_t len = 0;
	uint64_t seq;
	int ret;

	memcpy(tried, image, sizeof(image));
	for (unsigned i = 0; i < WRITES; i++) {
		uint32_t b = (uint32_t)rand() % BLOCKS;

		tried[b] = number * WRITES + i;
		fill(tried[b], plain);
		len += tm_cell_encode(b, 1, plain, buf + len);
	}
	ret = store_attempt_begin(st, disk.machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, &err);
	if (ret)
		return ret;
	ret = store_put(st, seq, disk.no, buf, len, &err);
	if (!ret)
		ret = store_commit(st, seq, &c, NULL, &err);
	if (ret) {
		struct tm_err ignored = {0};

		store_abort(st, seq, &ignored);
		return ret;
	}
	memcpy(image, tried, sizeof(image));
	point[npoints].seq = seq;
	memcpy(point[npoints++].image, image, sizeof(image));
	return 0;
}

static void ballast(const char *path)
{
	static const char zeros[4096];
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ssize_t n = fd < 0 ? -1 : 0;

	while (n >= 0)
		n = write(fd, zeros, sizeof(zeros));
	if (fd < 0 || errno != ENOSPC)
		exit(1);
	close(fd);
}

static void verify(unsigned from)
{
	static char got[BLOCKS * TM_BLOCK], want[TM_BLOCK];
	struct store_view *v;

	for (unsigned i = from; i < npoints; i++) {
		if (store_view_open(st, disk.machine, disk.no, point[i].seq, &v, &err) ||
			store_view_read(v, got, sizeof(got), 0, &err))
			die("cannot read a point");
		store_view_close(v);
		for (unsigned b = 0; b < BLOCKS; b++) {
			fill(point[i].image[b], want);
			if (memcmp(got + (size_t)b * TM_BLOCK, want, TM_BLOCK))
				die("a point differs");
		}
	}
}

int main(int argc, char **argv)
{
	struct store_opts o = {
		.reserve_bytes = UINT64_MAX, .buffer_bytes = 1 << 20, .pack_bytes = 2 << 20};
	unsigned refused = 0, went_on = 0;

	if (argc != 3)
		return 2;
	if (store_create(argv[1], &err) || store_open(argv[1], &o, &st, &err) ||
		store_disk_register(st, &disk, &err))
		die("cannot begin");
	for (unsigned round = 0; round < 6; round++) {
		for (unsigned i = 0; i < 10; i++)
			if (epoch())
				die("an epoch with room");
		ballast(argv[2]);
		for (unsigned i = 0; i < 40; i++)
			refused += epoch() != 0;
		unlink(argv[2]);
		/* What a full disk broke may take a try or two to mend; then nothing fails any more. */
		for (went_on = 0; went_on < 5 && epoch(); went_on++)
			usleep(200000);
		if (went_on == 5)
			die("does not go on");
		verify(0);
	}
	if (!refused)
		die("the full disk was not noticed");
	store_close(st);
	if (store_open(argv[1], &o, &st, &err))
		die("cannot be opened again");
	verify(0);
	store_close(st);
	printf("%u epochs refused, %u points exact\n", refused, npoints);
	return 0;
}
