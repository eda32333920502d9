// SPDX-License-Identifier: Apache-2.0
/*
 * whole [-r ROUNDS] [-P] [-s] DISK... -- COMMAND...: base + drained epochs is the disk as it was at each cut.
 *
 * Each round runs COMMAND to its end (PHASE=quiet, ROUND=n in its environment; it syncs what it wrote), cuts while nobody
 * writes, reads all of each disk for itself, then drains while COMMAND runs again (PHASE=busy), and compares. A round whose disks
 * were written to between cut and reading (their counters in /sys/block tell) is taken again.
 * -P: the busy phases must make before-images. -s: the disk shrinks: that doubt is expected, once or more, and taken back.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/crash/image.h"

#define TRIES     100
#define SETTLE_MS 60000

static struct disk disks[DISKS_MAX];
static unsigned int ndisks;
static char *reference[DISKS_MAX];
static struct images images;
static struct tmk tmk;
static char **command;
static bool shrinks;
static unsigned int shrunk;

/*
 * Sectors written and discarded so far, requests in flight, writes that the module has seen: two times the same means
 * nobody wrote, if none was under way the first time (true). The kernel's counters alone do not tell of a write that
 * waits in the plug of a task that lost the processor.
 */
static bool activity(const struct disk *d, uint64_t out[4])
{
	unsigned long long v[17] = {0};
	struct tmk_info info;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", d->major, d->minor);
	f = fopen(path, "r");
	if (!f)
		fail("%s: %s", path, strerror(errno));
	for (int i = 0; i < 17 && fscanf(f, "%llu", &v[i]) == 1; i++)
		;
	fclose(f);
	out[0] = v[4];
	out[1] = v[11];
	out[2] = v[8];
	if (tmk_info(&tmk, d->num, &info))
		fail("no info");
	out[3] = info.writes;
	/* Asked again: a write that comes between the two answers is missing in the count, and will be noticed by it. */
	if (tmk_info(&tmk, d->num, &info))
		fail("no info");
	return !info.inflight && !info.held;
}

static bool activity_all(uint64_t out[DISKS_MAX][4])
{
	bool idle = true;

	for (unsigned int i = 0; i < ndisks; i++)
		idle &= activity(&disks[i], out[i]);
	return idle;
}

static pid_t start(const char *phase, unsigned long round)
{
	char text[24];
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (pid)
		return pid;
	snprintf(text, sizeof(text), "%lu", round);
	setenv("PHASE", phase, 1);
	setenv("ROUND", text, 1);
	execvp(command[0], command);
	fprintf(stderr, "%s: %s\n", command[0], strerror(errno));
	_exit(127);
}

static void finish(pid_t pid, const char *phase, unsigned long round)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			fail("wait: %s", strerror(errno));
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail("round %lu, phase %s: the command failed (%d)", round, phase, status);
}

static uint64_t preserved(void)
{
	struct tmk_info info;
	uint64_t n = 0;

	for (unsigned int i = 0; i < ndisks; i++) {
		int r = tmk_info(&tmk, disks[i].num, &info);

		if (r)
			fail("info: %s", strerror(-r));
		n += info.preserved;
	}
	return n;
}

static void resize(unsigned int i)
{
	uint64_t was = disks[i].bytes;
	int r = disk_size(&disks[i]);

	if (r)
		fail("size of %s: %s", disks[i].path, strerror(-r));
	if (disks[i].bytes == was)
		return;
	printf("%s: %llu -> %llu bytes\n", disks[i].path, (unsigned long long)was,
		(unsigned long long)disks[i].bytes);
	image_resize(&images, i, disks[i].bytes);
	free(reference[i]);
	reference[i] = NULL;
}

static void doubts(void)
{
	struct tmk_info info;

	for (unsigned int i = 0; i < ndisks; i++) {
		if (tmk_info(&tmk, disks[i].num, &info))
			fail("no info");
		if (shrinks && info.doubt == TMK_DOUBT_SHRUNK) {
			shrunk++;
			if (tmk_resync(&tmk, &disks[i], TMK_DOUBT_SHRUNK))
				fail("resync");
		} else if (info.doubt) {
			fail("%s is in doubt: %u", disks[i].path, info.doubt);
		}
	}
}

static void read_disk(const struct disk *d, char **to)
{
	int r;

	if (!*to && posix_memalign((void **)to, TMK_BLOCK, (size_t)d->bytes + TMK_BLOCK))
		fail("no memory");
	r = disk_read_all(d, *to);
	if (r)
		fail("reading %s: %s", d->path, strerror(-r));
}

/* Cuts, with the disks' content of that moment in reference[]. */
static void cut_quiet(unsigned long round)
{
	uint64_t before[DISKS_MAX][4], after[DISKS_MAX][4];

	for (int try = 0; try < TRIES; try++) {
		bool idle = activity_all(before);
		int r;

		r = tmk_cut(&tmk, SETTLE_MS, NULL);
		if (r)
			fail("round %lu: cut: %s", round, strerror(-r));
		for (unsigned int i = 0; i < ndisks; i++)
			read_disk(&disks[i], &reference[i]);
		activity_all(after);
		if (idle && !memcmp(before, after, sizeof(before[0]) * ndisks))
			return;
		/* Somebody wrote: what was read is not the cut's. */
		r = tmk_abort(&tmk);
		if (r)
			fail("abort: %s", strerror(-r));
		usleep(100000);
	}
	fail("round %lu: the disks do not come to rest", round);
}

static void drain(unsigned long round)
{
	int r = tmk_settle(&tmk, SETTLE_MS);

	for (unsigned int i = 0; !r && i < ndisks; i++)
		r = tmk_drain_disk(&tmk, &disks[i], i, 64, image_stage, &images);
	if (!r)
		r = tmk_commit(&tmk, &tmk.id);
	if (r)
		fail("round %lu: draining: %s%s", round, strerror(-r),
			r == -ESTALE ? " (the epoch broke)" : "");
}

static void compare(unsigned long round)
{
	for (unsigned int i = 0; i < ndisks; i++) {
		uint64_t n;
		int64_t at = image_differs(&images, i, reference[i], &n);

		if (at >= 0)
			fail("round %lu: the image of %s differs from the disk at the cut in %llu blocks, first %lld",
				round, disks[i].path, (unsigned long long)n, (long long)at);
	}
}

static void one_round(unsigned long n)
{
	uint64_t had, blocks;
	uint64_t end;
	bool over = false;
	pid_t pid;

	finish(start("quiet", n), "quiet", n);
	for (unsigned int i = 0; i < ndisks; i++)
		resize(i);
	cut_quiet(n);
	had = preserved();
	pid = start("busy", n);
	/*
	 * Drained when the command has begun to write where it matters, or, every other time, when it is over: then most is to be
	 * preserved.
	 */
	for (end = now_us() + 20000000; !over && now_us() < end && (n % 2 || preserved() == had);) {
		siginfo_t si = {0};

		usleep(2000);
		over = !waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) && si.si_pid;
	}
	drain(n);
	blocks = image_apply(&images, NULL, NULL);
	compare(n);
	finish(pid, "busy", n);
	doubts();
	printf("round %lu: right, %llu blocks drained, %llu before-images\n", n,
		(unsigned long long)blocks, (unsigned long long)(preserved() - had));
}

static void usage(void)
{
	fprintf(stderr, "usage: whole [-r ROUNDS] [-P] [-s] DISK... -- COMMAND...\n");
	exit(2);
}

int main(int argc, char **argv)
{
	unsigned long rounds = 3;
	bool must_preserve = false;
	int o, r;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((o = getopt(argc, argv, "+r:Ps")) != -1) {
		switch (o) {
		case 'r':
			rounds = strtoul(optarg, NULL, 0);
			break;
		case 'P':
			must_preserve = true;
			break;
		case 's':
			shrinks = true;
			break;
		default:
			usage();
		}
	}
	r = tmk_open(&tmk);
	if (r)
		fail("%s: %s", TMK_DEVICE, strerror(-r));
	for (; optind < argc && strcmp(argv[optind], "--") && ndisks < DISKS_MAX; optind++) {
		struct disk *d = &disks[ndisks];
		uint32_t reason = 0;

		r = disk_open(d, argv[optind]);
		if (!r)
			r = tmk_attach(&tmk, d, &reason);
		if (r)
			fail("%s: %s (%s)", argv[optind], strerror(-r), tmk_refusal_name(reason));
		image_make(&images, d, NULL);
		r = disk_read_all(d, images.of[ndisks++]);
		if (r)
			fail("reading %s: %s", d->path, strerror(-r));
	}
	if (optind + 1 >= argc || !ndisks)
		usage();
	command = argv + optind + 1;
	for (unsigned long n = 1; n <= rounds; n++)
		one_round(n);
	if (must_preserve && !preserved())
		fail("no before-image was made");
	if (shrinks && !shrunk)
		fail("the disk shrank, and no doubt was told");
	for (unsigned int i = 0; i < ndisks; i++) {
		r = tmk_detach(&tmk, &disks[i]);
		if (r)
			fail("detach: %s", strerror(-r));
	}
	return 0;
}
