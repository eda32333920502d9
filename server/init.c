// SPDX-License-Identifier: Apache-2.0
#include "server/init.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/pki.h"
#include "common/units.h"
#include "server/catalog.h"
#include "server/store/store.h"

static int write_conf(const char *dir, const char *listen, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/server.conf", dir);
	char text[512];
	int len = snprintf(text, sizeof(text), "[server]\n%s%s%s", listen ? "listen = " : "",
		listen ? listen : "", listen ? "\n" : "");

	if (!path)
		return tm_fail(err, ENOMEM, "out of memory");
	return tm_file_write(path, text, (size_t)len, 0644, err);
}

static int check_listen(const char *listen, struct tm_err *err)
{
	char host[256];
	uint16_t port;

	if (!listen)
		return 0;
	return tm_addr_parse(listen, 1, host, sizeof(host), &port, err);
}

static int store_uuid(const char *dir, uint8_t uuid[TM_UUID], struct tm_err *err)
{
	struct store_opts opts = {.reserve_bytes = UINT64_MAX};
	struct store_info info;
	struct store *st;
	int rc = store_open(dir, &opts, &st, err);

	if (rc)
		return rc;
	rc = store_info(st, &info, err);
	if (!rc)
		memcpy(uuid, info.uuid, TM_UUID);
	store_close(st);
	return rc;
}

int init_store(const char *dir, const char *listen, struct tm_err *err)
{
	CLEANUP_FREE char *pki = tm_path("%s/pki", dir);
	struct catalog *c = NULL;
	uint8_t uuid[TM_UUID];
	char who[64];
	int rc = check_listen(listen, err);

	if (!rc)
		rc = pki ? store_create(dir, err) : tm_fail(err, ENOMEM, "out of memory");
	if (!rc)
		rc = store_uuid(dir, uuid, err);
	if (!rc)
		rc = tm_pki_create(pki, uuid, err);
	if (!rc)
		rc = write_conf(dir, listen, err);
	if (!rc)
		rc = catalog_open(dir, true, &c, err);
	if (!rc)
		rc = catalog_audit(c, catalog_who(getuid(), who, sizeof(who)), "init", "done", err);
	catalog_close(c);
	return rc;
}
