/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An oracle for the store: what every disk must hold at every point, kept in memory as one number per block, and the means to
 * make such contents and to compare them.
 */
#ifndef TM_STORE_MODEL_H
#define TM_STORE_MODEL_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cell.h"
#include "server/store/store.h"

#define MD_MACHINES 2
#define MD_DISKS    3
#define MD_BLOCKS   203 /* not a multiple of a chunk: the last one reaches past the end */
#define MD_OPEN     4   /* attempts of each kind */
#define MD_POINTS   4000
#define MD_BAD      UINT32_MAX

/* One block: `id` names its contents (0 = zeros, MD_BAD = unreadable), seq the attempt that brought it, data how extents show it. */
struct md_block {
	uint64_t seq;
	uint32_t id;
	uint8_t data, set;
};

struct md_image {
	struct md_block b[MD_BLOCKS];
};

struct md_attempt {
	uint64_t seq; /* 0 = free */
	int kind, disk, complete;
	struct tm_epoch_id id;
	struct md_image cur[MD_DISKS],
		parted; /* piece kinds: parted is durable, cur[disk] is not yet */
};

struct md_point {
	uint64_t seq;
	uint8_t dropped, pinned, bad;
	struct md_image *disk[MD_DISKS];
};

struct md_machine {
	uint8_t uuid[TM_UUID];
	uint32_t no[MD_DISKS];
	struct md_image head[MD_DISKS];
	struct tm_epoch_id head_id;
	uint64_t head_seq;
	struct md_attempt a[MD_OPEN];
	struct md_point p[MD_POINTS];
	int npoints;
};

struct md {
	unsigned seed;
	uint32_t next_id;
	struct md_machine m[MD_MACHINES];
};

static inline unsigned md_rand(struct md *md, unsigned n)
{
	return (unsigned)rand_r(&md->seed) % n;
}

static inline void md_fill(uint32_t id, uint64_t block, void *out)
{
	uint64_t x = id * 0x9e3779b97f4a7c15ull ^ (block + 1) * 0xff51afd7ed558ccdull;
	uint64_t *w = out;

	/* Every third does not compress. */
	for (size_t i = 0; i < TM_BLOCK / 8; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		w[i] = id == 0 ? 0 : id % 3 == 0 ? x : (i % 16 ? id : block + 1);
	}
}

static inline void md_random_uuid(struct md *md, uint8_t uuid[TM_UUID])
{
	for (unsigned i = 0; i < TM_UUID; i++)
		uuid[i] = (uint8_t)md_rand(md, 256);
}

static inline void md_set(struct md_image *im, uint64_t block, uint64_t seq, uint32_t id, int data)
{
	if (block < MD_BLOCKS)
		im->b[block] = (struct md_block){seq, id, (uint8_t)data, 1};
}

/* One random cell into the buffer and into the image of what the attempt brought. */
static inline size_t md_cell(struct md *md, struct md_attempt *a, struct md_image *im, char *out)
{
	static _Alignas(64) char plain[TM_CHUNK];
	uint64_t block = md_rand(md, MD_BLOCKS);
	unsigned what = md_rand(md, 10);
	uint32_t count = 1, id[4], any = 0;

	if (what < 2) {
		count = 1 + md_rand(md, md_rand(md, 4) ? 9 : 100);
		count = block + count > MD_BLOCKS ? (uint32_t)(MD_BLOCKS - block) : count;
		for (uint32_t i = 0; i < count; i++)
			md_set(im, block + i, a->seq, 0, 0);
		return tm_cell_encode_empty(block, count, TM_CODEC_ZERO, out);
	}
	if (what == 2 && md_rand(md, 8) == 0) {
		count = 1 + md_rand(md, 6);
		count = block + count > MD_BLOCKS ? (uint32_t)(MD_BLOCKS - block) : count;
		for (uint32_t i = 0; i < count; i++)
			md_set(im, block + i, a->seq, MD_BAD, 1);
		return tm_cell_encode_empty(block, count, TM_CODEC_BAD, out);
	}
	if (what < 6) {
		count = TM_CHUNK_BLOCKS;
		block = block / TM_CHUNK_BLOCKS * TM_CHUNK_BLOCKS;
	}
	for (uint32_t i = 0; i < count; i++) {
		id[i] = block + i >= MD_BLOCKS || md_rand(md, 5) == 0 ? 0 : md->next_id++;
		any |= id[i];
		md_fill(id[i], block + i, plain + (size_t)i * TM_BLOCK);
	}
	for (uint32_t i = 0; i < count; i++)
		md_set(im, block + i, a->seq, id[i], any != 0);
	return tm_cell_encode(block, count, plain, out);
}

/* The piece's or epoch's blocks over the head: of two versions the higher seq stays. */
static inline void md_merge(struct md_image *head, const struct md_image *add)
{
	for (unsigned i = 0; i < MD_BLOCKS; i++)
		if (add->b[i].set && add->b[i].seq >= head->b[i].seq)
			head->b[i] = add->b[i];
}

struct md_extents {
	uint64_t at;
	uint8_t data[MD_BLOCKS];
	int wrong;
};

static inline int md_extent(void *arg, uint64_t off, uint64_t len, enum store_extent_kind kind)
{
	struct md_extents *x = arg;

	if (off != x->at || len == 0 || off % TM_BLOCK)
		x->wrong = 1;
	for (uint64_t b = off / TM_BLOCK; b < (off + len + TM_BLOCK - 1) / TM_BLOCK; b++)
		x->data[b] = kind == STORE_DATA;
	x->at = off + len;
	return 0;
}

static inline int md_complain(const char *what, uint64_t seq, uint32_t disk, unsigned block)
{
	fprintf(stderr, "%s: point %llu, disk %u, block %u\n", what, (unsigned long long)seq, disk,
		block);
	return -1;
}

/* Reads everything, in pieces of many sizes, and compares it, extents included. 0 if all is as it must be. */
static inline int md_compare(
	struct md *md, struct store_view *v, uint64_t seq, uint32_t disk, const struct md_image *im)
{
	static _Thread_local char got[MD_BLOCKS * TM_BLOCK], want[TM_BLOCK];
	static _Thread_local struct md_extents x;
	struct tm_err err;
	unsigned n, b;

	for (b = 0; b < MD_BLOCKS; b += n) {
		int bad = 0, ret;

		n = 1 + md_rand(md, md_rand(md, 2) ? 4 : MD_BLOCKS);
		n = b + n > MD_BLOCKS ? MD_BLOCKS - b : n;
		for (unsigned i = b; i < b + n; i++)
			bad |= im->b[i].id == MD_BAD;
		ret = store_view_read(v, got, (size_t)n * TM_BLOCK, (uint64_t)b * TM_BLOCK, &err);
		if (bad ? ret != -EIO : ret != 0) {
			fprintf(stderr, "read: %s\n", ret ? err.msg : "no error");
			return md_complain(bad ? "no EIO" : "cannot read", seq, disk, b);
		}
		for (unsigned i = 0; !bad && i < n; i++) {
			md_fill(im->b[b + i].id, b + i, want);
			if (memcmp(got + (size_t)i * TM_BLOCK, want, TM_BLOCK)) {
				fprintf(stderr, "expected contents %u of attempt %llu\n",
					im->b[b + i].id, (unsigned long long)im->b[b + i].seq);
				return md_complain("differs", seq, disk, b + i);
			}
		}
	}
	memset(&x, 0, sizeof(x));
	if (store_view_extents(v, 0, UINT64_MAX, md_extent, &x, &err) || x.wrong ||
		x.at != (uint64_t)MD_BLOCKS * TM_BLOCK)
		return md_complain("extents wrong", seq, disk, 0);
	for (b = 0; b < MD_BLOCKS; b++)
		if (x.data[b] != im->b[b].data)
			return md_complain("extent differs", seq, disk, b);
	return 0;
}

static inline int md_check_point(
	struct md *md, struct store *st, struct md_machine *m, const struct md_point *p)
{
	struct store_view *v;
	struct tm_err err;
	int ret = 0;

	for (int d = 0; !ret && d < MD_DISKS; d++) {
		if (store_view_open(st, m->uuid, m->no[d], p->seq, &v, &err)) {
			fprintf(stderr, "view: %s\n", err.msg);
			return md_complain("cannot open", p->seq, m->no[d], 0);
		}
		ret = md_compare(md, v, p->seq, m->no[d], p->disk[d]);
		store_view_close(v);
	}
	return ret;
}

static inline int md_check_head(struct md *md, struct store *st, struct md_machine *m)
{
	struct store_view *v;
	struct tm_err err;
	int ret = 0;

	for (int d = 0; m->head_seq && !ret && d < MD_DISKS; d++) {
		if (store_view_open(st, m->uuid, m->no[d], 0, &v, &err))
			return md_complain("cannot open head", 0, m->no[d], 0);
		ret = md_compare(md, v, m->head_seq, m->no[d], &m->head[d]);
		store_view_close(v);
	}
	return ret;
}

static inline void md_tmpdir(char *path, size_t len)
{
	const char *base = getenv("TMPDIR");

	snprintf(path, len, "%s/tidemark-store-XXXXXX", base ? base : "/tmp");
	if (!mkdtemp(path))
		abort();
}

static inline void md_rmdir(const char *path)
{
	char cmd[300];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", path);
	if (system(cmd))
		fprintf(stderr, "cannot remove %s\n", path);
}

#endif
