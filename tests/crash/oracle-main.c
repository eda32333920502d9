// SPDX-License-Identifier: Apache-2.0
/*
 * oracle [OPTION]... DISK...: writers on all disks, cuts as fast as they can be drained, every image judged.
 *
 *  -n CUTS    cuts to take (500)             -w N      writers (4)
 *  -q N       writes of each at a time (8)   -e uring|aio
 *  -v DEV     write through DEV, which lies one to one above the disk; once per disk, in their order
 *  -T         what is above the disk splits writes: parts of a write are no fault
 *  -l US      wait up to US before a drain, so that frozen blocks are written to (2000)
 *  -c N       chunks of 64 KiB on each disk (24), -s N: shared blocks (16), -m N: sectors of the largest write (128)
 *  -z US      pause of each writer between writes (0)
 *  -S SEED
 *  -x WHAT    a rule is off: exits 0 once an image is found wrong, 1 if none is; WHAT is for the report
 *  -k         stay attached at the end (else detached)
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/crash/image.h"
#include "tests/crash/writers.h"

#define SETTLE_MS 60000

static struct {
	unsigned long cuts;
	const char *via[DISKS_MAX];
	unsigned int vias;
	bool torn;
	unsigned int delay_us;
	const char *expect; /* the rule that is off, or NULL */
	bool keep;
} opt = {.cuts = 500, .delay_us = 2000};

static struct writers ws = {.depth = 8};
static struct disk disks[DISKS_MAX];
static struct images images;
static struct tmk tmk;
static struct checker *checker;
static struct tmk_id waiting[TMK_MAX_UNACKED]; /* drained, not committed */
static unsigned int nwaiting;
static uint64_t blocks, aborts, start_us;

static void usage(void)
{
	fprintf(stderr, "usage: oracle [OPTION]... DISK...\n");
	exit(2);
}

static unsigned long number(const char *s)
{
	char *end;
	unsigned long n = strtoul(s, &end, 0);

	if (!*s || *end)
		usage();
	return n;
}

static void options(int argc, char **argv)
{
	struct layout *l = &ws.l;
	int o;

	*l = (struct layout){.seed = 1,
		.writers = 4,
		.own = 24,
		.shared = 16,
		.most = CHUNK_SECT,
		.first = 2048 + 24};
	while ((o = getopt(argc, argv, "n:w:q:e:v:Tl:c:s:m:z:S:x:k")) != -1) {
		switch (o) {
		case 'n':
			opt.cuts = number(optarg);
			break;
		case 'w':
			l->writers = (uint32_t)number(optarg);
			break;
		case 'q':
			ws.depth = (uint32_t)number(optarg);
			break;
		case 'e':
			ws.engine = strcmp(optarg, "aio") ? ENGINE_URING : ENGINE_AIO;
			break;
		case 'v':
			if (opt.vias == DISKS_MAX)
				usage();
			opt.via[opt.vias++] = optarg;
			break;
		case 'T':
			opt.torn = true;
			break;
		case 'l':
			opt.delay_us = (unsigned int)number(optarg);
			break;
		case 'c':
			l->own = (uint32_t)number(optarg);
			break;
		case 's':
			l->shared = (uint32_t)number(optarg);
			break;
		case 'm':
			l->most = (uint32_t)number(optarg);
			break;
		case 'z':
			ws.nap_us = (uint32_t)number(optarg);
			break;
		case 'S':
			l->seed = number(optarg);
			break;
		case 'x':
			opt.expect = optarg;
			break;
		case 'k':
			opt.keep = true;
			break;
		default:
			usage();
		}
	}
	l->disks = (uint32_t)(argc - optind);
	if (!l->disks || l->disks > DISKS_MAX || !l->writers || l->writers > WRITERS_MAX ||
		!ws.depth || ws.depth > WINDOW || l->most % BLOCK_SECT || !l->most ||
		l->most > CHUNK_SECT)
		usage();
	l->own -= l->own % l->writers;
	if (!l->own)
		l->own = l->writers;
	for (uint32_t i = 0; i < l->disks; i++) {
		int r = disk_open(&disks[i], argv[optind + (int)i]);

		if (r)
			fail("%s: %s", argv[optind + (int)i], strerror(-r));
	}
}

static void setup(void)
{
	struct layout *l = &ws.l;

	if (getrandom(&l->run, sizeof(l->run), 0) != sizeof(l->run))
		fail("no random number");
	l->grain = 1;
	for (uint32_t i = 0; i < l->disks; i++) {
		const char *to = i < opt.vias ? opt.via[i] : disks[i].path;
		uint32_t reason;
		int r;

		if (disks[i].sector != SECTOR)
			l->grain = BLOCK_SECT;
		if ((l->first + layout_sectors(l)) * SECTOR > disks[i].bytes)
			fail("%s is too small", disks[i].path);
		ws.fd[i] = open(to, O_WRONLY | O_DIRECT | O_CLOEXEC);
		if (ws.fd[i] < 0)
			fail("%s: %s", to, strerror(errno));
		r = tmk_attach(&tmk, &disks[i], &reason);
		if (r)
			fail("attaching %s: %s (%s)", disks[i].path, strerror(-r),
				tmk_refusal_name(reason));
		image_make(&images, &disks[i], NULL);
		r = disk_read_all(&disks[i], images.of[i]);
		if (r)
			fail("reading %s: %s", disks[i].path, strerror(-r));
		/* The hot area must be empty, or a run before this one would look like garbage. */
		for (uint64_t b = 0; b < layout_sectors(l) * SECTOR; b++) {
			if (images.of[i][l->first * SECTOR + b])
				fail("%s is not empty", disks[i].path);
		}
	}
	if (l->grain != 1 || l->writers > BLOCK_SECT)
		l->shared = 0;
	checker = checker_new(l);
	if (!checker)
		fail("no memory");
	if (opt.torn)
		checker_allow_torn(checker);
}

static void feed(void *arg, const struct staged *s, const void *data)
{
	if (s->nbad)
		fail("disk %u block %llu+%u: %u blocks unreadable", s->disk,
			(unsigned long long)s->block, s->count, s->nbad);
	checker_feed(
		checker, s->disk, s->block * BLOCK_SECT, (uint64_t)s->count * BLOCK_SECT, data);
}

/* What is wrong ends the run, one way or the other. */
static void verdict(unsigned long cut, const char *what)
{
	double secs = (double)(now_us() - start_us) / 1e6;
	struct tmk_stats st;

	if (!tmk_stats(&tmk, &st) && st.breaks)
		printf("breaks: %llu for memory, %llu for the deadline, %llu for errors\n",
			(unsigned long long)st.break_memory, (unsigned long long)st.break_deadline,
			(unsigned long long)st.break_error);

	if (opt.expect) {
		printf("rule off: %s: found after %lu cuts, %.1f s: %s\n", opt.expect, cut, secs,
			what);
		exit(0);
	}
	fail("after %lu cuts, %.1f s: %s", cut, secs, what);
}

static void commit_some(bool all)
{
	while (nwaiting && (all || nwaiting == TMK_MAX_UNACKED - 1 || rand() % 2)) {
		int r = tmk_commit(&tmk, &waiting[0]);

		if (r)
			fail("commit: %s", strerror(-r));
		memmove(waiting, waiting + 1, --nwaiting * sizeof(*waiting));
	}
}

static void judge(unsigned long cut, const uint32_t *submitted)
{
	struct verdict v;
	char text[400];

	blocks += image_apply(&images, feed, NULL);
	if (checker_judge(checker, submitted, &v))
		return;
	snprintf(text, sizeof(text),
		"%s (garbage %llu, lost %llu, torn %llu, future %llu, back %llu)", v.first,
		(unsigned long long)v.count[WRONG_GARBAGE], (unsigned long long)v.count[WRONG_LOST],
		(unsigned long long)v.count[WRONG_TORN], (unsigned long long)v.count[WRONG_FUTURE],
		(unsigned long long)v.count[WRONG_BACK]);
	verdict(cut, text);
}

/* Drains the frozen epoch, or aborts it half-way. True if it was drained. */
static bool drain(unsigned long cut, bool abort)
{
	int r = tmk_settle(&tmk, SETTLE_MS);

	for (uint32_t i = 0; !r && i < ws.l.disks; i++) {
		if (abort && i == ws.l.disks / 2)
			break;
		r = tmk_drain_disk(&tmk, &disks[i], i, 256, image_stage, &images);
	}
	if (r == -ETIME) {
		verdict(cut, "the epoch does not settle");
	} else if (r == -ESTALE) {
		struct tmk_stats s;
		char text[160];

		tmk_stats(&tmk, &s);
		snprintf(text, sizeof(text),
			"the epoch broke (memory %llu, deadline %llu, error %llu)",
			(unsigned long long)s.break_memory, (unsigned long long)s.break_deadline,
			(unsigned long long)s.break_error);
		verdict(cut, text);
	} else if (r) {
		fail("draining: %s", strerror(-r));
	}
	if (!abort)
		return true;
	r = tmk_abort(&tmk);
	if (r)
		fail("abort: %s", strerror(-r));
	image_drop(&images);
	nwaiting = 0; /* they are merged back, and come again */
	aborts++;
	return false;
}

static void one_cut(unsigned long n, bool abort)
{
	done_t before[WRITERS_MAX];
	uint32_t after[WRITERS_MAX];
	struct tmk_cut cut;
	int r;

	for (uint32_t w = 0; w < ws.l.writers; w++)
		before[w] = ws.done[w];
	r = tmk_cut(&tmk, SETTLE_MS, &cut);
	for (uint32_t w = 0; w < ws.l.writers; w++)
		after[w] = ws.submitted[w];
	if (r == -ETIME)
		verdict(n, "a cut does not come about");
	if (r)
		fail("cut: %s", strerror(-r));
	if (opt.delay_us)
		usleep((unsigned int)rand() % opt.delay_us);
	if (!drain(n, abort))
		return;
	for (uint32_t w = 0; w < ws.l.writers; w++)
		checker_claim(checker, w, before[w]);
	judge(n, after);
	waiting[nwaiting++] = cut.id;
	commit_some(false);
}

/* With all writers quiet the image must be the disk, in every byte. */
static void last_cut(void)
{
	const char *err = writers_stop(&ws);

	if (err)
		fail("%s", err);
	one_cut(opt.cuts + 1, false);
	commit_some(true);
	for (uint32_t i = 0; i < ws.l.disks; i++) {
		char *now = alloc_pages((size_t)images.bytes[i] + TMK_BLOCK);
		uint64_t n;
		int r = disk_read_all(&disks[i], now);
		int64_t at = image_differs(&images, i, now, &n);

		if (r)
			fail("reading %s: %s", disks[i].path, strerror(-r));
		if (at >= 0)
			verdict(opt.cuts, "the last image is not the disk");
		munmap(now, (size_t)images.bytes[i] + TMK_BLOCK);
	}
}

static void print_times(const char *what, const __u64 *bucket)
{
	printf("%s, us:", what);
	for (unsigned int i = 0; i < TMK_HIST; i++)
		if (bucket[i])
			printf(" <%llu: %llu", 2ULL << i, (unsigned long long)bucket[i]);
	printf("\n");
}

static void report(void)
{
	uint64_t preserved = 0, held = 0, longest = 0;
	double secs = (double)(now_us() - start_us) / 1e6;
	struct tmk_info info;
	struct tmk_stats st;

	if (tmk_stats(&tmk, &st))
		fail("no statistics");
	print_times("cuts held writes for", st.cut_us);
	print_times("writes were held for", st.held_us);
	for (uint32_t i = 0; i < ws.l.disks; i++) {
		if (tmk_info(&tmk, disks[i].num, &info))
			fail("no info");
		if (info.doubt)
			fail("%s is in doubt: %u", disks[i].path, info.doubt);
		preserved += info.preserved;
		held += info.redirected;
		if (info.held_max_us > longest)
			longest = info.held_max_us;
	}
	printf("%lu cuts in %.1f s, right: %u disks, %u writers (%s), %llu writes, %llu blocks drained, %llu before-images, "
	       "%llu writes held (at most %llu us), %llu aborts, longest write %llu us\n",
		opt.cuts, secs, ws.l.disks, ws.l.writers,
		ws.engine == ENGINE_URING ? "io_uring" : "aio",
		(unsigned long long)writers_count(&ws), (unsigned long long)blocks,
		(unsigned long long)preserved, (unsigned long long)held,
		(unsigned long long)longest, (unsigned long long)aborts,
		(unsigned long long)writers_longest(&ws));
}

int main(int argc, char **argv)
{
	int r;

	setvbuf(stdout, NULL, _IOLBF, 0);
	options(argc, argv);
	srand((unsigned int)ws.l.seed);
	r = tmk_open(&tmk);
	if (r)
		fail("%s: %s", TMK_DEVICE, strerror(-r));
	setup();
	start_us = now_us();
	writers_start(&ws);
	setpriority(PRIO_PROCESS, 0, -10);
	for (unsigned long n = 1; n <= opt.cuts; n++) {
		const char *err = writers_error(&ws);

		if (err)
			fail("%s", err);
		one_cut(n, rand() % 64 == 0);
	}
	last_cut();
	report();
	if (opt.expect)
		fail("rule off: %s: nothing wrong was found in %lu cuts", opt.expect, opt.cuts);
	for (uint32_t i = 0; !opt.keep && i < ws.l.disks; i++) {
		r = tmk_detach(&tmk, &disks[i]);
		if (r)
			fail("detach: %s", strerror(-r));
	}
	return 0;
}
