// SPDX-License-Identifier: Apache-2.0
#include "agent/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/command.h"
#include "agent/tracker.h"
#include "agent/throttle.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/token.h"
#include "common/units.h"
#include "common/uuid.h"

static bool member_of(const struct state_disk *d, const struct disk_info *info)
{
	char why[300];

	return !strcmp(d->path, info->path) && disk_same(&d->ident, &info->ident, why, sizeof(why));
}

struct state_disk *control_find(
	struct tm_control_call *call, struct agent *a, const char *text, struct tm_err *err)
{
	struct state *st = &a->state;
	struct disk_info info;
	struct tm_err e2;
	char full[128];

	snprintf(full, sizeof(full), "%s%s", text[0] == '/' ? "" : "/dev/", text);
	if (disk_get(text, &info, &e2) == 0) /* another name of it, perhaps */
		snprintf(full, sizeof(full), "%s", info.path);
	for (size_t i = 0; i < st->ndisks; i++)
		if (!st->disks[i].leaving && !strcmp(st->disks[i].path, full))
			return &st->disks[i];
	tm_control_no_such(call, err, "%s is not protected (see \"agentctl status\")", text);
	return NULL;
}

static int need_enrolled(struct tm_control_call *call, struct agent *a, struct tm_err *err)
{
	LOCK_SCOPE(&a->lock);

	return a->enrolled
		       ? 0
		       : tm_control_refused(call, err,
				 "not enrolled: get a token (serverctl token) and run \"agentctl enroll\"");
}

static int do_enroll(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct agent *a = call->ctx;
	const char *server, *token;
	struct enroll_identity id;
	char host[256];
	uint16_t port;

	if (tm_arg_string(args, "server", &server, err) ||
		tm_arg_string(args, "token", &token, err) ||
		tm_addr_parse(server, TM_PORT, host, sizeof(host), &port, err) ||
		enroll_run(a->state.dir, host, port, token, &id, err))
		return -err->code;
	pthread_mutex_lock(&a->lock);
	a->id = id;
	a->enrolled = a->rejoin = true;
	agent_wake(a);
	pthread_mutex_unlock(&a->lock);
	*result = cJSON_CreateObject();
	tm_json_uuid(*result, "machine", id.machine);
	tm_json_uuid(*result, "server", id.server);
	tm_log(TM_LOG_NOTICE, "enrolled at %s:%u", host, port);
	return 0;
}

static int protect_one(struct tm_control_call *call, struct agent *a, const char *path,
	uint8_t tracker, struct tm_err *err)
{
	struct state *st = &a->state;
	struct state_disk d = {.tracker = tracker};
	struct disk_info info;
	LOCK_SCOPE(&st->lock);

	if (disk_get(path, &info, err) == -ENOENT)
		return tm_control_no_such(
			call, err, "%s: no such disk (see \"agentctl disks\")", path);
	if (err->code)
		return -err->code;
	if (info.why_not[0])
		return tm_control_refused(
			call, err, "%s cannot be protected: %s", path, info.why_not);
	for (size_t i = 0; i < st->ndisks; i++) {
		if (st->disks[i].leaving)
			continue;
		if (member_of(&st->disks[i], &info))
			return tm_control_refused(call, err, "%s is protected already", path);
		if (st->disks[i].tracker != tracker)
			return tm_control_refused(call, err,
				"all disks of a machine are watched by one tracker, so that their points are one instant: use --tracker %s, or unprotect %s",
				tracker == TM_TRACKER_KMOD ? "scan" : "kmod", st->disks[i].path);
	}
	tm_uuid_new(d.uuid);
	tm_uuid_new(d.tracking);
	snprintf(d.path, sizeof(d.path), "%s", info.path);
	d.ident = info.ident;
	if (state_add(st, &d, err))
		return -err->code;
	tm_log(TM_LOG_NOTICE, "%s is protected", info.path);
	return 0;
}

static int parse_tracker(const cJSON *args, uint8_t *tracker, struct tm_err *err)
{
	const char *text = "kmod";

	if (tm_arg_string_opt(args, "tracker", &text, err))
		return -err->code;
	if (strcmp(text, "scan") && strcmp(text, "kmod"))
		return tm_fail(err, EINVAL, "no such tracker: %s (kmod or scan)", text);
	*tracker = strcmp(text, "scan") ? TM_TRACKER_KMOD : TM_TRACKER_SCAN;
	return 0;
}

static int do_protect(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	const cJSON *disks = cJSON_GetObjectItemCaseSensitive(args, "disks"), *item;
	struct agent *a = call->ctx;
	uint8_t tracker = 0;

	err->code = 0;
	if (need_enrolled(call, a, err) || parse_tracker(args, &tracker, err))
		return -err->code;
	if (tracker == TM_TRACKER_KMOD && tracker_kmod_available(err))
		return tm_control_refused(call, err,
			"the kernel module cannot be used (%s): load it (modprobe tidemark), or use --tracker scan",
			strdupa(err->msg));
	cJSON_ArrayForEach (item, disks)
		if (!cJSON_IsString(item) || protect_one(call, a, item->valuestring, tracker, err))
			return err->code ? -err->code
					 : tm_fail(err, EINVAL, "disks: not a list of names");
	pthread_mutex_lock(&a->lock);
	if (tracker != (a->tracker == &tracker_kmod ? TM_TRACKER_KMOD : TM_TRACKER_SCAN))
		a->rejoin = true; /* the first disk decides on the tracker */
	agent_wake(a);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

static int do_unprotect(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	const cJSON *disks = cJSON_GetObjectItemCaseSensitive(args, "disks"), *item;
	struct agent *a = call->ctx;
	struct state_disk *d;

	cJSON_ArrayForEach (item, disks) {
		LOCK_SCOPE(&a->state.lock);

		if (!cJSON_IsString(item))
			return tm_fail(err, EINVAL, "disks: not a list of names");
		d = control_find(call, a, item->valuestring, err);
		if (!d)
			return -err->code;
		d->leaving = true;
		if (state_save(&a->state, err)) {
			d->leaving = false;
			return -err->code;
		}
	}
	agent_kick(a);
	return 0;
}

static int set_paused(struct agent *a, bool paused, struct tm_err *err)
{
	int ret;

	pthread_mutex_lock(&a->state.lock);
	a->state.paused = paused;
	ret = state_save(&a->state, err);
	pthread_mutex_unlock(&a->state.lock);
	if (ret)
		return ret;
	pthread_mutex_lock(&a->lock);
	a->paused = paused;
	agent_wake(a);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

static int do_pause(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	return set_paused(call->ctx, true, err);
}

static int do_resume(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	return set_paused(call->ctx, false, err);
}

static int do_throttle(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct agent *a = call->ctx;
	uint64_t rate;
	int ret;

	if (tm_arg_u64(args, "rate", &rate, err))
		return -err->code;
	pthread_mutex_lock(&a->state.lock);
	a->state.throttle = rate;
	ret = state_save(&a->state, err);
	pthread_mutex_unlock(&a->state.lock);
	throttle_apply(a);
	return ret;
}

static void show_progress(struct tm_control_call *call, struct agent *a, bool *gone)
{
	cJSON *p = cJSON_CreateObject();
	uint64_t done = 0, total = 0;

	for (struct member *m = a->members; m; m = m->next) {
		if (!m->running)
			continue;
		done += m->done;
		total += m->total;
	}
	cJSON_AddStringToObject(p, "text", total ? "reading" : "waiting");
	tm_json_u64(p, "done", done);
	tm_json_u64(p, "total", total);
	pthread_mutex_unlock(&a->lock);
	*gone = tm_control_progress(call, p) != 0;
	pthread_mutex_lock(&a->lock);
}

/*
 * Leaves the request to the machine and waits for its end. Takes rq over unless it returns 0. Who asked and went away leaves the
 * request behind: it is done all the same.
 */
static int ask(struct tm_control_call *call, struct request *rq, struct tm_err *err)
{
	struct agent *a = call->ctx;
	bool gone = false;
	LOCK_SCOPE(&a->lock);

	request_add(a, rq);
	while (!rq->done && !gone && !a->stop) {
		struct timespec ts = tm_timespec(tm_mono_ns() + TM_SEC);

		if (pthread_cond_clockwait(&a->changed, &a->lock, CLOCK_MONOTONIC, &ts) ==
				ETIMEDOUT &&
			!rq->done)
			show_progress(call, a, &gone);
	}
	if (!rq->done) {
		rq->dropped = true;
		return tm_fail(err, ECANCELED, "the agent ends, or nobody waits");
	}
	if (rq->err.code) {
		*err = rq->err;
		free(rq);
		return -err->code;
	}
	return 0;
}

static int protects_anything(struct tm_control_call *call, struct agent *a, struct tm_err *err)
{
	LOCK_SCOPE(&a->state.lock);

	for (size_t i = 0; i < a->state.ndisks; i++)
		if (!a->state.disks[i].leaving)
			return 0;
	return tm_control_refused(call, err, "no disk is protected (see \"agentctl protect\")");
}

static int do_point(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	static const char *const kinds[] = {"", "crash", "app", "scan"};
	struct agent *a = call->ctx;
	struct request *rq = calloc(1, sizeof(*rq));
	bool app = false, freeze = false, wait = false;
	const char *label = "";

	if (!rq)
		return tm_fail(err, ENOMEM, "no memory");
	if (need_enrolled(call, a, err) || protects_anything(call, a, err) ||
		tm_arg_string_opt(args, "label", &label, err) ||
		tm_arg_bool_opt(args, "app", &app, err) ||
		tm_arg_bool_opt(args, "wait", &wait, err) ||
		tm_arg_bool_opt(args, "freeze", &freeze, err)) {
		free(rq);
		return -err->code;
	}
	rq->kind = REQUEST_POINT;
	rq->point_kind = app ? TM_POINT_APP : TM_POINT_CRASH;
	rq->freeze = freeze || app;
	if (strlen(label) > TM_LABEL_MAX) {
		free(rq);
		return tm_fail(err, EINVAL, "the label is longer than %u bytes", TM_LABEL_MAX);
	}
	snprintf(rq->label, sizeof(rq->label), "%s", label);
	if (!wait) {
		LOCK_SCOPE(&a->lock);
		rq->dropped = true;
		request_add(a, rq);
		return 0;
	}
	if (ask(call, rq, err))
		return -err->code;
	*result = cJSON_CreateObject();
	tm_json_u64(*result, "point", rq->point);
	cJSON_AddStringToObject(*result, "kind", kinds[rq->made & 3]);
	cJSON_AddStringToObject(*result, "text", rq->text);
	free(rq);
	return 0;
}

static int check_disks(struct tm_control_call *call, enum request_kind kind, const cJSON *args,
	cJSON **result, struct tm_err *err)
{
	struct agent *a = call->ctx;
	struct request *rq = calloc(1, sizeof(*rq));
	const char *disk = NULL;
	struct state_disk *d;

	if (!rq)
		return tm_fail(err, ENOMEM, "no memory");
	rq->kind = kind;
	if (need_enrolled(call, a, err) || protects_anything(call, a, err) ||
		tm_arg_string_opt(args, "disk", &disk, err)) {
		free(rq);
		return -err->code;
	}
	if (disk) {
		LOCK_SCOPE(&a->state.lock);
		d = control_find(call, a, disk, err);
		if (!d) {
			free(rq);
			return -err->code;
		}
		memcpy(rq->disk, d->uuid, TM_UUID);
	}
	if (ask(call, rq, err))
		return -err->code;
	*result = cJSON_CreateObject();
	tm_json_u64(*result, "differing_chunks", rq->differ);
	tm_json_u64(*result, "point", rq->point);
	cJSON_AddStringToObject(*result, "text", rq->text);
	free(rq);
	return 0;
}

static int do_resync(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	return check_disks(call, REQUEST_RESYNC, args, result, err);
}

static int do_verify(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	return check_disks(call, REQUEST_VERIFY, args, result, err);
}

/* Tells the server where that is possible within a few seconds; then forgets it in any case. */
static int do_leave(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct agent *a = call->ctx;
	uint64_t end = tm_mono_ns() + 10 * TM_SEC;

	pthread_mutex_lock(&a->state.lock);
	for (size_t i = 0; i < a->state.ndisks; i++)
		a->state.disks[i].leaving = true;
	pthread_mutex_unlock(&a->state.lock);
	agent_kick(a);
	pthread_mutex_lock(&a->lock);
	while (a->members && a->session && tm_mono_ns() < end) {
		struct timespec ts = tm_timespec(tm_mono_ns() + 100 * TM_MS);

		pthread_cond_clockwait(&a->changed, &a->lock, CLOCK_MONOTONIC, &ts);
	}
	a->enrolled = false;
	a->rejoin = true;
	agent_wake(a);
	pthread_mutex_unlock(&a->lock);
	if (enroll_forget(a->state.dir, err) || state_forget(&a->state, err))
		return -err->code;
	tm_log(TM_LOG_NOTICE, "left the server; nothing is protected any more");
	return 0;
}

const struct tm_control_cmd agent_commands[] = {
	{"enroll", do_enroll},
	{"disks", control_disks},
	{"protect", do_protect},
	{"unprotect", do_unprotect},
	{"status", control_status},
	{"point", do_point},
	{"pause", do_pause},
	{"resume", do_resume},
	{"throttle", do_throttle},
	{"resync", do_resync},
	{"verify", do_verify},
	{"leave", do_leave},
	{NULL, NULL},
};
