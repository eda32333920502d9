// SPDX-License-Identifier: Apache-2.0
/*
 * hammer [-t SECONDS] [-w WRITERS] [-q DEPTH] [-c CHUNKS] [-m SECTORS] DISK...: writes all over a hot area, and tells at the end
 * how many writes there were, how many failed, and how long the longest took. Ends after SECONDS or with SIGTERM.
 * Exit status: 0; 1 if a write did not come back within a minute.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/crash/writers.h"

static void hung(int sig)
{
	static const char text[] = "FAIL: writes do not come back\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(2);
	_exit(1);
}

int main(int argc, char **argv)
{
	static struct writers ws = {.depth = 8, .error_ok = true};
	sigset_t set;
	unsigned long seconds = 5;
	uint64_t end;
	int o;

	ws.l = (struct layout){.seed = 9,
		.run = 9,
		.writers = 4,
		.own = 64,
		.grain = BLOCK_SECT,
		.most = CHUNK_SECT};
	while ((o = getopt(argc, argv, "t:w:q:c:m:")) != -1) {
		unsigned long n = strtoul(optarg ? optarg : "0", NULL, 0);

		switch (o) {
		case 't':
			seconds = n;
			break;
		case 'w':
			ws.l.writers = (uint32_t)n;
			break;
		case 'q':
			ws.depth = (uint32_t)n;
			break;
		case 'c':
			ws.l.own = (uint32_t)n;
			break;
		case 'm':
			ws.l.most = (uint32_t)n;
			break;
		default:
			return 2;
		}
	}
	for (; optind < argc; optind++) {
		if (ws.l.disks == DISKS_MAX)
			return 2;
		ws.fd[ws.l.disks] = open(argv[optind], O_WRONLY | O_DIRECT);
		if (ws.fd[ws.l.disks++] < 0)
			fail("%s: %s", argv[optind], strerror(errno));
	}
	ws.l.own -= ws.l.own % ws.l.writers;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	writers_start(&ws);
	end = now_us() + seconds * 1000000;
	while (now_us() < end) {
		struct timespec ts = {.tv_sec = 1};

		if (sigtimedwait(&set, NULL, &ts) == SIGTERM)
			break;
	}
	signal(SIGALRM, hung);
	alarm(60);
	if (writers_stop(&ws))
		fail("%s", writers_error(&ws));
	printf("writes=%llu errors=%llu longest_us=%llu\n", (unsigned long long)writers_count(&ws),
		(unsigned long long)ws.errors, (unsigned long long)writers_longest(&ws));
	return 0;
}
