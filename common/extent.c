// SPDX-License-Identifier: Apache-2.0
#include "common/extent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEAF 128 /* extents in a leaf, 2 KiB */

struct tm_extent_leaf {
	uint32_t n;
	struct tm_extent e[LEAF];
};

/* An extent's place: leaf and index in it. One past the last: {leaves, 0}. */
struct place {
	size_t leaf;
	uint32_t at;
};

static uint64_t end_of(const struct tm_extent *e)
{
	return e->start + e->count;
}

void tm_extents_init(struct tm_extents *s)
{
	memset(s, 0, sizeof(*s));
}

void tm_extents_clear(struct tm_extents *s)
{
	for (size_t i = 0; i < s->leaves; i++)
		free(s->leaf[i]);
	free(s->leaf);
	tm_extents_init(s);
}

/* The first extent that ends after `block`: the one that holds it, or the next. */
static struct place find(const struct tm_extents *s, uint64_t block)
{
	size_t low = 0, high = s->leaves;
	uint32_t l = 0, h;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct tm_extent_leaf *f = s->leaf[mid];

		if (end_of(&f->e[f->n - 1]) > block)
			high = mid;
		else
			low = mid + 1;
	}
	if (low == s->leaves)
		return (struct place){low, 0};
	h = s->leaf[low]->n;
	while (l < h) {
		uint32_t mid = l + (h - l) / 2;

		if (end_of(&s->leaf[low]->e[mid]) > block)
			h = mid;
		else
			l = mid + 1;
	}
	return (struct place){low, l};
}

static struct tm_extent *get(const struct tm_extents *s, struct place p)
{
	return p.leaf < s->leaves ? &s->leaf[p.leaf]->e[p.at] : NULL;
}

static struct place after(const struct tm_extents *s, struct place p)
{
	if (++p.at == s->leaf[p.leaf]->n)
		p = (struct place){p.leaf + 1, 0};
	return p;
}

static int insert_leaf(struct tm_extents *s, size_t at)
{
	struct tm_extent_leaf *f;

	if (s->leaves == s->room) {
		size_t room = s->room ? 2 * s->room : 16;
		void *p = realloc(s->leaf, room * sizeof(s->leaf[0]));

		if (!p)
			return -ENOMEM;
		s->leaf = p;
		s->room = room;
	}
	f = malloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->n = 0;
	memmove(s->leaf + at + 1, s->leaf + at, (s->leaves - at) * sizeof(s->leaf[0]));
	s->leaf[at] = f;
	s->leaves++;
	return 0;
}

/* Puts an extent before the place p. */
static int insert(struct tm_extents *s, struct place p, uint64_t start, uint64_t count)
{
	struct tm_extent_leaf *f;

	/* At the very end, or between two leaves, the left one is as good, and fills up when blocks come in order. */
	if (p.at == 0 && p.leaf > 0 && s->leaf[p.leaf - 1]->n < LEAF)
		p = (struct place){p.leaf - 1, s->leaf[p.leaf - 1]->n};
	if (p.leaf == s->leaves) {
		if (insert_leaf(s, p.leaf) < 0)
			return -ENOMEM;
	} else if (s->leaf[p.leaf]->n == LEAF) {
		struct tm_extent_leaf *old, *new;

		if (insert_leaf(s, p.leaf + 1) < 0)
			return -ENOMEM;
		old = s->leaf[p.leaf];
		new = s->leaf[p.leaf + 1];
		memcpy(new->e, old->e + LEAF / 2, LEAF / 2 * sizeof(new->e[0]));
		new->n = LEAF / 2;
		old->n = LEAF / 2;
		if (p.at > LEAF / 2)
			p = (struct place){p.leaf + 1, p.at - LEAF / 2};
	}
	f = s->leaf[p.leaf];
	memmove(f->e + p.at + 1, f->e + p.at, (f->n - p.at) * sizeof(f->e[0]));
	f->e[p.at] = (struct tm_extent){start, count};
	f->n++;
	s->n++;
	return 0;
}

static void erase(struct tm_extents *s, struct place p)
{
	struct tm_extent_leaf *f = s->leaf[p.leaf];

	memmove(f->e + p.at, f->e + p.at + 1, (f->n - p.at - 1) * sizeof(f->e[0]));
	s->n--;
	if (--f->n)
		return;
	free(f);
	memmove(s->leaf + p.leaf, s->leaf + p.leaf + 1,
		(s->leaves - p.leaf - 1) * sizeof(s->leaf[0]));
	s->leaves--;
}

static int bounds(uint64_t start, uint64_t count, uint64_t *end)
{
	return __builtin_add_overflow(start, count, end) || *end > 1ull << 63 ? -EINVAL : 0;
}

int tm_extents_add(struct tm_extents *s, uint64_t start, uint64_t count)
{
	uint64_t end;
	struct place p;
	struct tm_extent *e;

	if (bounds(start, count, &end) < 0)
		return -EINVAL;
	if (!count)
		return 0;
	/* The first one that touches [start, end): it may end exactly at start. */
	p = find(s, start ? start - 1 : 0);
	e = get(s, p);
	if (!e || e->start > end) {
		if (insert(s, p, start, count) < 0)
			return -ENOMEM;
		s->blocks += count;
		return 0;
	}
	if (e->start < start)
		start = e->start;
	if (end_of(e) > end)
		end = end_of(e);
	s->blocks -= e->count;
	/* It swallows those after it that touch. */
	for (;;) {
		struct place q = after(s, p);
		struct tm_extent *f = get(s, q);

		if (!f || f->start > end)
			break;
		if (end_of(f) > end)
			end = end_of(f);
		s->blocks -= f->count;
		erase(s, q);
	}
	e = get(s, p);
	*e = (struct tm_extent){start, end - start};
	s->blocks += e->count;
	return 0;
}

int tm_extents_remove(struct tm_extents *s, uint64_t start, uint64_t count)
{
	uint64_t end;

	if (bounds(start, count, &end) < 0)
		return -EINVAL;
	while (count) {
		struct place p = find(s, start);
		struct tm_extent *e = get(s, p), old;

		if (!e || e->start >= end)
			return 0;
		old = *e;
		if (old.start < start && end_of(&old) > end) {
			/* A hole in the middle: the part behind first, so that failing changes nothing. */
			if (insert(s, after(s, p), end, end_of(&old) - end) < 0)
				return -ENOMEM;
			e = get(s, find(s, old.start));
			e->count = start - old.start;
			s->blocks -= count;
			return 0;
		}
		if (old.start < start) {
			e->count = start - old.start;
			s->blocks -= old.count - e->count;
		} else if (end_of(&old) > end) {
			*e = (struct tm_extent){end, end_of(&old) - end};
			s->blocks -= old.count - e->count;
			return 0;
		} else {
			erase(s, p);
			s->blocks -= old.count;
		}
	}
	return 0;
}

int tm_extents_merge(struct tm_extents *s, const struct tm_extents *from)
{
	for (size_t i = 0; i < from->leaves; i++)
		for (uint32_t k = 0; k < from->leaf[i]->n; k++) {
			int r = tm_extents_add(
				s, from->leaf[i]->e[k].start, from->leaf[i]->e[k].count);

			if (r < 0)
				return r;
		}
	return 0;
}

bool tm_extents_next(const struct tm_extents *s, uint64_t from, struct tm_extent *out)
{
	const struct tm_extent *e = get(s, find(s, from));

	if (!e)
		return false;
	*out = *e;
	if (out->start < from)
		*out = (struct tm_extent){from, end_of(e) - from};
	return true;
}

bool tm_extents_has(const struct tm_extents *s, uint64_t block)
{
	return tm_extents_covers(s, block, 1);
}

bool tm_extents_covers(const struct tm_extents *s, uint64_t start, uint64_t count)
{
	struct tm_extent e;
	uint64_t end;

	if (bounds(start, count, &end) < 0)
		return false;
	return !count || (tm_extents_next(s, start, &e) && e.start == start && e.count >= count);
}

bool tm_extents_next_gap(
	const struct tm_extents *s, uint64_t from, uint64_t end, struct tm_extent *out)
{
	struct tm_extent e;

	while (from < end) {
		if (!tm_extents_next(s, from, &e) || e.start >= end) {
			*out = (struct tm_extent){from, end - from};
			return true;
		}
		if (e.start > from) {
			*out = (struct tm_extent){from, e.start - from};
			return true;
		}
		from = end_of(&e);
	}
	return false;
}

size_t tm_extents_memory(const struct tm_extents *s)
{
	return s->leaves * sizeof(struct tm_extent_leaf) + s->room * sizeof(s->leaf[0]);
}
