// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/uuid.h"
#include "server/catalog_sql.h"

#define MACHINE "uuid,host,enrolled,counter,instance,hardware,known,held,revoked,why,cert"

static void machine_row(sqlite3_stmt *st, void *item)
{
	struct catalog_machine *m = item;

	memset(m, 0, sizeof(*m));
	sql_blob(st, 0, m->uuid, TM_UUID);
	sql_text(st, 1, m->host, sizeof(m->host));
	m->enrolled = sqlite3_column_int64(st, 2);
	m->counter = (uint64_t)sqlite3_column_int64(st, 3);
	sql_blob(st, 4, m->instance, TM_UUID);
	sql_blob(st, 5, m->hardware, sizeof(m->hardware));
	m->known = sqlite3_column_int(st, 6);
	m->held = sqlite3_column_int(st, 7);
	m->revoked = sqlite3_column_int(st, 8);
	sql_text(st, 9, m->why, sizeof(m->why));
	sql_blob(st, 10, m->cert, TM_FPR);
}

/* One row or -ENOENT, or -EEXIST if there are more. */
static int machine_one(
	struct catalog *c, sqlite3_stmt *st, struct catalog_machine *m, struct tm_err *err)
{
	int rc;

	if (!st)
		return -err->code;
	rc = sql_step(c, st, err);
	if (rc == 1) {
		machine_row(st, m);
		rc = sql_step(c, st, err);
		if (rc == 1)
			rc = tm_fail(err, EEXIST,
				"several machines are called %s: name it by its UUID", m->host);
	} else if (rc == 0) {
		rc = tm_fail(err, ENOENT, "no such machine");
	}
	sqlite3_finalize(st);
	return rc;
}

int catalog_machine_get(struct catalog *c, const uint8_t uuid[TM_UUID], struct catalog_machine *m,
	struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	return machine_one(c,
		sql_query(c, err, "SELECT " MACHINE " FROM machine WHERE uuid=?", "u", uuid), m,
		err);
}

int catalog_machine_find(
	struct catalog *c, const char *name, struct catalog_machine *m, struct tm_err *err)
{
	uint8_t uuid[TM_UUID];
	int rc;

	if (tm_uuid_parse(name, uuid) == 0) {
		rc = catalog_machine_get(c, uuid, m, err);
	} else {
		LOCK_SCOPE(&c->lock);
		rc = machine_one(c,
			sql_query(c, err, "SELECT " MACHINE " FROM machine WHERE host=? LIMIT 2",
				"t", name),
			m, err);
	}
	return rc == -ENOENT ? tm_fail(err, ENOENT, "no machine %s: see serverctl machines", name)
			     : rc;
}

int catalog_machine_put(struct catalog *c, const struct catalog_machine *m, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);
	int rc = sql_run(c, err,
		"INSERT OR REPLACE INTO machine(" MACHINE ") VALUES(?,?,?,?,?,?,?,?,?,?,?)",
		"utiiuuiiith", m->uuid, m->host, m->enrolled, (int64_t)m->counter, m->instance,
		m->hardware, (int64_t)m->known, (int64_t)m->held, (int64_t)m->revoked, m->why,
		m->cert);

	return rc < 0 ? rc : 0;
}

/* An update that has to meet one machine. */
static int met(int rc, struct tm_err *err)
{
	if (rc < 0)
		return rc;
	return rc == 1 ? 0 : tm_fail(err, ENOENT, "no such machine");
}

int catalog_machine_session(struct catalog *c, const struct catalog_machine *m, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	return met(
		sql_run(c, err,
			"UPDATE machine SET host=?,counter=?,instance=?,hardware=?,known=1"
			" WHERE uuid=?",
			"tiuuu", m->host, (int64_t)m->counter, m->instance, m->hardware, m->uuid),
		err);
}

int catalog_machine_hold(
	struct catalog *c, const uint8_t uuid[TM_UUID], const char *why, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	if (why)
		return met(sql_run(c, err, "UPDATE machine SET held=1,why=? WHERE uuid=?", "tu",
				   why, uuid),
			err);
	return met(
		sql_run(c, err, "UPDATE machine SET held=0,why='',known=0 WHERE uuid=?", "u", uuid),
		err);
}

int catalog_machine_revoke(struct catalog *c, const uint8_t uuid[TM_UUID], struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	return met(sql_run(c, err, "UPDATE machine SET revoked=1 WHERE uuid=?", "u", uuid), err);
}

int catalog_machines(struct catalog *c, struct catalog_machine **out, size_t *n, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	return sql_list(c,
		sql_query(c, err, "SELECT " MACHINE " FROM machine ORDER BY host,uuid", ""),
		sizeof(**out), machine_row, (void **)out, n, err);
}

int catalog_disk_put(struct catalog *c, const uint8_t machine[TM_UUID],
	const struct catalog_disk *d, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);
	int rc = sql_run(c, err, "INSERT OR REPLACE INTO disk VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
		"uuttiiiiiuiu", machine, d->uuid, d->name, d->serial, (int64_t)d->size,
		(int64_t)d->sector, (int64_t)d->tracker, (int64_t)d->closed, (int64_t)d->joined,
		d->tracking, (int64_t)d->pending, d->pending_tracking);

	return rc < 0 ? rc : 0;
}

static void disk_row(sqlite3_stmt *st, void *item)
{
	struct catalog_disk *d = item;

	memset(d, 0, sizeof(*d));
	sql_blob(st, 0, d->uuid, TM_UUID);
	sql_text(st, 1, d->name, sizeof(d->name));
	sql_text(st, 2, d->serial, sizeof(d->serial));
	d->size = (uint64_t)sqlite3_column_int64(st, 3);
	d->sector = (uint32_t)sqlite3_column_int(st, 4);
	d->tracker = (uint8_t)sqlite3_column_int(st, 5);
	d->closed = sqlite3_column_int(st, 6);
	d->joined = sqlite3_column_int(st, 7);
	sql_blob(st, 8, d->tracking, TM_UUID);
	d->pending = (uint64_t)sqlite3_column_int64(st, 9);
	sql_blob(st, 10, d->pending_tracking, TM_UUID);
}

int catalog_disks(struct catalog *c, const uint8_t machine[TM_UUID], struct catalog_disk **out,
	size_t *n, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	return sql_list(c,
		sql_query(c, err,
			"SELECT uuid,name,serial,size,sector,tracker,closed,joined,tracking,pending,"
			"pending_tracking FROM disk WHERE machine=? ORDER BY name,uuid",
			"u", machine),
		sizeof(**out), disk_row, (void **)out, n, err);
}
