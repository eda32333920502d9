// SPDX-License-Identifier: Apache-2.0
/*
 * kinds DISK: one of each kind of write, at places that overlap from call to call (PHASE and ROUND of the environment
 * vary them), for `whole`: blocks, sectors, writes that neither begin nor end with a block, the last sectors, large ones,
 * stable ones (FUA), such as must not wait, are polled for or may not be torn, through the page cache, discards, zeroes of
 * whole and of part blocks, secure erase where there is one.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/crash/tmk.h"

#define RWF_TEARLESS 0x40 /* RWF_ATOMIC, where headers do not know it yet */
#define POLLED       16

static struct disk d;
static int direct;
static char *buf;
static unsigned long round_no;

static void fill(size_t len)
{
	if (getrandom(buf, len < 256 ? len : 256, 0) < 0)
		fail("no random bytes");
	for (size_t i = 256; i < len; i++)
		buf[i] = (char)(buf[i - 256] + 1);
}

static void put(uint64_t off, size_t len, int rwf)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	ssize_t n;

	fill(len);
	n = pwritev2(direct, &iov, 1, (off_t)off, rwf);
	if (n < 0 && (rwf & RWF_NOWAIT) && (errno == EAGAIN || errno == EOPNOTSUPP))
		n = pwritev2(direct, &iov, 1, (off_t)off, 0);
	if (n != (ssize_t)len)
		fail("write of %zu at %llu: %s", len, (unsigned long long)off,
			n < 0 ? strerror(errno) : "short");
}

/* A write that no power cut may tear; -1: the disk, or the kernel, knows no such thing. */
static int tearless(uint64_t off, size_t len)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	ssize_t n;

	fill(len);
	n = pwritev2(direct, &iov, 1, (off_t)off, RWF_TEARLESS);
	if (n < 0 && (errno == EOPNOTSUPP || errno == EINVAL))
		return -1;
	if (n != (ssize_t)len)
		fail("tearless write of %zu at %llu: %s", len, (unsigned long long)off,
			n < 0 ? strerror(errno) : "short");
	return 0;
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

/*
 * Writes whose completion is polled for; -1: the disk cannot do it. Such as find no room at once (they are not to wait
 * either) are written anew.
 */
static int polled(void)
{
	struct io_uring ring;
	int no = 0;

	if (io_uring_queue_init(POLLED, &ring, IORING_SETUP_IOPOLL))
		return -1;
	fill(POLLED * TMK_BLOCK);
	for (unsigned int n = 0; n < POLLED; n++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (!sqe)
			fail("no room in the ring");
		io_uring_prep_write(sqe, direct, buf + n * TMK_BLOCK, TMK_BLOCK, block(n * 2));
		sqe->user_data = n;
	}
	for (int left = POLLED; left;) {
		int r = io_uring_submit(&ring); /* may stop at one that cannot be */

		if (r <= 0)
			fail("polled writes: not submitted");
		left -= r;
	}
	for (unsigned int i = 0; i < POLLED; i++) {
		struct io_uring_cqe *cqe;
		int r = io_uring_wait_cqe(&ring, &cqe);
		uint64_t n = r ? 0 : cqe->user_data;

		if (r)
			fail("polled writes: %s", strerror(-r));
		r = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
		if (r == -EOPNOTSUPP)
			no = -1;
		else if (r != TMK_BLOCK && r != -EAGAIN)
			fail("polled write: %s", r < 0 ? strerror(-r) : "short");
		if (r != TMK_BLOCK && pwrite(direct, buf + n * TMK_BLOCK, TMK_BLOCK,
					      (off_t)block((unsigned int)n * 2)) != TMK_BLOCK)
			fail("write: %s", strerror(errno));
	}
	io_uring_queue_exit(&ring);
	return no;
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
	static const int kind[] = {RWF_DSYNC, RWF_NOWAIT, RWF_HIPRI, 0};
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
		put(block(n), TMK_BLOCK, kind[n % 4]);
		put(block(n) + 40 * TMK_BLOCK + n % (TMK_BLOCK / s) * s, s, 0);
		put(block(n) + 41 * TMK_BLOCK + (s < TMK_BLOCK ? 3 * s : 0), 11 * s,
			n % 4 ? 0 : RWF_DSYNC);
	}
	put((20 + round_no) * 65536, 262144, 0);
	put(d.bytes - 3 * s, 3 * s, 0);
	can |= polled() ? 0 : 8;
	can |= tearless(TMK_BLOCK * (24 + round_no), TMK_BLOCK) ? 0 : 16;
	can |= tearless(65536 * (9 + round_no), 65536) ? 0 : 16;
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
		printf("%s: discard %s, secure erase %s, polled %s, tearless %s\n", d.path,
			can & 1 ? "yes" : "no", can & 4 ? "yes" : "no", can & 8 ? "yes" : "no",
			can & 16 ? "yes" : "no");
	return 0;
}
