/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the store holds what was acknowledged. Of a block that reads back wrong it is said whose contents it has, and all that the
 * index knows of its chunk.
 */
#ifndef TM_STORE_HAMMER_VERIFY_H
#define TM_STORE_HAMMER_VERIFY_H

#include "server/store/internal.h"
#include "tests/tools/store-hammer.h"

/* The last epoch up to `cut` after which the block was what was read. */
static void tell_contents(
	const struct source *m, int disk, uint32_t block, uint64_t cut, const char *got)
{
	struct source again = {.index = m->index};
	uint64_t found = UINT64_MAX;

	for (int d = 0; d < DISKS; d++) {
		again.image[d] = calloc(BLOCKS, TM_BLOCK);
		if (!again.image[d])
			die("memory", "none");
	}
	for (; again.cut <= cut; advance(&again))
		if (!memcmp(again.image[disk] + (size_t)block * TM_BLOCK, got, TM_BLOCK))
			found = again.cut;
	if (found == UINT64_MAX)
		fprintf(stderr, "its contents are of no epoch\n");
	else
		fprintf(stderr, "its contents are those of cut %llu\n", (unsigned long long)found);
	for (int d = 0; d < DISKS; d++)
		free(again.image[d]);
}

static void tell_family(enum cf cf, uint32_t disk, uint64_t from, uint64_t to)
{
	rocksdb_iterator_t *it = index_iter(&st->ix, cf, 1);
	char key[KEY_LEN];
	const char *k;
	struct loc l;
	size_t len;

	key_make(key, disk, from, UINT64_MAX);
	for (rocksdb_iter_seek(it, key, sizeof(key)); rocksdb_iter_valid(it);
		rocksdb_iter_next(it)) {
		const struct vis *v;

		k = rocksdb_iter_key(it, &len);
		if (key_disk(k) != disk || key_unit(k) >= to)
			break;
		memcpy(&l, rocksdb_iter_value(it, &len), sizeof(l));
		v = l.flags & LOC_COND ? vis_find(st->vis, st->nvis, key_seq(k)) : NULL;
		fprintf(stderr,
			"%s %llu: attempt %llu, visible at %lld, codec %u, pack %08x at %u\n",
			cf == CF_CHUNK ? "chunk" : "block", (unsigned long long)key_unit(k),
			(unsigned long long)key_seq(k),
			l.flags & LOC_COND ? (long long)(v ? v->at : NEVER) : (long long)key_seq(k),
			l.codec, l.pack, l.off);
	}
	rocksdb_iter_destroy(it);
}

static void tell(const struct source *m, int disk, uint32_t block, uint64_t seq, const char *got)
{
	uint64_t chunk = block / TM_CHUNK_BLOCKS;

	fprintf(stderr, "machine %u, disk %d, cut %llu, block %u differs in point %llu\n", m->index,
		disk, (unsigned long long)m->cut, block, (unsigned long long)seq);
	tell_contents(m, disk, block, m->cut, got);
	tell_family(CF_CHUNK, m->no[disk], chunk, chunk + 1);
	tell_family(CF_BLOCK, m->no[disk], chunk * TM_CHUNK_BLOCKS, (chunk + 1) * TM_CHUNK_BLOCKS);
}

struct verify {
	struct source *m;
	char *buf;
	const char *log;
	unsigned points;
	unsigned skip; /* of this machine's oldest points: not read */
};

static int count_point(void *arg, const struct store_point *p)
{
	++*(unsigned *)arg;
	return 0;
}

static int verify_point(void *arg, const struct store_point *p)
{
	struct verify *v = arg;
	struct source *m = v->m;
	struct store_view *view;
	struct tm_err err;

	while (m->cut < p->id.cut)
		advance(m);
	if (m->cut != p->id.cut)
		die("points", "out of order");
	if (v->skip) {
		v->skip--;
		return 0;
	}
	for (int d = 0; d < DISKS; d++) {
		must(store_view_open(st, m->uuid, m->no[d], p->seq, &view, &err), "view", &err);
		must(store_view_read(view, v->buf, (size_t)BLOCKS * TM_BLOCK, 0, &err), "read",
			&err);
		store_view_close(view);
		for (uint32_t b = 0; b < BLOCKS; b++) {
			const char *got = v->buf + (size_t)b * TM_BLOCK;

			if (memcmp(got, m->image[d] + (size_t)b * TM_BLOCK, TM_BLOCK)) {
				tell(m, d, b, p->seq, got);
				_exit(1);
			}
		}
	}
	v->points++;
	return 0;
}

static int has_seq(void *arg, const struct store_point *p)
{
	return p->seq == *(uint64_t *)arg;
}

/* What the log says must be true of the store. */
static void verify_log(const char *path)
{
	uint64_t last[MACHINES] = {0}, a, b;
	static uint64_t acked[1 << 20][2];
	size_t n = 0;
	struct store_head h;
	struct tm_err err;
	FILE *f = fopen(path, "r");
	char line[200], what;
	unsigned m;

	if (!f)
		die(path, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		if (!strchr(line, '\n') ||
			sscanf(line, "%c %u %llu %llu", &what, &m, (unsigned long long *)&a,
				(unsigned long long *)&b) != 4 ||
			m >= MACHINES)
			continue;
		if (what == 'D') {
			for (size_t i = 0; i < n; i++)
				if (acked[i][0] == m && acked[i][1] == a)
					acked[i][0] = MACHINES;
			continue;
		}
		last[m] = a;
		if (what == 'A' && n < 1 << 20) {
			acked[n][0] = m;
			acked[n++][1] = b;
		}
	}
	fclose(f);
	for (size_t i = 0; i < n; i++)
		if (acked[i][0] < MACHINES &&
			store_points(st, machines[acked[i][0]].uuid, acked[i][1], has_seq,
				&acked[i][1], &err) != 1) {
			fprintf(stderr, "machine %llu: acknowledged point %llu is gone\n",
				(unsigned long long)acked[i][0], (unsigned long long)acked[i][1]);
			_exit(1);
		}
	for (m = 0; m < MACHINES; m++) {
		a = store_head(st, machines[m].uuid, &h, &err) ? 0 : h.id.cut;
		if (a < last[m] || a > last[m] + PAIR) {
			fprintf(stderr, "machine %u: head is cut %llu, acknowledged %llu\n", m,
				(unsigned long long)a, (unsigned long long)last[m]);
			_exit(1);
		}
	}
}

static int entries(const char *dir, const char *sub)
{
	char path[4096];
	struct dirent *e;
	int n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	d = opendir(path);
	if (!d)
		die(path, strerror(errno));
	while ((e = readdir(d)))
		if (e->d_name[0] != '.') {
			fprintf(stderr, "%s/%s\n", path, e->d_name);
			n++;
		}
	closedir(d);
	return n;
}

/* newest: how many points of each machine are read; 0 = all. */
static int verify(const char *dir, const char *log, unsigned newest)
{
	unsigned n;
	struct verify v = {.log = log, .buf = malloc((size_t)BLOCKS * TM_BLOCK)};
	struct tm_err err;

	must(store_open(dir, &small, &st, &err), "open", &err);
	open_machines(0);
	for (unsigned i = 0; i < MACHINES; i++) {
		v.m = &machines[i];
		n = 0;
		must(store_points(st, v.m->uuid, 0, count_point, &n, &err), "points", &err);
		v.skip = newest && n > newest ? n - newest : 0;
		must(store_points(st, v.m->uuid, 0, verify_point, &v, &err), "points", &err);
	}
	verify_log(log);
	store_close(st);
	if (entries(dir, "lost+found") || entries(dir, "open"))
		die("lost+found or open", "is not empty");
	printf("%u points exact\n", v.points);
	free(v.buf);
	return 0;
}

#endif
