// SPDX-License-Identifier: Apache-2.0
#include "server/catalog.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "server/catalog_sql.h"

#define CATALOG_VERSION 1

static const char schema[] =
	"BEGIN;"
	"CREATE TABLE machine(uuid BLOB PRIMARY KEY, host TEXT NOT NULL, enrolled INTEGER NOT NULL,"
	" counter INTEGER NOT NULL DEFAULT 0, instance BLOB, hardware BLOB, cert BLOB NOT NULL,"
	" known INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0,"
	" revoked INTEGER NOT NULL DEFAULT 0, why TEXT NOT NULL DEFAULT '') WITHOUT ROWID;"
	"CREATE TABLE disk(machine BLOB NOT NULL, uuid BLOB NOT NULL, name TEXT NOT NULL,"
	" serial TEXT NOT NULL, size INTEGER NOT NULL, sector INTEGER NOT NULL,"
	" tracker INTEGER NOT NULL, closed INTEGER NOT NULL, joined INTEGER NOT NULL,"
	" tracking BLOB, pending INTEGER NOT NULL, pending_tracking BLOB,"
	" PRIMARY KEY(machine, uuid)) WITHOUT ROWID;"
	"CREATE TABLE token(id BLOB PRIMARY KEY, hash BLOB NOT NULL, expires INTEGER NOT NULL,"
	" uses INTEGER NOT NULL, machine BLOB NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE alarm(id INTEGER PRIMARY KEY, time INTEGER NOT NULL, machine BLOB,"
	" text TEXT NOT NULL);"
	"CREATE INDEX alarm_machine ON alarm(machine, id);"
	"CREATE TABLE setting(machine BLOB NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
	" PRIMARY KEY(machine, key)) WITHOUT ROWID;"
	"CREATE TABLE job(id INTEGER PRIMARY KEY, machine BLOB, kind TEXT NOT NULL,"
	" state TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER, detail TEXT NOT NULL);"
	"CREATE TABLE audit(id INTEGER PRIMARY KEY, time INTEGER NOT NULL, who TEXT NOT NULL,"
	" what TEXT NOT NULL, result TEXT NOT NULL);"
	"PRAGMA user_version=1;"
	"COMMIT;";

static int code_of(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_FULL:
		return ENOSPC;
	case SQLITE_NOMEM:
		return ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return EBUSY;
	default:
		return EIO;
	}
}

static int fail_sql(struct catalog *c, int rc, struct tm_err *err)
{
	return tm_fail(err, code_of(rc), "catalog: %s", sqlite3_errmsg(c->db));
}

static sqlite3_stmt *prepare(
	struct catalog *c, struct tm_err *err, const char *sql, const char *types, va_list ap)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(c->db, sql, -1, &st, NULL);
	const void *p;

	for (int n = 1; rc == SQLITE_OK && types[n - 1]; n++) {
		switch (types[n - 1]) {
		case 'i':
			rc = sqlite3_bind_int64(st, n, va_arg(ap, int64_t));
			break;
		case 't':
			rc = sqlite3_bind_text(
				st, n, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
			break;
		default:
			p = va_arg(ap, const void *);
			rc = sqlite3_bind_blob(st, n, p ? p : "",
				!p                    ? 0
				: types[n - 1] == 'u' ? 16
						      : 32,
				SQLITE_TRANSIENT);
		}
	}
	if (rc == SQLITE_OK)
		return st;
	fail_sql(c, rc, err);
	sqlite3_finalize(st);
	return NULL;
}

sqlite3_stmt *sql_query(
	struct catalog *c, struct tm_err *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *st;
	va_list ap;

	va_start(ap, types);
	st = prepare(c, err, sql, types, ap);
	va_end(ap);
	return st;
}

int sql_step(struct catalog *c, sqlite3_stmt *st, struct tm_err *err)
{
	int rc = sqlite3_step(st);

	if (rc == SQLITE_ROW)
		return 1;
	return rc == SQLITE_DONE ? 0 : fail_sql(c, rc, err);
}

int sql_run(struct catalog *c, struct tm_err *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *st;
	va_list ap;
	int rc;

	va_start(ap, types);
	st = prepare(c, err, sql, types, ap);
	va_end(ap);
	if (!st)
		return -err->code;
	rc = sql_step(c, st, err);
	sqlite3_finalize(st);
	return rc < 0 ? rc : sqlite3_changes(c->db);
}

void sql_text(sqlite3_stmt *st, int column, char *out, size_t room)
{
	const unsigned char *s = sqlite3_column_text(st, column);

	snprintf(out, room, "%s", s ? (const char *)s : "");
}

void sql_blob(sqlite3_stmt *st, int column, void *out, size_t len)
{
	const void *p = sqlite3_column_blob(st, column);
	size_t n = (size_t)sqlite3_column_bytes(st, column);

	memset(out, 0, len);
	if (p)
		memcpy(out, p, n < len ? n : len);
}

/* Room for one more in a list of n. */
static int grow(void **list, size_t n, size_t size, struct tm_err *err)
{
	void *p;

	if (n & (n - 1)) /* room is doubled when n reaches a power of two */
		return 0;
	p = reallocarray(*list, n ? n * 2 : 1, size);
	if (!p)
		return tm_fail(err, ENOMEM, "out of memory");
	*list = p;
	return 0;
}

int sql_list(struct catalog *c, sqlite3_stmt *st, size_t size,
	void (*row)(sqlite3_stmt *st, void *item), void **out, size_t *n, struct tm_err *err)
{
	void *list = NULL;
	int rc;

	*n = 0;
	if (!st)
		return -err->code;
	while ((rc = sql_step(c, st, err)) == 1) {
		rc = grow(&list, *n, size, err);
		if (rc)
			break;
		row(st, (char *)list + (*n)++ * size);
	}
	sqlite3_finalize(st);
	if (rc)
		free(list);
	else
		*out = list;
	return rc;
}

int sql_execute(struct catalog *c, const char *sql, struct tm_err *err)
{
	int rc = sqlite3_exec(c->db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK ? 0 : fail_sql(c, rc, err);
}

static int version(struct catalog *c, int *v, struct tm_err *err)
{
	sqlite3_stmt *st = sql_query(c, err, "PRAGMA user_version", "");
	int rc;

	if (!st)
		return -err->code;
	rc = sql_step(c, st, err);
	*v = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return rc < 0 ? rc : 0;
}

static int prepare_schema(struct catalog *c, bool create, struct tm_err *err)
{
	int v = 0, rc;

	rc = sql_execute(c, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;", err);
	if (!rc)
		rc = version(c, &v, err);
	if (rc)
		return rc;
	if (v == 0 && create)
		return sql_execute(c, schema, err);
	if (v == 0)
		return tm_fail(err, ENOENT, "the catalog is empty: run serverctl rebuild");
	if (v != CATALOG_VERSION)
		return tm_fail(err, EPROTONOSUPPORT,
			"the catalog has format %d, this program knows %d", v, CATALOG_VERSION);
	return 0;
}

int catalog_open(const char *dir, bool create, struct catalog **out, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/catalog.db", dir);
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (create ? SQLITE_OPEN_CREATE : 0);
	struct catalog *c = calloc(1, sizeof(*c));
	int rc;

	if (!c || !path) {
		free(c);
		return tm_fail(err, ENOMEM, "out of memory");
	}
	pthread_mutex_init(&c->lock, NULL);
	if (!create && access(path, F_OK) != 0) {
		rc = tm_fail(err, ENOENT, "%s is missing: run serverctl rebuild", path);
		goto fail;
	}
	rc = sqlite3_open_v2(path, &c->db, flags, NULL);
	if (rc != SQLITE_OK) {
		rc = tm_fail(err, EIO, "%s: %s", path, c->db ? sqlite3_errmsg(c->db) : "no memory");
		goto fail;
	}
	sqlite3_busy_timeout(c->db, 10000);
	rc = prepare_schema(c, create, err);
	if (!rc && create)
		rc = tm_fsync_dir(dir, err);
	if (!rc && chmod(path, 0600) != 0)
		rc = tm_fail_errno(err, "%s", path);
	if (rc)
		goto fail;
	*out = c;
	return 0;
fail:
	catalog_close(c);
	return rc;
}

void catalog_close(struct catalog *c)
{
	if (!c)
		return;
	sqlite3_close(c->db);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static int copy_pages(sqlite3 *from, sqlite3 *to)
{
	sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
	int rc;

	if (!b)
		return sqlite3_errcode(to);
	rc = sqlite3_backup_step(b, -1);
	sqlite3_backup_finish(b);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int catalog_copy(const char *dir, const char *to, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/catalog.db", dir);
	sqlite3 *in = NULL, *out = NULL;
	int rc;

	if (!path)
		return tm_fail(err, ENOMEM, "out of memory");
	/* A connection of its own: a reader sees one moment and nobody waits for it. */
	rc = sqlite3_open_v2(path, &in, SQLITE_OPEN_READWRITE, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_open_v2(to, &out, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(in, 10000);
		rc = copy_pages(in, out);
	}
	/* What closing may still write belongs to the copy. */
	if (sqlite3_close(out) != SQLITE_OK && rc == SQLITE_OK)
		rc = SQLITE_IOERR;
	sqlite3_close(in);
	if (rc != SQLITE_OK)
		return tm_fail(err, code_of(rc), "cannot copy the catalog: %s", sqlite3_errstr(rc));
	return chmod(to, 0600) ? tm_fail_errno(err, "%s", to) : 0;
}

int catalog_set(struct catalog *c, const uint8_t *machine, const char *key, const char *value,
	struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);
	int rc = sql_run(c, err,
		"INSERT INTO setting VALUES(?,?,?)"
		" ON CONFLICT(machine,key) DO UPDATE SET value=excluded.value",
		"utt", machine, key, value);

	return rc < 0 ? rc : 0;
}

int catalog_get(struct catalog *c, const uint8_t *machine, const char *key, char *value,
	size_t room, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);
	sqlite3_stmt *st = sql_query(
		c, err, "SELECT value FROM setting WHERE machine=? AND key=?", "ut", machine, key);
	int rc;

	if (!st)
		return -err->code;
	rc = sql_step(c, st, err);
	if (rc == 1)
		sql_text(st, 0, value, room);
	sqlite3_finalize(st);
	if (rc == 0)
		return tm_fail(err, ENOENT, "setting %s is not set", key);
	return rc < 0 ? rc : 0;
}
