// SPDX-License-Identifier: Apache-2.0
/*
 * Which packs are worth being copied, and whether it is worth looking.
 */
#include "server/store/collect.h"

#define DEAD_SHARE 7u /* of what is alive a seventh may be dead */
/* a pack below a sixteenth of the limit is small; so many small ones are merged */
#define SMALL_SHARE 16u
#define WORTH_SHARE 20u /* of all that is stored this comes back, or no walk is made for it */

/* Bytes of cells in it. */
static uint64_t used(const struct pile *p)
{
	return p->size > PACK_HEADER_LEN ? p->size - PACK_HEADER_LEN : 0;
}

static uint64_t dead_in(const struct pile *p)
{
	return used(p) > p->live ? used(p) - p->live : 0;
}

static int is_small(const struct collector *c, const struct pile *p)
{
	return p->size < c->st->o.pack_bytes / SMALL_SHARE;
}

static size_t count_small(const struct collector *c)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n; i++)
		n += is_small(c, &c->p[i]);
	return n;
}

uint64_t collect_room(const struct collector *c)
{
	uint64_t max = c->o->copy_max ? c->o->copy_max : 1ull << 30, room;

	if (c->st->o.reserve_bytes == UINT64_MAX)
		return max;
	room = free_bytes(c->st->rootfd);
	room -= room < c->st->o.reserve_bytes / 16 ? room : c->st->o.reserve_bytes / 16;
	return room < max ? room : max;
}

/*
 * Many packs may be a little less than a third dead: of all that is alive not more than so much may be dead. Those that are most dead go first,
 * and none that is hardly dead: it would be copied for nothing.
 */
static void choose_more(struct collector *c, uint64_t budget)
{
	static const uint8_t parts[] = {3, 4, 5, 6, 8};
	uint64_t dead = 0, live = 0, own;

	for (size_t i = 0; i < c->n; i++) {
		live += c->p[i].live;
		dead += c->p[i].move ? 0 : dead_in(&c->p[i]);
	}
	for (size_t k = 0; k < sizeof(parts); k++)
		for (size_t i = 0; i < c->n && dead * DEAD_SHARE > live; i++) {
			own = dead_in(&c->p[i]);
			if (c->p[i].move || c->p[i].keep || c->p[i].live > budget ||
				own * parts[k] < own + c->p[i].live)
				continue;
			c->p[i].move = 1;
			budget -= c->p[i].live;
			dead -= own;
		}
}

/* Nothing of it is alive, or it is more than a third dead, or it is to be merged with others. */
static int deserves(const struct collector *c, const struct pile *p, size_t small)
{
	return !p->live || p->live < dead_in(p) * 2 || (is_small(c, p) && small > SMALL_SHARE);
}

void collect_choose(struct collector *c)
{
	uint64_t room = collect_room(c), budget = room;
	size_t small = count_small(c);

	for (size_t i = 0; i < c->n; i++) {
		c->r->live_bytes += c->p[i].live;
		c->r->dead_bytes += dead_in(&c->p[i]);
	}
	/* Those with little to copy first: of little room they make much. */
	for (uint64_t share = 16; share; share /= 4)
		for (size_t i = 0; i < c->n; i++) {
			struct pile *p = &c->p[i];

			if (p->move || p->keep || p->live > budget || p->live > room / share ||
				!deserves(c, p, small))
				continue;
			p->move = 1;
			budget -= p->live;
		}
	choose_more(c, budget);
}

int collect_worth(struct collector *c)
{
	struct ledger *l = &c->st->ledger;
	struct store_collected *r = c->r;
	uint64_t gain = 0;
	size_t small = count_small(c);

	/* What was small after the last walk cannot be helped, for example with many small disks. */
	if (l->settled)
		l->small = small;
	l->settled = 0;
	for (size_t i = 0; i < c->n; i++) {
		struct pile p = c->p[i];

		p.live = ledger_live(l, p.no, used(&p));
		r->live_bytes += p.live;
		r->dead_bytes += dead_in(&p);
		if (!p.live || p.live < dead_in(&p) * 2)
			gain += dead_in(&p);
	}
	return !ledger_sure(l) || (gain && gain >= (r->live_bytes + r->dead_bytes) / WORTH_SHARE) ||
	       r->dead_bytes * DEAD_SHARE > r->live_bytes || small > l->small + SMALL_SHARE;
}
