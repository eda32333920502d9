// SPDX-License-Identifier: Apache-2.0
/*
 * files [-n CUTS] [-c EVERY] DISK:DIR:TYPE...: the oracle through filesystems, buffered and with fsync.
 *
 * DIR is where the filesystem on DISK is mounted. Two writers work in each while cuts are taken and drained as fast as it
 * goes. Of every EVERY-th cut a copy of each image is mounted (which replays its log), everything that was known durable must be
 * there, and after that fsck must find nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/crash/files.h"
#include "tests/crash/image.h"

#define SETTLE_MS 60000

static struct disk disks[DISKS_MAX];
static char *dirs[DISKS_MAX], *types[DISKS_MAX];
static unsigned int ndisks;
static struct images images;
static struct tmk tmk;
static struct file_writers fw;
static struct file_expect expect = {.fw = &fw};

__attribute__((format(printf, 1, 2))) static void sh(const char *fmt, ...)
{
	__builtin_va_list ap;
	char cmd[512];
	int r;

	__builtin_va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	__builtin_va_end(ap);
	r = system(cmd);
	if (r)
		fail("%s: status %d", cmd, r);
}

static void copy_image(unsigned int i)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/files.%u.img", i);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)images.bytes[i]))
		fail("%s: %s", path, strerror(errno));
	for (uint64_t at = 0; at < images.bytes[i]; at += TMK_BLOCK) {
		static const char zero[TMK_BLOCK];

		if (memcmp(images.of[i] + at, zero, TMK_BLOCK) &&
			pwrite(fd, images.of[i] + at, TMK_BLOCK, (off_t)at) != TMK_BLOCK)
			fail("%s: %s", path, strerror(errno));
	}
	close(fd);
}

static void check(unsigned long cut)
{
	char why[256] = "";

	for (unsigned int i = 0; i < ndisks; i++) {
		copy_image(i);
		sh("mkdir -p /tmp/files.%u && mount -t %s -o loop%s /tmp/files.%u.img /tmp/files.%u",
			i, types[i], strcmp(types[i], "xfs") ? "" : ",nouuid", i, i);
	}
	for (int judge = 0; judge < 2 && !why[0]; judge++) {
		for (uint32_t w = 0; w < fw.writers && !why[0]; w++) {
			char dir[64];

			snprintf(dir, sizeof(dir), "/tmp/files.%u", w / 2);
			if (judge)
				file_judge(&expect, w, dir, why);
			else
				file_read(&expect, w, dir, why);
		}
	}
	if (why[0])
		fail("cut %lu: %s", cut, why);
	for (unsigned int i = 0; i < ndisks; i++) {
		sh("umount /tmp/files.%u", i);
		if (!strcmp(types[i], "xfs"))
			sh("xfs_repair -n -f /tmp/files.%u.img >/tmp/fsck.log 2>&1 || { cat /tmp/fsck.log; exit 1; }",
				i);
		else
			sh("e2fsck -fn /tmp/files.%u.img >/tmp/fsck.log 2>&1 || { cat /tmp/fsck.log; exit 1; }",
				i);
	}
}

static void one_cut(unsigned long n, bool checked)
{
	uint32_t before[FILE_WRITERS];
	int r;

	for (uint32_t w = 0; w < fw.writers; w++)
		before[w] = fw.done[w];
	r = tmk_cut(&tmk, SETTLE_MS, NULL);
	if (r)
		fail("cut %lu: %s", n, strerror(-r));
	usleep((unsigned int)rand() % 5000);
	r = tmk_settle(&tmk, SETTLE_MS);
	for (unsigned int i = 0; !r && i < ndisks; i++)
		r = tmk_drain_disk(&tmk, &disks[i], i, 256, image_stage, &images);
	if (!r)
		r = tmk_commit(&tmk, &tmk.id);
	if (r)
		fail("draining cut %lu: %s", n, strerror(-r));
	image_apply(&images, NULL, NULL);
	if (!checked)
		return;
	for (uint32_t w = 0; w < fw.writers; w++) {
		if (expect.claim[w] < before[w])
			expect.claim[w] = before[w];
	}
	check(n);
}

static void add(char *arg)
{
	char *dir = strchr(arg, ':'), *type = dir ? strchr(dir + 1, ':') : NULL;
	unsigned int i = ndisks++;
	int r;

	if (!type || ndisks > FILE_WRITERS / 2)
		fail("DISK:DIR:TYPE");
	*dir = *type = 0;
	dirs[i] = dir + 1;
	types[i] = type + 1;
	r = disk_open(&disks[i], arg);
	if (!r)
		r = tmk_attach(&tmk, &disks[i], NULL);
	if (r)
		fail("%s: %s", arg, strerror(-r));
	image_make(&images, &disks[i], NULL);
	r = disk_read_all(&disks[i], images.of[i]);
	if (r)
		fail("reading %s: %s", arg, strerror(-r));
	for (int k = 0; k < 2; k++)
		snprintf(fw.dir[fw.writers++], sizeof(fw.dir[0]), "%s", dirs[i]);
}

int main(int argc, char **argv)
{
	unsigned long cuts = 60, every = 6;
	uint64_t start = now_us(), total = 0;
	const char *err;
	int o, r;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((o = getopt(argc, argv, "n:c:")) != -1) {
		if (o == 'n')
			cuts = strtoul(optarg, NULL, 0);
		else if (o == 'c')
			every = strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	r = tmk_open(&tmk);
	if (r || !every || optind == argc)
		fail("usage: files [-n CUTS] [-c EVERY] DISK:DIR:TYPE...");
	if (getrandom(&fw.run, sizeof(fw.run), 0) != sizeof(fw.run))
		fail("no random number");
	for (; optind < argc; optind++)
		add(argv[optind]);
	file_writers_start(&fw);
	for (unsigned long n = 1; n <= cuts; n++)
		one_cut(n, n % every == 0);
	err = file_writers_stop(&fw);
	if (err)
		fail("%s", err);
	one_cut(cuts + 1, true);
	for (uint32_t w = 0; w < fw.writers; w++)
		total += fw.begun[w];
	printf("%lu cuts in %.1f s, %lu of them mounted and right; %llu acts by %u writers\n", cuts,
		(double)(now_us() - start) / 1e6, cuts / every + 1, (unsigned long long)total,
		fw.writers);
	for (unsigned int i = 0; i < ndisks; i++) {
		struct tmk_info info;

		if (tmk_info(&tmk, disks[i].num, &info) || info.doubt)
			fail("%s is in doubt", disks[i].path);
		r = tmk_detach(&tmk, &disks[i]);
		if (r)
			fail("detach: %s", strerror(-r));
	}
	return 0;
}
