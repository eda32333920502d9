/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the hammer's epochs hold: it follows from machine and number alone.
 */
#ifndef TM_STORE_HAMMER_H
#define TM_STORE_HAMMER_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "server/store/space.h"
#include "server/store/store.h"

#define MACHINES 3
#define DISKS    2
#define BLOCKS   256u
#define RING     32
#define KEEP     40 /* points per machine, then some are dropped */
#define PARTS    4u
#define PAIR     2 /* epochs of a machine on their way to the store at once, at most */

struct rng {
	uint64_t x;
};

struct kept {
	uint64_t seq;
	uint64_t sum[DISKS];
};

struct source {
	unsigned index;
	uint8_t uuid[TM_UUID];
	uint32_t no[DISKS];
	char *image[DISKS]; /* as of `cut` */
	uint64_t cut;
	pthread_mutex_t lock;
	struct kept ring[RING];
	unsigned nring;
};

static struct store *st;
static int log_fd;
static unsigned long epochs;
static atomic_int stop;
static struct source machines[MACHINES];

__attribute__((noreturn)) static void die(const char *what, const char *why)
{
	fprintf(stderr, "store-hammer: %s: %s\n", what, why);
	_exit(1);
}

static void must(int ret, const char *what, const struct tm_err *err)
{
	if (ret)
		die(what, err->msg);
}

static uint32_t draw(struct rng *r, uint32_t n)
{
	r->x = r->x * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(r->x >> 33) % n;
}

/* ---- What an epoch brings ---- */

static void fill(char *block, uint64_t id)
{
	uint64_t x = id, *w = (uint64_t *)block;

	for (size_t i = 0; i < TM_BLOCK / 8; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		w[i] = id % 4 ? id : x;
	}
}

/* Encodes one cell of the image as it is now. */
static size_t encode(const struct source *m, int disk, uint32_t block, uint32_t count, char *out)
{
	return tm_cell_encode(block, count, m->image[disk] + (size_t)block * TM_BLOCK, out);
}

struct change {
	int disk;
	uint32_t block, count;
	int zero;
};

/* Changes the image by the i-th change of epoch `cut` and tells what it was. */
static struct change change(struct source *m, uint64_t cut, unsigned i)
{
	struct rng r = {(cut * 1000003 + i) * 31 + m->index};
	struct change c = {.disk = (int)(draw(&r, 16) % DISKS)};
	char *p;

	/* Zeros wait for what the machine has in the same batch: without them the second of a pair comes to be written with the first. */
	c.zero = draw(&r, 6) == 0 && cut % 4 != 2;
	c.count = c.zero ? 1 + draw(&r, 40) : draw(&r, 2) ? TM_CHUNK_BLOCKS : 1;
	c.block = draw(&r, BLOCKS);
	if (!c.zero && c.count > 1)
		c.block -= c.block % TM_CHUNK_BLOCKS;
	if (c.block + c.count > BLOCKS)
		c.count = BLOCKS - c.block;
	p = m->image[c.disk] + (size_t)c.block * TM_BLOCK;
	memset(p, 0, (size_t)c.count * TM_BLOCK);
	for (uint32_t k = 0; !c.zero && k < c.count; k++)
		fill(p + (size_t)k * TM_BLOCK,
			(cut << 20 | i << 8 | k) * 2654435761u + m->index + 1);
	return c;
}

static unsigned changes(uint64_t cut)
{
	return cut % 10 == 9 ? 300 : 4 + (unsigned)(cut % 13);
}

static int has_piece(uint64_t cut)
{
	return cut % 8 == 0;
}

/* The piece of epoch `cut`: every fifth block of one disk. */
static int piece_disk(uint64_t cut)
{
	return (int)(cut / 8 % DISKS);
}

static void piece_change(struct source *m, uint64_t cut, uint32_t block)
{
	fill(m->image[piece_disk(cut)] + (size_t)block * TM_BLOCK,
		(cut << 20 | 0xff000 | block) + m->index);
}

/* The image one epoch further. */
static void advance(struct source *m)
{
	uint64_t cut = m->cut + 1;

	for (uint32_t b = cut % 5; has_piece(cut) && b < BLOCKS; b += 5)
		piece_change(m, cut, b);
	for (unsigned i = 0; i < changes(cut); i++)
		change(m, cut, i);
	m->cut = cut;
}

static struct tm_epoch_id id_of(const struct source *m, uint64_t cut)
{
	struct tm_epoch_id id = {.cut = cut};

	id.tracking[0] = (uint8_t)(m->index + 1);
	memcpy(id.nonce, &cut, sizeof(cut));
	return id;
}

static const struct store_opts small = {.prune_min = 1,
	.reserve_bytes = UINT64_MAX,
	.items_max = 100,
	.pack_bytes = 4 << 20,
	.buffer_bytes = 2 << 20,
	.cache_bytes = 2 << 20};

/* goes_on: their images become what the newest epoch left; else they are as before the first. */
static void open_machines(int goes_on)
{
	struct store_disk d;
	struct store_head h;
	struct tm_err err;

	for (unsigned i = 0; i < MACHINES; i++) {
		struct source *m = &machines[i];

		m->index = i;
		memset(m->uuid, (int)i + 1, TM_UUID);
		pthread_mutex_init(&m->lock, NULL);
		for (int k = 0; k < DISKS; k++) {
			memset(&d, 0, sizeof(d));
			memcpy(d.machine, m->uuid, TM_UUID);
			memset(d.uuid, 16 * k + (int)i + 1, TM_UUID);
			d.size = (uint64_t)BLOCKS * TM_BLOCK;
			snprintf(d.name, sizeof(d.name), "sd%c", 'a' + k);
			must(store_disk_register(st, &d, &err), "disk", &err);
			m->no[k] = d.no;
			m->image[k] = calloc(BLOCKS, TM_BLOCK);
			if (!m->image[k])
				die("memory", "none");
		}
		if (goes_on && !store_head(st, m->uuid, &h, &err))
			while (m->cut < h.id.cut)
				advance(m);
	}
}

#endif
