// SPDX-License-Identifier: Apache-2.0
#include "server/epoch.h"

#include <stdio.h>
#include <string.h>

/* Without a parent that is the head, nothing committed before may be continued: every joined disk has to be compared anew. */
static int judge_parent(const struct epoch_parent *p, const struct epoch_disk *d, size_t n,
	struct epoch_verdict *v, struct refusal *r)
{
	v->new_line = p->none;
	if (p->head)
		return 0;
	if (!p->none)
		return refuse(r, TM_E_PARENT, 0, "%s",
			p->has_head ? "the epoch's parent is not the newest epoch here"
				    : "the epoch has a parent, but nothing is here");
	if (!p->has_head)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (d[i].joined && !d[i].piece)
			return refuse(r, TM_E_STATE, 0,
				"a new line of epochs needs a resync of disk %s", d[i].name);
	return 0;
}

static int judge_disk(const struct epoch_disk *d, struct refusal *r)
{
	bool whole = d->whole || d->piece;

	if (d->listed && !d->open)
		return refuse(r, TM_E_STATE, 0, "disk %s is not open", d->name);
	if (!d->listed && (d->frames || d->piece || d->catchup))
		return refuse(
			r, TM_E_STATE, 0, "disk %s has data but no part in the epoch", d->name);
	/* Frames of a disk that is not whole yet: its initial sync or resync runs while the others go on; they are newer than its piece. */
	if (!whole && d->catchup)
		return refuse(r, TM_E_STATE, 0, "disk %s is not whole", d->name);
	return 0;
}

/* Why there is no point; empty if there is one. */
static void judge_point(const struct epoch_disk *d, size_t n, struct epoch_verdict *v)
{
	bool any = false;

	v->missing[0] = 0;
	for (size_t i = 0; i < n; i++) {
		bool whole = d[i].whole || d[i].piece;

		any = any || (d[i].listed && whole);
		if (!d[i].joined || (d[i].listed && whole) || v->missing[0])
			continue;
		snprintf(v->missing, sizeof(v->missing), "disk %.200s %s", d[i].name,
			d[i].listed ? "has to be resynced first" : "has no part in the epoch");
	}
	if (!any && !v->missing[0])
		snprintf(v->missing, sizeof(v->missing), "no disk is whole yet");
	v->point = !v->missing[0];
}

int epoch_judge(const struct epoch_parent *parent, const struct epoch_disk *disks, size_t n,
	struct epoch_verdict *v, struct refusal *r)
{
	if (judge_parent(parent, disks, n, v, r))
		return -1;
	for (size_t i = 0; i < n; i++)
		if (judge_disk(&disks[i], r))
			return -1;
	judge_point(disks, n, v);
	return 0;
}
