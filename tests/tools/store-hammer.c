// SPDX-License-Identifier: Apache-2.0
/*
 * Works a store hard, so that it can be killed at any moment, and checks afterwards that everything acknowledged is there.
 *
 *   store-hammer run DIR LOG EPOCHS     commit so many epochs per machine, going on where the store stands
 *   store-hammer collect DIR            give back all space, look at every cell
 *   store-hammer verify DIR LOG [N]     every acknowledged point is there and exact, nothing unacknowledged but the last two epochs; with N only
 *                                       the N newest points of each machine are read
 *
 * What an epoch holds follows from its machine and number alone. LOG (outside the store) gets a line when a commit was
 * acknowledged ("A machine cut seq"; "S": no point, also for where each machine stands at the beginning) and before points are dropped
 * ("D machine seq"). Every eighth epoch brings a resync
 * piece in four parts, which is resumed after a kill. While this runs, other threads read kept points back.
 */
#include "tests/tools/store-hammer-verify.h"
#include "tests/tools/store-hammer.h"

/* ---- Running ---- */

static void say(const char *fmt, unsigned machine, uint64_t a, uint64_t b)
{
	char line[100];
	int n = snprintf(
		line, sizeof(line), fmt, machine, (unsigned long long)a, (unsigned long long)b);

	if (write(log_fd, line, (size_t)n) != n)
		die("log", strerror(errno));
}

struct stale {
	const struct source *m;
	uint64_t tracking, seq;
	int complete;
};

static int find_stale(void *arg, const struct store_attempt_info *a)
{
	struct stale *s = arg;

	if (memcmp(a->machine, s->m->uuid, TM_UUID) || a->kind == TM_ATTEMPT_EPOCH)
		return 0;
	if (!memcmp(a->tracking, &s->tracking, sizeof(s->tracking))) {
		s->complete = a->complete;
		return 0;
	}
	s->seq = a->seq;
	return 1;
}

static void put_piece_part(struct source *m, uint64_t cut, uint64_t seq, uint32_t part)
{
	static _Thread_local char buf[BLOCKS * (TM_BLOCK + sizeof(struct tm_cell))];
	uint32_t from = part * (BLOCKS / PARTS), to = from + BLOCKS / PARTS;
	struct store_range done = {from, to - from};
	struct tm_err err;
	size_t len = 0;

	for (uint32_t b = cut % 5; b < to; b += 5)
		if (b >= from) {
			piece_change(m, cut, b);
			len += encode(m, piece_disk(cut), b, 1, buf + len);
		}
	must(store_put(st, seq, m->no[piece_disk(cut)], buf, len, &err), "put piece", &err);
	must(store_part(st, seq, &done, 1, part == PARTS - 1, &err), "part", &err);
}

static int is_done(const struct store_range *r, size_t n, uint32_t block)
{
	for (size_t i = 0; i < n; i++)
		if (block >= r[i].block && block < r[i].block + r[i].count)
			return 1;
	return 0;
}

/* The piece of this epoch: begun, or gone on with where a kill left it. */
static uint64_t make_piece(struct source *m, uint64_t cut)
{
	struct stale s = {.m = m, .tracking = cut};
	uint8_t tracking[TM_UUID] = {0};
	struct store_range *done = NULL;
	uint32_t parts, no = m->no[piece_disk(cut)];
	struct tm_err err;
	size_t n = 0;
	uint64_t seq;

	memcpy(tracking, &cut, sizeof(cut));
	while (store_attempts(st, find_stale, &s, &err))
		must(store_abort(st, s.seq, &err), "abort", &err);
	if (store_attempt_resume(
		    st, no, TM_ATTEMPT_CATCHUP, tracking, &seq, &done, &n, &parts, &err))
		must(store_attempt_begin(st, m->uuid, TM_ATTEMPT_CATCHUP, no, tracking, &seq, &err),
			"begin piece", &err);
	for (uint32_t b = cut % 5; b < BLOCKS; b += 5)
		if (is_done(done, n, b))
			piece_change(m, cut, b);
	for (uint32_t p = 0; p < PARTS && !s.complete; p++)
		if (!is_done(done, n, p * (BLOCKS / PARTS)))
			put_piece_part(m, cut, seq, p);
	free(done);
	return seq;
}

struct half {
	uint64_t seq;
	uint32_t no[2048];
	char *buf[2048];
	size_t len[2048];
	unsigned from, to;
};

static void *put_half(void *arg)
{
	struct half *h = arg;
	struct tm_err err;

	for (unsigned i = h->from; i < h->to; i++)
		must(store_put(st, h->seq, h->no[i], h->buf[i], h->len[i], &err), "put", &err);
	return NULL;
}

/*
 * Two threads put into the same attempt. An epoch's cells are all of one instant, so a block that changes twice is sent as it is at the
 * end: changes are made first, cells after.
 */
static void put_epoch(struct source *m, uint64_t cut, uint64_t seq)
{
	static _Thread_local struct half a, b;
	unsigned n = changes(cut);
	struct change c[512];
	pthread_t t;

	for (unsigned i = 0; i < n; i++)
		c[i] = change(m, cut, i);
	for (unsigned i = 0; i < n; i++) {
		uint32_t left = c[i].count, block = c[i].block;

		a.buf[i] = malloc((size_t)left * (TM_BLOCK + sizeof(struct tm_cell)));
		a.len[i] = 0;
		a.no[i] = m->no[c[i].disk];
		for (; left; left--, block++)
			if (left == TM_CHUNK_BLOCKS && block % TM_CHUNK_BLOCKS == 0) {
				a.len[i] += encode(m, c[i].disk, block, left, a.buf[i] + a.len[i]);
				break;
			} else {
				a.len[i] += encode(m, c[i].disk, block, 1, a.buf[i] + a.len[i]);
			}
	}
	a.seq = seq;
	b = a;
	a.from = 0;
	a.to = b.from = n / 2;
	b.to = n;
	if (pthread_create(&t, NULL, put_half, &b))
		die("thread", "cannot start");
	put_half(&a);
	pthread_join(t, NULL);
	for (unsigned i = 0; i < n; i++)
		free(a.buf[i]);
}

struct seqs {
	uint64_t seq[4096];
	size_t n;
};

static int add_seq(void *arg, const struct store_point *p)
{
	struct seqs *s = arg;

	if (s->n < 4096)
		s->seq[s->n++] = p->seq;
	return 0;
}

/* Every other of the older points goes. */
static void drop_some(struct source *m)
{
	static _Thread_local struct seqs s;
	uint64_t go[4096];
	struct tm_err err;
	size_t n = 0;

	s.n = 0;
	must(store_points(st, m->uuid, 0, add_seq, &s, &err), "points", &err);
	if (s.n < KEEP)
		return;
	for (size_t i = 0; i + KEEP / 4 < s.n; i += 2) {
		say("D %u %llu %llu\n", m->index, s.seq[i], 0);
		go[n++] = s.seq[i];
	}
	must(store_points_drop(st, m->uuid, go, n, &err), "drop", &err);
}

/* A commit on its way. */
struct flight {
	struct kept kept; /* what the point will be */
	uint64_t cut;
	int point;
	sem_t landed;
};

static void landed(void *arg, int ret, const struct store_result *result, const struct tm_err *err)
{
	struct flight *f = arg;

	must(ret, "commit", err);
	sem_post(&f->landed);
}

/* Puts the next epoch. */
static void load(struct source *m, struct flight *f, uint64_t *piece)
{
	struct tm_err err;

	f->cut = ++m->cut;
	f->point = f->cut % 7 != 0;
	sem_init(&f->landed, 0, 0);
	*piece = has_piece(f->cut) ? make_piece(m, f->cut) : 0;
	must(store_attempt_begin(st, m->uuid, TM_ATTEMPT_EPOCH, 0, NULL, &f->kept.seq, &err),
		"begin", &err);
	put_epoch(m, f->cut, f->kept.seq);
	for (int d = 0; d < DISKS; d++)
		f->kept.sum[d] = XXH3_64bits(m->image[d], (size_t)BLOCKS * TM_BLOCK);
}

static void start(const struct source *m, struct flight *f, const uint64_t *piece)
{
	struct store_point_disk disks[DISKS] = {0};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = DISKS, .disks = disks};
	struct store_commit c = {.id = id_of(m, f->cut),
		.parent = id_of(m, f->cut - 1),
		.new_line = f->cut == 1,
		.pieces = piece,
		.npieces = *piece != 0,
		.point = f->point ? &p : NULL};

	for (int d = 0; d < DISKS; d++) {
		disks[d].no = m->no[d];
		disks[d].size = (uint64_t)BLOCKS * TM_BLOCK;
	}
	store_commit_start(st, f->kept.seq, &c, landed, f);
}

static void finish(struct source *m, struct flight *f)
{
	while (sem_wait(&f->landed))
		;
	sem_destroy(&f->landed);
	say(f->point ? "A %u %llu %llu\n" : "S %u %llu %llu\n", m->index, f->cut, f->kept.seq);
	pthread_mutex_lock(&m->lock);
	if (f->point)
		m->ring[m->nring++ % RING] = f->kept;
	pthread_mutex_unlock(&m->lock);
}

/* The next epoch; now and then two at once, which come to be written together. */
static void some_epochs(struct source *m)
{
	unsigned n = m->cut % 4 == 0 ? PAIR : 1;
	struct flight f[PAIR];
	uint64_t piece[PAIR];

	for (unsigned i = 0; i < n; i++)
		load(m, &f[i], &piece[i]);
	for (unsigned i = 0; i < n; i++)
		start(m, &f[i], &piece[i]);
	for (unsigned i = 0; i < n; i++)
		finish(m, &f[i]);
}

static void *work(void *arg)
{
	struct source *m = arg;
	uint64_t end = m->cut + epochs, dropped = m->cut / 20;

	while (m->cut < end) {
		some_epochs(m);
		if (m->cut / 20 != dropped)
			drop_some(m);
		dropped = m->cut / 20;
	}
	return NULL;
}

/* Reads kept points back while all else goes on. */
static void *reader(void *arg)
{
	char *buf = malloc((size_t)BLOCKS * TM_BLOCK);
	struct rng r = {(uintptr_t)arg};
	struct store_view *v;
	struct tm_err err;
	struct kept k;

	while (!atomic_load(&stop)) {
		struct source *m = &machines[draw(&r, MACHINES)];
		unsigned d = draw(&r, DISKS);

		pthread_mutex_lock(&m->lock);
		k = m->ring[m->nring ? draw(&r, m->nring < RING ? m->nring : RING) : 0];
		pthread_mutex_unlock(&m->lock);
		usleep(2000);
		if (!k.seq || store_view_open(st, m->uuid, m->no[d], k.seq, &v, &err))
			continue; /* dropped meanwhile */
		must(store_view_read(v, buf, (size_t)BLOCKS * TM_BLOCK, 0, &err), "read", &err);
		store_view_close(v);
		if (XXH3_64bits(buf, (size_t)BLOCKS * TM_BLOCK) != k.sum[d])
			die("a kept point", "reads back differently");
	}
	free(buf);
	return NULL;
}

/* Compaction and collection go on beside all else. */
static void *keeper(void *arg)
{
	struct store_collect_opts o = {.copy_max = 8 << 20};
	struct store_collected r;
	struct tm_err err;

	while (!atomic_load(&stop)) {
		must(store_compact(st, machines[rand() % MACHINES].uuid, &err), "compact", &err);
		o.lazy = rand() % 2 != 0;
		must(store_collect(st, &o, &r, &err), "collect", &err);
		if (r.damaged)
			die("collect", "found a damaged cell");
		usleep(20000);
	}
	return NULL;
}

static int run(const char *dir)
{
	pthread_t w[MACHINES], r[3];
	struct tm_err err;

	must(store_open(dir, &small, &st, &err), "open", &err);
	open_machines(1);
	/* What the store says now it must go on saying, also of epochs whose acknowledgement was cut off. */
	for (unsigned i = 0; i < MACHINES; i++)
		say("S %u %llu %llu\n", i, machines[i].cut, 0);
	for (int i = 0; i < MACHINES; i++)
		if (pthread_create(&w[i], NULL, work, &machines[i]))
			die("thread", "cannot start");
	for (intptr_t i = 0; i < 2; i++)
		if (pthread_create(&r[i], NULL, reader, (void *)(i + 1)))
			die("thread", "cannot start");
	if (pthread_create(&r[2], NULL, keeper, NULL))
		die("thread", "cannot start");
	for (int i = 0; i < MACHINES; i++)
		pthread_join(w[i], NULL);
	atomic_store(&stop, 1);
	for (int i = 0; i < 3; i++)
		pthread_join(r[i], NULL);
	store_close(st);
	return 0;
}

/* ---- Giving back ---- */

static void no_damage(void *arg, const struct store_damage *d)
{
	die("scrub", d->why);
}

/* All that can be had back is had back; then little is dead, and every cell is sound. */
static int collect(const char *dir)
{
	struct store_scrub s = {0};
	struct store_collected r;
	struct tm_err err;

	must(store_open(dir, &small, &st, &err), "open", &err);
	must(store_compact(st, NULL, &err), "compact", &err);
	must(store_collect(st, NULL, &r, &err), "collect", &err);
	must(store_collect(st, NULL, &r, &err), "collect", &err);
	must(store_scrub(st, &s, no_damage, NULL, &err), "scrub", &err);
	store_close(st);
	printf("%llu packs, %llu KiB live, %llu KiB dead\n", (unsigned long long)r.packs,
		(unsigned long long)r.live_bytes >> 10, (unsigned long long)r.dead_bytes >> 10);
	if (r.dead_bytes > r.live_bytes / 2 + 4 * small.pack_bytes)
		die("space", "does not come back");
	return 0;
}

int main(int argc, char **argv)
{
	struct tm_err err;

	if (argc == 3 && !strcmp(argv[1], "create")) {
		must(store_create(argv[2], &err), "create", &err);
		return 0;
	}
	if (argc == 5 && !strcmp(argv[1], "run")) {
		log_fd = open(argv[3], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (log_fd < 0)
			die(argv[3], strerror(errno));
		epochs = strtoul(argv[4], NULL, 10);
		return run(argv[2]);
	}
	if ((argc == 4 || argc == 5) && !strcmp(argv[1], "verify"))
		return verify(
			argv[2], argv[3], argc == 5 ? (unsigned)strtoul(argv[4], NULL, 10) : 0);
	if (argc == 3 && !strcmp(argv[1], "collect"))
		return collect(argv[2]);
	fprintf(stderr,
		"usage: store-hammer create DIR | collect DIR | run DIR LOG EPOCHS | verify DIR LOG\n");
	return 2;
}
