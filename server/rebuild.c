// SPDX-License-Identifier: Apache-2.0
/* The catalog anew, from the notes that the daemon keeps in the store and from the disks that the store knows. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/control.h"
#include "common/file.h"
#include "common/units.h"
#include "common/uuid.h"
#include "server/catalog.h"
#include "server/init.h"
#include "server/keeper.h"
#include "server/store/store.h"

struct uuids {
	uint8_t (*list)[TM_UUID];
	size_t n;
};

static int collect_machine(void *arg, const uint8_t machine[TM_UUID])
{
	struct uuids *u = arg;
	void *p = reallocarray(u->list, u->n + 1, TM_UUID);

	if (!p)
		return -ENOMEM;
	u->list = p;
	memcpy(u->list[u->n++], machine, TM_UUID);
	return 0;
}

static void text_of(const cJSON *o, const char *name, char *out, size_t room)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

	snprintf(out, room, "%s", cJSON_IsString(v) ? v->valuestring : "");
}

static void uuid_of(const cJSON *o, const char *name, uint8_t uuid[TM_UUID])
{
	char text[TM_UUID_TEXT];

	text_of(o, name, text, sizeof(text));
	if (tm_uuid_parse(text, uuid))
		memset(uuid, 0, TM_UUID);
}

static uint64_t number_of(const cJSON *o, const char *name)
{
	struct tm_err err;
	uint64_t n = 0;

	return tm_arg_u64_opt(o, name, &n, &err) ? 0 : n;
}

static bool flag_of(const cJSON *o, const char *name)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, name));
}

/* Without a note there is no fingerprint, and the machine has to enrol again before it is let in. */
static void machine_of(const cJSON *note, struct catalog_machine *m)
{
	char cert[2 * TM_FPR + 1];

	text_of(note, "host", m->host, sizeof(m->host));
	m->enrolled = (int64_t)number_of(note, "enrolled");
	m->counter = number_of(note, "counter");
	uuid_of(note, "instance", m->instance);
	uuid_of(note, "hardware", m->hardware);
	m->known = flag_of(note, "known");
	m->held = flag_of(note, "held");
	m->revoked = flag_of(note, "revoked");
	text_of(note, "why", m->why, sizeof(m->why));
	text_of(note, "cert", cert, sizeof(cert));
	if (tm_hex_parse(cert, m->cert, TM_FPR))
		memset(m->cert, 0, TM_FPR);
}

static const cJSON *note_of_disk(const cJSON *note, const uint8_t uuid[TM_UUID])
{
	const cJSON *o;
	uint8_t id[TM_UUID];

	cJSON_ArrayForEach (o, cJSON_GetObjectItemCaseSensitive(note, "disks")) {
		uuid_of(o, "uuid", id);
		if (tm_uuid_equal(id, uuid))
			return o;
	}
	return NULL;
}

struct disks {
	struct catalog *c;
	const cJSON *note;
	struct tm_err *err;
};

/* A disk without a note counts as joined under no tracking: it will be compared before its machine has points again. */
static int put_disk(void *arg, const struct store_disk *sd)
{
	struct disks *a = arg;
	const cJSON *note = note_of_disk(a->note, sd->uuid);
	struct catalog_disk d = {.size = sd->size, .sector = 512, .joined = true};

	memcpy(d.uuid, sd->uuid, TM_UUID);
	memcpy(d.name, sd->name, sizeof(d.name));
	memcpy(d.serial, sd->serial, sizeof(d.serial));
	if (note) {
		d.sector = (uint32_t)number_of(note, "sector");
		d.tracker = (uint8_t)number_of(note, "tracker");
		d.closed = flag_of(note, "closed");
		d.joined = flag_of(note, "joined");
		uuid_of(note, "tracking", d.tracking);
	}
	return catalog_disk_put(a->c, sd->machine, &d, a->err);
}

static int put_setting(struct catalog *c, const uint8_t uuid[TM_UUID], const cJSON *note,
	const char *key, struct tm_err *err)
{
	char text[512];

	text_of(note, key, text, sizeof(text));
	return *text ? catalog_set(c, uuid, key, text, err) : 0;
}

static int rebuild_machine(
	struct store *st, struct catalog *c, const uint8_t uuid[TM_UUID], struct tm_err *err)
{
	CLEANUP_FREE char *text = NULL;
	struct catalog_machine m = {.host = ""};
	cJSON *note = NULL;
	size_t len;
	int rc = store_note_get(st, uuid, &text, &len, err);

	if (rc && rc != -ENOENT)
		return rc;
	if (!rc)
		note = cJSON_ParseWithLength(text, len);
	memcpy(m.uuid, uuid, TM_UUID);
	machine_of(note, &m);
	rc = catalog_machine_put(c, &m, err);
	if (!rc)
		rc = put_setting(c, uuid, note, POLICY_IMMUTABLE, err);
	if (!rc)
		rc = put_setting(c, uuid, note, POLICY_TIERS, err);
	if (!rc) {
		struct disks arg = {c, note, err};

		rc = store_disks(st, uuid, put_disk, &arg, err);
	}
	cJSON_Delete(note);
	return rc;
}

/* catalog.db, -wal and -shm get a suffix: what was there may still be of use to somebody. */
static int set_aside(const char *dir, struct tm_err *err)
{
	static const char *const suffix[] = {"", "-wal", "-shm"};
	long now = (long)time(NULL);

	for (size_t i = 0; i < TM_ARRAY_SIZE(suffix); i++) {
		CLEANUP_FREE char *from = tm_path("%s/catalog.db%s", dir, suffix[i]);
		CLEANUP_FREE char *to = tm_path("%s/catalog.%ld.old%s", dir, now, suffix[i]);

		if (!from || !to)
			return tm_fail(err, ENOMEM, "out of memory");
		if (access(from, F_OK) == 0 && tm_file_rename(from, to, err))
			return -err->code;
	}
	return 0;
}

static int rebuild(struct store *st, const char *dir, struct tm_err *err)
{
	struct uuids u = {.list = NULL};
	struct catalog *c = NULL;
	char who[64];
	int rc = store_machines(st, collect_machine, &u, err);

	if (!rc)
		rc = set_aside(dir, err);
	if (!rc)
		rc = catalog_open(dir, true, &c, err);
	for (size_t i = 0; !rc && i < u.n; i++)
		rc = rebuild_machine(st, c, u.list[i], err);
	if (!rc)
		rc = catalog_audit(
			c, catalog_who(getuid(), who, sizeof(who)), "rebuild", "done", err);
	if (!rc)
		printf("%zu machines\n", u.n);
	catalog_close(c);
	free(u.list);
	return rc;
}

int rebuild_catalog(const char *dir, struct tm_err *err)
{
	struct store_opts opts = {.reserve_bytes = UINT64_MAX};
	struct store *st;
	int rc = store_open(dir, &opts, &st, err);

	if (rc)
		return rc;
	rc = rebuild(st, dir, err);
	store_close(st);
	return rc;
}
