// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/crash/files.h"
#include "tests/crash/tmk.h"

#define MAGIC 0x746d66696c657321ULL

enum act { APPEND, APPEND_LAZY, REPLACE, RENAME };

static uint64_t hash(uint32_t w, uint32_t seq)
{
	uint64_t x = (uint64_t)w << 32 | seq;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* logged: records appended by the acts before. */
static enum act act_of(uint32_t w, uint32_t seq, uint32_t logged)
{
	uint32_t k = hash(w, seq) % 10;

	if (k < 6 && logged < FILE_LOG_MAX)
		return k < 3 ? APPEND : APPEND_LAZY;
	return k == 6 ? RENAME : REPLACE;
}

static uint32_t slot_of(uint32_t w, uint32_t seq)
{
	return (hash(w, seq) >> 20) % FILE_SLOTS;
}

static uint64_t sum_of(const struct file_rec *r)
{
	uint64_t sum = r->magic ^ r->run;

	sum = (sum ^ ((uint64_t)r->writer << 32 | r->seq)) * 0x9e3779b97f4a7c15ULL;
	for (int i = 0; i < FILE_WRITERS; i++)
		sum = (sum ^ sum >> 31 ^ r->known[i]) * 0x9e3779b97f4a7c15ULL;
	return sum;
}

static bool valid(const struct file_writers *fw, const struct file_rec *r, uint32_t w)
{
	return r->magic == MAGIC && r->run == fw->run && r->writer == w && r->seq &&
	       r->sum == sum_of(r) && r->fill[0] == (char)r->seq &&
	       r->fill[sizeof(r->fill) - 1] == (char)r->seq;
}

struct files {
	int dir, log, slots;
	uint32_t logged;
};

static int put(int fd, const struct file_rec *r, uint32_t index)
{
	return pwrite(fd, r, sizeof(*r), (off_t)index * FILE_REC) == sizeof(*r) ? 0 : -1;
}

static int rename_in(const struct files *f, const struct file_rec *r)
{
	int fd = openat(f->dir, "new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	int bad;

	if (fd < 0)
		return -1;
	bad = put(fd, r, 0) || fsync(fd);
	bad |= close(fd);
	return bad || renameat(f->dir, "new", f->dir, "current") || fsync(f->dir) ? -1 : 0;
}

/* One act; *durable: it and all before it are on the disk. */
static int act(struct files *f, enum act a, const struct file_rec *r, bool *durable)
{
	*durable = a != APPEND_LAZY;
	switch (a) {
	case APPEND:
		return put(f->log, r, f->logged++) || fsync(f->log) ? -1 : 0;
	case APPEND_LAZY:
		return put(f->log, r, f->logged++);
	case REPLACE:
		return fsync(f->log) || put(f->slots, r, slot_of(r->writer, r->seq)) ||
				       fdatasync(f->slots)
			       ? -1
			       : 0;
	default:
		return fsync(f->log) || rename_in(f, r) ? -1 : 0;
	}
}

static int open_files(struct file_writers *fw, uint32_t w, struct files *f)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/writer-%u", fw->dir[w], w);
	if (mkdir(path, 0700) && errno != EEXIST)
		return -1;
	f->dir = open(path, O_RDONLY | O_DIRECTORY);
	f->log = openat(f->dir, "log", O_RDWR | O_CREAT, 0600);
	f->slots = openat(f->dir, "slots", O_RDWR | O_CREAT, 0600);
	if (f->dir < 0 || f->log < 0 || f->slots < 0 || ftruncate(f->slots, FILE_SLOTS * FILE_REC))
		return -1;
	f->logged = 0;
	return fsync(f->slots) || fsync(f->log) || fsync(f->dir) ? -1 : 0;
}

static bool work(struct file_writers *fw, uint32_t w, struct files *f)
{
	struct file_rec r = {.magic = MAGIC, .run = fw->run, .writer = w};
	bool durable;

	for (uint32_t seq = 1; !fw->stop; seq++) {
		for (uint32_t i = 0; i < fw->writers; i++)
			r.known[i] = fw->done[i];
		r.seq = seq;
		memset(r.fill, (char)seq, sizeof(r.fill));
		r.sum = sum_of(&r);
		fw->begun[w] = seq;
		if (act(f, act_of(w, seq, f->logged), &r, &durable))
			return false;
		if (durable)
			fw->done[w] = seq;
	}
	return true;
}

struct start {
	struct file_writers *fw;
	uint32_t w;
};

static void *writer(void *arg)
{
	struct start s = *(struct start *)arg;
	struct files f = {-1, -1, -1, 0};

	free(arg);
	if (open_files(s.fw, s.w, &f) || !work(s.fw, s.w, &f))
		snprintf(s.fw->error[s.w], sizeof(s.fw->error[0]), "writer %u: %s", s.w,
			strerror(errno));
	close(f.slots);
	close(f.log);
	close(f.dir);
	return NULL;
}

void file_writers_start(struct file_writers *fw)
{
	for (uint32_t w = 0; w < fw->writers; w++) {
		struct start *s = malloc(sizeof(*s));

		if (!s)
			fail("no memory");
		*s = (struct start){fw, w};
		if (pthread_create(&fw->thread[w], NULL, writer, s))
			fail("no thread");
	}
}

const char *file_writers_stop(struct file_writers *fw)
{
	const char *first = NULL;

	fw->stop = true;
	for (uint32_t w = 0; w < fw->writers; w++) {
		pthread_join(fw->thread[w], NULL);
		if (!first && fw->error[w][0])
			first = fw->error[w];
	}
	return first;
}

static void claim(struct file_expect *e, const struct file_rec *r)
{
	for (uint32_t i = 0; i < e->fw->writers; i++) {
		if (e->claim[i] < r->known[i])
			e->claim[i] = r->known[i];
	}
}

/* A file of the image into memory; *n records. Absent or short: fewer. */
static struct file_rec *slurp(
	const char *dir, uint32_t w, const char *name, uint32_t max, uint32_t *n)
{
	struct file_rec *r = calloc(max, sizeof(*r));
	char path[200];
	ssize_t len = 0, got;
	int fd;

	if (!r)
		fail("no memory");
	snprintf(path, sizeof(path), "%s/writer-%u/%s", dir, w, name);
	fd = open(path, O_RDONLY);
	while (fd >= 0 &&
		(got = pread(fd, (char *)r + len, max * sizeof(*r) - (size_t)len, len)) > 0)
		len += got;
	if (fd >= 0)
		close(fd);
	*n = (uint32_t)((size_t)len / sizeof(*r));
	return r;
}

bool file_read(struct file_expect *e, uint32_t w, const char *dir, char *why)
{
	static const char *const names[] = {"log", "slots", "current"};

	for (int k = 0; k < 3; k++) {
		uint32_t n;
		struct file_rec *r = slurp(dir, w, names[k], k ? FILE_SLOTS : FILE_LOG_MAX, &n);

		for (uint32_t i = 0; i < n; i++) {
			if (valid(e->fw, &r[i], w))
				claim(e, &r[i]);
			else if (k == 2) {
				snprintf(why, 256, "writer %u: the renamed file is garbage", w);
				free(r);
				return false;
			}
		}
		free(r);
	}
	return true;
}

/* Acts 1 .. claim become what must be there. */
static void apply(struct file_expect *e, uint32_t w)
{
	if (!e->log[w])
		e->log[w] = calloc(FILE_LOG_MAX, sizeof(uint32_t));
	if (!e->log[w])
		fail("no memory");
	while (e->applied[w] < e->claim[w]) {
		uint32_t seq = ++e->applied[w];

		switch (act_of(w, seq, e->logged[w])) {
		case APPEND:
		case APPEND_LAZY:
			e->log[w][e->logged[w]++] = seq;
			break;
		case REPLACE:
			e->slot[w][slot_of(w, seq)] = seq;
			break;
		default:
			e->current[w] = seq;
		}
	}
}

bool file_judge(struct file_expect *e, uint32_t w, const char *dir, char *why)
{
	struct file_rec *log, *slots, *current;
	uint32_t nlog, nslots, ncurrent, i;

	apply(e, w);
	why[0] = 0;
	log = slurp(dir, w, "log", FILE_LOG_MAX, &nlog);
	slots = slurp(dir, w, "slots", FILE_SLOTS, &nslots);
	current = slurp(dir, w, "current", 1, &ncurrent);
	for (i = 0; i < e->logged[w] && !why[0]; i++) {
		if (i >= nlog || !valid(e->fw, &log[i], w) || log[i].seq != e->log[w][i])
			snprintf(why, 256,
				"writer %u: act %u was done, but record %u of its log (of %u) is not it",
				w, e->log[w][i], i, nlog);
	}
	for (i = 0; i < FILE_SLOTS && !why[0]; i++) {
		if (e->slot[w][i] && (i >= nslots || !valid(e->fw, &slots[i], w) ||
					     slots[i].seq < e->slot[w][i]))
			snprintf(why, 256, "writer %u: act %u was done, but slot %u has %u", w,
				e->slot[w][i], i, i < nslots ? slots[i].seq : 0);
	}
	if (!why[0] && e->current[w] && (!ncurrent || current[0].seq < e->current[w]))
		snprintf(why, 256, "writer %u: rename %u was done, but the file has %u", w,
			e->current[w], ncurrent ? current[0].seq : 0);
	free(log);
	free(slots);
	free(current);
	return !why[0];
}
