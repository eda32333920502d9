// SPDX-License-Identifier: Apache-2.0
/*
 * tmk COMMAND...: the module's calls, for shell tests.
 *
 *  attach DISK...    and say that what is on them is known
 *  detach [DISK...]  all of them without a name
 *  info [DISK...]    NAME KEY=VALUE...: all of them without a name
 *  stats             KEY=VALUE, one a line
 *  cut               cut, and leave: the epoch is aborted, its writes may be in flight still
 *  point             cut, drain everything to nowhere, commit; exits 3 if the epoch broke
 *  freeze            cut, print "frozen", keep it until standard input ends; prints "alive" or "broken"
 *  dirty DISK FIRST COUNT STEP: writes every STEP-th block of a range anew, with its own content
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/crash/tmk.h"

static struct tmk tmk;

static void check(int r, const char *what)
{
	if (r)
		fail("%s: %s", what, strerror(-r));
}

/* Finds an attached disk by its device number. */
static void find(struct disk *d, const char *path)
{
	struct tmk_info info;
	uint32_t n = 0;

	check(disk_open(d, path), path);
	for (;; n = info.disk + 1) {
		check(tmk_info_next(&tmk, n, &info), path);
		if (info.major == d->major && info.minor == d->minor && !info.gone)
			break;
	}
	d->num = info.disk;
}

static void attach(const char *path)
{
	struct disk d;
	uint32_t reason = 0;
	int r;

	check(disk_open(&d, path), path);
	r = tmk_attach(&tmk, &d, &reason);
	if (r)
		fail("attach %s: %s (%s)", path, strerror(-r), tmk_refusal_name(reason));
	disk_close(&d);
}

static void detach_all(void)
{
	struct tmk_info info;
	int r;

	while (!(r = tmk_info_next(&tmk, 0, &info))) {
		struct disk d = {.num = info.disk};

		check(tmk_detach(&tmk, &d), info.name);
	}
	if (r != -ENODEV)
		check(r, "info");
}

#define SHOW(f) printf(" " #f "=%llu", (unsigned long long)i->f)
static void show(const struct tmk_info *i)
{
	printf("%s", i->name);
	SHOW(disk);
	SHOW(major);
	SHOW(minor);
	SHOW(sectors);
	SHOW(sector_size);
	SHOW(gone);
	SHOW(doubt);
	SHOW(settled);
	SHOW(dirty);
	SHOW(frozen);
	SHOW(undrained);
	SHOW(held);
	SHOW(inflight);
	SHOW(images);
	SHOW(writes);
	SHOW(redirected);
	SHOW(preserved);
	SHOW(unreadable);
	SHOW(map_bytes);
	SHOW(held_max_us);
	putchar('\n');
}

static void info_all(void)
{
	struct tmk_info info;
	uint32_t n = 0;

	for (; !tmk_info_next(&tmk, n, &info); n = info.disk + 1)
		show(&info);
}

static void histogram(const char *name, const __u64 *h)
{
	printf("%s=", name);
	for (int i = 0; i < TMK_HIST; i++)
		printf("%s%llu", i ? "," : "", (unsigned long long)h[i]);
	putchar('\n');
}

#define STAT(f) printf(#f "=%llu\n", (unsigned long long)s.f)
static void stats(void)
{
	struct tmk_stats s;

	check(tmk_stats(&tmk, &s), "stats");
	STAT(disks);
	STAT(cuts);
	STAT(commits);
	STAT(aborts);
	STAT(breaks);
	STAT(image_limit);
	STAT(image_now);
	STAT(image_peak);
	STAT(break_memory);
	STAT(break_deadline);
	STAT(break_error);
	STAT(recursions);
	STAT(noctx);
	histogram("cut_us", s.cut_us);
	histogram("held_us", s.held_us);
}

static void point(void)
{
	struct tmk_info info;
	uint32_t n = 0;
	int r;

	check(tmk_cut(&tmk, 30000, NULL), "cut");
	r = tmk_settle(&tmk, 30000);
	for (; !r && !tmk_info_next(&tmk, n, &info); n = info.disk + 1) {
		struct disk d;
		char path[64];

		if (info.gone)
			continue;
		snprintf(path, sizeof(path), "/dev/%s", info.name);
		check(disk_open(&d, path), path);
		d.num = info.disk;
		r = tmk_drain_disk(&tmk, &d, 0, 256, NULL, NULL);
		disk_close(&d);
	}
	if (!r)
		r = tmk_commit(&tmk, &tmk.id);
	if (r == -ESTALE) {
		puts("broken");
		exit(3);
	}
	check(r, "point");
}

static void freeze(void)
{
	struct tmk_head head;
	char c;

	check(tmk_cut(&tmk, 30000, NULL), "cut");
	check(tmk_settle(&tmk, 30000), "settle");
	puts("frozen");
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	check(tmk_head(&tmk, &head), "head");
	puts(memcmp(&head.frozen, &tmk.id, sizeof(tmk.id)) ? "broken" : "alive");
}

static void dirty(const char *path, uint64_t first, uint64_t count, uint64_t step)
{
	int fd = open(path, O_RDWR | O_DIRECT);
	void *buf = alloc_pages(TMK_BLOCK);

	if (fd < 0 || !step)
		fail("%s: %s", path, strerror(errno));
	for (uint64_t b = first; b < first + count; b += step) {
		if (pread(fd, buf, TMK_BLOCK, (off_t)(b * TMK_BLOCK)) != TMK_BLOCK ||
			pwrite(fd, buf, TMK_BLOCK, (off_t)(b * TMK_BLOCK)) != TMK_BLOCK)
			fail("%s: block %llu: %s", path, (unsigned long long)b, strerror(errno));
	}
	close(fd);
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";
	struct tmk_info info;
	struct disk d;

	if (!strcmp(cmd, "dirty") && argc == 6) {
		dirty(argv[2], strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0),
			strtoull(argv[5], NULL, 0));
		return 0;
	}
	check(tmk_open(&tmk), TMK_DEVICE);
	if (!strcmp(cmd, "cut")) {
		check(tmk_cut(&tmk, 30000, NULL), "cut");
	} else if (!strcmp(cmd, "attach")) {
		for (int i = 2; i < argc; i++)
			attach(argv[i]);
	} else if (!strcmp(cmd, "detach")) {
		if (argc == 2)
			detach_all();
		for (int i = 2; i < argc; i++) {
			find(&d, argv[i]);
			check(tmk_detach(&tmk, &d), argv[i]);
		}
	} else if (!strcmp(cmd, "info")) {
		if (argc == 2)
			info_all();
		for (int i = 2; i < argc; i++) {
			find(&d, argv[i]);
			check(tmk_info(&tmk, d.num, &info), argv[i]);
			show(&info);
		}
	} else if (!strcmp(cmd, "stats")) {
		stats();
	} else if (!strcmp(cmd, "point")) {
		point();
	} else if (!strcmp(cmd, "freeze")) {
		freeze();
	} else {
		fprintf(stderr, "usage: tmk attach|detach|info|stats|cut|point|freeze|dirty ...\n");
		return 2;
	}
	return 0;
}
