// SPDX-License-Identifier: Apache-2.0
/* scrub: reads everything that is stored and verifies its sums, in steps, so that it can go on where it was interrupted. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/units.h"
#include "common/uuid.h"
#include "server/command.h"
#include "server/control.h"
#include "server/keeper.h"

#define POS_KEY  "scrub"
#define STEP     2000u /* cells */
#define LIST_MAX 1000u /* damages named; all are counted */

struct scrub {
	struct server *s;
	struct machine *only; /* NULL: all */
	cJSON *list;
	uint64_t listed, found, in_head;
	struct heal {
		uint8_t machine[TM_UUID];
		uint32_t disk_no;
	} * heal;
	size_t nheal;
};

static void want_heal(struct scrub *a, const struct store_damage *d)
{
	struct heal *h;

	for (size_t i = 0; i < a->nheal; i++)
		if (a->heal[i].disk_no == d->disk_no)
			return;
	h = reallocarray(a->heal, a->nheal + 1, sizeof(*h));
	if (!h)
		return;
	a->heal = h;
	h += a->nheal++;
	memcpy(h->machine, d->machine, TM_UUID);
	h->disk_no = d->disk_no;
}

static void disk_name(struct scrub *a, const struct store_damage *d, char *out, size_t room)
{
	struct machine *m;
	struct tm_err err;

	snprintf(out, room, "%u", d->disk_no);
	if (machine_get(a->s, d->machine, &m, &err))
		return;
	pthread_mutex_lock(&m->lock);
	for (uint32_t i = 0; i < m->ndisks; i++)
		if (m->disks[i]->no == d->disk_no)
			snprintf(out, room, "%s", m->disks[i]->c.name);
	pthread_mutex_unlock(&m->lock);
}

static void damaged(void *arg, const struct store_damage *d)
{
	struct scrub *a = arg;
	char name[TM_NAME_MAX + 1], uuid[TM_UUID_TEXT];
	cJSON *o;

	if (a->only && !tm_uuid_equal(a->only->uuid, d->machine))
		return;
	a->found++;
	a->in_head += d->in_head;
	if (d->in_head)
		want_heal(a, d);
	disk_name(a, d, name, sizeof(name));
	tm_log(TM_LOG_ERR,
		"machine %s, disk %s: blocks %" PRIu64 "+%" PRIu64
		" are damaged (pack %u: %s); points %" PRIu64 " to %" PRIu64 "%s",
		tm_uuid_format(d->machine, uuid), name, d->block, d->count, d->pack, d->why,
		d->first_point, d->last_point, d->in_head ? ", and the newest state" : "");
	if (a->listed++ >= LIST_MAX)
		return;
	o = cJSON_CreateObject();
	tm_json_uuid(o, "machine", d->machine);
	cJSON_AddStringToObject(o, "disk", name);
	tm_json_u64(o, "offset", d->block * TM_BLOCK);
	tm_json_u64(o, "length", d->count * TM_BLOCK);
	tm_json_u64(o, "first_point", d->first_point);
	tm_json_u64(o, "last_point", d->last_point);
	cJSON_AddBoolToObject(o, "newest_state", d->in_head);
	cJSON_AddStringToObject(o, "why", d->why);
	cJSON_AddItemToArray(a->list, o);
}

static int load_pos(struct server *s, struct store_scrub_pos *pos, struct tm_err *err)
{
	char text[2 * sizeof(*pos) + 1];
	int rc = catalog_get(s->catalog, NULL, POS_KEY, text, sizeof(text), err);

	memset(pos, 0, sizeof(*pos));
	if (rc == 0 && tm_hex_parse(text, pos, sizeof(*pos)))
		memset(pos, 0, sizeof(*pos)); /* of another version: from the beginning */
	return rc == -ENOENT ? 0 : rc;
}

static int save_pos(struct server *s, const struct store_scrub_pos *pos, struct tm_err *err)
{
	char text[2 * sizeof(*pos) + 1];

	return catalog_set(s->catalog, NULL, POS_KEY, tm_hex_format(pos, sizeof(*pos), text), err);
}

static int tell(struct tm_control_call *call, const struct store_scrub *st)
{
	cJSON *p = cJSON_CreateObject();

	cJSON_AddStringToObject(p, "text", "cells verified");
	tm_json_u64(p, "done", st->cells);
	tm_json_u64(p, "total", st->total_estimate > st->cells ? st->total_estimate : st->cells);
	return tm_control_progress(call, p);
}

/* To the end of the store, or until the client goes: then the next call goes on from there. */
static int walk(
	struct tm_control_call *call, struct scrub *a, struct store_scrub *st, struct tm_err *err)
{
	int rc = 0;

	while (!rc && !st->done) {
		st->max_cells = STEP;
		rc = store_scrub(a->s->store, st, damaged, a, err);
		if (!rc)
			rc = save_pos(a->s, &st->pos, err);
		if (!rc && !st->done && tell(call, st))
			rc = tm_fail(
				err, ECANCELED, "interrupted: the next scrub goes on from here");
	}
	if (st->done) {
		struct store_scrub_pos none = {.started = 0};

		rc = save_pos(a->s, &none, err);
	}
	return rc;
}

/* The newest state comes back from the source, where it is alive: all that differs is sent again. */
static uint64_t heal(struct scrub *a)
{
	uint64_t healed = 0, point;

	for (size_t i = 0; i < a->nheal; i++) {
		struct tm_msg_command cmd = {.command = TM_CMD_RESYNC};
		struct machine *m;
		struct tm_err err;
		int rc = machine_get(a->s, a->heal[i].machine, &m, &err);

		if (!rc) {
			pthread_mutex_lock(&m->lock);
			for (uint32_t k = 0; k < m->ndisks; k++)
				if (m->disks[k]->no == a->heal[i].disk_no)
					memcpy(cmd.disk, m->disks[k]->c.uuid, TM_UUID);
			pthread_mutex_unlock(&m->lock);
			rc = command_run(m, &cmd, "", 600, &point, &err);
		}
		if (rc)
			tm_log(TM_LOG_ERR, "not healed: %s", err.msg);
		else
			healed++;
	}
	return healed;
}

static void alarm_about(struct scrub *a)
{
	struct tm_err err;
	char text[200];

	if (!a->found)
		return;
	snprintf(text, sizeof(text),
		"scrub found %" PRIu64 " damaged cells, %" PRIu64 " of the newest state", a->found,
		a->in_head);
	if (catalog_alarm(a->s->catalog, a->only ? a->only->uuid : NULL, text, &err))
		tm_log(TM_LOG_ERR, "%s", err.msg);
}

int control_scrub(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct scrub a = {.s = call->ctx};
	struct store_scrub st = {.rate = 256ull << 20};
	bool want = false;
	uint64_t healed = 0;
	int rc = 0;

	if (cJSON_HasObjectItem(args, "machine"))
		rc = control_machine(call, args, &a.only, err);
	if (!rc)
		rc = tm_arg_bool_opt(args, "heal", &want, err);
	if (!rc)
		rc = tm_arg_u64_opt(args, "rate", &st.rate, err);
	if (!rc)
		rc = load_pos(a.s, &st.pos, err);
	if (rc)
		return rc;
	a.list = cJSON_CreateArray();
	rc = walk(call, &a, &st, err);
	alarm_about(&a);
	if (!rc && want)
		healed = heal(&a);
	free(a.heal);
	if (rc) {
		cJSON_Delete(a.list);
		return rc;
	}
	*result = cJSON_CreateObject();
	tm_json_u64(*result, "cells", st.cells);
	tm_json_u64(*result, "bytes", st.bytes);
	tm_json_u64(*result, "damaged", a.found);
	tm_json_u64(*result, "healed_disks", healed);
	cJSON_AddItemToObject(*result, "damage", a.list);
	return 0;
}
