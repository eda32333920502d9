// SPDX-License-Identifier: Apache-2.0
/* policy and scrub. */
#include "tools/serverctl.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/control.h"
#include "common/units.h"

/* By tier: what it keeps, and what of what is there goes. */
static void print_tiers(const cJSON *r, FILE *out)
{
	const cJSON *t;
	char age[TM_TEXT_ROOM], every[TM_TEXT_ROOM];

	cJSON_ArrayForEach (t, cJSON_GetObjectItemCaseSensitive(r, "tiers")) {
		uint64_t age_s = tm_json_num(t, "age_s"), every_s = tm_json_num(t, "every_s");

		if (!tm_json_num(t, "points"))
			continue;
		if (age_s)
			fprintf(out, "  younger than %s, one per %s: ",
				tm_duration_format(age_s * TM_SEC, age),
				every_s ? tm_duration_format(every_s * TM_SEC, every) : "point");
		else
			fputs("  older: ", out);
		fprintf(out, "%" PRIu64 " of %" PRIu64 " points go\n", tm_json_num(t, "drops"),
			tm_json_num(t, "points"));
	}
}

static void print_policy(const cJSON *r, bool would, FILE *out)
{
	char text[TM_TEXT_ROOM];
	uint64_t immutable = tm_json_num(r, "immutable_s");

	fprintf(out, "policy     %s\n", tm_json_str(r, "policy"));
	fprintf(out, "immutable  %s\n",
		immutable ? tm_duration_format(immutable * TM_SEC, text) : "no");
	if (!would || !tm_json_num(r, "drops")) {
		fprintf(out, "points     %" PRIu64 "%s\n", tm_json_num(r, "points"),
			would ? ", none would be dropped" : "");
		return;
	}
	fprintf(out, "points     %" PRIu64 ", of which %" PRIu64 " will be dropped: %s to %s\n",
		tm_json_num(r, "points"), tm_json_num(r, "drops"), tm_json_str(r, "drops_first"),
		tm_json_str(r, "drops_last"));
	print_tiers(r, out);
	fprintf(out, "space      at most %s becomes free\n",
		tm_size_format(tm_json_num(r, "drops_bytes"), text));
}

/* Asks whoever sits at the terminal. Only "yes" is yes. */
static bool confirmed(void)
{
	char answer[16];

	fputs("These points cannot be brought back. Type \"yes\" to drop them: ", stderr);
	return fgets(answer, sizeof(answer), stdin) && !strcasecmp(answer, "yes\n");
}

/* Shows what the change drops, before it is made. Something is dropped only if somebody has said yes to it. */
static int agree(struct tm_cli *cli, cJSON *args)
{
	cJSON *result;
	int rc = tm_cli_request(cli, "policy", args, 300, &result);
	uint64_t drops;

	if (rc)
		return rc;
	drops = tm_json_num(result, "drops");
	if (drops && !tm_cli_value(cli, "yes")) {
		print_policy(result, true, stderr);
		if (cli->json || !isatty(STDIN_FILENO))
			rc = tm_cli_fail(cli, TM_EXIT_REFUSED,
				"%" PRIu64
				" points would be dropped: nothing is changed without --yes",
				drops);
		else if (!confirmed())
			rc = tm_cli_fail(cli, TM_EXIT_REFUSED, "nothing is changed");
	}
	cJSON_Delete(result);
	return rc;
}

static cJSON *policy_args(struct tm_cli *cli, const char *tiers, struct tm_err *err)
{
	const char *immutable = tm_cli_value(cli, "immutable");
	cJSON *args = cJSON_CreateObject();
	uint64_t ns;

	cJSON_AddStringToObject(args, "machine", cli->argv[0]);
	if (tiers)
		cJSON_AddStringToObject(args, "policy", tiers);
	if (!immutable)
		return args;
	if (tm_duration_parse(immutable, &ns, err)) {
		cJSON_Delete(args);
		return NULL;
	}
	tm_json_u64(args, "immutable_s", ns / TM_SEC);
	return args;
}

int serverctl_policy(struct tm_cli *cli)
{
	bool set = cli->argc > 1, dry = tm_cli_value(cli, "dry-run") || !set;
	struct tm_err err;
	cJSON *args, *result;
	int rc;

	if (set && strcmp(cli->argv[1], "set") != 0)
		return tm_cli_usage(cli, "policy MACHINE [set [TIERS]]");
	if (!set && tm_cli_value(cli, "immutable"))
		return tm_cli_usage(cli, "--immutable goes with \"set\"");
	args = policy_args(cli, cli->argc > 2 ? cli->argv[2] : NULL, &err);
	if (!args)
		return tm_cli_usage(cli, "%s", err.msg);
	if (!dry) {
		rc = agree(cli, cJSON_Duplicate(args, true));
		if (rc) {
			cJSON_Delete(args);
			return rc;
		}
	}
	rc = tm_cli_request(cli, dry ? "policy" : "policy_set", args, 300, &result);
	if (rc)
		return rc;
	if (cli->json)
		rc = tm_cli_print_json(result);
	else
		print_policy(result, set, stdout);
	cJSON_Delete(result);
	return rc;
}

static void print_damage(const cJSON *r)
{
	const cJSON *d;

	cJSON_ArrayForEach (d, cJSON_GetObjectItemCaseSensitive(r, "damage")) {
		bool newest = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(d, "newest_state"));

		printf("%s %s offset %" PRIu64 " length %" PRIu64 ": points %" PRIu64 " to %" PRIu64
		       "%s: %s\n",
			tm_json_str(d, "machine"), tm_json_str(d, "disk"), tm_json_num(d, "offset"),
			tm_json_num(d, "length"), tm_json_num(d, "first_point"),
			tm_json_num(d, "last_point"), newest ? " and the newest state" : "",
			tm_json_str(d, "why"));
	}
	cJSON_ArrayForEach (d, cJSON_GetObjectItemCaseSensitive(r, "touched_points"))
		printf("%s points %" PRIu64 " to %" PRIu64
		       ": the blocks above are lost for good, all others stay readable\n",
			tm_json_str(d, "machine"), tm_json_num(d, "first_point"),
			tm_json_num(d, "last_point"));
	if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(r, "resumed")))
		printf("gone on with from where it was interrupted: what was found before that is in the log\n");
	if (*tm_json_str(r, "unverified"))
		printf("%s\n", tm_json_str(r, "unverified"));
	printf("%" PRIu64 " cells, %" PRIu64 " bytes verified, %" PRIu64 " damaged\n",
		tm_json_num(r, "cells"), tm_json_num(r, "bytes"), tm_json_num(r, "damaged"));
	if (tm_json_num(r, "healed_disks"))
		printf("%" PRIu64
		       " disks are compared with their source again: their next point is whole\n",
			tm_json_num(r, "healed_disks"));
	cJSON_ArrayForEach (d, cJSON_GetObjectItemCaseSensitive(r, "not_healed"))
		printf("%s %s is not healed: %s\n", tm_json_str(d, "machine"),
			tm_json_str(d, "disk"), tm_json_str(d, "why"));
}

int serverctl_scrub(struct tm_cli *cli)
{
	const char *rate = tm_cli_value(cli, "rate");
	cJSON *args = cJSON_CreateObject(), *result;
	struct tm_err err;
	uint64_t bytes;
	int rc;

	if (cli->argc)
		cJSON_AddStringToObject(args, "machine", cli->argv[0]);
	cJSON_AddBoolToObject(args, "heal", tm_cli_value(cli, "heal") != NULL);
	if (rate && tm_size_parse(rate, &bytes, &err)) {
		cJSON_Delete(args);
		return tm_cli_usage(cli, "%s", err.msg);
	}
	if (rate)
		tm_json_u64(args, "rate", bytes);
	rc = tm_cli_request(cli, "scrub", args, -1, &result);
	if (rc)
		return rc;
	if (cli->json)
		rc = tm_cli_print_json(result);
	else
		print_damage(result);
	if (!rc && tm_json_num(result, "damaged"))
		rc = tm_cli_fail(cli, TM_EXIT_FAILED,
			"damage was found: other points stay usable%s",
			tm_cli_value(cli, "heal") ? "" : "; --heal brings the newest state back");
	else if (!rc && *tm_json_str(result, "unverified"))
		rc = tm_cli_fail(cli, TM_EXIT_FAILED, "not everything could be verified");
	cJSON_Delete(result);
	return rc;
}
