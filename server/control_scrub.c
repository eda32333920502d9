// SPDX-License-Identifier: Apache-2.0
/*
 * scrub: reads everything that is stored and verifies its sums, first the files of the index, then the cells in steps, so that it can go on
 * where it was interrupted: one of the whole store and one of each machine.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
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
#define LIST_MAX 1000u /* runs named; all are counted */

#define OPEN_MAX 64u /* runs that may still grow */

struct scrub {
	struct server *s;
	struct machine *only; /* NULL: all */
	cJSON *list, *failed;
	uint64_t listed, found;
	struct store_damage open[OPEN_MAX]; /* neighbouring cells are told of together */
	size_t nopen;
	struct heal {
		uint8_t machine[TM_UUID];
		uint32_t disk_no;
	} * heal;
	size_t nheal;
	struct lost {
		uint8_t machine[TM_UUID];
		uint64_t first, last; /* points */
	} * lost;
	size_t nlost;
	struct hurt {
		uint8_t machine[TM_UUID];
		uint64_t cells, in_head;
	} * hurt;
	size_t nhurt;
	bool short_of_memory;
	bool index_hurt;
	char unverified
		[300]; /* why not all of the index or of the cells was looked at; "" if it was */
	struct tm_control_call *call;
};

static void count(struct scrub *a, const struct store_damage *d)
{
	struct hurt *h = NULL;

	for (size_t i = 0; i < a->nhurt && !h; i++)
		if (tm_uuid_equal(a->hurt[i].machine, d->machine))
			h = &a->hurt[i];
	if (!h) {
		h = reallocarray(a->hurt, a->nhurt + 1, sizeof(*h));
		if (!h) {
			a->short_of_memory = true;
			return;
		}
		a->hurt = h;
		h += a->nhurt++;
		*h = (struct hurt){.cells = 0};
		memcpy(h->machine, d->machine, TM_UUID);
	}
	h->cells++;
	h->in_head += d->in_head;
}

static void want_heal(struct scrub *a, const struct store_damage *d)
{
	struct heal *h;

	for (size_t i = 0; i < a->nheal; i++)
		if (a->heal[i].disk_no == d->disk_no)
			return;
	h = reallocarray(a->heal, a->nheal + 1, sizeof(*h));
	if (!h) {
		a->short_of_memory = true;
		return;
	}
	a->heal = h;
	h += a->nheal++;
	memcpy(h->machine, d->machine, TM_UUID);
	h->disk_no = d->disk_no;
}

/* The runs of a machine's points that damage touches, merged as they come. */
static void note_lost(struct scrub *a, const struct store_damage *d)
{
	uint64_t first = d->first_point, last = d->last_point;
	struct lost *l;

	for (size_t i = 0; first && i < a->nlost; i++) {
		l = &a->lost[i];
		if (!tm_uuid_equal(l->machine, d->machine) || l->last < first || l->first > last)
			continue;
		if (l->first <= first && l->last >= last)
			return;
		first = l->first < first ? l->first : first;
		last = l->last > last ? l->last : last;
		*l = a->lost[--a->nlost];
		i = (size_t)-1; /* once more: the wider one may touch others */
	}
	if (!first)
		return;
	l = reallocarray(a->lost, a->nlost + 1, sizeof(*l));
	if (!l) {
		a->short_of_memory = true;
		return;
	}
	a->lost = l;
	l += a->nlost++;
	memcpy(l->machine, d->machine, TM_UUID);
	l->first = first;
	l->last = last;
}

static void disk_name(
	struct scrub *a, const uint8_t machine[TM_UUID], uint32_t no, char *out, size_t room)
{
	struct machine *m;
	struct tm_err err;

	snprintf(out, room, "%u", no);
	if (machine_get(a->s, machine, &m, &err))
		return;
	pthread_mutex_lock(&m->lock);
	for (uint32_t i = 0; i < m->ndisks; i++)
		if (m->disks[i]->no == no)
			snprintf(out, room, "%s", m->disks[i]->c.name);
	pthread_mutex_unlock(&m->lock);
}

static void report(struct scrub *a, const struct store_damage *d)
{
	char name[TM_NAME_MAX + 1], uuid[TM_UUID_TEXT];
	cJSON *o;

	disk_name(a, d->machine, d->disk_no, name, sizeof(name));
	if (a->listed++ >= LIST_MAX)
		return;
	tm_log(TM_LOG_ERR,
		"machine %s, disk %s: blocks %" PRIu64 "+%" PRIu64
		" are damaged (pack %u: %s); points %" PRIu64 " to %" PRIu64 "%s",
		tm_uuid_format(d->machine, uuid), name, d->block, d->count, d->pack, d->why,
		d->first_point, d->last_point, d->in_head ? ", and the newest state" : "");
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

static void report_all(struct scrub *a)
{
	for (size_t i = 0; i < a->nopen; i++)
		report(a, &a->open[i]);
	a->nopen = 0;
}

static void damaged(void *arg, const struct store_damage *d)
{
	struct scrub *a = arg;

	if (a->only && !tm_uuid_equal(a->only->uuid, d->machine))
		return;
	a->found++;
	count(a, d);
	/* What the index has lost no resync brings back: its damaged file stays in the way. */
	a->index_hurt |= !d->pack;
	if (d->in_head && d->pack)
		want_heal(a, d);
	note_lost(a, d);
	for (size_t i = 0; i < a->nopen; i++) {
		struct store_damage *o = &a->open[i];

		if (o->disk_no == d->disk_no && o->block + o->count == d->block &&
			o->pack == d->pack && o->first_point == d->first_point &&
			o->last_point == d->last_point && o->in_head == d->in_head &&
			strcmp(o->why, d->why) == 0) {
			o->count += d->count;
			return;
		}
	}
	if (a->nopen == OPEN_MAX) {
		report(a, &a->open[0]);
		a->open[0] = a->open[--a->nopen];
	}
	a->open[a->nopen++] = *d;
}

static const uint8_t *scope(const struct scrub *a)
{
	return a->only ? a->only->uuid : NULL;
}

static int load_pos(struct scrub *a, struct store_scrub_pos *pos, struct tm_err *err)
{
	char text[2 * sizeof(*pos) + 1];
	int rc = catalog_get(a->s->catalog, scope(a), POS_KEY, text, sizeof(text), err);

	memset(pos, 0, sizeof(*pos));
	if (rc == 0 && tm_hex_parse(text, pos, sizeof(*pos)))
		memset(pos, 0, sizeof(*pos)); /* of another version: from the beginning */
	return rc == -ENOENT ? 0 : rc;
}

static int save_pos(struct scrub *a, const struct store_scrub_pos *pos, struct tm_err *err)
{
	char text[2 * sizeof(*pos) + 1];

	return catalog_set(
		a->s->catalog, scope(a), POS_KEY, tm_hex_format(pos, sizeof(*pos), text), err);
}

static int tell(struct tm_control_call *call, const struct store_scrub *st)
{
	cJSON *p = cJSON_CreateObject();

	cJSON_AddStringToObject(p, "text", "cells verified");
	tm_json_u64(p, "done", st->cells);
	tm_json_u64(p, "total", st->total_estimate > st->cells ? st->total_estimate : st->cells);
	return tm_control_progress(call, p);
}

static int tell_index(void *arg, uint64_t keys)
{
	struct scrub *a = arg;
	cJSON *p = cJSON_CreateObject();

	cJSON_AddStringToObject(p, "text", "index entries verified");
	tm_json_u64(p, "done", keys);
	return tm_control_progress(a->call, p);
}

/* A full disk has no room for the checkpoint that this takes: the cells are looked at all the same. */
static int verify_index(struct scrub *a, uint64_t rate, struct tm_err *err)
{
	int rc = store_verify_index(a->s->store, rate, tell_index, damaged, a, err);

	if (rc != -ENOSPC && rc != -EROFS && rc != -EIO)
		return rc;
	snprintf(a->unverified, sizeof(a->unverified), "the index is not verified: %.250s",
		err->msg);
	return 0;
}

/* Cells of one step: it holds the index, so it must be short. */
static uint64_t step_cells(uint64_t rate)
{
	uint64_t n = rate / 2 / TM_CHUNK;

	return !rate || n > STEP ? STEP : n ? n : 1;
}

/* To the end of the store, or until the client goes: then the next call goes on from there. */
static int walk_cells(
	struct tm_control_call *call, struct scrub *a, struct store_scrub *st, struct tm_err *err)
{
	struct store_scrub_pos none = {.started = 0};
	int rc = 0;

	while (!rc && !st->done) {
		st->max_cells = step_cells(st->rate);
		rc = store_scrub(a->s->store, st, damaged, a, err);
		if (!rc)
			rc = save_pos(a, &st->pos, err);
		if (!rc && !st->done && tell(call, st))
			rc = tm_fail(
				err, ECANCELED, "interrupted: the next scrub goes on from here");
	}
	return rc ? rc : save_pos(a, &none, err);
}

static int walk(
	struct tm_control_call *call, struct scrub *a, struct store_scrub *st, struct tm_err *err)
{
	int rc = 0;

	/* One that goes on has done this already. */
	if (!st->pos.started && !st->pos.family)
		rc = verify_index(a, st->rate, err);
	if (!rc)
		rc = walk_cells(call, a, st, err);
	/* What the index cannot name any more cannot be looked at: the rest is told. */
	if (rc && a->index_hurt && (rc == -EIO || rc == -EBADMSG)) {
		snprintf(a->unverified, sizeof(a->unverified), "not all cells are verified: %.250s",
			err->msg);
		rc = 0;
	}
	return rc;
}

static int heal_one(struct scrub *a, const struct heal *h, struct tm_err *err)
{
	struct tm_msg_command cmd = {.command = TM_CMD_RESYNC};
	struct machine *m;
	uint64_t point;
	int rc = machine_get(a->s, h->machine, &m, err);

	if (rc)
		return rc;
	pthread_mutex_lock(&m->lock);
	for (uint32_t k = 0; k < m->ndisks; k++)
		if (m->disks[k]->no == h->disk_no)
			memcpy(cmd.disk, m->disks[k]->c.uuid, TM_UUID);
	pthread_mutex_unlock(&m->lock);
	return command_run(m, &cmd, "", 600, &point, err);
}

/* The newest state comes back from the source, where it is alive: all that differs is sent again. */
static uint64_t heal(struct scrub *a)
{
	char name[TM_NAME_MAX + 1];
	uint64_t healed = 0;
	struct tm_err err;
	cJSON *o;

	for (size_t i = 0; i < a->nheal; i++) {
		if (heal_one(a, &a->heal[i], &err) == 0) {
			healed++;
			continue;
		}
		disk_name(a, a->heal[i].machine, a->heal[i].disk_no, name, sizeof(name));
		tm_log(TM_LOG_ERR, "disk %s is not healed: %s", name, err.msg);
		o = cJSON_CreateObject();
		tm_json_uuid(o, "machine", a->heal[i].machine);
		cJSON_AddStringToObject(o, "disk", name);
		cJSON_AddStringToObject(o, "why", err.msg);
		cJSON_AddItemToArray(a->failed, o);
	}
	return healed;
}

static void not_healed_index(struct scrub *a)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "machine", a->only ? a->only->name : "all machines");
	cJSON_AddStringToObject(o, "disk", "index");
	cJSON_AddStringToObject(o, "why",
		"a file of the store's index is damaged: restore the store from a backup");
	cJSON_AddItemToArray(a->failed, o);
}

/* The points that no healing brings back whole. */
static cJSON *lost_json(const struct scrub *a)
{
	cJSON *array = cJSON_CreateArray(), *o;

	for (size_t i = 0; i < a->nlost; i++) {
		o = cJSON_CreateObject();
		tm_json_uuid(o, "machine", a->lost[i].machine);
		tm_json_u64(o, "first_point", a->lost[i].first);
		tm_json_u64(o, "last_point", a->lost[i].last);
		cJSON_AddItemToArray(array, o);
	}
	return array;
}

static void alarm_about(struct scrub *a)
{
	struct tm_err err;
	char text[200];

	for (size_t i = 0; i < a->nhurt; i++) {
		snprintf(text, sizeof(text),
			"scrub found %" PRIu64 " damaged cells, %" PRIu64 " of the newest state",
			a->hurt[i].cells, a->hurt[i].in_head);
		if (catalog_alarm(a->s->catalog, a->hurt[i].machine, text, &err))
			tm_log(TM_LOG_ERR, "%s", err.msg);
	}
}

static int scrub(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct scrub a = {.s = call->ctx, .call = call};
	struct store_scrub st = {.rate = 256ull << 20};
	bool want = false, resumed;
	uint64_t healed = 0;
	cJSON *lost = NULL;
	int rc = 0;

	if (cJSON_HasObjectItem(args, "machine"))
		rc = control_machine(call, args, &a.only, err);
	if (!rc)
		rc = tm_arg_bool_opt(args, "heal", &want, err);
	if (!rc)
		rc = tm_arg_u64_opt(args, "rate", &st.rate, err);
	/* Healing is for all that is damaged, also for what an interrupted one has found. */
	if (!rc && !want)
		rc = load_pos(&a, &st.pos, err);
	if (rc)
		return rc;
	resumed = st.pos.started || st.pos.family;
	a.list = cJSON_CreateArray();
	a.failed = cJSON_CreateArray();
	rc = walk(call, &a, &st, err);
	report_all(&a);
	alarm_about(&a);
	if (!rc && want)
		healed = heal(&a);
	if (!rc && want && a.index_hurt)
		not_healed_index(&a);
	if (!rc && a.short_of_memory)
		rc = tm_fail(err, ENOMEM, "out of memory for all that is damaged: see the log");
	if (!rc)
		lost = lost_json(&a);
	free(a.heal);
	free(a.lost);
	free(a.hurt);
	if (rc) {
		cJSON_Delete(a.list);
		cJSON_Delete(a.failed);
		return rc;
	}
	*result = cJSON_CreateObject();
	tm_json_u64(*result, "cells", st.cells);
	tm_json_u64(*result, "bytes", st.bytes);
	tm_json_u64(*result, "damaged", a.found);
	cJSON_AddBoolToObject(*result, "resumed", resumed);
	cJSON_AddStringToObject(*result, "unverified", a.unverified);
	tm_json_u64(*result, "healed_disks", healed);
	cJSON_AddItemToObject(*result, "not_healed", a.failed);
	cJSON_AddItemToObject(*result, "touched_points", lost);
	cJSON_AddItemToObject(*result, "damage", a.list);
	return 0;
}

/* One at a time: two would go on from each other's places. */
int control_scrub(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	static atomic_flag busy = ATOMIC_FLAG_INIT;
	int rc;

	if (atomic_flag_test_and_set(&busy))
		return tm_fail(err, EBUSY, "a scrub is under way already");
	rc = scrub(call, args, result, err);
	atomic_flag_clear(&busy);
	return rc;
}
