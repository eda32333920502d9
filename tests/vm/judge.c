// SPDX-License-Identifier: Apache-2.0
/*
 * judge LAYOUT: judges points by what they hold, read over NBD.
 *
 * LAYOUT is what "load" (tests/crash/load-main.c) printed. Each line "POINT DIR" on standard input names a point whose disks are
 * served at DIR/NAME.sock; the answer is "POINT right WRITES", or "POINT wrong: WHY". Every point is judged by itself (whatever it
 * says was complete must be in it), and, where it is newer than all before it, by what those said too. A line "claim" makes the
 * judge demand from then on what the end of LAYOUT says was done.
 */
#include <inttypes.h>
#include <libnbd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/oracle.h"

#define NDISKS   8
#define NEXTENTS 256

struct extent {
	uint32_t disk;
	uint64_t first, at, count; /* sectors: of the layout, of the disk */
};

static struct layout layout;
static char names[NDISKS][32];
static struct extent extents[NEXTENTS];
static unsigned int nextents;
static bool claim;
static uint32_t done[WRITERS_MAX];

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

static void read_line(const char *line)
{
	struct extent *e = &extents[nextents];
	struct layout *l = &layout;
	uint32_t i, n;
	char name[32];

	if (sscanf(line, "layout %" SCNu64 " %" SCNu64 " %u %u %u %u %u", &l->seed, &l->run,
		    &l->disks, &l->writers, &l->own, &l->shared, &l->most) == 7) {
		l->grain = 1;
		if (l->disks > NDISKS || l->writers > WRITERS_MAX)
			die("too many disks or writers");
	} else if (sscanf(line, "disk %u %31s", &i, name) == 2 && i < NDISKS) {
		strcpy(names[i], name);
	} else if (nextents < NEXTENTS && sscanf(line, "extent %u %" SCNu64 " %" SCNu64 " %" SCNu64,
						  &e->disk, &e->first, &e->at, &e->count) == 4) {
		nextents++;
	} else if (sscanf(line, "done %u %u", &i, &n) == 2 && i < WRITERS_MAX) {
		done[i] = n;
	}
}

static void read_layout(const char *path)
{
	uint64_t sectors = 0;
	char line[256];
	FILE *f = fopen(path, "r");

	if (!f)
		die("%s: cannot be opened", path);
	nextents = 0;
	while (fgets(line, sizeof(line), f))
		read_line(line);
	fclose(f);
	for (unsigned int i = 0; i < nextents; i++)
		sectors += extents[i].count;
	if (!layout.disks || sectors < layout_sectors(&layout) * layout.disks)
		die("%s: not all is told of where it lies", path);
}

/* The hot area of one disk, into `to`; false with *why. */
static bool read_disk(const char *dir, uint32_t disk, char *to, char *why, size_t room)
{
	uint64_t sectors = layout_sectors(&layout);
	struct nbd_handle *nbd = nbd_create();
	char path[256];
	bool ok;

	if (!nbd)
		die("%s", nbd_get_error());
	snprintf(path, sizeof(path), "%s/%.31s.sock", dir, names[disk]);
	ok = !nbd_connect_unix(nbd, path);
	for (unsigned int i = 0; ok && i < nextents; i++) {
		const struct extent *e = &extents[i];
		uint64_t n;

		if (e->disk != disk || e->first >= sectors)
			continue;
		n = e->count < sectors - e->first ? e->count : sectors - e->first;
		ok = !nbd_pread(nbd, to + e->first * SECTOR, n * SECTOR, e->at * SECTOR, 0);
	}
	if (!ok)
		snprintf(why, room, "%s: %s", path, nbd_get_error());
	else
		nbd_shutdown(nbd, 0);
	nbd_close(nbd);
	return ok;
}

static bool judge(struct checker *c, char **data, const char *how, char *why, size_t room)
{
	struct verdict v;

	for (uint32_t i = 0; i < layout.disks; i++)
		checker_feed(c, i, 0, layout_sectors(&layout), data[i]);
	for (uint32_t w = 0; claim && w < layout.writers; w++)
		checker_claim(c, w, (done_t)done[w] << 32);
	if (checker_judge(c, NULL, &v))
		return true;
	snprintf(why, room,
		"%s: %s (garbage %" PRIu64 ", lost %" PRIu64 ", torn %" PRIu64 ", back %" PRIu64
		")",
		how, v.first, v.count[WRONG_GARBAGE], v.count[WRONG_LOST], v.count[WRONG_TORN],
		v.count[WRONG_BACK]);
	return false;
}

static struct checker *new_checker(void)
{
	struct checker *c = checker_new(&layout);

	if (!c)
		die("no memory");
	/* What was in flight at the cut may be there in part, as after a power cut; filesystems may split writes. */
	checker_allow_torn(c);
	return c;
}

/* The writes of which something is there: the newest of each writer, added up. */
static uint64_t writes(const struct checker *c)
{
	uint32_t newest[WRITERS_MAX] = {0};
	uint64_t sum = 0;

	for (uint32_t d = 0; d < layout.disks; d++) {
		for (uint64_t s = 0; s < layout_sectors(&layout); s++) {
			uint32_t *n = &newest[owner_of(&layout, s)], seq = checker_seq(c, d, s);

			if (*n < seq)
				*n = seq;
		}
	}
	for (uint32_t w = 0; w < layout.writers; w++)
		sum += newest[w];
	return sum;
}

int main(int argc, char **argv)
{
	uint64_t newest = 0, point;
	char line[512], dir[128], why[1024];
	struct checker *follow;
	char *data[NDISKS];

	if (argc != 2)
		die("usage: judge LAYOUT");
	setvbuf(stdout, NULL, _IOLBF, 0);
	read_layout(argv[1]);
	follow = new_checker();
	for (uint32_t i = 0; i < layout.disks; i++) {
		data[i] = malloc(layout_sectors(&layout) * SECTOR);
		if (!data[i])
			die("no memory");
	}
	while (fgets(line, sizeof(line), stdin)) {
		struct checker *c;
		bool ok = true;

		if (!strcmp(line, "claim\n")) {
			read_layout(argv[1]);
			claim = true;
			continue;
		}
		if (sscanf(line, "%" SCNu64 " %127s", &point, dir) != 2)
			die("what is %s", line);
		c = new_checker();
		for (uint32_t i = 0; ok && i < layout.disks; i++)
			ok = read_disk(dir, i, data[i], why, sizeof(why));
		ok = ok && judge(c, data, "by itself", why, sizeof(why));
		if (ok && point > newest) {
			ok = judge(follow, data, "after those before", why, sizeof(why));
			newest = point;
		}
		if (ok)
			printf("%" PRIu64 " right %" PRIu64 "\n", point, writes(c));
		else
			printf("%" PRIu64 " wrong: %s\n", point, why);
		checker_free(c);
	}
	checker_free(follow);
	return 0;
}
