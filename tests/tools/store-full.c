// SPDX-License-Identifier: Apache-2.0
/*
 * store-full DIR FILLER SECONDS SEED: commits epochs to a new store in DIR, drops points, compacts, collects packs, makes checkpoints,
 * reads, closes and opens again, while another thread, as a foreign process would, fills the filesystem with the file FILLER at any moment,
 * to the last block or nearly, and gives the space back. Errors may come, and waiting; no acknowledged point may be lost or wrong, no
 * refused one may turn up, old ones stay readable throughout, and once there is room all goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "server/store/space.h"
#include "server/store/store.h"

#define BLOCKS 128u
#define WRITES 6u
#define POINTS 300u /* kept at most */
#define OLD    8u   /* the first ones are never dropped: the reader's */
#define GO_ON  60u  /* seconds */

static const char *dir, *filler;
static struct store *st;
static struct store_disk disk = {.machine = {1}, .uuid = {2}, .size = (uint64_t)BLOCKS * TM_BLOCK};
static const struct store_opts opts = {
	.reserve_bytes = UINT64_MAX, .buffer_bytes = 192 << 10, .pack_bytes = 1 << 20};
static uint32_t image[BLOCKS], tried[BLOCKS]; /* numbers of contents: committed; under way */
static struct {
	uint64_t seq;
	uint32_t image[BLOCKS];
} point[POINTS];
static unsigned npoints, committed, refused, reopened, checkpoints;
static uint32_t number;
static atomic_int stop, reading_stop;
static atomic_uint fills, reads, passes;

static void die(const char *what, const struct tm_err *err)
{
	fprintf(stderr, "store-full: %s: %s\n", what, err ? err->msg : "");
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void fill(uint32_t id, char *out)
{
	uint64_t x = id * 0x9e3779b97f4a7c15ull, *w = (uint64_t *)out;

	for (size_t i = 0; i < TM_BLOCK / 8; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		w[i] = id ? x : 0;
	}
}

/* ---- The foreign process ---- */

/* Takes all that is free but for `leave` bytes; to the last block if that is 0. */
static void take(uint64_t leave)
{
	static const char zeros[4096];
	int fd = open(filler, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	struct statvfs sv;
	uint64_t avail;

	if (fd < 0)
		return; /* too full even for a name */
	if (fstatvfs(fd, &sv))
		exit(1);
	avail = (uint64_t)sv.f_bavail * sv.f_frsize;
	if (avail > leave && fallocate(fd, 0, 0, (off_t)(avail - leave)) && errno != ENOSPC)
		exit(1);
	if (!leave && lseek(fd, 0, SEEK_END) >= 0)
		while (write(fd, zeros, sizeof(zeros)) > 0)
			;
	close(fd);
}

static void *filling(void *arg)
{
	static const uint64_t leave[] = {0, 0, 4096, 32768, 200000, 1000000};
	unsigned seed = *(unsigned *)arg;

	while (!stop) {
		usleep((useconds_t)rand_r(&seed) % 400000);
		take(leave[(unsigned)rand_r(&seed) % 6]);
		fills++;
		usleep(50000 + (useconds_t)rand_r(&seed) % 500000);
		unlink(filler);
	}
	return NULL;
}

/* ---- Beside the epochs ---- */

static void *reclaiming(void *arg)
{
	struct store_collected got;
	struct tm_err err;

	while (!reading_stop) {
		store_compact(st, NULL, &err);
		store_collect(st, NULL, &got, &err);
		passes++;
		usleep(20000);
	}
	return NULL;
}

static void check(unsigned i, const char *when)
{
	char got[BLOCKS * TM_BLOCK], want[TM_BLOCK];
	struct store_view *v;
	struct tm_err err;

	if (store_view_open(st, disk.machine, disk.no, point[i].seq, &v, &err))
		die(when, &err);
	if (store_view_read(v, got, sizeof(got), 0, &err))
		die(when, &err);
	store_view_close(v);
	for (unsigned b = 0; b < BLOCKS; b++) {
		fill(point[i].image[b], want);
		if (!memcmp(got + (size_t)b * TM_BLOCK, want, TM_BLOCK))
			continue;
		fprintf(stderr, "store-full: %s: point %llu differs in block %u\n", when,
			(unsigned long long)point[i].seq, b);
		exit(1);
	}
	reads++;
}

static void *reading(void *arg)
{
	for (unsigned i = 0; !reading_stop; i = (i + 1) % OLD) {
		check(i, "reading beside it");
		usleep(10000);
	}
	return NULL;
}

static pthread_t beside[2];

static void begin_beside(void)
{
	reading_stop = 0;
	if (pthread_create(&beside[0], NULL, reclaiming, NULL) ||
		pthread_create(&beside[1], NULL, reading, NULL))
		exit(1);
}

static void end_beside(void)
{
	reading_stop = 1;
	store_interrupt(st);
	pthread_join(beside[0], NULL);
	pthread_join(beside[1], NULL);
}

/* ---- The epochs ---- */

static int put_epoch(struct tm_err *err)
{
	static char buf[WRITES * (sizeof(struct tm_cell) + TM_BLOCK)], plain[TM_BLOCK];
	struct store_point_disk d = {.no = disk.no, .size = disk.size};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d};
	struct store_commit c = {.id.cut = ++number, .new_line = 1, .point = &p};
	struct tm_err ignored;
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
	ret = store_attempt_begin(st, disk.machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, err);
	if (ret)
		return ret;
	ret = store_put(st, seq, disk.no, buf, len, err);
	if (!ret)
		ret = store_commit(st, seq, &c, NULL, err);
	if (ret) {
		store_abort(st, seq, &ignored);
		return ret;
	}
	memcpy(image, tried, sizeof(image));
	point[npoints].seq = seq;
	memcpy(point[npoints++].image, image, sizeof(image));
	return 0;
}

/* Half of the points, and whatever becomes of them after an error: they are not looked at any more. */
static void drop(void)
{
	uint64_t seqs[POINTS];
	unsigned n = 0, kept = OLD;
	struct tm_err err;

	for (unsigned i = OLD; i < npoints; i++)
		if (i + 1 < npoints && rand() % 2)
			seqs[n++] = point[i].seq;
		else
			point[kept++] = point[i];
	npoints = kept;
	if (n)
		store_points_drop(st, disk.machine, seqs, n, &err);
}

static void checkpoint(void)
{
	struct tm_err err;
	char *path;

	if (store_checkpoint(st, disk.machine, point[npoints - 1].seq, "one", &path, &err) == 0) {
		checkpoints++;
		free(path);
	}
	store_checkpoint_remove(st, "one", 1, &err);
}

static void open_again(void)
{
	double until = now() + GO_ON;
	struct tm_err err;

	store_close(st);
	while (store_open(dir, &opts, &st, &err)) {
		if (now() > until)
			die("cannot be opened again", &err);
		usleep(20000);
	}
	reopened++;
}

static void one_epoch(void)
{
	double until = now() + GO_ON;
	struct tm_err err;

	while (put_epoch(&err)) {
		refused++;
		if (now() > until)
			die("does not go on", &err);
		usleep(5000);
	}
	committed++;
	if (npoints == POINTS)
		drop();
}

static void run(double seconds)
{
	double until = now() + seconds;

	while (now() < until || !fills) {
		one_epoch();
		if (committed % 37 == 0)
			checkpoint();
		if (committed % 50 == 0)
			check(npoints - 1, "the newest");
		if (committed % 400 == 0) {
			end_beside();
			open_again();
			begin_beside();
		}
	}
}

static void check_all(const char *when)
{
	for (unsigned i = 0; i < npoints; i++)
		check(i, when);
}

int main(int argc, char **argv)
{
	struct tm_err err;
	pthread_t thread;
	unsigned seed;

	if (argc != 5)
		return 2;
	dir = argv[1];
	filler = argv[2];
	seed = (unsigned)atoi(argv[4]);
	srand(seed);
	if (store_create(dir, &err) || store_open(dir, &opts, &st, &err) ||
		store_disk_register(st, &disk, &err))
		die("cannot begin", &err);
	while (npoints < OLD)
		one_epoch();
	begin_beside();
	if (pthread_create(&thread, NULL, filling, &seed))
		return 1;
	run(atof(argv[3]));
	stop = 1;
	pthread_join(thread, NULL);
	for (unsigned i = 0; i < 20; i++)
		one_epoch();
	check_all("with room again");
	end_beside();
	open_again();
	check_all("opened again");
	store_close(st);
	printf("%u epochs, %u refused, disk filled %u times, %u checkpoints, %u reclaims, opened %u times, %u points read\n",
		committed, refused, fills, checkpoints, passes, reopened, reads);
	return 0;
}
