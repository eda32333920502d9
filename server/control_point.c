// SPDX-License-Identifier: Apache-2.0
/* points, pin, unpin, checkpoint, release. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/units.h"
#include "common/uuid.h"
#include "server/checkpoint.h"
#include "server/control.h"
#include "server/keeper.h"
#include "server/resolve.h"

static const char *const kinds[] = {"", "crash", "app", "scan"};

static cJSON *point_json(const struct store_point *p)
{
	cJSON *o = cJSON_CreateObject(), *disks;

	tm_json_u64(o, "id", p->seq);
	tm_json_time(o, "time", (uint64_t)p->cut_ns);
	tm_json_time(o, "arrival", (uint64_t)p->arrival_ns);
	cJSON_AddStringToObject(o, "kind", kinds[p->kind & 3]);
	cJSON_AddStringToObject(o, "label", p->label);
	cJSON_AddStringToObject(o, "reason", p->reason);
	cJSON_AddNumberToObject(o, "freeze_ms", p->freeze_ms);
	tm_json_u64(o, "bytes", p->bytes);
	cJSON_AddBoolToObject(o, "pinned", p->pinned);
	cJSON_AddBoolToObject(o, "unreadable", p->bad);
	disks = cJSON_AddArrayToObject(o, "disks");
	for (uint32_t i = 0; i < p->ndisks; i++) {
		cJSON *d = cJSON_CreateObject();

		tm_json_uuid(d, "disk", p->disks[i].uuid);
		cJSON_AddStringToObject(d, "name", p->disks[i].name);
		tm_json_u64(d, "size", p->disks[i].size);
		cJSON_AddItemToArray(disks, d);
	}
	return o;
}

/* Points in one answer: half a million of them would not fit, and nobody should wait for all to be written down. */
#define PAGE 4096

struct listing {
	cJSON *array;
	int64_t since;
	int n;
	uint64_t next; /* the first one that found no room; 0: none */
};

static int list_point(void *arg, const struct store_point *p)
{
	struct listing *l = arg;

	if (p->cut_ns < l->since)
		return 0;
	if (l->n++ == PAGE) {
		l->next = p->seq;
		return 1;
	}
	return cJSON_AddItemToArray(l->array, point_json(p)) ? 0 : -ENOMEM;
}

int control_points(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct listing l = {.since = INT64_MIN};
	const char *since = NULL;
	struct machine *m = NULL;
	uint64_t ns, from = 0;
	int rc = control_machine(call, args, &m, err);

	if (!rc)
		rc = tm_arg_string_opt(args, "since", &since, err);
	if (!rc)
		rc = tm_arg_u64_opt(args, "from", &from, err);
	if (!rc && since) {
		rc = tm_time_parse(since, &ns, err);
		l.since = (int64_t)ns;
	}
	if (rc)
		return rc;
	*result = cJSON_CreateObject();
	l.array = cJSON_AddArrayToObject(*result, "points");
	rc = store_points(s->store, m->uuid, from, list_point, &l, err);
	if (rc == -ENOMEM)
		tm_fail(err, ENOMEM, "out of memory");
	if (rc < 0) {
		cJSON_Delete(*result);
		*result = NULL;
		return rc;
	}
	if (l.next)
		tm_json_u64(*result, "next", l.next);
	return 0;
}

/* A point's id is unique over the store: the machine that has it. */
static int find_point(
	struct tm_control_call *call, uint64_t id, struct machine **out, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct store_point *p;
	struct machine *m = NULL;
	int rc;

	pthread_mutex_lock(&s->lock);
	m = s->machines;
	pthread_mutex_unlock(&s->lock);
	for (; m; m = m->next) {
		rc = store_point_get(s->store, m->uuid, id, &p, err);
		if (rc == -ENOENT)
			continue;
		if (rc)
			return rc;
		store_point_free(p);
		*out = m;
		return 0;
	}
	return tm_control_no_such(
		call, err, "no point %" PRIu64 ": see serverctl points MACHINE", id);
}

/* A point that nobody may drop yet stays pinned too. */
static int may_unpin(
	struct tm_control_call *call, struct machine *m, uint64_t id, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct store_point *p;
	bool immutable;
	int rc = store_point_get(s->store, m->uuid, id, &p, err);

	if (rc)
		return rc;
	rc = policy_immutable(m, p, &immutable, err);
	store_point_free(p);
	if (!rc && immutable)
		rc = tm_control_refused(call, err,
			"point %" PRIu64 " is within its immutable window: it stays pinned", id);
	return rc;
}

static int set_pin(struct tm_control_call *call, const cJSON *args, int pinned, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct machine *m = NULL;
	uint64_t id;
	int rc = tm_arg_u64(args, "point", &id, err);

	if (!rc)
		rc = find_point(call, id, &m, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&m->policy);
	if (!pinned)
		rc = may_unpin(call, m, id, err);
	if (!rc)
		rc = store_point_pin(s->store, m->uuid, id, pinned, err);
	pthread_mutex_unlock(&m->policy);
	return rc;
}

int control_pin(struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	return set_pin(call, args, 1, err);
}

int control_unpin(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	return set_pin(call, args, 0, err);
}

int control_checkpoint(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct server *s = call->ctx;
	CLEANUP_FREE char *path = NULL;
	struct store_point *p;
	struct machine *m = NULL;
	const char *text;
	int rc = control_machine(call, args, &m, err);

	if (!rc)
		rc = tm_arg_string(args, "point", &text, err);
	if (rc)
		return rc;
	rc = resolve_point(s->store, m->uuid, text, &p, err);
	if (rc == -ENOENT)
		call->exit = 3;
	if (rc)
		return rc;
	rc = checkpoint_make(m, p->seq, &path, err);
	if (!rc) {
		*result = point_json(p);
		cJSON_AddStringToObject(*result, "path", path);
		cJSON_AddStringToObject(*result, "name", strrchr(path, '/') + 1);
	}
	store_point_free(p);
	return rc;
}

int control_release(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	const char *name;
	int rc = tm_arg_string(args, "name", &name, err);

	return rc ? rc : checkpoint_release(call->ctx, name, err);
}
