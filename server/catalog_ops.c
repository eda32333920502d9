// SPDX-License-Identifier: Apache-2.0
/* Tokens, alarms and the audit table: what operators do and have to see. */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "server/catalog_sql.h"

int catalog_token_add(struct catalog *c, const uint8_t id[TM_TOKEN_ID], const uint8_t hash[TM_HASH],
	int64_t expires, uint32_t uses, const uint8_t *machine, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);
	int rc = sql_run(c, err, "INSERT INTO token VALUES(?,?,?,?,?)", "uhiiu", id, hash, expires,
		(int64_t)uses, machine);

	return rc < 0 ? rc : 0;
}

/* Looks the token up; `own` tells if it was made for exactly this machine. */
static int token_check(struct catalog *c, const struct enroll_claim *claim, bool *own,
	const char **tell, struct tm_err *err)
{
	sqlite3_stmt *st = sql_query(c, err,
		"SELECT hash,expires,uses,machine FROM token WHERE id=?", "u", claim->token_id);
	uint8_t hash[TM_HASH], machine[TM_UUID];
	int64_t expires, uses;
	bool bound;
	int rc;

	if (!st)
		return -err->code;
	rc = sql_step(c, st, err);
	sql_blob(st, 0, hash, TM_HASH);
	expires = sqlite3_column_int64(st, 1);
	uses = sqlite3_column_int64(st, 2);
	sql_blob(st, 3, machine, TM_UUID);
	bound = sqlite3_column_bytes(st, 3) == TM_UUID;
	sqlite3_finalize(st);
	if (rc < 0)
		return rc;
	if (rc == 0 || !tm_token_equal(hash, claim->token_hash))
		return tm_fail(err, EACCES, "unknown token");
	if (time(NULL) >= expires) {
		*tell = "the token has expired: ask for a new one";
		return tm_fail(err, EACCES, "expired token");
	}
	if (uses <= 0) {
		*tell = "the token is used up: ask for a new one";
		return tm_fail(err, EACCES, "used-up token");
	}
	*own = bound && memcmp(machine, claim->machine, TM_UUID) == 0;
	if (bound && !*own)
		return tm_fail(err, EACCES, "token made for another machine");
	return 0;
}

static int enroll_locked(
	struct catalog *c, const struct enroll_claim *claim, const char **tell, struct tm_err *err)
{
	bool own = false;
	int rc = token_check(c, claim, &own, tell, err);

	if (rc)
		return rc;
	rc = sql_run(c, err, "UPDATE token SET uses=uses-1 WHERE id=?", "u", claim->token_id);
	if (rc < 0)
		return rc;
	if (own)
		rc = sql_run(c, err, "UPDATE machine SET cert=?,host=? WHERE uuid=?", "htu",
			claim->cert_fpr, claim->host, claim->machine);
	else
		rc = sql_run(c, err,
			"INSERT INTO machine(uuid,host,enrolled,cert) VALUES(?,?,?,?)"
			" ON CONFLICT(uuid) DO NOTHING",
			"utih", claim->machine, claim->host, (int64_t)time(NULL), claim->cert_fpr);
	if (rc == 0) {
		*tell = "this machine is enrolled already";
		rc = tm_fail(err, EEXIST, "machine enrolled already");
	}
	return rc < 0 ? rc : 0;
}

int catalog_enroll(
	void *ctx, const struct enroll_claim *claim, const char **tell, struct tm_err *err)
{
	struct catalog *c = ctx;
	LOCK_SCOPE(&c->lock);
	struct tm_err ignored;
	int rc = sql_execute(c, "BEGIN IMMEDIATE", err);

	if (rc)
		return rc;
	rc = enroll_locked(c, claim, tell, err);
	if (!rc)
		rc = sql_execute(c, "COMMIT", err);
	if (rc)
		sql_execute(c, "ROLLBACK", &ignored);
	return rc;
}

int catalog_alarm(struct catalog *c, const uint8_t *machine, const char *text, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);
	int rc = sql_run(c, err, "INSERT INTO alarm(time,machine,text) VALUES(?,?,?)", "iut",
		(int64_t)time(NULL), machine, text);

	return rc < 0 ? rc : 0;
}

static void alarm_row(sqlite3_stmt *st, void *item)
{
	struct catalog_alarm *a = item;

	a->time = sqlite3_column_int64(st, 0);
	sql_text(st, 1, a->text, sizeof(a->text));
}

int catalog_alarms(struct catalog *c, const uint8_t machine[TM_UUID], size_t max,
	struct catalog_alarm **out, size_t *n, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	return sql_list(c,
		sql_query(c, err,
			"SELECT time,text FROM alarm WHERE machine=? ORDER BY id DESC LIMIT ?",
			"ui", machine, (int64_t)max),
		sizeof(**out), alarm_row, (void **)out, n, err);
}

const char *catalog_who(unsigned int uid, char *out, size_t room)
{
	struct passwd pw, *found = NULL;
	char buf[1024];

	if (getpwuid_r(uid, &pw, buf, sizeof(buf), &found))
		found = NULL;
	snprintf(out, room, "%.40s (uid %u)", found ? found->pw_name : "?", uid);
	return out;
}

int catalog_audit(struct catalog *c, const char *who, const char *what, const char *result,
	struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);
	int rc = sql_run(c, err, "INSERT INTO audit(time,who,what,result) VALUES(?,?,?,?)", "ittt",
		(int64_t)time(NULL), who, what, result);

	return rc < 0 ? rc : 0;
}

static void audit_row(sqlite3_stmt *st, void *item)
{
	struct catalog_audit *a = item;

	a->id = sqlite3_column_int64(st, 0);
	a->time = sqlite3_column_int64(st, 1);
	sql_text(st, 2, a->who, sizeof(a->who));
	sql_text(st, 3, a->what, sizeof(a->what));
	sql_text(st, 4, a->result, sizeof(a->result));
}

int catalog_audits(
	struct catalog *c, size_t max, struct catalog_audit **out, size_t *n, struct tm_err *err)
{
	LOCK_SCOPE(&c->lock);

	return sql_list(c,
		sql_query(c, err,
			"SELECT id,time,who,what,result FROM audit ORDER BY id DESC LIMIT ?", "i",
			(int64_t)max),
		sizeof(**out), audit_row, (void **)out, n, err);
}
