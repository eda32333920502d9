// SPDX-License-Identifier: Apache-2.0
/*
 * ingestbench DIR SECONDS: what getting space back costs those who commit. MACHINES threads commit epochs of BLOCKS random single blocks
 * as fast as they go; each second all points but one of 20 are dropped. Four spans of SECONDS in turn without and with compaction and
 * collection, which in the latter follow each other without a pause, at the default rate. Prints two rows of a table and what was written.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/store/space.h"

#define MACHINES 8
#define BLOCKS   16
#define POOL     4096u         /* cells of a machine, one per block of its disk */
#define SAMPLES  (1u << 20)    /* latencies kept, of all machines and spans of a kind */
#define RATE     (16ull << 20) /* the default of reclaim_rate */

struct machine {
	pthread_t thread;
	struct store_disk disk;
	char *cells;
	uint32_t at[POOL + 1];
	uint64_t random;
	pthread_mutex_t lock;
	uint64_t *points;
	size_t npoints; /* lock */
};

static struct store *st;
static struct machine machines[MACHINES];
static atomic_int stop, busy;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static double *took[2];
static size_t ntook[2];
static atomic_uint_least64_t received;

static void must(int ret, const struct tm_err *err, const char *what)
{
	if (ret) {
		fprintf(stderr, "ingestbench: %s: %s\n", what, err->msg);
		_exit(1);
	}
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static uint64_t draw(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void note(double seconds)
{
	int kind = atomic_load(&busy);

	pthread_mutex_lock(&lock);
	if (ntook[kind] < SAMPLES)
		took[kind][ntook[kind]++] = seconds;
	pthread_mutex_unlock(&lock);
}

static void *commits(void *arg)
{
	struct machine *m = arg;
	struct store_point_disk d = {.no = m->disk.no, .size = m->disk.size};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d};
	struct store_commit c = {.new_line = 1, .point = &p};
	char buf[BLOCKS * (TM_BLOCK + sizeof(struct tm_cell))];
	struct tm_err err;
	uint64_t seq;

	while (!atomic_load(&stop)) {
		double t0 = now();
		size_t len = 0;

		must(store_attempt_begin(
			     st, m->disk.machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, &err),
			&err, "begin");
		for (int i = 0; i < BLOCKS; i++) {
			uint32_t k = (uint32_t)(draw(&m->random) % POOL);

			memcpy(buf + len, m->cells + m->at[k], m->at[k + 1] - m->at[k]);
			len += m->at[k + 1] - m->at[k];
		}
		must(store_put(st, seq, m->disk.no, buf, len, &err), &err, "put");
		c.id.cut++;
		must(store_commit(st, seq, &c, NULL, &err), &err, "commit");
		c.new_line = 0;
		c.parent = c.id;
		note(now() - t0);
		received += len;
		pthread_mutex_lock(&m->lock);
		if (m->npoints < SAMPLES)
			m->points[m->npoints++] = seq;
		pthread_mutex_unlock(&m->lock);
	}
	return NULL;
}

static void drop(struct machine *m)
{
	struct tm_err err;
	uint64_t *seqs;
	size_t n = 0, kept = 0;

	pthread_mutex_lock(&m->lock);
	seqs = malloc((m->npoints + 1) * sizeof(*seqs));
	if (!seqs)
		exit(1);
	for (size_t i = 0; i < m->npoints; i++)
		if (i + 1 < m->npoints && m->points[i] % 20)
			seqs[n++] = m->points[i];
		else
			m->points[kept++] = m->points[i];
	m->npoints = kept;
	pthread_mutex_unlock(&m->lock);
	must(n ? store_points_drop(st, m->disk.machine, seqs, n, &err) : 0, &err, "drop");
	free(seqs);
}

static void *reclaim(void *arg)
{
	struct store_collect_opts o = {.rate = RATE};
	struct tm_err err;

	while (!atomic_load(&stop)) {
		if (!atomic_load(&busy)) {
			usleep(10000);
			continue;
		}
		must(store_compact(st, NULL, &err), &err, "compact");
		must(store_collect(st, &o, NULL, &err), &err, "collect");
	}
	return NULL;
}

static void prepare(struct machine *m, int i)
{
	static _Alignas(64) uint64_t plain[TM_BLOCK / 8];
	struct tm_err err;

	m->random = 88172645463325252u + (uint64_t)i;
	m->disk = (struct store_disk){.size = (uint64_t)POOL * TM_BLOCK, .name = "sda"};
	m->disk.machine[0] = m->disk.uuid[0] = (uint8_t)(i + 1);
	must(store_disk_register(st, &m->disk, &err), &err, "disk");
	pthread_mutex_init(&m->lock, NULL);
	m->points = calloc(SAMPLES, sizeof(*m->points));
	m->cells = malloc((size_t)POOL * (TM_BLOCK + sizeof(struct tm_cell)));
	if (!m->points || !m->cells)
		exit(1);
	for (uint32_t k = 0; k < POOL; k++) {
		/* Half of it compresses. */
		for (size_t w = 0; w < TM_BLOCK / 8; w++)
			plain[w] = w % 2 ? 1 : draw(&m->random);
		m->at[k + 1] =
			m->at[k] + (uint32_t)tm_cell_encode(k, 1, plain, m->cells + m->at[k]);
	}
}

static int ascending(const void *x, const void *y)
{
	const double *a = x, *b = y;

	return *a < *b ? -1 : *a > *b;
}

static double report(int kind, double seconds)
{
	size_t n = ntook[kind];

	qsort(took[kind], n, sizeof(double), ascending);
	printf("| %s | %.0f | %.1f | %.2f | %.2f |\n", kind ? "with" : "without",
		(double)n / seconds,
		(double)n * machines[0].at[POOL] / POOL * BLOCKS / seconds / 1e6,
		n ? took[kind][n / 2] * 1e3 : 0, n ? took[kind][n - n / 100 - 1] * 1e3 : 0);
	return (double)n / seconds;
}

static void run(int span)
{
	for (int k = 0; k < 5 * span; k++) {
		if (k == span) /* the first was for warming up */
			ntook[0] = ntook[1] = 0;
		atomic_store(&busy, k >= span && k / span % 2 == 0);
		sleep(1);
		for (int i = 0; i < MACHINES; i++)
			drop(&machines[i]);
	}
}

int main(int argc, char **argv)
{
	struct store_opts o = {.stats = 1, .pack_bytes = 64 << 20, .rate = RATE};
	struct store_io io;
	struct tm_err err;
	pthread_t thread;
	double rate[2];
	int span;

	if (argc != 3 || (span = atoi(argv[2])) <= 0) {
		fprintf(stderr, "usage: ingestbench DIR SECONDS\n");
		return 2;
	}
	took[0] = calloc(SAMPLES, sizeof(double));
	took[1] = calloc(SAMPLES, sizeof(double));
	if (!took[0] || !took[1])
		return 1;
	must(store_create(argv[1], &err), &err, "create");
	must(store_open(argv[1], &o, &st, &err), &err, "open");
	for (int i = 0; i < MACHINES; i++)
		prepare(&machines[i], i);
	for (int i = 0; i < MACHINES; i++)
		pthread_create(&machines[i].thread, NULL, commits, &machines[i]);
	pthread_create(&thread, NULL, reclaim, NULL);
	run(span);
	atomic_store(&stop, 1);
	for (int i = 0; i < MACHINES; i++)
		pthread_join(machines[i].thread, NULL);
	pthread_join(thread, NULL);
	printf("| compaction | epochs/s | MB/s | commit p50 ms | p99 ms |\n|---|---|---|---|---|\n");
	for (int kind = 0; kind < 2; kind++)
		rate[kind] = report(kind, 2.0 * span);
	store_io(st, &io);
	printf("ratio %.2f; per byte received: packs %.2f, log %.2f, flushes %.2f, compaction %.2f bytes written; index compaction %.1f CPU s per GB received\n",
		rate[1] / rate[0], (double)io.packs / (double)received,
		(double)io.log / (double)received, (double)io.flushed / (double)received,
		(double)io.compacted / (double)received,
		(double)io.compact_us / 1e6 / ((double)received / 1e9));
	store_close(st);
	return 0;
}
