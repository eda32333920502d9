// SPDX-License-Identifier: Apache-2.0
#include "server/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/log.h"
#include "common/units.h"
#include "common/uuid.h"
#include "server/keeper.h"

struct disk *machine_disk(struct machine *m, uint32_t handle)
{
	if (handle == 0 || handle > m->ndisks || !m->disks[handle - 1]->open)
		return NULL;
	return m->disks[handle - 1];
}

struct disk *machine_disk_find(struct machine *m, const uint8_t uuid[TM_UUID])
{
	for (uint32_t i = 0; i < m->ndisks; i++)
		if (tm_uuid_equal(m->disks[i]->c.uuid, uuid))
			return m->disks[i];
	return NULL;
}

int machine_disk_add(struct machine *m, const struct catalog_disk *c, uint32_t no, struct disk **d,
	struct tm_err *err)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	LOCK_SCOPE(&m->lock);
	struct disk **p;

	if (m->ndisks >= MACHINE_DISKS) {
		free(disk);
		return tm_fail(err, ENOSPC, "a machine has at most %u disks", MACHINE_DISKS);
	}
	p = reallocarray(m->disks, m->ndisks + 1, sizeof(struct disk *));
	if (p)
		m->disks = p;
	if (!p || !disk) {
		free(disk);
		return tm_fail(err, ENOMEM, "out of memory");
	}
	disk->c = *c;
	disk->no = no;
	disk->handle = m->ndisks + 1;
	m->disks[m->ndisks++] = disk;
	*d = disk;
	return 0;
}

int disk_save(struct machine *m, struct disk *d, struct tm_err *err)
{
	struct catalog_disk c;
	LOCK_SCOPE(&m->save);

	pthread_mutex_lock(&m->lock);
	c = d->c;
	pthread_mutex_unlock(&m->lock);
	return catalog_disk_put(m->server->catalog, m->uuid, &c, err);
}

static bool note_disk(cJSON *list, const struct catalog_disk *c)
{
	cJSON *o = cJSON_CreateObject();
	bool ok = o && tm_json_uuid(o, "uuid", c->uuid) && tm_json_u64(o, "sector", c->sector) &&
		  tm_json_u64(o, "tracker", c->tracker) &&
		  cJSON_AddBoolToObject(o, "closed", c->closed) &&
		  cJSON_AddBoolToObject(o, "joined", c->joined) &&
		  tm_json_uuid(o, "tracking", c->tracking);

	if (!ok || !cJSON_AddItemToArray(list, o)) {
		cJSON_Delete(o);
		return false;
	}
	return true;
}

/* The policy, if it is not the default: 'true' also if there is none. */
static bool note_setting(cJSON *o, struct machine *m, const char *key)
{
	char text[512];
	struct tm_err err;
	int rc = catalog_get(m->server->catalog, m->uuid, key, text, sizeof(text), &err);

	return rc == -ENOENT || (!rc && cJSON_AddStringToObject(o, key, text));
}

static char *note_text(struct machine *m, const struct catalog_machine *c)
{
	cJSON *o = cJSON_CreateObject();
	cJSON *disks = o ? cJSON_AddArrayToObject(o, "disks") : NULL;
	char cert[2 * TM_FPR + 1];
	bool ok = disks && cJSON_AddStringToObject(o, "host", c->host) &&
		  tm_json_u64(o, "enrolled", (uint64_t)c->enrolled) &&
		  tm_json_u64(o, "counter", c->counter) &&
		  tm_json_uuid(o, "instance", c->instance) &&
		  tm_json_uuid(o, "hardware", c->hardware) &&
		  cJSON_AddBoolToObject(o, "known", c->known) &&
		  cJSON_AddBoolToObject(o, "held", c->held) &&
		  cJSON_AddBoolToObject(o, "revoked", c->revoked) &&
		  cJSON_AddStringToObject(o, "why", c->why) &&
		  cJSON_AddStringToObject(o, "cert", tm_hex_format(c->cert, TM_FPR, cert)) &&
		  note_setting(o, m, POLICY_TIERS) && note_setting(o, m, POLICY_IMMUTABLE);
	char *text;

	pthread_mutex_lock(&m->lock);
	for (uint32_t i = 0; ok && i < m->ndisks; i++)
		ok = note_disk(disks, &m->disks[i]->c);
	pthread_mutex_unlock(&m->lock);
	text = ok ? cJSON_PrintUnformatted(o) : NULL;
	cJSON_Delete(o);
	return text;
}

int machine_note(struct machine *m, struct tm_err *err)
{
	LOCK_SCOPE(&m->save);
	CLEANUP_FREE char *text = NULL, *old = NULL;
	struct catalog_machine c;
	size_t len;
	int rc = catalog_machine_get(m->server->catalog, m->uuid, &c, err);

	if (rc)
		return rc;
	text = note_text(m, &c);
	if (!text)
		return tm_fail(err, ENOMEM, "its note cannot be written");
	if (!store_note_get(m->server->store, m->uuid, &old, &len, err) && strcmp(old, text) == 0)
		return 0;
	return store_note_set(m->server->store, m->uuid, text, strlen(text), err);
}

void machine_hold(struct machine *m, const char *why)
{
	struct tm_err err;

	__atomic_store_n(&m->held, true, __ATOMIC_RELEASE);
	tm_log_of(TM_LOG_ERR, m->name, NULL,
		"machine %s is on hold: %s; when it is clear which one is right: serverctl adopt %s",
		m->name, why, m->name);
	if (catalog_machine_hold(m->server->catalog, m->uuid, why, &err) ||
		catalog_alarm(m->server->catalog, m->uuid, why, &err) || machine_note(m, &err))
		tm_log_of(TM_LOG_ERR, m->name, NULL, "machine %s: the hold is not written down: %s",
			m->name, err.msg);
}

uint64_t machine_rpo_ms(const struct machine *m)
{
	int64_t now = (int64_t)tm_mono_ns();

	if (!m->head.point)
		return UINT64_MAX;
	return now > m->valid ? (uint64_t)(now - m->valid) / TM_MS : 0;
}

/*
 * What only the wall clock can tell: how old the newest point was when the daemon started. From then on, and after the next point, the
 * monotonic clock counts.
 */
static int load_newest(struct machine *m, struct tm_err *err)
{
	struct store_point *p;
	int64_t age;
	int rc = store_head(m->server->store, m->uuid, &m->head, err);

	if (rc == -ENOENT) {
		memset(&m->head, 0, sizeof(m->head));
		return 0;
	}
	if (rc || !m->head.point)
		return rc;
	rc = store_point_newest(m->server->store, m->uuid, 0, &p, err);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	age = (int64_t)tm_real_ns() - p->arrival_ns;
	m->valid = (int64_t)tm_mono_ns() - (age > 0 ? age : 0);
	m->newest_kind = p->kind;
	/* It ran until this point at least, whatever the catalog says: that may be a minute older, or made anew. */
	if (p->run_ns > m->server->run_base)
		m->server->run_base = p->run_ns;
	store_point_free(p);
	return 0;
}

/* True if the epoch of this attempt has been committed. */
static bool committed(struct machine *m, uint64_t seq)
{
	struct store_point *p;
	struct tm_err err;

	if (m->head.seq == seq)
		return true;
	if (store_point_get(m->server->store, m->uuid, seq, &p, &err))
		return false;
	store_point_free(p);
	return true;
}

/* The daemon may have died between a commit and the note that a disk has joined by it. */
static int settle(struct machine *m, struct disk *d, struct tm_err *err)
{
	if (!d->c.pending)
		return 0;
	if (committed(m, d->c.pending)) {
		d->c.joined = true;
		memcpy(d->c.tracking, d->c.pending_tracking, TM_UUID);
	}
	d->c.pending = 0;
	return disk_save(m, d, err);
}

static int load_disks(struct machine *m, struct tm_err *err)
{
	CLEANUP_FREE struct catalog_disk *list = NULL;
	size_t n;
	int rc = catalog_disks(m->server->catalog, m->uuid, &list, &n, err);

	for (size_t i = 0; !rc && i < n; i++) {
		struct store_disk sd = {.size = list[i].size};
		struct disk *d;

		memcpy(sd.machine, m->uuid, TM_UUID);
		memcpy(sd.uuid, list[i].uuid, TM_UUID);
		memcpy(sd.name, list[i].name, sizeof(sd.name));
		memcpy(sd.serial, list[i].serial, sizeof(sd.serial));
		rc = store_disk_register(m->server->store, &sd, err);
		if (!rc)
			rc = machine_disk_add(m, &list[i], sd.no, &d, err);
		if (!rc)
			rc = settle(m, d, err);
	}
	return rc;
}

static int load_attempt(void *arg, const struct store_attempt_info *info)
{
	struct machine *m = arg;
	struct attempt *a;

	if (!tm_uuid_equal(info->machine, m->uuid) || info->kind == TM_ATTEMPT_EPOCH)
		return 0;
	a = attempt_add(m, info->seq, info->kind);
	if (!a)
		return -ENOMEM;
	memcpy(a->tracking, info->tracking, TM_UUID);
	memcpy(a->instance, m->instance, TM_UUID);
	a->part = info->parts;
	a->complete = info->complete;
	a->orphaned = tm_mono_ns();
	for (uint32_t i = 0; i < m->ndisks; i++)
		if (m->disks[i]->no == info->disk_no)
			a->handle = m->disks[i]->handle;
	return 0;
}

static struct machine *machine_new(struct server *s, const struct catalog_machine *c)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->server = s;
	m->compacted = tm_mono_ns();
	memcpy(m->uuid, c->uuid, TM_UUID);
	tm_uuid_format(m->uuid, m->name);
	memcpy(m->host, c->host, sizeof(m->host));
	memcpy(m->instance, c->instance, TM_UUID);
	m->held = c->held;
	m->revoked = c->revoked;
	pthread_mutex_init(&m->policy, NULL);
	pthread_mutex_init(&m->save, NULL);
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	return m;
}

static void machine_free(struct machine *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	while (m->attempts)
		attempt_drop(m, m->attempts);
	pthread_mutex_unlock(&m->lock);
	for (uint32_t i = 0; i < m->ndisks; i++)
		free(m->disks[i]);
	free(m->disks);
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->save);
	pthread_mutex_destroy(&m->policy);
	free(m);
}

static int machine_load(
	struct server *s, const struct catalog_machine *c, struct machine **out, struct tm_err *err)
{
	struct machine *m = machine_new(s, c);
	int rc;

	if (!m)
		return tm_fail(err, ENOMEM, "out of memory");
	rc = load_newest(m, err);
	if (!rc)
		rc = load_disks(m, err);
	if (!rc)
		rc = store_attempts(s->store, load_attempt, m, err);
	if (rc) {
		machine_free(m);
		return tm_wrap(err, "machine %s", c->host);
	}
	*out = m;
	return 0;
}

int machines_open(struct server *s, struct tm_err *err)
{
	CLEANUP_FREE struct catalog_machine *list = NULL;
	size_t n;
	int rc = catalog_machines(s->catalog, &list, &n, err);

	for (size_t i = 0; !rc && i < n; i++) {
		struct machine *m;

		rc = machine_load(s, &list[i], &m, err);
		if (rc)
			break;
		m->next = s->machines;
		s->machines = m;
		/* Written by an older version it may lack something. */
		if (machine_note(m, err))
			tm_log_of(
				TM_LOG_WARNING, m->name, NULL, "machine %s: %s", m->name, err->msg);
	}
	return rc;
}

void machines_close(struct server *s)
{
	while (s->machines) {
		struct machine *m = s->machines;

		s->machines = m->next;
		machine_free(m);
	}
}

static struct machine *lookup(struct server *s, const uint8_t uuid[TM_UUID])
{
	for (struct machine *m = s->machines; m; m = m->next)
		if (tm_uuid_equal(m->uuid, uuid))
			return m;
	return NULL;
}

int machine_get(
	struct server *s, const uint8_t uuid[TM_UUID], struct machine **out, struct tm_err *err)
{
	struct catalog_machine c;
	struct machine *m, *other;
	int rc;

	pthread_mutex_lock(&s->lock);
	*out = lookup(s, uuid);
	pthread_mutex_unlock(&s->lock);
	if (*out)
		return 0;
	rc = catalog_machine_get(s->catalog, uuid, &c, err);
	if (!rc)
		rc = machine_load(s, &c, &m, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	other = lookup(s, uuid);
	if (!other) {
		m->next = s->machines;
		s->machines = m;
	}
	pthread_mutex_unlock(&s->lock);
	if (other)
		machine_free(m);
	*out = other ? other : m;
	return 0;
}
