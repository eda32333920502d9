// SPDX-License-Identifier: Apache-2.0
/*
 * fuzz [-t SECONDS] [-j THREADS] [-S SEED] DISK...: every call of /dev/tidemark with random, boundary and racing arguments.
 *
 * Each thread has descriptors of its own and some shared ones, and opens and closes them at random; ids, disk numbers and
 * extents are mostly real ones, so that calls get past their first checks. The disks' content is lost. What is checked:
 * the writers that run meanwhile see no error. The kernel's log, read by the harness, tells the rest.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "tests/crash/writers.h"

#define THREADS_MAX 16
#define SHARED      4
#define SPACE \
	(16 * TMK_MAX_DRAIN) /* bytes behind the pointers handed in; the page after it is not mapped */
#define CALLS 16

static struct disk disks[DISKS_MAX];
static unsigned int ndisks;
static uint64_t end_us;
static atomic_int shared[SHARED];
static _Atomic uint64_t calls[CALLS], done[CALLS];
static _Atomic uint32_t numbers[DISKS_MAX]; /* given to the disks last */
static pthread_mutex_t latest_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tmk_id latest; /* of anybody's cuts */
static struct writers ws = {.depth = 4, .error_ok = true, .nap_us = 500};

struct fuzzer {
	pthread_t thread;
	uint64_t state;
	int fd;
	struct tmk_id ids[8];
	char *space;
};

static uint64_t rnd(struct fuzzer *f)
{
	uint64_t x = f->state += 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static bool one_in(struct fuzzer *f, unsigned int n)
{
	return rnd(f) % n == 0;
}

/* A number that code gets wrong. */
static uint64_t odd(struct fuzzer *f)
{
	static const uint64_t list[] = {0, 1, 2, 7, 8, 63, 64, 65, 4095, 4096, 4097, 32767, 32768,
		65536, 65537, INT32_MAX, 1ULL << 31, UINT32_MAX, 1ULL << 32, 1ULL << 51, 1ULL << 52,
		1ULL << 62, INT64_MAX, 1ULL << 63, UINT64_MAX - 1, UINT64_MAX};

	return list[rnd(f) % (sizeof(list) / sizeof(*list))];
}

static uint32_t flags(struct fuzzer *f)
{
	return one_in(f, 60) ? (uint32_t)odd(f) : one_in(f, 40);
}

static uint32_t disk_number(struct fuzzer *f)
{
	uint32_t n = numbers[rnd(f) % ndisks];

	return one_in(f, 30) ? (uint32_t)odd(f) : one_in(f, 30) ? n - 1 : n;
}

static uint64_t block(struct fuzzer *f)
{
	return one_in(f, 10) ? odd(f) : rnd(f) % (disks[0].bytes / TMK_BLOCK + 2);
}

static uint32_t count(struct fuzzer *f, uint32_t most)
{
	return one_in(f, 12) ? (uint32_t)odd(f) : (uint32_t)(rnd(f) % most);
}

/* Memory for `len` bytes: good, ending at a hole, a hole, nothing, the kernel's. */
static uint64_t pointer(struct fuzzer *f, size_t len)
{
	switch (rnd(f) % 24) {
	case 0:
		return 0;
	case 1:
		return odd(f);
	case 2:
		return 0xffff888000000000ULL + rnd(f) % (1 << 30);
	case 3:
		return (uintptr_t)f->space + SPACE - (len < SPACE ? rnd(f) % (len + 1) : 0);
	case 4:
		return (uintptr_t)f->space + rnd(f) % 64;
	default:
		return (uintptr_t)f->space;
	}
}

static void keep(struct fuzzer *f, const struct tmk_id *i)
{
	f->ids[rnd(f) % 8] = *i;
	pthread_mutex_lock(&latest_lock);
	latest = *i;
	pthread_mutex_unlock(&latest_lock);
}

static struct tmk_id id(struct fuzzer *f)
{
	struct tmk_id i = f->ids[rnd(f) % 8];

	if (!one_in(f, 3)) {
		pthread_mutex_lock(&latest_lock);
		i = latest;
		pthread_mutex_unlock(&latest_lock);
	}
	if (one_in(f, 20))
		i.nonce = rnd(f);
	if (one_in(f, 20))
		i.cut += rnd(f) % 3 - 1;
	return i;
}

/* Extents in our memory, right or nearly so. */
static uint32_t extents(struct fuzzer *f)
{
	struct tmk_extent *e = (void *)f->space;
	uint32_t n = (uint32_t)(rnd(f) % 64);
	uint64_t at = 0;

	for (uint32_t i = 0; i < n; i++) {
		at += rnd(f) % 64;
		e[i].start = one_in(f, 200) ? odd(f) : at;
		e[i].count = one_in(f, 200) ? odd(f) : 1 + rnd(f) % 16;
		at += e[i].count + 1;
	}
	return n;
}

static int call(struct fuzzer *f, unsigned int nr, unsigned long cmd, void *arg)
{
	int fd = one_in(f, 4) ? shared[rnd(f) % SHARED] : f->fd;
	int r;

	/* Now and then the argument itself is bad, or half there. */
	if (one_in(f, 200))
		arg = (void *)(uintptr_t)odd(f);
	else if (one_in(f, 200))
		arg = f->space + SPACE - 4;
	r = ioctl(fd, cmd, arg);
	calls[nr]++;
	done[nr] += r >= 0;
	return r;
}

static void do_attach(struct fuzzer *f)
{
	unsigned int i = (unsigned int)(rnd(f) % ndisks);
	const struct disk *d = &disks[i];
	struct tmk_attach a = {.major = d->major, .minor = d->minor, .flags = flags(f)};

	if (one_in(f, 20))
		a.major = (uint32_t)odd(f);
	if (one_in(f, 20))
		a.minor = (uint32_t)odd(f);
	if (one_in(f, 20))
		a.diskseq = odd(f);
	if (!call(f, 1, TMK_ATTACH, &a) && a.major == d->major && a.minor == d->minor)
		numbers[i] = a.disk;
}

static void do_exclude(struct fuzzer *f)
{
	struct tmk_exclude a = {.disk = disk_number(f), .flags = flags(f)};

	a.count = one_in(f, 8) ? (uint32_t)odd(f) : extents(f);
	a.extents = pointer(f, a.count * sizeof(struct tmk_extent));
	if (one_in(f, 2)) {
		a.flags = TMK_EXCLUDE_FILE;
		a.fd = one_in(f, 8) ? (uint32_t)odd(f) : (uint32_t)(rnd(f) % 16);
	}
	call(f, 4, TMK_EXCLUDE, &a);
}

static void do_cut(struct fuzzer *f, bool catchup)
{
	struct tmk_cut a = {.flags = flags(f), .timeout_ms = (uint32_t)(rnd(f) % 20)};

	if (!call(f, catchup ? 13 : 7, catchup ? TMK_CATCHUP : TMK_CUT, &a))
		keep(f, &a.id);
}

static void do_ranges(struct fuzzer *f)
{
	struct tmk_ranges a = {
		.id = id(f), .disk = disk_number(f), .flags = flags(f), .cursor = block(f)};

	a.count = count(f, SPACE / sizeof(struct tmk_extent));
	a.extents = pointer(f, a.count * sizeof(struct tmk_extent));
	call(f, 8, TMK_RANGES, &a);
}

static void do_drain(struct fuzzer *f)
{
	struct tmk_drain a = {
		.id = id(f), .disk = disk_number(f), .flags = flags(f), .start = block(f)};

	a.count = count(f, 15);
	if (one_in(f, 50)) { /* all of it at once, to nowhere */
		a.start = 0;
		a.count = TMK_MAX_DRAIN;
	} else {
		a.buffer = pointer(f, (size_t)a.count * TMK_BLOCK);
	}
	a.bad = one_in(f, 2) ? pointer(f, a.count / 8 + 1) : 0;
	call(f, 9, TMK_DRAIN, &a);
}

/* An honest round, so that epochs do come to their end. */
static void do_whole(struct fuzzer *f)
{
	struct tmk t = {.fd = f->fd};

	if (tmk_cut(&t, 50, NULL))
		return;
	keep(f, &t.id);
	if (one_in(f, 2) && tmk_settle(&t, 200))
		return;
	for (unsigned int i = 0; i < ndisks; i++) {
		struct disk d = disks[i];

		d.num = numbers[i];
		tmk_drain_disk(&t, &d, i, 64, NULL, NULL);
	}
	calls[10]++;
	done[10] += !tmk_commit(&t, &t.id);
}

static void do_persist(struct fuzzer *f)
{
	struct tmk_persist a = {.disk = disk_number(f)};

	/* A save needs a file: registered right, saved at any time. */
	if (one_in(f, 4)) {
		a.flags = one_in(f, 4) ? (uint32_t)odd(f) : TMK_PERSIST_SAVE;
	} else {
		a.count = one_in(f, 8) ? (uint32_t)odd(f) : extents(f);
		a.extents = pointer(f, a.count * sizeof(struct tmk_extent));
	}
	call(f, 14, TMK_PERSIST, &a);
}

static void do_restore(struct fuzzer *f)
{
	struct tmk_restore a = {.disk = disk_number(f), .flags = flags(f), .len = count(f, SPACE)};

	a.data = pointer(f, a.len);
	if (one_in(f, 2)) { /* perhaps a real one */
		ssize_t n =
			pread(disks[0].fd, f->space, SPACE / 2, (off_t)(rnd(f) % 64 * TMK_BLOCK));

		a.len = n > 0 ? (uint64_t)n : 0;
		a.data = (uintptr_t)f->space;
	}
	call(f, 15, TMK_RESTORE, &a);
}

static void do_plain(struct fuzzer *f, unsigned int nr)
{
	union {
		struct tmk_version version;
		struct tmk_detach detach;
		struct tmk_head head;
		struct tmk_info info;
		struct tmk_stats stats;
		struct tmk_commit commit;
		struct tmk_abort abort;
		struct tmk_resync resync;
		char raw[sizeof(struct tmk_head)];
	} a;

	memset(&a, 0, sizeof(a));
	switch (nr) {
	case 0:
		call(f, nr, TMK_VERSION, &a);
		break;
	case 2:
		a.detach = (struct tmk_detach){.disk = disk_number(f), .flags = flags(f)};
		call(f, nr, TMK_DETACH, &a);
		break;
	case 3:
		a.head.flags = flags(f);
		if (!call(f, nr, TMK_HEAD, &a) && a.head.nids)
			f->ids[rnd(f) % 8] = a.head.ids[rnd(f) % a.head.nids];
		break;
	case 5:
		a.info = (struct tmk_info){.disk = disk_number(f), .flags = flags(f)};
		call(f, nr, TMK_INFO, &a);
		break;
	case 6:
		a.stats.flags = flags(f);
		call(f, nr, TMK_STATS, &a);
		break;
	case 10:
		a.commit = (struct tmk_commit){.id = id(f), .flags = flags(f)};
		call(f, nr, TMK_COMMIT, &a);
		break;
	case 11:
		a.abort.flags = flags(f);
		call(f, nr, TMK_ABORT, &a);
		break;
	case 12:
		a.resync = (struct tmk_resync){
			.disk = disk_number(f), .flags = flags(f), .doubt = count(f, 64)};
		call(f, nr, TMK_RESYNC, &a);
		break;
	}
}

static void do_descriptor(struct fuzzer *f)
{
	struct pollfd p = {.fd = f->fd, .events = POLLIN | POLLPRI};
	unsigned int s = (unsigned int)(rnd(f) % SHARED);
	int fd;

	switch (rnd(f) % 16) {
	case 0:
		close(f->fd);
		f->fd = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);
		break;
	case 1:
		fd = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);
		close(atomic_exchange(&shared[s], fd));
		break;
	case 2: /* unknown calls, other sizes */
		ioctl(f->fd, _IOC(rnd(f) % 4, TMK_IOC, rnd(f) % 32, rnd(f) % 600), f->space);
		break;
	default:
		poll(&p, 1, (int)(rnd(f) % 5));
	}
}

/* n: what kind of call, 0 .. 99. */
static void step(struct fuzzer *f, unsigned int n)
{
	static const unsigned char plain[] = {0, 3, 5, 6, 10, 11, 12};

	if (n < 4)
		do_attach(f);
	else if (n < 5)
		do_plain(f, 2);
	else if (n < 14)
		do_exclude(f);
	else if (n < 26)
		do_cut(f, n < 16);
	else if (n < 40)
		do_ranges(f);
	else if (n < 58)
		do_drain(f);
	else if (n < 65)
		do_whole(f);
	else if (n < 69)
		do_persist(f);
	else if (n < 73)
		do_restore(f);
	else if (n < 77)
		do_descriptor(f);
	else
		do_plain(f, plain[n % sizeof(plain)]);
}

static void *fuzz(void *arg)
{
	struct fuzzer *f = arg;

	/* Each kind once, on machines however slow. */
	for (unsigned int n = 0; n < 100; n += 2)
		step(f, n);
	while (now_us() < end_us)
		step(f, (unsigned int)(rnd(f) % 100));
	return NULL;
}

static void start(struct fuzzer *f, uint64_t seed)
{
	f->state = seed;
	do { /* guest-starve keeps memory from the module now and then */
		f->fd = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);
	} while (f->fd < 0 && errno == ENOMEM && now_us() < end_us);
	f->space = mmap(NULL, SPACE + TMK_BLOCK, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->fd < 0 || f->space == MAP_FAILED || mprotect(f->space + SPACE, TMK_BLOCK, PROT_NONE))
		fail("no descriptor or memory: %s", strerror(errno));
	if (pthread_create(&f->thread, NULL, fuzz, f))
		fail("no thread");
}

int main(int argc, char **argv)
{
	static const char *const name[CALLS] = {"version", "attach", "detach", "head", "exclude",
		"info", "stats", "cut", "ranges", "drain", "commit", "abort", "resync", "catchup",
		"persist", "restore"};
	static struct fuzzer fuzzers[THREADS_MAX];
	unsigned long seconds = 30, threads = 4;
	uint64_t seed = 0, total = 0;
	int o;

	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return 2;
	while ((o = getopt(argc, argv, "t:j:S:")) != -1) {
		if (o == 't')
			seconds = strtoul(optarg, NULL, 0);
		else if (o == 'j')
			threads = strtoul(optarg, NULL, 0);
		else if (o == 'S')
			seed = strtoull(optarg, NULL, 0);
		else
			return 2;
	}
	ndisks = (unsigned int)(argc - optind);
	if (!ndisks || ndisks > DISKS_MAX || !threads || threads > THREADS_MAX)
		return 2;
	printf("seed %llu\n", (unsigned long long)seed);
	ws.l = (struct layout){.seed = seed,
		.run = seed,
		.disks = ndisks,
		.writers = 2,
		.own = 16,
		.grain = BLOCK_SECT,
		.most = 64};
	for (unsigned int i = 0; i < ndisks; i++) {
		int r = disk_open(&disks[i], argv[optind + (int)i]);

		if (r)
			fail("%s: %s", argv[optind + (int)i], strerror(-r));
		ws.fd[i] = open(argv[optind + (int)i], O_WRONLY | O_DIRECT);
	}
	for (int i = 0; i < SHARED; i++)
		shared[i] = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);
	writers_start(&ws);
	end_us = now_us() + seconds * 1000000;
	for (unsigned long i = 0; i < threads; i++)
		start(&fuzzers[i], seed + i * 0x1234567);
	for (unsigned long i = 0; i < threads; i++) {
		pthread_join(fuzzers[i].thread, NULL);
		close(fuzzers[i].fd);
	}
	for (int i = 0; i < SHARED; i++)
		close(shared[i]);
	if (writers_stop(&ws) || ws.errors)
		fail("%llu writes failed", (unsigned long long)ws.errors);
	for (int i = 0; i < CALLS; i++) {
		printf("%s %llu/%llu%s", name[i], (unsigned long long)done[i],
			(unsigned long long)calls[i], i < CALLS - 1 ? ", " : "\n");
		total += calls[i];
	}
	printf("%llu calls, %llu writes, longest write %llu us\n", (unsigned long long)total,
		(unsigned long long)writers_count(&ws), (unsigned long long)writers_longest(&ws));
	return 0;
}
