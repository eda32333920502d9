// SPDX-License-Identifier: Apache-2.0
#include "tools/agentctl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/units.h"

static const char *text(const cJSON *o, const char *name)
{
	const char *s = tm_json_str(o, name);

	return s[0] ? s : "-";
}

static bool is_true(const cJSON *o, const char *name)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, name));
}

int agentctl_disks(struct tm_cli *cli)
{
	static const char *const heads[] = {"<DISK", ">SIZE", "<MODEL", "<PROTECTED", "<CONTENT"};
	cJSON *result = NULL;
	const cJSON *d;
	struct tm_table *t;
	char size[TM_TEXT_ROOM];
	int ret = tm_cli_request(cli, "disks", NULL, 60, &result);

	if (ret != TM_EXIT_OK)
		return ret;
	if (cli->json) {
		ret = tm_cli_print_json(result);
		cJSON_Delete(result);
		return ret;
	}
	t = tm_table_new(heads, 5);
	cJSON_ArrayForEach (d, cJSON_GetObjectItemCaseSensitive(result, "disks")) {
		const char *why = tm_json_str(d, "why_not");

		tm_table_cell(t, "%s", text(d, "path"));
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(d, "size"), size));
		tm_table_cell(t, "%s", text(d, "model"));
		tm_table_cell(t, "%s%s",
			is_true(d, "protected") ? "yes"
			: why[0]                ? "no: "
						: "no",
			is_true(d, "protected") ? "" : why);
		tm_table_cell(t, "%s", text(d, "content"));
	}
	tm_table_print(t, stdout);
	cJSON_Delete(result);
	return TM_EXIT_OK;
}

static void show_machine(const cJSON *s)
{
	const cJSON *rpo = cJSON_GetObjectItemCaseSensitive(s, "rpo_ms");
	char a[TM_TEXT_ROOM], b[TM_TEXT_ROOM], c[TM_TEXT_ROOM];

	if (!is_true(s, "enrolled")) {
		puts("not enrolled: run \"agentctl enroll\"");
		return;
	}
	printf("server      %s, %s%s%s\n", text(s, "server"),
		!strcmp(text(s, "link"), "held")
			? "HELD until an operator decides (serverctl adopt)"
		: is_true(s, "connected") ? "connected"
					  : "not connected",
		is_true(s, "paused") ? ", paused" : "",
		is_true(s, "server_full") ? ", the server's store is full" : "");
	if (tm_json_num(s, "last_point"))
		printf("last point  %llu at %s\n", (unsigned long long)tm_json_num(s, "last_point"),
			text(s, "last_point_time"));
	else
		puts("last point  none yet");
	if (cJSON_IsNumber(rpo) || cJSON_IsString(rpo))
		printf("RPO         %s\n", tm_duration_format(tm_json_num(s, "rpo_ms") * TM_MS, a));
	printf("rates       read %s/s, wire %s/s", tm_size_format(tm_json_num(s, "read_rate"), a),
		tm_size_format(tm_json_num(s, "wire_rate"), b));
	if (tm_json_num(s, "throttle"))
		printf(", throttled to %s/s by %s", tm_size_format(tm_json_num(s, "throttle"), a),
			tm_json_str(s, "throttle_by"));
	printf("\ntotals      read %s", tm_size_format(tm_json_num(s, "read_bytes"), a));
	printf(", compared %s, wire %s\n", tm_size_format(tm_json_num(s, "compared_bytes"), a),
		tm_size_format(tm_json_num(s, "wire_bytes"), b));
	if (cJSON_HasObjectItem(s, "epochs_broken")) {
		printf("epochs      %llu on their way, %llu broken, last cut held writes %llu us\n",
			(unsigned long long)tm_json_num(s, "epochs_unacknowledged"),
			(unsigned long long)tm_json_num(s, "epochs_broken"),
			(unsigned long long)tm_json_num(s, "cut_us"));
		printf("images      %s, peak %s", tm_size_format(tm_json_num(s, "images_bytes"), a),
			tm_size_format(tm_json_num(s, "images_peak"), b));
		printf(" of %s\n", tm_size_format(tm_json_num(s, "images_limit"), a));
	}
	if (tm_json_num(s, "spool_size"))
		printf("spool       %s of %s, peak %s\n",
			tm_size_format(tm_json_num(s, "spool_used"), a),
			tm_size_format(tm_json_num(s, "spool_size"), b),
			tm_size_format(tm_json_num(s, "spool_peak"), c));
	else if (tm_json_str(s, "spool_error")[0])
		printf("spool       none: %s\n", text(s, "spool_error"));
	if (tm_json_num(s, "freeze_ms"))
		printf("last freeze %llu ms\n", (unsigned long long)tm_json_num(s, "freeze_ms"));
	if (tm_json_str(s, "last_error")[0])
		printf("last error  %s (%s)\nwhat to do  %s\n", text(s, "last_error"),
			text(s, "last_error_time"), text(s, "last_error_todo"));
}

static void show_progress(struct tm_table *t, const cJSON *d)
{
	uint64_t total = tm_json_num(d, "total"), left = tm_json_num(d, "seconds_left");
	char time[TM_TEXT_ROOM];

	if (!total) {
		tm_table_cell(t, "-");
		return;
	}
	tm_table_cell(t, "%s %.1f%%%s%s%s", text(d, "job"),
		100.0 * (double)tm_json_num(d, "done") / (double)total, left ? ", " : "",
		left ? tm_duration_format(left * TM_SEC, time) : "", left ? " left" : "");
}

static void show_disks(const cJSON *s)
{
	static const char *const heads[] = {"<DISK", "<STATE", "<TRACKER", ">SIZE", "<PROGRESS",
		">BACKLOG", ">LAST POINT", "<NOTE"};
	const cJSON *disks = cJSON_GetObjectItemCaseSensitive(s, "disks"), *d;
	struct tm_table *t;
	char size[TM_TEXT_ROOM];

	if (!cJSON_GetArraySize(disks)) {
		puts("no disk is protected");
		return;
	}
	t = tm_table_new(heads, 8);
	cJSON_ArrayForEach (d, disks) {
		tm_table_cell(t, "%s", text(d, "path"));
		tm_table_cell(t, "%s", text(d, "state"));
		tm_table_cell(t, "%s", text(d, "tracker"));
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(d, "size"), size));
		show_progress(t, d);
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(d, "backlog"), size));
		tm_table_cell(t, "%llu", (unsigned long long)tm_json_num(d, "last_point"));
		tm_table_cell(
			t, "%s", tm_json_str(d, "error")[0] ? text(d, "error") : text(d, "doubt"));
	}
	tm_table_print(t, stdout);
}

static int show_status(struct tm_cli *cli, bool clear)
{
	cJSON *s = NULL;
	int ret = tm_cli_request(cli, "status", NULL, 60, &s);

	if (ret != TM_EXIT_OK)
		return ret;
	if (cli->json) {
		ret = tm_cli_print_json(s);
	} else {
		if (clear)
			fputs("\033[H\033[J", stdout);
		show_machine(s);
		show_disks(s);
	}
	fflush(stdout);
	cJSON_Delete(s);
	return ret;
}

int agentctl_status(struct tm_cli *cli)
{
	bool watch = tm_cli_value(cli, "watch"), terminal = isatty(STDOUT_FILENO);
	int ret;

	do {
		ret = show_status(cli, watch && terminal);
		if (watch && ret == TM_EXIT_OK)
			nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
	} while (watch && ret == TM_EXIT_OK);
	return ret;
}
