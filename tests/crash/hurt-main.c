// SPDX-License-Identifier: Apache-2.0
/*
 * hurt [-r ROUNDS] [-b BREAKS] [-d] DISK...: writers hammer blocks that are frozen and not drained.
 *
 * Every epoch is left frozen until it breaks or a second has passed. At least BREAKS must break (by the deadline with -d,
 * else for want of memory), no write may fail, none may take longer than 30 s (the longest is printed). Then the load eases,
 * an epoch succeeds, and base + drained epochs is the disk: what was in broken epochs is not lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/crash/image.h"
#include "tests/crash/writers.h"

#define LONGEST_US 30000000

static struct disk disks[DISKS_MAX];
static struct writers ws = {.depth = 8};
static struct images images;
static struct tmk tmk;

static bool is_broken(void)
{
	struct tmk_head head;

	if (tmk_head(&tmk, &head))
		fail("no head");
	return memcmp(&head.frozen, &tmk.id, sizeof(tmk.id));
}

/* Drains what is frozen, whatever becomes of it. 0, or -ESTALE: it broke. */
static int drain(void)
{
	int r = tmk_settle(&tmk, 60000);

	for (uint32_t i = 0; !r && i < ws.l.disks; i++)
		r = tmk_drain_disk(&tmk, &disks[i], i, 64, image_stage, &images);
	if (!r)
		r = tmk_commit(&tmk, &tmk.id);
	if (!r)
		image_apply(&images, NULL, NULL);
	image_drop(&images);
	if (r && r != -ESTALE)
		fail("draining: %s", strerror(-r));
	return r;
}

static unsigned long rounds(unsigned long n)
{
	unsigned long good = 0;

	while (n--) {
		uint64_t end;
		int r = tmk_cut(&tmk, 60000, NULL);

		if (r)
			fail("cut: %s", strerror(-r));
		for (end = now_us() + 1000000; !is_broken() && now_us() < end;)
			usleep(5000);
		good += !drain();
		if (writers_error(&ws))
			fail("%s", writers_error(&ws));
	}
	return good;
}

static void compare(void)
{
	for (uint32_t i = 0; i < ws.l.disks; i++) {
		char *now = alloc_pages((size_t)disks[i].bytes + TMK_BLOCK);
		int r = disk_read_all(&disks[i], now);
		uint64_t n;
		int64_t at = image_differs(&images, i, now, &n);

		if (r)
			fail("reading %s: %s", disks[i].path, strerror(-r));
		if (at >= 0)
			fail("the image of %s differs in %llu blocks, first %lld", disks[i].path,
				(unsigned long long)n, (long long)at);
	}
}

int main(int argc, char **argv)
{
	struct tmk_stats was, now;
	unsigned long n = 20, breaks = 1, good;
	bool deadline = false;
	uint64_t longest;
	int o, r;

	ws.l = (struct layout){.seed = 5,
		.run = 5,
		.writers = 4,
		.own = 64,
		.grain = BLOCK_SECT,
		.most = CHUNK_SECT};
	while ((o = getopt(argc, argv, "r:b:d")) != -1) {
		if (o == 'r')
			n = strtoul(optarg, NULL, 0);
		else if (o == 'b')
			breaks = strtoul(optarg, NULL, 0);
		else if (o == 'd')
			deadline = true;
		else
			return 2;
	}
	r = tmk_open(&tmk);
	if (r)
		fail("%s: %s", TMK_DEVICE, strerror(-r));
	for (; optind < argc && ws.l.disks < DISKS_MAX; optind++) {
		struct disk *d = &disks[ws.l.disks];

		r = disk_open(d, argv[optind]);
		if (!r)
			r = tmk_attach(&tmk, d, NULL);
		if (r)
			fail("%s: %s", argv[optind], strerror(-r));
		image_make(&images, d, NULL);
		r = disk_read_all(d, images.of[ws.l.disks]);
		ws.fd[ws.l.disks++] = open(argv[optind], O_WRONLY | O_DIRECT);
		if (r)
			fail("reading %s: %s", d->path, strerror(-r));
	}
	/* Device-mapper and io_uring do not go well together when room is short. */
	ws.engine = strstr(disks[0].path, "mapper") ? ENGINE_AIO : ENGINE_AUTO;
	tmk_stats(&tmk, &was);
	writers_start(&ws);
	usleep(300000);
	good = rounds(n);
	if (writers_stop(&ws))
		fail("%s", writers_error(&ws));
	tmk_stats(&tmk, &now);
	longest = writers_longest(&ws);
	printf("%lu epochs: %lu right, %llu broken (memory %llu, deadline %llu, error %llu); %llu writes, the longest took %llu us; "
	       "before-images at most %llu KiB\n",
		n, good, (unsigned long long)(now.breaks - was.breaks),
		(unsigned long long)(now.break_memory - was.break_memory),
		(unsigned long long)(now.break_deadline - was.break_deadline),
		(unsigned long long)(now.break_error - was.break_error),
		(unsigned long long)writers_count(&ws), (unsigned long long)longest,
		(unsigned long long)now.image_peak >> 10);
	if ((deadline ? now.break_deadline - was.break_deadline
		      : now.break_memory - was.break_memory) < breaks)
		fail("too few epochs broke: the test does not reach what it tests");
	if (longest > LONGEST_US)
		fail("a write took too long");
	r = tmk_cut(&tmk, 60000, NULL);
	if (r || drain())
		fail("no epoch succeeds when the load is over");
	compare();
	for (uint32_t i = 0; i < ws.l.disks; i++) {
		r = tmk_detach(&tmk, &disks[i]);
		if (r)
			fail("detach: %s", strerror(-r));
	}
	return 0;
}
