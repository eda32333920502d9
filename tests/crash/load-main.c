// SPDX-License-Identifier: Apache-2.0
/*
 * load [OPTION]... NAME=TARGET...: the oracle's writers alone, for those who take and judge points elsewhere.
 *
 *  -w N  writers (4)   -q N  writes of each at a time (4)   -c N  chunks of 64 KiB on each target (32)
 *  -s N  shared blocks (16)   -z US  pause of each writer between writes (0)   -S SEED
 *
 * TARGET is a disk, or a file that is made whole before it is written to; NAME is the disk that both lie on. Prints, for the
 * judge (tests/vm/judge.c), what is written where on the disks, then "ready"; at SIGTERM all writes under way are awaited, and
 * "done WRITER WRITES" says for each how many were complete.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/crash/writers.h"

#define EXTENTS 64

static struct writers ws = {.depth = 4};
static const char *names[DISKS_MAX];

static void usage(void)
{
	fprintf(stderr, "usage: load [OPTION]... NAME=TARGET...\n");
	exit(2);
}

static void options(int argc, char **argv)
{
	struct layout *l = &ws.l;
	int o;

	*l = (struct layout){
		.seed = 1, .writers = 4, .own = 32, .shared = 16, .grain = 1, .most = CHUNK_SECT};
	while ((o = getopt(argc, argv, "w:q:c:s:z:S:")) != -1) {
		unsigned long n = o == '?' ? 0 : strtoul(optarg, NULL, 0);

		switch (o) {
		case 'w':
			l->writers = (uint32_t)n;
			break;
		case 'q':
			ws.depth = (uint32_t)n;
			break;
		case 'c':
			l->own = (uint32_t)n;
			break;
		case 's':
			l->shared = (uint32_t)n;
			break;
		case 'z':
			ws.nap_us = (uint32_t)n;
			break;
		case 'S':
			l->seed = n;
			break;
		default:
			usage();
		}
	}
	l->disks = (uint32_t)(argc - optind);
	if (!l->disks || l->disks > DISKS_MAX || !l->writers || l->writers > WRITERS_MAX ||
		!ws.depth || ws.depth > WINDOW || !l->own || l->own % l->writers)
		usage();
}

/* All zero, and every block of it in its place for good. */
static void make_whole(const char *path, int fd)
{
	static const char zero[CHUNK_SECT * SECTOR];
	uint64_t end = layout_sectors(&ws.l) * SECTOR;

	for (uint64_t at = 0; at < end; at += sizeof(zero)) {
		size_t n = end - at < sizeof(zero) ? (size_t)(end - at) : sizeof(zero);

		if (pwrite(fd, zero, n, (off_t)at) != (ssize_t)n)
			fail("%s: %s", path, strerror(errno));
	}
	if (fsync(fd))
		fail("%s: %s", path, strerror(errno));
}

/* Where it lies on its disk: "extent DISK FIRST-SECTOR SECTOR-OF-DISK SECTORS". */
static void print_extents(uint32_t disk, const char *path, int fd)
{
	static union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
	} f;
	uint64_t sectors = layout_sectors(&ws.l);
	struct stat st;

	if (fstat(fd, &st))
		fail("%s: %s", path, strerror(errno));
	if (S_ISBLK(st.st_mode)) {
		printf("extent %u 0 0 %" PRIu64 "\n", disk, sectors);
		return;
	}
	f.map = (struct fiemap){.fm_length = sectors * SECTOR,
		.fm_flags = FIEMAP_FLAG_SYNC,
		.fm_extent_count = EXTENTS};
	if (ioctl(fd, FS_IOC_FIEMAP, &f.map))
		fail("%s: FIEMAP: %s", path, strerror(errno));
	for (uint32_t i = 0; i < f.map.fm_mapped_extents; i++) {
		const struct fiemap_extent *e = &f.map.fm_extents[i];

		if (e->fe_flags & ~(uint32_t)(FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED))
			fail("%s: an extent with flags %x", path, e->fe_flags);
		printf("extent %u %llu %llu %llu\n", disk, e->fe_logical / SECTOR,
			e->fe_physical / SECTOR, e->fe_length / SECTOR);
	}
}

static void setup(char **args)
{
	struct layout *l = &ws.l;

	if (getrandom(&l->run, sizeof(l->run), 0) != sizeof(l->run))
		fail("no random number");
	printf("layout %" PRIu64 " %" PRIu64 " %u %u %u %u %u\n", l->seed, l->run, l->disks,
		l->writers, l->own, l->shared, l->most);
	for (uint32_t i = 0; i < l->disks; i++) {
		char *path = strchr(args[i], '=');
		int fd;

		if (!path)
			usage();
		*path++ = 0;
		names[i] = args[i];
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			fail("%s: %s", path, strerror(errno));
		make_whole(path, fd);
		printf("disk %u %s\n", i, names[i]);
		print_extents(i, path, fd);
		close(fd);
		ws.fd[i] = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
		if (ws.fd[i] < 0)
			fail("%s: %s", path, strerror(errno));
	}
	printf("ready\n");
}

int main(int argc, char **argv)
{
	const struct timespec tick = {.tv_nsec = 200000000};
	const char *err = NULL;
	sigset_t set;

	setvbuf(stdout, NULL, _IOLBF, 0);
	options(argc, argv);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	setup(argv + optind);
	writers_start(&ws);
	while (!err && sigtimedwait(&set, NULL, &tick) != SIGTERM)
		err = writers_error(&ws);
	if (!err)
		err = writers_stop(&ws);
	if (err)
		fail("%s", err);
	for (uint32_t w = 0; w < ws.l.writers; w++)
		printf("done %u %u\n", w, ws.submitted[w]);
	printf("end\n");
	return 0;
}
