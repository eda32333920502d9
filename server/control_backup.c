// SPDX-License-Identifier: Apache-2.0
/* backup: the store copies itself, the daemon adds what is its own: catalog, keys, configuration. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "server/control.h"
#include "server/store/backup.h"

#define FILE_MAX (1u << 20) /* of a key, a certificate, the configuration */
#define TELL_NS  (TM_SEC / 2)

struct backup {
	struct tm_control_call *call;
	struct server *s;
	uint64_t told; /* monotonic ns */
};

static int progress(void *arg, uint64_t done, uint64_t total)
{
	struct backup *b = arg;
	uint64_t now = tm_mono_ns();
	cJSON *p;

	if (now - b->told < TELL_NS)
		return tm_control_gone(b->call);
	b->told = now;
	p = cJSON_CreateObject();
	cJSON_AddStringToObject(p, "text", "bytes copied");
	tm_json_u64(p, "done", done);
	tm_json_u64(p, "total", total > done ? total : done);
	return tm_control_progress(b->call, p);
}

static int copy_file(const char *from, const char *to, struct tm_err *err)
{
	CLEANUP_FREE char *data = NULL;
	size_t len;
	int rc = tm_file_read(from, FILE_MAX, &data, &len, err);

	return rc ? rc : tm_file_write(to, data, len, 0600, err);
}

static int copy_keys(struct server *s, const char *path, struct tm_err *err)
{
	CLEANUP_FREE char *to = tm_path("%s/pki", path);
	CLEANUP_CLOSEDIR DIR *d = opendir(s->pki);
	struct dirent *e;
	int rc;

	if (!d)
		return tm_fail_errno(err, "%s", s->pki);
	rc = to ? tm_mkdirs(to, 0700, err) : tm_fail(err, ENOMEM, "out of memory");
	while (!rc && (errno = 0, e = readdir(d))) {
		CLEANUP_FREE char *a = tm_path("%s/%s", s->pki, e->d_name);
		CLEANUP_FREE char *b = tm_path("%s/%s", to, e->d_name);

		if (e->d_name[0] == '.')
			continue;
		rc = a && b ? copy_file(a, b, err) : tm_fail(err, ENOMEM, "out of memory");
	}
	/* A key that could not be listed would be missing in the copy. */
	return rc || !errno ? rc : tm_fail_errno(err, "%s", s->pki);
}

static int extra(void *arg, const char *path, struct tm_err *err)
{
	struct server *s = ((struct backup *)arg)->s;
	CLEANUP_FREE char *catalog = tm_path("%s/catalog.db", path);
	CLEANUP_FREE char *conf = tm_path("%s/server.conf", s->dir);
	CLEANUP_FREE char *to = tm_path("%s/server.conf", path);
	int rc;

	if (!catalog || !conf || !to)
		return tm_fail(err, ENOMEM, "out of memory");
	rc = catalog_copy(s->dir, catalog, err);
	if (!rc)
		rc = copy_keys(s, path, err);
	if (!rc && copy_file(conf, to, err) && err->code != ENOENT)
		rc = -err->code;
	return rc;
}

int control_backup(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *err)
{
	struct backup b = {.call = call, .s = call->ctx};
	struct backup_opts o = {.progress = progress, .extra = extra, .arg = &b};
	struct backup_result r;
	const char *dir;
	int rc = tm_arg_string(args, "dir", &dir, err);

	if (!rc)
		rc = tm_arg_u64_opt(args, "rate", &o.rate, err);
	if (!rc && *dir != '/')
		rc = tm_fail(err, EINVAL, "the folder has to be a whole path, not %.200s", dir);
	if (!rc)
		rc = store_backup(b.s->store, dir, &o, &r, err);
	if (rc)
		return rc;
	tm_log(TM_LOG_NOTICE,
		"backup to %s: %" PRIu64 " points, %" PRIu64 " bytes copied of %" PRIu64, dir,
		r.points, r.copied_bytes, r.bytes);
	if (r.damaged)
		tm_log(TM_LOG_ERR,
			"%" PRIu64
			" packs are missing or damaged in the store, such as %s: run serverctl scrub",
			r.damaged, r.first_damaged);
	*result = cJSON_CreateObject();
	tm_json_u64(*result, "points", r.points);
	tm_json_u64(*result, "packs", r.packs);
	tm_json_u64(*result, "copied_bytes", r.copied_bytes);
	tm_json_u64(*result, "bytes", r.bytes);
	tm_json_u64(*result, "damaged_packs", r.damaged);
	return 0;
}
