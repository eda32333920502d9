// SPDX-License-Identifier: Apache-2.0
/* backup. */
#include "tools/serverctl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/control.h"
#include "common/file.h"
#include "common/units.h"

/* The server has another working folder. */
static char *whole_path(const char *dir)
{
	CLEANUP_FREE char *cwd = *dir == '/' ? NULL : getcwd(NULL, 0);

	return *dir == '/' ? tm_path("%s", dir) : cwd ? tm_path("%s/%s", cwd, dir) : NULL;
}

static void print_backup(const cJSON *r)
{
	char text[TM_TEXT_ROOM], all[TM_TEXT_ROOM];

	printf("%" PRIu64 " points, %s copied, %s in all\n", tm_json_num(r, "points"),
		tm_size_format(tm_json_num(r, "copied_bytes"), text),
		tm_size_format(tm_json_num(r, "bytes"), all));
}

int serverctl_backup(struct tm_cli *cli)
{
	CLEANUP_FREE char *dir = whole_path(cli->argv[0]);
	const char *rate = tm_cli_value(cli, "rate");
	cJSON *args, *result;
	struct tm_err err;
	uint64_t bytes = 0;
	int rc;

	if (!dir)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s: %s", cli->argv[0], strerror(errno));
	if (rate && (tm_size_parse(rate, &bytes, &err) || !bytes))
		return tm_cli_usage(cli, "--rate %s: a size above zero is meant", rate);
	args = cJSON_CreateObject();
	cJSON_AddStringToObject(args, "dir", dir);
	if (rate)
		tm_json_u64(args, "rate", bytes);
	rc = tm_cli_request(cli, "backup", args, -1, &result);
	if (rc)
		return rc;
	if (cli->json)
		rc = tm_cli_print_json(result);
	else
		print_backup(result);
	if (!rc && tm_json_num(result, "damaged_packs"))
		rc = tm_cli_fail(cli, TM_EXIT_FAILED,
			"copied, but %" PRIu64
			" packs are missing or damaged in the store: run serverctl scrub",
			tm_json_num(result, "damaged_packs"));
	cJSON_Delete(result);
	return rc;
}
