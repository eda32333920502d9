// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/oracle.h"

const char *const wrong_name[WRONG_KINDS] = {"garbage", "lost", "torn", "future", "back"};

struct checker {
	struct layout l;
	uint64_t sectors; /* hot, per disk */
	bool torn_ok;
	uint32_t *seq;  /* [disk * sectors + sector]: in the image */
	uint32_t *need; /* the same: what must be there at least */
	uint8_t *fresh; /* the same: fed since the last judgement */
	done_t claim[WRITERS_MAX];
	uint32_t applied[WRITERS_MAX]; /* writes up to here are in need[] */
	struct verdict found;          /* while feeding */
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

done_t done_add(done_t d, uint32_t seq)
{
	uint32_t low = done_low(d);
	uint64_t mask = done_mask(d) | 1ULL << (seq - low - 1);

	while (mask & 1) {
		mask >>= 1;
		low++;
	}
	return (uint64_t)low << 32 | (uint32_t)mask;
}

uint32_t owner_of(const struct layout *l, uint64_t sector)
{
	uint64_t own = (uint64_t)l->own * CHUNK_SECT;

	if (sector < own)
		return (uint32_t)(sector / CHUNK_SECT % l->writers);
	sector -= own;
	return (uint32_t)((sector / BLOCK_SECT + sector % BLOCK_SECT) % l->writers);
}

/* A write of one sector in a block that others write to as well. */
static void op_shared(const struct layout *l, uint32_t w, uint64_t h, struct op *op)
{
	uint64_t block = h % l->shared;
	uint64_t s = (w + l->writers - block % l->writers) % l->writers;
	uint64_t turns = (BLOCK_SECT - s + l->writers - 1) / l->writers;

	s += (h >> 32) % turns * l->writers;
	op->sector = (uint64_t)l->own * CHUNK_SECT + block * BLOCK_SECT + s;
	op->count = 1;
}

/* A write within a chunk: mostly one block, sometimes a few or all of it, sometimes not on the bounds of blocks. */
static void op_own(const struct layout *l, uint32_t w, uint64_t h, struct op *op)
{
	uint64_t chunk = h % (l->own / l->writers) * l->writers + w;
	uint32_t kind = (h >> 24) % 16;
	uint32_t count = BLOCK_SECT;
	uint32_t at;

	if (kind >= 13)
		count = l->most;
	else if (kind >= 9)
		count = BLOCK_SECT * (1 + (h >> 32) % 4);
	else if (kind >= 6 && l->grain == 1)
		count = 1 + (h >> 32) % 20;
	if (count > l->most)
		count = l->most;
	at = (uint32_t)((h >> 40) % (CHUNK_SECT - count + 1));
	if (kind >= 9 || kind < 6 || l->grain != 1)
		at -= at % BLOCK_SECT;
	op->sector = chunk * CHUNK_SECT + at;
	op->count = count;
}

struct op op_at(const struct layout *l, uint32_t w, uint32_t seq)
{
	uint64_t h = mix(l->seed + ((uint64_t)w << 40) + seq);
	uint64_t g = mix(h + 0x9e3779b97f4a7c15ULL);
	struct op op = {.disk = (uint32_t)(h % l->disks), .fua = (h >> 32) % 16 == 0};

	/* With more writers than sectors in a block, or large sectors, nothing is shared. */
	if (l->shared && (h >> 40) % 4 == 0)
		op_shared(l, w, g, &op);
	else
		op_own(l, w, g, &op);
	return op;
}

static uint64_t rec_sum(const struct rec *r)
{
	const uint64_t *p = (const uint64_t *)r;
	uint64_t sum = 0;

	for (size_t i = 0; i < SECTOR / 8 - 1; i++)
		sum = ((sum << 13 | sum >> 51) ^ p[i]) * 0x9e3779b97f4a7c15ULL;
	return sum ^ sum >> 29;
}

void rec_make(const struct layout *l, const struct op *op, uint32_t w, uint32_t seq,
	const done_t *known, void *buf)
{
	for (uint32_t i = 0; i < op->count; i++) {
		struct rec *r = (struct rec *)((char *)buf + (size_t)i * SECTOR);

		memset(r, 0, sizeof(*r));
		r->magic = REC_MAGIC;
		r->run = l->run;
		r->writer = w;
		r->seq = seq;
		r->disk = op->disk;
		r->sector = op->sector + i;
		memcpy(r->known, known, sizeof(done_t) * l->writers);
		for (size_t k = 0; k < sizeof(r->fill) / sizeof(*r->fill); k++)
			r->fill[k] = (uint64_t)seq * (k + 1);
		r->sum = rec_sum(r);
	}
}

struct checker *checker_new(const struct layout *l)
{
	struct checker *c = calloc(1, sizeof(*c));
	size_t n = layout_sectors(l) * l->disks;

	if (!c)
		return NULL;
	c->l = *l;
	c->sectors = layout_sectors(l);
	c->seq = calloc(n, sizeof(*c->seq));
	c->need = calloc(n, sizeof(*c->need));
	c->fresh = calloc(n, 1);
	if (c->seq && c->need && c->fresh)
		return c;
	checker_free(c);
	return NULL;
}

void checker_free(struct checker *c)
{
	if (!c)
		return;
	free(c->seq);
	free(c->need);
	free(c->fresh);
	free(c);
}

void checker_allow_torn(struct checker *c)
{
	c->torn_ok = true;
}

__attribute__((format(printf, 4, 5))) static void wrong(
	struct verdict *v, enum wrong kind, uint64_t n, const char *fmt, ...)
{
	__builtin_va_list ap;
	int at;

	v->count[kind] += n;
	if (v->first[0])
		return;
	at = snprintf(v->first, sizeof(v->first), "%s: ", wrong_name[kind]);
	__builtin_va_start(ap, fmt);
	vsnprintf(v->first + at, sizeof(v->first) - (size_t)at, fmt, ap);
	__builtin_va_end(ap);
}

static bool all_zero(const void *p)
{
	const uint64_t *q = p;

	for (size_t i = 0; i < SECTOR / 8; i++) {
		if (q[i])
			return false;
	}
	return true;
}

static bool covers(const struct op *op, uint32_t disk, uint64_t s)
{
	return op->disk == disk && s >= op->sector && s < op->sector + op->count;
}

void checker_claim(struct checker *c, uint32_t w, done_t done)
{
	done_t *have = &c->claim[w];
	uint32_t low = done_low(*have), mask = done_mask(*have);
	uint32_t other = done_low(done), bits = done_mask(done);

	/* What either has beyond the higher of both lows; below it all is known. */
	if (other > low) {
		mask = other - low < 32 ? mask >> (other - low) : 0;
		low = other;
	} else {
		bits = low - other < 32 ? bits >> (low - other) : 0;
	}
	mask |= bits;
	while (mask & 1) {
		mask >>= 1;
		low++;
	}
	*have = (uint64_t)low << 32 | mask;
}

/* What a sector says; true if it is a record in its place. */
static bool rec_valid(const struct checker *c, const struct rec *r, uint32_t disk, uint64_t s)
{
	struct op op;

	if (r->magic != REC_MAGIC || r->run != c->l.run || r->sum != rec_sum(r) ||
		r->disk != disk || r->sector != s)
		return false;
	if (r->writer != owner_of(&c->l, s) || !r->seq)
		return false;
	op = op_at(&c->l, r->writer, r->seq);
	return covers(&op, disk, s);
}

static void feed_one(struct checker *c, uint32_t disk, uint64_t s, const void *data)
{
	const struct rec *r = data;
	size_t i = disk * c->sectors + s;
	uint32_t seq = 0;

	if (!all_zero(data)) {
		if (!rec_valid(c, r, disk, s)) {
			wrong(&c->found, WRONG_GARBAGE, 1,
				"disk %u sector %llu: magic %llx writer %u seq %u", disk,
				(unsigned long long)(s + c->l.first), (unsigned long long)r->magic,
				r->writer, r->seq);
			return;
		}
		seq = r->seq;
		for (uint32_t w = 0; seq != c->seq[i] && w < c->l.writers; w++)
			checker_claim(c, w, r->known[w]);
	}
	if (seq < c->seq[i])
		wrong(&c->found, WRONG_BACK, 1,
			"disk %u sector %llu: writer %u went from write %u to %u", disk,
			(unsigned long long)(s + c->l.first), owner_of(&c->l, s), c->seq[i], seq);
	if (seq != c->seq[i])
		c->fresh[i] = 1;
	c->seq[i] = seq;
}

void checker_feed(
	struct checker *c, uint32_t disk, uint64_t sector, uint64_t count, const void *data)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t s = sector + i;

		if (s >= c->l.first && s < c->l.first + c->sectors)
			feed_one(c, disk, s - c->l.first, (const char *)data + i * SECTOR);
	}
}

static void need_op(struct checker *c, uint32_t w, uint32_t seq)
{
	struct op op = op_at(&c->l, w, seq);
	uint32_t *need = &c->need[op.disk * c->sectors + op.sector];

	for (uint32_t i = 0; i < op.count; i++) {
		if (need[i] < seq)
			need[i] = seq;
	}
}

static void judge_lost(struct checker *c, struct verdict *v)
{
	for (uint32_t w = 0; w < c->l.writers; w++) {
		uint32_t low = done_low(c->claim[w]), mask = done_mask(c->claim[w]);

		while (c->applied[w] < low)
			need_op(c, w, ++c->applied[w]);
		for (uint32_t i = 0; i < 32; i++) {
			if (mask >> i & 1)
				need_op(c, w, low + 1 + i);
		}
	}
	for (size_t i = 0; i < c->sectors * c->l.disks; i++) {
		if (c->seq[i] < c->need[i])
			wrong(v, WRONG_LOST, 1,
				"disk %zu sector %zu: has write %u of writer %u, write %u was complete",
				i / (size_t)c->sectors, i % (size_t)c->sectors + (size_t)c->l.first,
				c->seq[i], owner_of(&c->l, i % c->sectors), c->need[i]);
	}
}

/* Every write that came with this epoch must be there in whole, or overwritten. */
static void judge_torn(struct checker *c, struct verdict *v, size_t at)
{
	uint32_t disk = (uint32_t)(at / c->sectors);
	uint64_t s = at % c->sectors;
	uint32_t w = owner_of(&c->l, s), seq = c->seq[at];
	struct op op = op_at(&c->l, w, seq);
	const uint32_t *have = &c->seq[disk * c->sectors + op.sector];
	size_t before = s > op.sector ? at - 1 : at;

	if (before != at && c->fresh[before] && c->seq[before] == seq)
		return; /* judged there */
	for (uint32_t i = 0; i < op.count; i++) {
		if (have[i] < seq) {
			wrong(v, WRONG_TORN, 1,
				"disk %u: write %u of writer %u (sectors %llu+%u) lacks sector %llu, which has %u",
				disk, seq, w, (unsigned long long)(op.sector + c->l.first),
				op.count, (unsigned long long)(op.sector + i + c->l.first),
				have[i]);
			return;
		}
	}
}

bool checker_judge(struct checker *c, const uint32_t *submitted, struct verdict *v)
{
	*v = c->found;
	memset(&c->found, 0, sizeof(c->found));
	judge_lost(c, v);
	for (size_t i = 0; i < c->sectors * c->l.disks; i++) {
		if (!c->fresh[i] || !c->seq[i])
			continue;
		if (!c->torn_ok)
			judge_torn(c, v, i);
		if (submitted && c->seq[i] > submitted[owner_of(&c->l, i % c->sectors)])
			wrong(v, WRONG_FUTURE, 1,
				"disk %zu sector %zu: write %u of writer %u, %u was the last when the cut was done",
				i / (size_t)c->sectors, i % (size_t)c->sectors + (size_t)c->l.first,
				c->seq[i], owner_of(&c->l, i % c->sectors),
				submitted[owner_of(&c->l, i % c->sectors)]);
	}
	memset(c->fresh, 0, c->sectors * c->l.disks);
	return !v->first[0];
}

uint32_t checker_seq(const struct checker *c, uint32_t disk, uint64_t sector)
{
	return c->seq[disk * c->sectors + sector];
}
