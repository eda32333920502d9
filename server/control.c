// SPDX-License-Identifier: Apache-2.0
#include "server/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/pki.h"
#include "common/token.h"
#include "common/uuid.h"

int control_machine(
	struct tm_control_call *call, const cJSON *args, struct machine **m, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct catalog_machine c;
	const char *name;
	int rc = tm_arg_string(args, "machine", &name, err);

	if (rc)
		return rc;
	rc = catalog_machine_find(s->catalog, name, &c, err);
	if (rc == -ENOENT)
		return tm_control_no_such(
			call, err, "no machine %.100s: see serverctl machines", name);
	return rc ? rc : machine_get(s, c.uuid, m, err);
}

int control_audit(struct tm_control_call *call, const char *cmd, const cJSON *args, int rc,
	struct tm_err *err)
{
	struct server *s = call->ctx;
	char who[64], what[256];
	CLEANUP_FREE char *text = cJSON_PrintUnformatted(args);
	struct tm_err failed;

	catalog_who(call->uid, who, sizeof(who));
	snprintf(what, sizeof(what), "%s %.200s", cmd, text ? text : "");
	if (!catalog_audit(s->catalog, who, what, rc ? err->msg : "done", &failed))
		return rc;
	tm_log(TM_LOG_ERR, "not written into the audit table: %s did %s: %s (%s)", who, what,
		rc ? err->msg : "done", failed.msg);
	if (rc)
		return rc;
	*err = failed;
	return tm_wrap(err, "done, but not written into the audit table");
}

/* ---- tokens ---- */

static int bound_machine(struct tm_control_call *call, const cJSON *args, const uint8_t **uuid,
	uint8_t room[TM_UUID], struct tm_err *err)
{
	struct machine *m = NULL;
	int rc;

	*uuid = NULL;
	if (!cJSON_HasObjectItem(args, "machine"))
		return 0;
	rc = control_machine(call, args, &m, err);
	if (rc)
		return rc;
	memcpy(room, m->uuid, TM_UUID);
	*uuid = room;
	return 0;
}

static int make_token(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct server *s = call->ctx;
	uint64_t ttl = 3600 * TM_SEC, uses = 1, expires;
	uint8_t fpr[TM_FPR], hash[TM_HASH], room[TM_UUID];
	char text[TM_TOKEN_TEXT];
	const uint8_t *machine;
	struct tm_token t;
	int rc = tm_arg_u64_opt(args, "ttl_ns", &ttl, err);

	if (!rc)
		rc = tm_arg_u64_opt(args, "uses", &uses, err);
	if (!rc && (ttl < TM_SEC || ttl > 365 * 86400 * TM_SEC || uses < 1 || uses > 100000))
		rc = tm_fail(
			err, EINVAL, "a token is good for 1 s to 365 days and 1 to 100000 uses");
	if (!rc)
		rc = bound_machine(call, args, &machine, room, err);
	if (!rc)
		rc = tm_pki_ca_fpr(s->pki, fpr, err);
	if (rc)
		return rc;
	expires = (uint64_t)time(NULL) + ttl / TM_SEC;
	tm_token_new(fpr, expires, &t);
	tm_token_hash(t.id, t.secret, hash);
	rc = catalog_token_add(
		s->catalog, t.id, hash, (int64_t)expires, (uint32_t)uses, machine, err);
	if (rc)
		return rc;
	*result = cJSON_CreateObject();
	cJSON_AddStringToObject(*result, "token", tm_token_format(&t, text));
	tm_json_time(*result, "expires", expires * TM_SEC);
	tm_json_u64(*result, "uses", uses);
	return 0;
}

/* ---- machines ---- */

static int revoke_machine(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct machine *m = NULL;
	int rc = control_machine(call, args, &m, err);

	if (!rc)
		rc = catalog_machine_revoke(s->catalog, m->uuid, err);
	if (rc)
		return rc;
	__atomic_store_n(&m->revoked, true, __ATOMIC_RELEASE);
	tm_log_of(TM_LOG_NOTICE, m->name, NULL, "machine %s (%s) revoked", m->name, m->host);
	return machine_note(m, err);
}

static int adopt_machine(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct server *s = call->ctx;
	struct machine *m = NULL;
	int rc = control_machine(call, args, &m, err);

	if (rc)
		return rc;
	if (!__atomic_load_n(&m->held, __ATOMIC_ACQUIRE))
		return tm_control_refused(call, err, "machine %s is not on hold", m->host);
	rc = catalog_machine_hold(s->catalog, m->uuid, NULL, err);
	if (rc)
		return rc;
	__atomic_store_n(&m->held, false, __ATOMIC_RELEASE);
	tm_log_of(TM_LOG_NOTICE, m->name, NULL, "machine %s (%s) adopted: the hold has ended",
		m->name, m->host);
	return machine_note(m, err);
}

#define AUDITED(name, fn)                                                                          \
	static int name##_audited(struct tm_control_call *call, const cJSON *args, cJSON **result, \
		struct tm_err *err)                                                                \
	{                                                                                          \
		return control_audit(call, #name, args, fn(call, args, result, err), err);         \
	}

AUDITED(token, make_token)
AUDITED(revoke, revoke_machine)
AUDITED(adopt, adopt_machine)
AUDITED(pin, control_pin)
AUDITED(unpin, control_unpin)
AUDITED(checkpoint, control_checkpoint)
AUDITED(release, control_release)
AUDITED(policy_set, control_policy_set)
AUDITED(scrub, control_scrub)
AUDITED(backup, control_backup)

static const struct tm_control_cmd commands[] = {
	{"token", token_audited},
	{"revoke", revoke_audited},
	{"adopt", adopt_audited},
	{"machines", control_machines},
	{"show", control_show},
	{"points", control_points},
	{"pin", pin_audited},
	{"unpin", unpin_audited},
	{"checkpoint", checkpoint_audited},
	{"release", release_audited},
	{"policy", control_policy},
	{"policy_set", policy_set_audited},
	{"scrub", scrub_audited},
	{"backup", backup_audited},
	{"audit", control_audits},
	{NULL, NULL},
};

/* The folder of the default socket may have to be made; one that was named is the operator's. */
static int socket_folder(const char *path, struct tm_err *err)
{
	CLEANUP_FREE char *dir = tm_path("%s", path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!slash || slash == dir)
		return 0;
	*slash = 0;
	return tm_mkdirs(dir, 0755, err);
}

int control_start(struct server *s, struct tm_control **control, struct tm_err *err)
{
	int rc = socket_folder(s->conf.socket, err);

	return rc ? rc : tm_control_start(s->conf.socket, 0660, commands, s, control, err);
}
