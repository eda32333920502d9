// SPDX-License-Identifier: Apache-2.0
/*
 * kinds DISK: one of each kind of write, at places that overlap from call to call (PHASE and ROUND of the environment
 * vary them), for `whole`: blocks, sectors, writes that neither begin nor end with a block, the last sectors, large ones,
 * stable ones (FUA), through the page cache, discards, zeroes of whole and of part blocks, secure erase where there is one.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/crash/tmk.h"

static struct disk d;
static int direct;
static char *buf;
static unsigned long round_no;

static void put(uint64_t off, size_t len, int rwf)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	ssize_t n;

	if (getrandom(buf, len < 256 ? len : 256, 0) < 0)
		fail("no random bytes");
	for (size_t i = 256; i < len; i++)
		buf[i] = (char)(buf[i - 256] + 1);
	n = pwritev2(direct, &iov, 1, (off_t)off, rwf);
	if (n != (ssize_t)len)
		fail("write of %zu at %llu: %s", len, (unsigned long long)off,
			n < 0 ? strerror(errno) : "short");
}

/* -1: the disk cannot do it. */
static int range(unsigned long cmd, uint64_t off, uint64_t len)
{
	uint64_t r[2] = {off, len};

	if (!ioctl(direct, cmd, r))
		return 0;
	if (errno != EOPNOTSUPP && errno != EREMOTEIO && errno != EIO && errno != ENOTTY &&
		errno != EINVAL)
		fail("ioctl %lx: %s", cmd, strerror(errno));
	return -1;
}

static uint64_t block(unsigned int n)
{
	return (16 + (n * 37 + round_no * 5) % 1500) * TMK_BLOCK;
}

/* Through the page cache of the disk itself, not on the bounds of anything. */
static void buffered(void)
{
	int fd = open(d.path, O_RDWR);

	if (fd < 0 || pwrite(fd, buf, 70001, 4 * 1048576 + 77) != 70001 || fsync(fd))
		fail("buffered write: %s", strerror(errno));
	close(fd);
}

int main(int argc, char **argv)
{
	const char *round = getenv("ROUND");
	uint64_t s;
	int r, can = 0;

	round_no = round ? strtoul(round, NULL, 0) : 0;
	r = argc == 2 ? disk_open(&d, argv[1]) : -EINVAL;
	direct = open(argc == 2 ? argv[1] : "", O_RDWR | O_DIRECT);
	if (r || direct < 0)
		fail("usage: kinds DISK");
	buf = alloc_pages(1 << 20);
	s = d.sector;
	for (unsigned int n = 0; n < 24; n++) {
		put(block(n), TMK_BLOCK, n % 3 ? 0 : RWF_DSYNC);
		put(block(n) + 40 * TMK_BLOCK + n % (TMK_BLOCK / s) * s, s, 0);
		put(block(n) + 41 * TMK_BLOCK + (s < TMK_BLOCK ? 3 * s : 0), 11 * s,
			n % 4 ? 0 : RWF_DSYNC);
	}
	put((20 + round_no) * 65536, 262144, 0);
	put(d.bytes - 3 * s, 3 * s, 0);
	can |= !range(BLKDISCARD, TMK_BLOCK * (200 + round_no * 8), TMK_BLOCK * 64);
	can |= range(BLKZEROOUT, TMK_BLOCK * 230, TMK_BLOCK * (20 + round_no)) ? 0 : 2;
	can |= range(BLKZEROOUT, TMK_BLOCK * 300 + s, s * 3) ? 0 : 2;
	can |= range(BLKSECDISCARD, TMK_BLOCK * 310, TMK_BLOCK * 8) ? 0 : 4;
	can |= range(BLKDISCARD, TMK_BLOCK * 340 + s, s * 19) ? 0 : 1;
	buffered();
	put(TMK_BLOCK * (210 + round_no), TMK_BLOCK * 3, 0);
	if (!(can & 2))
		fail("no zeroes");
	if (round_no == 1)
		printf("%s: discard %s, secure erase %s\n", d.path, can & 1 ? "yes" : "no",
			can & 4 ? "yes" : "no");
	return 0;
}
