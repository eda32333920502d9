// SPDX-License-Identifier: Apache-2.0
/*
 * bench-conn [SECONDS] [PAIRS]: DATA frames of 1 MiB over PAIRS connections on loopback, a sending and a receiving thread each.
 * Prints GB/s and CPU seconds per GB of both sides together; says nothing about networks.
 */
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "tests/unit/pair.h"

struct lane {
	struct pair pair;
	pthread_t send, recv;
	uint64_t until, bytes, send_cpu, recv_cpu;
};

static uint8_t data[TM_DATA_MAX];

static void *sender(void *arg)
{
	struct lane *l = arg;
	struct iovec iov = {data, sizeof(data)};
	struct tm_err err;

	while (tm_mono_ns() < l->until)
		if (tm_conn_send(l->pair.c, TM_MSG_DATA, &iov, 1, &err) < 0)
			pair_die("send", &err);
	l->send_cpu = tm_clock_ns(CLOCK_THREAD_CPUTIME_ID);
	tm_conn_finish(l->pair.c, 5000);
	return NULL;
}

static void *receiver(void *arg)
{
	struct lane *l = arg;
	uint8_t *buf = malloc(TM_FRAME_MAX);
	struct tm_frame h;
	struct tm_err err;
	int r;

	if (!buf)
		abort();
	tm_conn_expect(l->pair.s, TM_STAGE_DATA);
	while ((r = tm_conn_recv(l->pair.s, -1, &h, &err)) == 0) {
		if (tm_conn_body(l->pair.s, buf, h.length, &err) < 0)
			pair_die("receive", &err);
		l->bytes += h.length;
	}
	if (r != -EPIPE)
		pair_die("receive", &err);
	l->recv_cpu = tm_clock_ns(CLOCK_THREAD_CPUTIME_ID);
	tm_conn_cancel(l->pair.s);
	free(buf);
	return NULL;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 3, send_cpu = 0, recv_cpu = 0, gb = 0, took;
	int n = argc > 2 ? atoi(argv[2]) : 1;
	struct lane *lanes = n > 0 && n <= 64 ? calloc((size_t)n, sizeof(*lanes)) : NULL;
	uint64_t t0;

	if (!lanes || seconds <= 0) {
		fprintf(stderr, "usage: bench-conn [SECONDS] [PAIRS]\n");
		return 2;
	}
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	for (int i = 0; i < n; i++) {
		pair_init(&lanes[i].pair);
		pair_meet(&lanes[i].pair);
		if (!lanes[i].pair.c || !lanes[i].pair.s)
			pair_die("connect", &lanes[i].pair.cerr);
	}
	t0 = tm_mono_ns();
	for (int i = 0; i < n; i++) {
		lanes[i].until = t0 + (uint64_t)(seconds * 1e9);
		if (pthread_create(&lanes[i].recv, NULL, receiver, &lanes[i]) ||
			pthread_create(&lanes[i].send, NULL, sender, &lanes[i]))
			abort();
	}
	for (int i = 0; i < n; i++) {
		pthread_join(lanes[i].send, NULL);
		pthread_join(lanes[i].recv, NULL);
		gb += (double)lanes[i].bytes / 1e9;
		send_cpu += (double)lanes[i].send_cpu / 1e9;
		recv_cpu += (double)lanes[i].recv_cpu / 1e9;
	}
	took = (double)(tm_mono_ns() - t0) / 1e9;
	printf("%d connections: %.2f GB/s, CPU s/GB: %.3f sending, %.3f receiving\n", n, gb / took,
		send_cpu / gb, recv_cpu / gb);
	for (int i = 0; i < n; i++)
		pair_exit(&lanes[i].pair);
	free(lanes);
	return 0;
}
