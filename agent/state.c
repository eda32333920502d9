// SPDX-License-Identifier: Apache-2.0
#include "agent/state.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/file.h"
#include "common/uuid.h"

#define STATE_MAX (4u << 20)

static void add_epoch(cJSON *o, const char *name, const struct tm_epoch_id *id)
{
	char text[TM_EPOCH_TEXT];

	if (!tm_epoch_is_zero(id))
		cJSON_AddStringToObject(o, name, tm_epoch_format(id, text));
}

static cJSON *disk_to_json(const struct state_disk *d)
{
	cJSON *o = cJSON_CreateObject();

	tm_json_uuid(o, "uuid", d->uuid);
	tm_json_uuid(o, "tracking", d->tracking);
	tm_json_uuid(o, "kernel", d->kernel);
	cJSON_AddStringToObject(o, "path", d->path);
	cJSON_AddStringToObject(o, "tracker", d->tracker == TM_TRACKER_KMOD ? "kmod" : "scan");
	cJSON_AddStringToObject(o, "serial", d->ident.serial);
	cJSON_AddStringToObject(o, "table", d->ident.table);
	cJSON_AddStringToObject(o, "fs", d->ident.fs);
	cJSON_AddStringToObject(o, "doubt", d->doubt);
	tm_json_u64(o, "size", d->ident.size);
	cJSON_AddBoolToObject(o, "leaving", d->leaving);
	cJSON_AddBoolToObject(o, "compare", d->compare);
	return o;
}

int state_save(struct state *st, struct tm_err *err)
{
	cJSON *o = cJSON_CreateObject(), *disks;
	CLEANUP_FREE char *text = NULL, *path = NULL;
	int ret;

	cJSON_AddNumberToObject(o, "version", 1);
	tm_json_u64(o, "counter", st->counter);
	tm_json_uuid(o, "tracking", st->tracking);
	tm_json_u64(o, "cut", st->cut);
	add_epoch(o, "acked", &st->acked);
	add_epoch(o, "sent", &st->sent);
	tm_json_u64(o, "point", st->point);
	tm_json_u64(o, "point_time", st->point_time / TM_SEC);
	cJSON_AddBoolToObject(o, "paused", st->paused);
	tm_json_u64(o, "throttle", st->throttle);
	disks = cJSON_AddArrayToObject(o, "disks");
	for (size_t i = 0; i < st->ndisks; i++)
		cJSON_AddItemToArray(disks, disk_to_json(&st->disks[i]));
	text = cJSON_Print(o);
	cJSON_Delete(o);
	path = tm_path("%s/state.json", st->dir);
	if (!text || !path)
		return tm_fail(err, ENOMEM, "no memory for the state");
	ret = tm_file_write(path, text, strlen(text), 0600, err);
	return ret ? tm_wrap(err, "the agent's state cannot be saved") : 0;
}

/* Strict: a state that does not parse is not guessed at. */
static int get_uuid(const cJSON *o, const char *name, uint8_t uuid[TM_UUID], struct tm_err *err)
{
	const char *text;

	if (tm_arg_string(o, name, &text, err))
		return -err->code;
	return tm_uuid_parse(text, uuid) ? tm_fail(err, EINVAL, "%s is no UUID", name) : 0;
}

static int get_epoch(const cJSON *o, const char *name, struct tm_epoch_id *id, struct tm_err *err)
{
	const char *text = NULL;

	if (tm_arg_string_opt(o, name, &text, err))
		return -err->code;
	if (text && tm_epoch_parse(text, id))
		return tm_fail(err, EINVAL, "%s is no epoch id", name);
	return 0;
}

static int get_text(const cJSON *o, const char *name, char *out, size_t room, struct tm_err *err)
{
	const char *text;

	if (tm_arg_string(o, name, &text, err))
		return -err->code;
	if (strlen(text) >= room)
		return tm_fail(err, EINVAL, "%s is too long", name);
	snprintf(out, room, "%s", text);
	return 0;
}

static int disk_from_json(const cJSON *o, struct state_disk *d, struct tm_err *err)
{
	const char *tracker;

	memset(d, 0, sizeof(*d));
	if (get_uuid(o, "uuid", d->uuid, err) || get_uuid(o, "tracking", d->tracking, err) ||
		get_uuid(o, "kernel", d->kernel, err) ||
		get_text(o, "path", d->path, sizeof(d->path), err) ||
		get_text(o, "serial", d->ident.serial, sizeof(d->ident.serial), err) ||
		get_text(o, "table", d->ident.table, sizeof(d->ident.table), err) ||
		get_text(o, "fs", d->ident.fs, sizeof(d->ident.fs), err) ||
		get_text(o, "doubt", d->doubt, sizeof(d->doubt), err) ||
		tm_arg_u64(o, "size", &d->ident.size, err) ||
		tm_arg_bool_opt(o, "leaving", &d->leaving, err) ||
		tm_arg_bool_opt(o, "compare", &d->compare, err) ||
		tm_arg_string(o, "tracker", &tracker, err))
		return -err->code;
	d->tracker = strcmp(tracker, "kmod") ? TM_TRACKER_SCAN : TM_TRACKER_KMOD;
	return 0;
}

static int from_json(struct state *st, const cJSON *o, struct tm_err *err)
{
	const cJSON *disks = cJSON_GetObjectItemCaseSensitive(o, "disks"), *item;
	uint64_t version = 0, seconds = 0;

	if (tm_arg_u64(o, "version", &version, err))
		return -err->code;
	if (version != 1)
		return tm_fail(err, EINVAL, "made by a newer version");
	if (tm_arg_u64(o, "counter", &st->counter, err) ||
		get_uuid(o, "tracking", st->tracking, err) || tm_arg_u64(o, "cut", &st->cut, err) ||
		get_epoch(o, "acked", &st->acked, err) || get_epoch(o, "sent", &st->sent, err) ||
		tm_arg_u64(o, "point", &st->point, err) ||
		tm_arg_u64(o, "point_time", &seconds, err) ||
		tm_arg_bool_opt(o, "paused", &st->paused, err) ||
		tm_arg_u64(o, "throttle", &st->throttle, err))
		return -err->code;
	st->point_time = seconds * TM_SEC;
	if (!cJSON_IsArray(disks) || cJSON_GetArraySize(disks) > (int)TM_DISKS_MAX)
		return tm_fail(err, EINVAL, "no list of disks");
	st->disks = calloc((size_t)cJSON_GetArraySize(disks) + 1, sizeof(*st->disks));
	if (!st->disks)
		return tm_fail(err, ENOMEM, "no memory");
	cJSON_ArrayForEach (item, disks)
		if (disk_from_json(item, &st->disks[st->ndisks++], err))
			return -err->code;
	return 0;
}

static int load(struct state *st, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/state.json", st->dir), *text = NULL;
	size_t len;
	cJSON *o;
	int ret;

	if (!path)
		return tm_fail(err, ENOMEM, "no memory");
	ret = tm_file_read(path, STATE_MAX, &text, &len, err);
	if (ret == -ENOENT) {
		tm_uuid_new(st->tracking);
		return state_save(st, err);
	}
	if (ret)
		return ret;
	o = cJSON_ParseWithLength(text, len);
	ret = o ? from_json(st, o, err) : tm_fail(err, EINVAL, "not JSON");
	cJSON_Delete(o);
	return ret ? tm_wrap(err,
			     "%s is damaged (restore it, or move it away and protect the disks again)",
			     path)
		   : 0;
}

static int take_lock(struct state *st, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/lock", st->dir);

	st->lock_fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	if (st->lock_fd < 0)
		return tm_fail_errno(err, "%s/lock", st->dir);
	if (flock(st->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return tm_fail(err, EBUSY, "%s is in use by another agent", st->dir);
	return 0;
}

int state_open(const char *dir, struct state *st, struct tm_err *err)
{
	memset(st, 0, sizeof(*st));
	st->lock_fd = -1;
	pthread_mutex_init(&st->lock, NULL);
	st->dir = strdup(dir);
	if (!st->dir)
		return tm_fail(err, ENOMEM, "no memory");
	if (tm_mkdirs(dir, 0700, err) || take_lock(st, err) || load(st, err)) {
		state_close(st);
		return -err->code;
	}
	return 0;
}

void state_close(struct state *st)
{
	if (st->lock_fd >= 0)
		close(st->lock_fd);
	st->lock_fd = -1;
	free(tm_take(st->disks));
	free(tm_take(st->dir));
	st->ndisks = 0;
	pthread_mutex_destroy(&st->lock);
}

int state_add(struct state *st, const struct state_disk *disk, struct tm_err *err)
{
	struct state_disk *more;

	if (st->ndisks >= TM_DISKS_MAX)
		return tm_fail(err, ENOSPC, "no more than %u disks", TM_DISKS_MAX);
	more = reallocarray(st->disks, st->ndisks + 1, sizeof(*more));
	if (!more)
		return tm_fail(err, ENOMEM, "no memory");
	st->disks = more;
	st->disks[st->ndisks++] = *disk;
	if (state_save(st, err)) {
		st->ndisks--;
		return -err->code;
	}
	return 0;
}

int state_remove(struct state *st, const uint8_t uuid[TM_UUID], struct tm_err *err)
{
	struct state_disk *d = state_find(st, uuid), old;
	size_t at;

	if (!d)
		return 0;
	old = *d;
	at = (size_t)(d - st->disks);
	memmove(d, d + 1, (st->ndisks - at - 1) * sizeof(*d));
	st->ndisks--;
	if (state_save(st, err)) {
		memmove(d + 1, d, (st->ndisks - at) * sizeof(*d));
		*d = old;
		st->ndisks++;
		return -err->code;
	}
	return 0;
}

struct state_disk *state_find(struct state *st, const uint8_t uuid[TM_UUID])
{
	for (size_t i = 0; i < st->ndisks; i++)
		if (tm_uuid_equal(st->disks[i].uuid, uuid))
			return &st->disks[i];
	return NULL;
}

int state_count(struct state *st, uint64_t *counter, struct tm_err *err)
{
	LOCK_SCOPE(&st->lock);

	st->counter++;
	*counter = st->counter;
	return state_save(st, err);
}

int state_uncount(struct state *st, struct tm_err *err)
{
	LOCK_SCOPE(&st->lock);

	st->counter--;
	return state_save(st, err);
}

int state_forget(struct state *st, struct tm_err *err)
{
	LOCK_SCOPE(&st->lock);

	st->ndisks = 0;
	memset(&st->acked, 0, sizeof(st->acked));
	memset(&st->sent, 0, sizeof(st->sent));
	st->point = 0;
	st->point_time = 0;
	tm_uuid_new(st->tracking);
	return state_save(st, err);
}
