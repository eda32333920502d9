// SPDX-License-Identifier: Apache-2.0
#include "server/resolve.h"

#include <errno.h>
#include <string.h>

#include "common/units.h"

int resolve_parse(const char *text, struct resolve *r, struct tm_err *err)
{
	uint64_t ns;

	memset(r, 0, sizeof(*r));
	if (strcmp(text, "latest") == 0) {
		r->kind = RESOLVE_LATEST;
		return 0;
	}
	if (strcmp(text, "latest-app") == 0) {
		r->kind = RESOLVE_LATEST_APP;
		return 0;
	}
	if (tm_u64_parse(text, &r->id, err) == 0) {
		r->kind = RESOLVE_ID;
		return 0;
	}
	if (tm_time_parse(text, &ns, err) == 0) {
		r->kind = RESOLVE_TIME;
		r->time_ns = (int64_t)ns;
		return 0;
	}
	return tm_fail(err, EINVAL,
		"'%.60s' is no point: give an id, latest, latest-app or a time (2026-01-31T12:00:00Z)",
		text);
}

struct newest {
	int64_t time_ns, best_ns;
	uint64_t seq;
};

static int not_after(void *arg, const struct store_point *p)
{
	struct newest *n = arg;

	if (p->cut_ns <= n->time_ns && (!n->seq || p->cut_ns >= n->best_ns)) {
		n->best_ns = p->cut_ns;
		n->seq = p->seq;
	}
	return 0;
}

static int by_time(struct store *st, const uint8_t machine[TM_UUID], int64_t time_ns,
	struct store_point **p, struct tm_err *err)
{
	struct newest n = {.time_ns = time_ns};
	int rc = store_points(st, machine, 0, not_after, &n, err);

	if (rc)
		return rc;
	if (!n.seq)
		return tm_fail(err, ENOENT, "no point");
	return store_point_get(st, machine, n.seq, p, err);
}

int resolve_point(struct store *st, const uint8_t machine[TM_UUID], const char *text,
	struct store_point **p, struct tm_err *err)
{
	struct resolve r;
	int rc = resolve_parse(text, &r, err);

	if (rc)
		return rc;
	if (r.kind == RESOLVE_ID)
		rc = store_point_get(st, machine, r.id, p, err);
	else if (r.kind == RESOLVE_TIME)
		rc = by_time(st, machine, r.time_ns, p, err);
	else
		rc = store_point_newest(st, machine, r.kind == RESOLVE_LATEST_APP, p, err);
	if (rc == -ENOENT)
		return tm_fail(
			err, ENOENT, "the machine has no point %.60s: see serverctl points", text);
	return rc;
}
