// SPDX-License-Identifier: Apache-2.0
/* Policies: how long which points of a machine are kept. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/units.h"
#include "server/keeper.h"

int policy_get(struct machine *m, struct retain_policy *p, struct tm_err *err)
{
	struct catalog *c = m->server->catalog;
	char text[512];
	int rc;

	retain_default(p);
	rc = catalog_get(c, m->uuid, POLICY_TIERS, text, sizeof(text), err);
	if (rc == 0)
		rc = retain_parse(text, p, err);
	if (rc && rc != -ENOENT)
		return rc;
	rc = catalog_get(c, m->uuid, POLICY_IMMUTABLE, text, sizeof(text), err);
	if (rc == 0)
		rc = tm_u64_parse(text, &p->immutable_s, err);
	return rc == -ENOENT ? 0 : rc;
}

/* Points as the plan wants them. */
struct points {
	struct retain_point *list;
	uint64_t *bytes; /* received for each */
	size_t n, room;
};

static void points_free(struct points *a)
{
	free(a->list);
	free(a->bytes);
}

static int add_point(void *arg, const struct store_point *p)
{
	struct points *a = arg;

	if (a->n == a->room) {
		size_t room = a->room ? a->room * 2 : 64;
		void *list = reallocarray(a->list, room, sizeof(*a->list)), *bytes;

		if (!list)
			return -ENOMEM;
		a->list = list;
		bytes = reallocarray(a->bytes, room, sizeof(*a->bytes));
		if (!bytes)
			return -ENOMEM;
		a->bytes = bytes;
		a->room = room;
	}
	a->bytes[a->n] = p->bytes;
	a->list[a->n++] = (struct retain_point){.seq = p->seq,
		.arrival_ns = p->arrival_ns,
		.run_ns = p->run_ns,
		.kind = p->kind,
		.pinned = p->pinned};
	return 0;
}

static int load_points(struct machine *m, struct points *a, struct tm_err *err)
{
	int rc;

	memset(a, 0, sizeof(*a));
	rc = store_points(m->server->store, m->uuid, 0, add_point, a, err);
	if (rc == -ENOMEM)
		tm_fail(err, ENOMEM, "out of memory");
	if (rc)
		points_free(a);
	return rc;
}

int policy_effect(struct machine *m, const struct retain_policy *p, struct policy_effect *e,
	struct tm_err *err)
{
	CLEANUP_FREE uint8_t *drop = NULL;
	struct points a;
	int rc = load_points(m, &a, err);

	memset(e, 0, sizeof(*e));
	if (rc)
		return rc;
	drop = calloc(a.n + 1, 1);
	if (drop)
		e->drops = retain_plan(p, a.list, a.n, server_run_ns(m->server), drop);
	e->points = a.n;
	for (size_t i = 0; drop && i < a.n; i++) {
		uint32_t tier = retain_tier_of(p, &a.list[i], &a.list[a.n - 1]);

		e->tier[tier].points++;
		if (!drop[i])
			continue;
		e->tier[tier].drops++;
		e->bytes += a.bytes[i];
		e->first_ns = e->first_ns ? e->first_ns : a.list[i].arrival_ns;
		e->last_ns = a.list[i].arrival_ns;
	}
	points_free(&a);
	return drop ? 0 : tm_fail(err, ENOMEM, "out of memory");
}

int policy_plan(struct machine *m, uint64_t **seqs, size_t *n, struct tm_err *err)
{
	CLEANUP_FREE uint8_t *drop = NULL;
	struct retain_policy p;
	struct points a;
	int rc = policy_get(m, &p, err);

	*n = 0;
	if (!rc)
		rc = load_points(m, &a, err);
	if (rc)
		return rc;
	drop = calloc(a.n + 1, 1);
	*seqs = calloc(a.n + 1, sizeof(**seqs));
	if (drop && *seqs)
		retain_plan(&p, a.list, a.n, server_run_ns(m->server), drop);
	for (size_t i = 0; drop && *seqs && i < a.n; i++)
		if (drop[i])
			(*seqs)[(*n)++] = a.list[i].seq;
	points_free(&a);
	return drop && *seqs ? 0 : tm_fail(err, ENOMEM, "out of memory");
}

/* Some kept point is within the window that the policy gives it. */
static int any_immutable(
	struct machine *m, const struct retain_policy *p, bool *any, struct tm_err *err)
{
	uint64_t now = server_run_ns(m->server);
	struct points a;
	int rc = load_points(m, &a, err);

	*any = false;
	if (rc)
		return rc;
	for (size_t i = 0; i < a.n; i++)
		*any = *any || retain_immutable(p, &a.list[i], now);
	points_free(&a);
	return 0;
}

int policy_set(struct machine *m, const struct retain_policy *p, struct tm_err *err)
{
	LOCK_SCOPE(&m->policy);
	struct catalog *c = m->server->catalog;
	struct retain_policy old;
	char text[512], number[24];
	bool any = false;
	int rc = policy_get(m, &old, err);

	if (!rc && p->immutable_s < old.immutable_s)
		rc = any_immutable(m, &old, &any, err);
	if (!rc && any)
		rc = tm_fail(err, EPERM,
			"there are points within the immutable window: it can only be made longer");
	if (rc)
		return rc;
	retain_format(p, text, sizeof(text));
	snprintf(number, sizeof(number), "%" PRIu64, p->immutable_s);
	/* The window first: between the two writes more is kept, not less. */
	rc = catalog_set(c, m->uuid, POLICY_IMMUTABLE, number, err);
	if (!rc)
		rc = catalog_set(c, m->uuid, POLICY_TIERS, text, err);
	/* A catalog that is lost and made anew must not bring the default back. */
	return rc ? rc : machine_note(m, err);
}

int policy_immutable(
	struct machine *m, const struct store_point *p, bool *immutable, struct tm_err *err)
{
	struct retain_point rp = {.seq = p->seq,
		.arrival_ns = p->arrival_ns,
		.run_ns = p->run_ns,
		.kind = p->kind,
		.pinned = p->pinned};
	struct retain_policy policy;
	int rc = policy_get(m, &policy, err);

	*immutable = !rc && retain_immutable(&policy, &rp, server_run_ns(m->server));
	return rc;
}
