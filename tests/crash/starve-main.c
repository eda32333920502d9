// SPDX-License-Identifier: Apache-2.0
/*
 * starve [-r ROUNDS] [-p PERCENT] [-n EPOCHS] DISK...: the module gets no memory, every so often (fault injection of the
 * kernel, which guest-starve has set up for calls that come from the module's code), while disks are cut, drained and
 * detached under writers.
 *
 * No write may fail for it, a call that fails has to say ENOMEM and is made again, epochs may break and say why. When there is
 * memory again an epoch succeeds, and base + drained epochs is the disk.
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

#define TRIES 100000

static struct disk disks[DISKS_MAX];
static struct writers ws = {.depth = 8};
static struct images images;
static struct tmk tmk;

/* How often, in percent, the module gets no memory; 0: always what it wants. */
static void starve(unsigned int percent)
{
	static const char *const what[] = {"failslab", "fail_page_alloc"};

	for (unsigned int i = 0; i < 2; i++) {
		char path[80];
		FILE *f;

		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/probability", what[i]);
		f = fopen(path, "w");
		if (!f || fprintf(f, "%u\n", percent) < 0 || fclose(f))
			fail("%s: %s", path, strerror(errno));
	}
}

static void attach(struct disk *d)
{
	uint32_t reason;
	int r = tmk_attach(&tmk, d, &reason);

	if (r)
		fail("attaching %s: %s (%s)", d->path, strerror(-r), tmk_refusal_name(reason));
}

static void detach_all(void)
{
	for (uint32_t i = 0; i < ws.l.disks; i++) {
		int r = tmk_detach(&tmk, &disks[i]);

		if (r)
			fail("detaching %s: %s", disks[i].path, strerror(-r));
	}
}

/* One epoch, whatever becomes of it. 0, or -ESTALE: it broke. */
static int epoch(void)
{
	int r = tmk_cut(&tmk, 60000, NULL);

	if (r)
		fail("cut: %s", strerror(-r));
	r = tmk_settle(&tmk, 60000);
	for (uint32_t i = 0; !r && i < ws.l.disks; i++)
		r = tmk_drain_disk(&tmk, &disks[i], i, 64, image_stage, &images);
	if (!r)
		r = tmk_commit(&tmk, &tmk.id);
	if (!r)
		image_apply(&images, NULL, NULL);
	image_drop(&images);
	if (r && r != -ESTALE)
		fail("an epoch: %s", strerror(-r));
	return r;
}

static void compare(void)
{
	for (uint32_t i = 0; i < ws.l.disks; i++) {
		char *now = alloc_pages((size_t)disks[i].bytes + TMK_BLOCK);
		int r = disk_read_all(&disks[i], now);
		struct tmk_info info;
		uint64_t n;
		int64_t at = image_differs(&images, i, now, &n);

		if (r)
			fail("reading %s: %s", disks[i].path, strerror(-r));
		if (tmk_info(&tmk, disks[i].num, &info) || info.doubt || info.held)
			fail("%s: doubt %u, %llu writes held", disks[i].path, info.doubt,
				(unsigned long long)info.held);
		if (at >= 0)
			fail("the image of %s differs in %llu blocks, first %lld", disks[i].path,
				(unsigned long long)n, (long long)at);
	}
}

static void setup(int argc, char **argv)
{
	int r = tmk_open(&tmk);

	if (r)
		fail("%s: %s", TMK_DEVICE, strerror(-r));
	for (int i = 0; i < argc && i < DISKS_MAX; i++) {
		r = disk_open(&disks[i], argv[i]);
		ws.fd[i] = open(argv[i], O_WRONLY | O_DIRECT);
		if (r || ws.fd[i] < 0)
			fail("%s: %s", argv[i], strerror(r ? -r : errno));
		ws.l.disks++;
	}
}

/* From attach to detach, with writers all the time. (Attaching takes too many pieces of memory to succeed in the end.) */
static void round_of(unsigned int percent, unsigned long epochs, uint64_t count[2])
{
	for (uint32_t i = 0; i < ws.l.disks; i++) {
		int r;

		attach(&disks[i]);
		image_make(&images, &disks[i], NULL);
		r = disk_read_all(&disks[i], images.of[i]);
		if (r)
			fail("reading %s: %s", disks[i].path, strerror(-r));
	}
	starve(percent);
	writers_start(&ws);
	while (epochs--) {
		count[!epoch()]++;
		if (writers_error(&ws))
			fail("%s", writers_error(&ws));
	}
	if (writers_stop(&ws))
		fail("%s", writers_error(&ws));
	starve(0);
	/* What waited for memory may still break the first one. */
	for (int n = 0; epoch(); n++)
		if (n == 5)
			fail("no epoch succeeds although there is memory");
	compare();
	starve(percent);
	detach_all();
	starve(0);
	image_free(&images);
}

int main(int argc, char **argv)
{
	unsigned long rounds = 3, percent = 10, epochs = 12;
	struct tmk_stats was, now;
	uint64_t count[2] = {0, 0};
	int o;

	ws.l = (struct layout){.seed = 11,
		.run = 11,
		.writers = 4,
		.own = 64,
		.grain = BLOCK_SECT,
		.most = CHUNK_SECT};
	while ((o = getopt(argc, argv, "r:p:n:")) != -1) {
		if (o == 'r')
			rounds = strtoul(optarg, NULL, 0);
		else if (o == 'p')
			percent = strtoul(optarg, NULL, 0);
		else if (o == 'n')
			epochs = strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	setup(argc - optind, argv + optind);
	tmk_stats(&tmk, &was);
	tmk_patience = TRIES;
	for (unsigned long n = 0; n < rounds; n++)
		round_of((unsigned int)percent, epochs, count);
	tmk_stats(&tmk, &now);
	printf("%lu%%: %lu rounds, %llu epochs right, %llu broken (memory %llu, deadline %llu, error %llu), %llu calls without memory, "
	       "%llu writes without a context at once, %llu writes, the longest took %llu us\n",
		percent, rounds, (unsigned long long)count[1], (unsigned long long)count[0],
		(unsigned long long)(now.break_memory - was.break_memory),
		(unsigned long long)(now.break_deadline - was.break_deadline),
		(unsigned long long)(now.break_error - was.break_error),
		(unsigned long long)tmk_nomem, (unsigned long long)(now.noctx - was.noctx),
		(unsigned long long)writers_count(&ws), (unsigned long long)writers_longest(&ws));
	if (!tmk_nomem)
		fail("no call was without memory: the test does not reach what it tests");
	return 0;
}
