// SPDX-License-Identifier: Apache-2.0
/*
 * store-import DIR FILE...       makes a store in DIR in which one disk, sda, had the contents of each FILE in turn: the first by an initial
 *                                sync, each further by an epoch with what changed. Point n is in use as DIR/open/pN.
 *                                "bad:BLOCK" between files makes that block unreadable with the next epoch.
 * store-import DIR FILE -        as if FILE came again for each line of input, made anew by then; no point is put in use
 * store-import --compact DIR     drops the oldest point, gets its space back, puts the others in use once more: DIR/open/c2, c3...
 * store-import --scrub DIR       reads all cells, three at a time; prints each damage: "block count first last head"
 * store-import --verify DIR      verifies the index; prints "block count first last head why"; with a file's name behind it: as if it was
 *                                lost while the store is open
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/store/space.h"

#define POINTS_MAX 100

static struct store *st;
static struct store_disk disk = {.machine = {1}, .uuid = {2}, .name = "sda", .serial = "S-1"};
static struct tm_epoch_id head;
static struct tm_err err;
static char *image; /* as of the newest epoch, whole chunks */
static uint64_t chunks;

static void must(int ret)
{
	if (ret) {
		fprintf(stderr, "store-import: %s\n", err.msg);
		exit(1);
	}
}

static void read_file(const char *path, char *to)
{
	int fd = open(path, O_RDONLY);
	uint64_t at = 0;
	ssize_t n = 1;

	memset(to, 0, chunks * TM_CHUNK);
	for (; fd >= 0 && at < disk.size && n > 0; at += (uint64_t)n)
		n = pread(fd, to + at, disk.size - at, (off_t)at);
	if (fd < 0 || n <= 0) {
		perror(path);
		exit(1);
	}
	close(fd);
}

static void put(uint64_t seq, uint64_t block, uint32_t count, const char *plain)
{
	static char buf[TM_CELL_ROOM];

	must(store_put(st, seq, disk.no, buf, tm_cell_encode(block, count, plain, buf), &err));
}

/* Whole chunks where more than one block of them changed, else the block. */
static void put_chunk(uint64_t seq, uint64_t chunk, const char *old, const char *new)
{
	unsigned changed = 0, which = 0;

	for (unsigned i = 0; i < TM_CHUNK_BLOCKS; i++)
		if (memcmp(old + (size_t)i * TM_BLOCK, new + (size_t)i *TM_BLOCK, TM_BLOCK)) {
			changed++;
			which = i;
		}
	if (changed == 1)
		put(seq, chunk * TM_CHUNK_BLOCKS + which, 1, new + (size_t)which *TM_BLOCK);
	else if (changed)
		put(seq, chunk * TM_CHUNK_BLOCKS, TM_CHUNK_BLOCKS, new);
}

static uint64_t initial(const char *path)
{
	struct store_range all = {0, chunks * TM_CHUNK_BLOCKS};
	uint8_t tracking[TM_UUID] = {3};
	uint64_t seq;

	read_file(path, image);
	must(store_attempt_begin(
		st, disk.machine, TM_ATTEMPT_INITIAL, disk.no, tracking, &seq, &err));
	for (uint64_t c = 0; c < chunks; c++)
		put(seq, c * TM_CHUNK_BLOCKS, TM_CHUNK_BLOCKS, image + c * TM_CHUNK);
	must(store_part(st, seq, &all, 1, 1, &err));
	return seq;
}

static uint64_t epoch(const char *path, uint64_t piece, const char *bad)
{
	struct store_point_disk d = {.no = disk.no, .size = disk.size, .name = "sda"};
	struct store_point p = {.kind = TM_POINT_CRASH, .ndisks = 1, .disks = &d};
	struct store_commit c = {.parent = head,
		.new_line = !head.cut,
		.pieces = &piece,
		.npieces = piece != 0,
		.point = &p,
		.id.cut = head.cut + 1};
	char *next = malloc(chunks * TM_CHUNK), cell[sizeof(struct tm_cell)];
	uint64_t seq;

	read_file(path, next);
	must(store_attempt_begin(st, disk.machine, TM_ATTEMPT_EPOCH, 0, NULL, &seq, &err));
	for (uint64_t k = 0; k < chunks; k++)
		put_chunk(seq, k, image + k * TM_CHUNK, next + k * TM_CHUNK);
	if (bad)
		must(store_put(st, seq, disk.no, cell,
			tm_cell_encode_empty(strtoull(bad, NULL, 10), 1, TM_CODEC_BAD, cell),
			&err));
	must(store_commit(st, seq, &c, NULL, &err));
	head = c.id;
	free(image);
	image = next;
	return seq;
}

static void print_damage(void *arg, const struct store_damage *d)
{
	printf("%llu %llu %llu %llu %d\n", (unsigned long long)d->block,
		(unsigned long long)d->count, (unsigned long long)d->first_point,
		(unsigned long long)d->last_point, d->in_head);
}

static int scrub(const char *dir)
{
	struct store_scrub s = {.max_cells = 3};

	must(store_open(dir, NULL, &st, &err));
	while (!s.done)
		must(store_scrub(st, &s, print_damage, NULL, &err));
	store_close(st);
	return 0;
}

static void print_why(void *arg, const struct store_damage *d)
{
	printf("%llu %llu %llu %llu %d %s\n", (unsigned long long)d->block,
		(unsigned long long)d->count, (unsigned long long)d->first_point,
		(unsigned long long)d->last_point, d->in_head, d->why);
}

static int go_on(void *arg, uint64_t keys)
{
	return 0;
}

static int verify(const char *dir, const char *lost)
{
	must(store_open(dir, NULL, &st, &err));
	if (lost && unlink(lost))
		return 1;
	must(store_verify_index(st, 0, go_on, print_why, NULL, &err));
	store_close(st);
	return 0;
}

static int take(void *arg, const struct store_point *p)
{
	uint64_t *seqs = arg;

	if (seqs[0] == POINTS_MAX)
		return 1;
	seqs[++seqs[0]] = p->seq;
	return 0;
}

static int compact(const char *dir)
{
	uint64_t seqs[1 + POINTS_MAX] = {0};
	struct store_collected r;
	char name[32], *path;

	must(store_open(dir, NULL, &st, &err));
	must(store_points(st, disk.machine, 0, take, seqs, &err));
	must(store_points_drop(st, disk.machine, &seqs[1], 1, &err));
	must(store_compact(st, NULL, &err));
	must(store_collect(st, NULL, &r, &err));
	printf("%llu bytes freed, %llu copied\n", (unsigned long long)r.freed_bytes,
		(unsigned long long)r.copied_bytes);
	for (uint64_t i = 2; i <= seqs[0]; i++) {
		snprintf(name, sizeof(name), "c%llu", (unsigned long long)i);
		must(store_checkpoint(st, disk.machine, seqs[i], name, &path, &err));
		free(path);
	}
	store_close(st);
	return 0;
}

static int again(const char *path)
{
	uint64_t piece = initial(path);
	char line[16];

	do {
		printf("%llu\n", (unsigned long long)epoch(path, piece, NULL));
		fflush(stdout);
		piece = 0;
	} while (fgets(line, sizeof(line), stdin));
	free(image);
	store_close(st);
	return 0;
}

int main(int argc, char **argv)
{
	const char *bad = NULL;
	uint64_t piece = 0, seq;
	struct stat sb;
	char name[32], *path;
	int n = 0;

	if (argc == 3 && !strcmp(argv[1], "--scrub"))
		return scrub(argv[2]);
	if ((argc == 3 || argc == 4) && !strcmp(argv[1], "--verify"))
		return verify(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "--compact"))
		return compact(argv[2]);
	if (argc < 3 || stat(argv[2], &sb)) {
		fprintf(stderr,
			"usage: store-import DIR FILE... | --compact DIR | --scrub DIR | --verify DIR [FILE]\n");
		return 2;
	}
	disk.size = (uint64_t)sb.st_size;
	chunks = (disk.size + TM_CHUNK - 1) / TM_CHUNK;
	image = malloc(chunks * TM_CHUNK);
	must(store_create(argv[1], &err));
	must(store_open(argv[1], NULL, &st, &err));
	must(store_disk_register(st, &disk, &err));
	if (argc == 4 && !strcmp(argv[3], "-"))
		return again(argv[2]);
	for (int i = 2; i < argc; i++) {
		if (!strncmp(argv[i], "bad:", 4)) {
			bad = argv[i] + 4;
			continue;
		}
		piece = i == 2 ? initial(argv[i]) : 0;
		seq = epoch(argv[i], piece, bad);
		bad = NULL;
		snprintf(name, sizeof(name), "p%d", ++n);
		must(store_checkpoint(st, disk.machine, seq, name, &path, &err));
		printf("%s %llu\n", path, (unsigned long long)seq);
		free(path);
	}
	free(image);
	store_close(st);
	return 0;
}
