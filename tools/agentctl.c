// SPDX-License-Identifier: Apache-2.0
/* agentctl: asks the agent over its socket. What needs more than a few lines to show is in agentctl-show.c. */
#include <stdio.h>
#include <string.h>

#include "common/cli.h"
#include "common/control.h"
#include "common/units.h"
#include "tools/agentctl.h"

/* A request whose answer is only shown as JSON, or as a line. */
static int simple(struct tm_cli *cli, const char *cmd, cJSON *args, int timeout_s, const char *line)
{
	cJSON *result = NULL;
	int ret = tm_cli_request(cli, cmd, args, timeout_s, &result);

	if (ret == TM_EXIT_OK && cli->json)
		ret = tm_cli_print_json(result);
	else if (ret == TM_EXIT_OK && line)
		puts(line);
	cJSON_Delete(result);
	return ret;
}

static int run_enroll(struct tm_cli *cli)
{
	const char *server = tm_cli_value(cli, "server"), *token = tm_cli_value(cli, "token");
	cJSON *args;

	if (!server || !token)
		return tm_cli_usage(cli, "--server and --token are needed");
	args = cJSON_CreateObject();
	cJSON_AddStringToObject(args, "server", server);
	cJSON_AddStringToObject(args, "token", token);
	return simple(cli, "enroll", args, 60, "enrolled");
}

static cJSON *disk_args(struct tm_cli *cli)
{
	cJSON *args = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(args, "disks");

	for (int i = 0; i < cli->argc; i++)
		cJSON_AddItemToArray(list, cJSON_CreateString(cli->argv[i]));
	return args;
}

static int run_protect(struct tm_cli *cli)
{
	const char *tracker = tm_cli_value(cli, "tracker");
	cJSON *args;

	if (tracker && strcmp(tracker, "kmod") && strcmp(tracker, "scan"))
		return tm_cli_usage(cli, "--tracker is kmod or scan");
	args = disk_args(cli);
	if (tracker)
		cJSON_AddStringToObject(args, "tracker", tracker);
	return simple(cli, "protect", args, 60, NULL);
}

static int run_unprotect(struct tm_cli *cli)
{
	return simple(cli, "unprotect", disk_args(cli), 60, NULL);
}

static int run_point(struct tm_cli *cli)
{
	const char *label = tm_cli_value(cli, "label");
	bool wait = tm_cli_value(cli, "wait");
	cJSON *args = cJSON_CreateObject(), *result = NULL;
	int ret;

	cJSON_AddBoolToObject(args, "app", tm_cli_value(cli, "app-consistent") != NULL);
	cJSON_AddBoolToObject(args, "freeze", tm_cli_value(cli, "freeze") != NULL);
	cJSON_AddBoolToObject(args, "wait", wait);
	if (label)
		cJSON_AddStringToObject(args, "label", label);
	ret = tm_cli_request(cli, "point", args, wait ? -1 : 60, &result);
	if (ret == TM_EXIT_OK && wait && !tm_json_num(result, "point"))
		ret = tm_cli_fail(cli, TM_EXIT_REFUSED, "no point: stored at the server, but %s",
			tm_json_str(result, "text"));
	else if (ret == TM_EXIT_OK && cli->json)
		ret = tm_cli_print_json(result);
	else if (ret == TM_EXIT_OK && wait)
		printf("%llu\n", (unsigned long long)tm_json_num(result, "point"));
	if (ret == TM_EXIT_OK && wait && tm_json_str(result, "text")[0])
		fprintf(stderr, "%s\n", tm_json_str(result, "text"));
	cJSON_Delete(result);
	return ret;
}

static int run_pause(struct tm_cli *cli)
{
	return simple(cli, "pause", NULL, 60, NULL);
}

static int run_resume(struct tm_cli *cli)
{
	return simple(cli, "resume", NULL, 60, NULL);
}

static int run_throttle(struct tm_cli *cli)
{
	cJSON *args;
	struct tm_err err;
	uint64_t rate;

	if (tm_size_parse(cli->argv[0], &rate, &err))
		return tm_cli_usage(cli, "%s", err.msg);
	args = cJSON_CreateObject();
	tm_json_u64(args, "rate", rate);
	return simple(cli, "throttle", args, 60, NULL);
}

/* Differences are a verify's answer, not its failure; scripts see them in the exit code all the same. */
static int compare(struct tm_cli *cli, const char *cmd)
{
	cJSON *args = cJSON_CreateObject(), *result = NULL;
	unsigned long long differ;
	int ret;

	if (cli->argc)
		cJSON_AddStringToObject(args, "disk", cli->argv[0]);
	ret = tm_cli_request(cli, cmd, args, -1, &result);
	if (ret != TM_EXIT_OK)
		return ret;
	differ = tm_json_num(result, "differing_chunks");
	if (cli->json)
		ret = tm_cli_print_json(result);
	else if (differ)
		printf("%s\n", tm_json_str(result, "text"));
	else
		puts("no difference");
	cJSON_Delete(result);
	if (ret == TM_EXIT_OK && differ && !strcmp(cmd, "verify"))
		ret = tm_cli_fail(cli, TM_EXIT_FAILED,
			"source and server differ in %llu chunks of 16 KiB (a disk that is in use changes meanwhile); run \"agentctl resync\"",
			differ);
	return ret;
}

static int run_resync(struct tm_cli *cli)
{
	return compare(cli, "resync");
}

static int run_verify(struct tm_cli *cli)
{
	return compare(cli, "verify");
}

static int run_leave(struct tm_cli *cli)
{
	return simple(cli, "leave", NULL, 60, NULL);
}

static const struct tm_cli_opt enroll_opts[] = {
	{"server", "HOST[:PORT]", "the process server"},
	{"token", "TOKEN", "printed by \"serverctl token\" there"},
	{0},
};
static const struct tm_cli_opt protect_opts[] = {
	{"tracker", "kmod|scan", "how changes are found: kernel module (default) or checksums"},
	{0},
};
static const struct tm_cli_opt status_opts[] = {
	{"watch", NULL, "show it again every second"},
	{0},
};
static const struct tm_cli_opt point_opts[] = {
	{"app-consistent", NULL, "applications told, filesystems frozen"},
	{"freeze", NULL, "filesystems frozen, within a time limit"},
	{"label", "TEXT", "shown with the point"},
	{"wait", NULL, "until it is durable; prints its id"},
	{0},
};

static const struct tm_cli_cmd cmds[] = {
	{"enroll", "", "get a certificate from the process server, once", NULL, enroll_opts, 0, 0,
		run_enroll},
	{"disks", "", "disks of this machine and what can be done with them", NULL, NULL, 0, 0,
		agentctl_disks},
	{"protect", "DISK...", "start replicating whole disks", NULL, protect_opts, 1, -1,
		run_protect},
	{"unprotect", "DISK...", "stop; earlier points stay at the server", NULL, NULL, 1, -1,
		run_unprotect},
	{"status", "", "state, progress, newest point, rates, last error", NULL, status_opts, 0, 0,
		agentctl_status},
	{"point", "", "take a recovery point now", NULL, point_opts, 0, 0, run_point},
	{"pause", "", "stop sending; tracking goes on", NULL, NULL, 0, 0, run_pause},
	{"resume", "", "go on", NULL, NULL, 0, 0, run_resume},
	{"throttle", "RATE", "bytes per second on the wire at most; 0 = as configured", NULL, NULL,
		1, 1, run_throttle},
	{"resync", "[DISK]", "compare by checksum and send what differs", NULL, NULL, 0, 1,
		run_resync},
	{"verify", "[DISK]", "compare by checksum and report only", NULL, NULL, 0, 1, run_verify},
	{"leave", "", "stop protecting all disks and forget the server", NULL, NULL, 0, 0,
		run_leave},
	{0},
};

int main(int argc, char **argv)
{
	static const struct tm_cli_program program = {.name = "agentctl",
		.summary = "controls the replication of this machine",
		.socket = "/run/tidemark/agent.sock",
		.socket_env = "TIDEMARK_AGENT_SOCKET",
		.cmds = cmds};

	return tm_cli_main(&program, argc, argv);
}
