// SPDX-License-Identifier: Apache-2.0
/* machines, show, audit: how things are. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/uuid.h"
#include "server/control.h"
#include "server/session.h"

static const char *const kinds[] = {"", "crash", "app", "scan"};
static const char *const states[] = {
	"waiting", "initial", "continuous", "resync", "catch-up", "paused", "held", "gone"};

static const char *disk_state(const struct machine *m, const struct disk *d)
{
	if (d->c.closed)
		return "closed";
	if (!m->session || !d->open)
		return "offline";
	return d->beat.state < TM_ARRAY_SIZE(states) ? states[d->beat.state] : "waiting";
}

/* In one word, the worst first. */
static const char *machine_state(const struct machine *m)
{
	static const int worst[] = {7, 6, 3, 4, 1, 5};
	bool full = __atomic_load_n(&m->server->full, __ATOMIC_RELAXED);

	if (__atomic_load_n(&m->revoked, __ATOMIC_ACQUIRE))
		return "revoked";
	if (__atomic_load_n(&m->held, __ATOMIC_ACQUIRE))
		return "held";
	if (!m->session)
		return "offline";
	if (full)
		return "store full";
	if (m->paused)
		return "paused";
	for (size_t k = 0; k < TM_ARRAY_SIZE(worst); k++)
		for (uint32_t i = 0; i < m->ndisks; i++)
			if (m->disks[i]->open && m->disks[i]->beat.state == worst[k])
				return states[worst[k]];
	return "continuous";
}

static cJSON *disk_json(const struct machine *m, const struct disk *d)
{
	cJSON *o = cJSON_CreateObject();

	tm_json_uuid(o, "disk", d->c.uuid);
	cJSON_AddStringToObject(o, "name", d->c.name);
	cJSON_AddStringToObject(o, "serial", d->c.serial);
	tm_json_u64(o, "size", d->c.size);
	cJSON_AddStringToObject(o, "tracker",
		d->c.tracker == TM_TRACKER_KMOD   ? "kmod"
		: d->c.tracker == TM_TRACKER_SCAN ? "scan"
						  : "");
	cJSON_AddStringToObject(o, "state", disk_state(m, d));
	cJSON_AddBoolToObject(o, "in_points", d->c.joined);
	tm_json_u64(o, "done", d->beat.done);
	tm_json_u64(o, "total", d->beat.total);
	tm_json_u64(o, "backlog", d->beat.backlog);
	return o;
}

/* Caller holds m->lock. */
static cJSON *machine_json(const struct machine *m)
{
	cJSON *o = cJSON_CreateObject();
	uint64_t rpo = machine_rpo_ms(m), backlog = 0;
	unsigned int disks = 0;

	for (uint32_t i = 0; i < m->ndisks; i++) {
		disks += !m->disks[i]->c.closed;
		backlog += m->disks[i]->open ? m->disks[i]->beat.backlog : 0;
	}
	tm_json_uuid(o, "machine", m->uuid);
	cJSON_AddStringToObject(o, "name", m->host);
	cJSON_AddStringToObject(o, "state", machine_state(m));
	cJSON_AddBoolToObject(o, "connected", m->session != NULL);
	cJSON_AddBoolToObject(o, "held", __atomic_load_n(&m->held, __ATOMIC_ACQUIRE));
	cJSON_AddBoolToObject(o, "revoked", __atomic_load_n(&m->revoked, __ATOMIC_ACQUIRE));
	tm_json_u64(o, "disks", disks);
	tm_json_u64(o, "backlog", backlog);
	if (rpo == UINT64_MAX) {
		cJSON_AddNullToObject(o, "rpo_ms");
		cJSON_AddNullToObject(o, "newest_point");
	} else {
		tm_json_u64(o, "rpo_ms", rpo);
		tm_json_u64(o, "newest_point", m->head.point);
	}
	cJSON_AddStringToObject(
		o, "newest_kind", rpo == UINT64_MAX ? "" : kinds[m->newest_kind & 3]);
	cJSON_AddStringToObject(o, "last_error", m->error);
	return o;
}

static int by_name(const void *a, const void *b)
{
	const struct machine *const *x = a, *const *y = b;
	int d = strcmp((*x)->host, (*y)->host);

	return d ? d : memcmp((*x)->uuid, (*y)->uuid, TM_UUID);
}

/* All machines in the order of their names; *list is malloc'ed. */
static int machine_list(struct server *s, struct machine ***list, size_t *n, struct tm_err *err)
{
	CLEANUP_FREE struct catalog_machine *known = NULL;
	size_t count;
	int rc = catalog_machines(s->catalog, &known, &count, err);

	*n = 0;
	*list = rc ? NULL : calloc(count ? count : 1, sizeof(struct machine *));
	if (!rc && !*list)
		return tm_fail(err, ENOMEM, "out of memory");
	for (size_t i = 0; !rc && i < count; i++)
		rc = machine_get(s, known[i].uuid, &(*list)[(*n)++], err);
	if (!rc && *n)
		qsort(*list, *n, sizeof(**list), by_name);
	return rc;
}

int control_machines(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	CLEANUP_FREE struct machine **list = NULL;
	struct server *s = call->ctx;
	cJSON *array;
	size_t n;
	int rc = machine_list(s, &list, &n, err);

	if (rc)
		return rc;
	*result = cJSON_CreateObject();
	array = cJSON_AddArrayToObject(*result, "machines");
	for (size_t i = 0; i < n; i++) {
		pthread_mutex_lock(&list[i]->lock);
		cJSON_AddItemToArray(array, machine_json(list[i]));
		pthread_mutex_unlock(&list[i]->lock);
	}
	cJSON_AddBoolToObject(*result, "store_full", __atomic_load_n(&s->full, __ATOMIC_RELAXED));
	return 0;
}

static int add_alarms(cJSON *o, struct machine *m, struct tm_err *err)
{
	CLEANUP_FREE struct catalog_alarm *alarms = NULL;
	cJSON *array = cJSON_AddArrayToObject(o, "alarms");
	size_t n;
	int rc = catalog_alarms(m->server->catalog, m->uuid, 20, &alarms, &n, err);

	for (size_t i = 0; !rc && i < n; i++) {
		cJSON *a = cJSON_CreateObject();

		tm_json_time(a, "time", (uint64_t)alarms[i].time * TM_SEC);
		cJSON_AddStringToObject(a, "text", alarms[i].text);
		cJSON_AddItemToArray(array, a);
	}
	return rc;
}

/* Caller holds m->lock. */
static void add_details(cJSON *o, const struct machine *m)
{
	char text[TM_EPOCH_TEXT];
	cJSON *disks;

	cJSON_AddStringToObject(o, "peer", m->session ? tm_conn_name(m->session->conn) : "");
	cJSON_AddStringToObject(o, "agent", m->agent);
	tm_json_u64(o, "read_rate", m->read_rate);
	tm_json_u64(o, "wire_rate", m->wire_rate);
	tm_json_u64(o, "received", m->received);
	tm_json_u64(o, "epochs", m->epochs);
	tm_json_u64(o, "points", m->points);
	cJSON_AddStringToObject(o, "head", m->head.seq ? tm_epoch_format(&m->head.id, text) : "");
	cJSON_DeleteItemFromObject(o, "disks");
	disks = cJSON_AddArrayToObject(o, "disks");
	for (uint32_t i = 0; i < m->ndisks; i++)
		cJSON_AddItemToArray(disks, disk_json(m, m->disks[i]));
}

struct in_use {
	cJSON *array;
	const uint8_t *machine;
};

static int add_checkpoint(void *arg, const struct store_checkpoint_info *info)
{
	struct in_use *u = arg;
	cJSON *o;

	if (!tm_uuid_equal(info->machine, u->machine))
		return 0;
	o = cJSON_CreateObject();
	tm_json_u64(o, "point", info->seq);
	cJSON_AddStringToObject(o, "name", info->name);
	tm_json_u64(o, "bytes", info->bytes);
	cJSON_AddBoolToObject(o, "read", info->in_use);
	cJSON_AddItemToArray(u->array, o);
	return 0;
}

/* Points in use, and what space nothing but them holds. */
static int add_in_use(cJSON *o, struct machine *m, struct tm_err *err)
{
	struct in_use u = {cJSON_AddArrayToObject(o, "in_use"), m->uuid};

	return store_checkpoints(m->server->store, add_checkpoint, &u, err);
}

int control_show(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct catalog_machine c;
	struct machine *m = NULL;
	int rc = control_machine(call, args, &m, err);

	if (!rc)
		rc = catalog_machine_get(s->catalog, m->uuid, &c, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&m->lock);
	*result = machine_json(m);
	add_details(*result, m);
	pthread_mutex_unlock(&m->lock);
	tm_json_time(*result, "enrolled", (uint64_t)c.enrolled * TM_SEC);
	cJSON_AddStringToObject(*result, "hold_reason", c.held ? c.why : "");
	rc = add_alarms(*result, m, err);
	if (!rc)
		rc = add_in_use(*result, m, err);
	if (rc) {
		cJSON_Delete(*result);
		*result = NULL;
	}
	return rc;
}

int control_audits(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	CLEANUP_FREE struct catalog_audit *list = NULL;
	struct server *s = call->ctx;
	uint64_t max = 100;
	cJSON *array;
	size_t n;
	int rc = tm_arg_u64_opt(args, "max", &max, err);

	if (!rc)
		rc = catalog_audits(s->catalog, max > 100000 ? 100000 : max, &list, &n, err);
	if (rc)
		return rc;
	*result = cJSON_CreateObject();
	array = cJSON_AddArrayToObject(*result, "audit");
	while (n--) {
		cJSON *o = cJSON_CreateObject();

		tm_json_u64(o, "id", (uint64_t)list[n].id);
		tm_json_time(o, "time", (uint64_t)list[n].time * TM_SEC);
		cJSON_AddStringToObject(o, "who", list[n].who);
		cJSON_AddStringToObject(o, "what", list[n].what);
		cJSON_AddStringToObject(o, "result", list[n].result);
		cJSON_AddItemToArray(array, o);
	}
	return 0;
}
