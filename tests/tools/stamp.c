// SPDX-License-Identifier: Apache-2.0
/*
 * stamp DISK MS: writes the time (CLOCK_REALTIME, ns, little-endian) and a count to the first block of a disk every MS
 * milliseconds until a signal ends it. What a point holds there tells which moment it is of.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096

int main(int argc, char **argv)
{
	struct timespec now, every = {0};
	uint64_t *buf, n = 0;
	long ms;
	int fd;

	if (argc != 3)
		return 2;
	ms = strtol(argv[2], NULL, 10);
	every.tv_sec = ms / 1000;
	every.tv_nsec = ms % 1000 * 1000000;
	fd = open(argv[1], O_WRONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || ms <= 0 || posix_memalign((void **)&buf, BLOCK, BLOCK)) {
		fprintf(stderr, "stamp: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	memset(buf, 0, BLOCK);
	for (;;) {
		clock_gettime(CLOCK_REALTIME, &now);
		buf[0] = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
		buf[1] = n++;
		if (pwrite(fd, buf, BLOCK, 0) != BLOCK) {
			fprintf(stderr, "stamp: %s: %s\n", argv[1], strerror(errno));
			return 1;
		}
		clock_nanosleep(CLOCK_MONOTONIC, 0, &every, NULL);
	}
}
