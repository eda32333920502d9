// SPDX-License-Identifier: Apache-2.0
/* serverctl: the process server's command line. */
#include "tools/serverctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/file.h"
#include "common/units.h"

char *serverctl_sibling(const char *name)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n > 0) {
		self[n] = 0;
		*strrchr(self, '/') = 0;
		/* Where it was built; where programs and plugin are installed. */
		static const char *const places[] = {
			"%s/%s", "%s/../sbin/%s", "%s/../lib/tidemark/%s"};

		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			char *path = tm_path(places[i], self, name);

			if (path && access(path, R_OK) == 0)
				return path;
			free(path);
		}
	}
	return tm_path("%s", name);
}

/* init, rebuild and restore work on a store without a daemon: the daemon's own program does them. */
static int offline(struct tm_cli *cli, const char *what)
{
	CLEANUP_FREE char *program = serverctl_sibling("tidemark-server");
	const char *dir = tm_cli_value(cli, "dir"), *listen = tm_cli_value(cli, "listen");
	const char *argv[] = {program, "--dir", dir, what, NULL, NULL, NULL, NULL};
	const char **next = argv + 4;
	int status;
	pid_t pid;

	if (!dir)
		return tm_cli_usage(cli, "--dir is missing");
	if (!program)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
	if (cli->argc)
		*next++ = cli->argv[0];
	if (listen) {
		*next++ = "--listen";
		*next++ = listen;
	}
	pid = fork();
	if (pid == 0) {
		if (cli->json && !freopen("/dev/null", "w", stdout))
			_exit(127);
		execvp(program, (char **)argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s: %s", program, strerror(errno));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s cannot be run", program);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return TM_EXIT_FAILED; /* it has said why */
	if (cli->json)
		puts("{}");
	return TM_EXIT_OK;
}

static int cmd_init(struct tm_cli *cli)
{
	return offline(cli, "--init");
}

static int cmd_rebuild(struct tm_cli *cli)
{
	return offline(cli, "--rebuild");
}

static int cmd_restore(struct tm_cli *cli)
{
	return offline(cli, "--restore");
}

/* args with one string; NULL value: left out. */
static cJSON *args1(const char *name, const char *value)
{
	cJSON *args = cJSON_CreateObject();

	if (value)
		cJSON_AddStringToObject(args, name, value);
	return args;
}

/* For commands whose answer nobody needs to see. */
static int simple(struct tm_cli *cli, const char *cmd, cJSON *args)
{
	cJSON *result;
	int rc = tm_cli_request(cli, cmd, args, 0, &result);

	if (rc)
		return rc;
	if (cli->json)
		rc = tm_cli_print_json(result);
	cJSON_Delete(result);
	return rc;
}

static int cmd_token(struct tm_cli *cli)
{
	const char *ttl = tm_cli_value(cli, "ttl"), *uses = tm_cli_value(cli, "uses");
	cJSON *args = args1("machine", tm_cli_value(cli, "machine")), *result;
	struct tm_err err;
	uint64_t n;
	int rc;

	if (ttl && tm_duration_parse(ttl, &n, &err))
		rc = -EINVAL;
	else
		rc = ttl && !tm_json_u64(args, "ttl_ns", n) ? -ENOMEM : 0;
	if (!rc && uses)
		rc = tm_u64_parse(uses, &n, &err)   ? -EINVAL
		     : tm_json_u64(args, "uses", n) ? 0
						    : -ENOMEM;
	if (rc) {
		cJSON_Delete(args);
		return tm_cli_usage(cli, "%s", rc == -EINVAL ? err.msg : "out of memory");
	}
	rc = tm_cli_request(cli, "token", args, 0, &result);
	if (rc)
		return rc;
	if (cli->json)
		rc = tm_cli_print_json(result);
	else
		puts(tm_json_str(result, "token"));
	cJSON_Delete(result);
	return rc;
}

static int cmd_revoke(struct tm_cli *cli)
{
	return simple(cli, "revoke", args1("machine", cli->argv[0]));
}

static int cmd_adopt(struct tm_cli *cli)
{
	return simple(cli, "adopt", args1("machine", cli->argv[0]));
}

static int cmd_pin(struct tm_cli *cli)
{
	return simple(cli, "pin", args1("point", cli->argv[0]));
}

static int cmd_unpin(struct tm_cli *cli)
{
	return simple(cli, "unpin", args1("point", cli->argv[0]));
}

static const char *rpo_text(const cJSON *o, char text[TM_TEXT_ROOM])
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, "rpo_ms");

	return !v || cJSON_IsNull(v) ? "-"
				     : tm_duration_format(tm_json_num(o, "rpo_ms") * TM_MS, text);
}

static void print_machines(const cJSON *result)
{
	static const char *const headers[] = {"<MACHINE", "<NAME", "<STATE", ">DISKS", ">BACKLOG",
		">RPO", ">NEWEST", "<KIND", "<LAST ERROR"};
	struct tm_table *t = tm_table_new(headers, TM_ARRAY_SIZE(headers));
	char text[TM_TEXT_ROOM];
	const cJSON *o;

	cJSON_ArrayForEach (o, cJSON_GetObjectItemCaseSensitive(result, "machines")) {
		tm_table_cell(t, "%s", tm_json_str(o, "machine"));
		tm_table_cell(t, "%s", tm_json_str(o, "name"));
		tm_table_cell(t, "%s", tm_json_str(o, "state"));
		tm_table_cell(t, "%" PRIu64, tm_json_num(o, "disks"));
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(o, "backlog"), text));
		tm_table_cell(t, "%s", rpo_text(o, text));
		tm_table_cell(t, "%" PRIu64, tm_json_num(o, "newest_point"));
		tm_table_cell(t, "%s", tm_json_str(o, "newest_kind"));
		tm_table_cell(t, "%s", tm_json_str(o, "last_error"));
	}
	tm_table_print(t, stdout);
	if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(result, "store_full")))
		puts("The store is full: machines keep tracking until space is freed.");
}

/* A request whose answer is printed by `print`, or as JSON. */
static int shown(struct tm_cli *cli, const char *cmd, cJSON *args, void (*print)(const cJSON *))
{
	cJSON *result;
	int rc = tm_cli_request(cli, cmd, args, 0, &result);

	if (rc)
		return rc;
	if (cli->json)
		rc = tm_cli_print_json(result);
	else
		print(result);
	cJSON_Delete(result);
	return rc;
}

static int cmd_machines(struct tm_cli *cli)
{
	return shown(cli, "machines", cJSON_CreateObject(), print_machines);
}

static void print_show(const cJSON *r)
{
	static const char *const headers[] = {
		"<DISK", "<NAME", ">SIZE", "<STATE", ">DONE", ">TOTAL", ">BACKLOG", "<TRACKER"};
	struct tm_table *t;
	char text[TM_TEXT_ROOM], rate[TM_TEXT_ROOM];
	const cJSON *o;

	printf("machine   %s\nname      %s\nstate     %s\n", tm_json_str(r, "machine"),
		tm_json_str(r, "name"), tm_json_str(r, "state"));
	if (*tm_json_str(r, "hold_reason"))
		printf("on hold   %s\n", tm_json_str(r, "hold_reason"));
	printf("agent     %s %s\nRPO       %s\n", tm_json_str(r, "agent"), tm_json_str(r, "peer"),
		rpo_text(r, text));
	printf("newest    %" PRIu64 " %s\n", tm_json_num(r, "newest_point"),
		tm_json_str(r, "newest_kind"));
	printf("rates     read %s/s, wire %s/s\n",
		tm_size_format(tm_json_num(r, "read_rate"), text),
		tm_size_format(tm_json_num(r, "wire_rate"), rate));
	if (*tm_json_str(r, "last_error"))
		printf("error     %s\n", tm_json_str(r, "last_error"));
	t = tm_table_new(headers, TM_ARRAY_SIZE(headers));
	cJSON_ArrayForEach (o, cJSON_GetObjectItemCaseSensitive(r, "disks")) {
		tm_table_cell(t, "%s", tm_json_str(o, "disk"));
		tm_table_cell(t, "%s", tm_json_str(o, "name"));
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(o, "size"), text));
		tm_table_cell(t, "%s", tm_json_str(o, "state"));
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(o, "done"), text));
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(o, "total"), text));
		tm_table_cell(t, "%s", tm_size_format(tm_json_num(o, "backlog"), text));
		tm_table_cell(t, "%s", tm_json_str(o, "tracker"));
	}
	tm_table_print(t, stdout);
	cJSON_ArrayForEach (o, cJSON_GetObjectItemCaseSensitive(r, "in_use"))
		printf("in use    point %" PRIu64 " as %s%s, holds %s of its own\n",
			tm_json_num(o, "point"), tm_json_str(o, "name"),
			cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "read"))
				? ""
				: " (nobody reads it)",
			tm_size_format(tm_json_num(o, "bytes"), text));
	cJSON_ArrayForEach (o, cJSON_GetObjectItemCaseSensitive(r, "alarms"))
		printf("alarm     %s %s\n", tm_json_str(o, "time"), tm_json_str(o, "text"));
}

static int cmd_show(struct tm_cli *cli)
{
	return shown(cli, "show", args1("machine", cli->argv[0]), print_show);
}

static void point_row(struct tm_table *t, const cJSON *o)
{
	bool bad = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "unreadable"));
	const char *why = tm_json_str(o, "reason");
	char text[TM_TEXT_ROOM];

	tm_table_cell(t, "%" PRIu64, tm_json_num(o, "id"));
	tm_table_cell(t, "%s", tm_json_str(o, "time"));
	tm_table_cell(t, "%s", tm_json_str(o, "kind"));
	tm_table_cell(t, "%d", cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(o, "disks")));
	tm_table_cell(t, "%s", tm_size_format(tm_json_num(o, "bytes"), text));
	tm_table_cell(t, "%s",
		cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "pinned")) ? "yes" : "no");
	if (tm_json_num(o, "freeze_ms"))
		tm_table_cell(t, "%" PRIu64 " ms", tm_json_num(o, "freeze_ms"));
	else
		tm_table_cell(t, "-");
	tm_table_cell(t, "%s%s%s%s%s", tm_json_str(o, "label"),
		bad ? " (blocks unreadable at the source)" : "", *why ? " (" : "", why,
		*why ? ")" : "");
}

/* The server answers some thousands at a time: the next begin where these ended. 0 in *from: these were the last. */
static int points_page(
	struct tm_cli *cli, struct tm_table *t, FILE *json, const char **comma, uint64_t *from)
{
	cJSON *args = args1("machine", cli->argv[0]), *result;
	const char *since = tm_cli_value(cli, "since");
	const cJSON *o;
	int rc;

	if (since)
		cJSON_AddStringToObject(args, "since", since);
	tm_json_u64(args, "from", *from);
	rc = tm_cli_request(cli, "points", args, 0, &result);
	if (rc)
		return rc;
	cJSON_ArrayForEach (o, cJSON_GetObjectItemCaseSensitive(result, "points")) {
		CLEANUP_FREE char *text = cli->json ? cJSON_PrintUnformatted(o) : NULL;

		if (!cli->json)
			point_row(t, o);
		else if (!text || fprintf(json, "%s\n\t\t%s", *comma, text) < 0)
			rc = tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
		*comma = ",";
		if (rc)
			break;
	}
	*from = tm_json_num(result, "next");
	cJSON_Delete(result);
	return rc;
}

static int cmd_points(struct tm_cli *cli)
{
	static const char *const headers[] = {
		">POINT", "<TIME", "<KIND", ">DISKS", ">BYTES", "<PINNED", ">FROZEN", "<LABEL"};
	struct tm_table *t = cli->json ? NULL : tm_table_new(headers, TM_ARRAY_SIZE(headers));
	CLEANUP_FREE char *text = NULL;
	const char *comma = "";
	size_t len = 0;
	FILE *json = cli->json ? open_memstream(&text, &len) : NULL;
	uint64_t from = 0;
	int rc = TM_EXIT_OK;

	if (cli->json && !json)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
	/* Put together before anything is printed: one document, or none. */
	if (json)
		fprintf(json, "{\n\t\"points\":\t[");
	do
		rc = points_page(cli, t, json, &comma, &from);
	while (rc == TM_EXIT_OK && from);
	if (json) {
		fprintf(json, "]\n}");
		if (fclose(json) && rc == TM_EXIT_OK)
			rc = tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
		if (rc == TM_EXIT_OK && puts(text) < 0)
			rc = TM_EXIT_FAILED;
		return rc;
	}
	if (rc == TM_EXIT_OK)
		tm_table_print(t, stdout);
	else
		tm_table_free(t);
	return rc;
}

static void print_audit(const cJSON *result)
{
	static const char *const headers[] = {"<TIME", "<WHO", "<RESULT", "<WHAT"};
	struct tm_table *t = tm_table_new(headers, TM_ARRAY_SIZE(headers));
	const cJSON *o;

	cJSON_ArrayForEach (o, cJSON_GetObjectItemCaseSensitive(result, "audit")) {
		tm_table_cell(t, "%s", tm_json_str(o, "time"));
		tm_table_cell(t, "%s", tm_json_str(o, "who"));
		tm_table_cell(t, "%s", tm_json_str(o, "result"));
		tm_table_cell(t, "%s", tm_json_str(o, "what"));
	}
	tm_table_print(t, stdout);
}

static int cmd_audit(struct tm_cli *cli)
{
	return shown(cli, "audit", args1("max", tm_cli_value(cli, "max")), print_audit);
}

static const struct tm_cli_opt init_opts[] = {{"dir", "DIR", "folder of the store, made if absent"},
	{"listen", "ADDR:PORT", "where the server will listen (default *:7340)"},
	{NULL, NULL, NULL}};
static const struct tm_cli_opt dir_opts[] = {
	{"dir", "DIR", "folder of the store"}, {NULL, NULL, NULL}};
static const struct tm_cli_opt token_opts[] = {{"ttl", "TIME", "how long it is good (default 1h)"},
	{"uses", "N", "how many machines may enrol with it (default 1)"},
	{"machine", "MACHINE", "only for this machine, to renew its certificate"},
	{NULL, NULL, NULL}};
static const struct tm_cli_opt points_opts[] = {
	{"since", "TIME", "only points of this time and later"}, {NULL, NULL, NULL}};
static const struct tm_cli_opt nbd_opts[] = {
	{"point", "P", "id, latest, latest-app, or a time (default latest)"},
	{"socket", "DIR", "folder for the sockets, one per disk"}, {NULL, NULL, NULL}};
static const struct tm_cli_opt export_opts[] = {
	{"point", "P", "id, latest, latest-app, or a time (default latest)"},
	{"format", "F", "raw, qcow2, vhdx, vmdk or vpc (default qcow2)"},
	{"output", "DIR", "folder for the images, one per disk"}, {NULL, NULL, NULL}};
static const struct tm_cli_opt policy_opts[] = {
	{"immutable", "TIME",
		"nobody drops or unpins a point this long after its arrival (0 = no)"},
	{"dry-run", NULL, "only show what would be dropped"},
	{"yes", NULL, "drop it without being asked"}, {NULL, NULL, NULL}};
static const struct tm_cli_opt scrub_opts[] = {
	{"heal", NULL, "bring damaged parts of the newest state back from their sources"},
	{"rate", "SIZE", "bytes to read per second (default 256M)"}, {NULL, NULL, NULL}};
static const struct tm_cli_opt backup_opts[] = {
	{"rate", "SIZE", "bytes to copy per second (default: as fast as it goes)"},
	{NULL, NULL, NULL}};
static const struct tm_cli_opt audit_opts[] = {
	{"max", "N", "the newest N entries (default 100)"}, {NULL, NULL, NULL}};

static const struct tm_cli_cmd commands[] = {
	{"init", "", "create store, catalog and certification authority", NULL, init_opts, 0, 0,
		cmd_init},
	{"token", "", "make a one-time token for enrolment", NULL, token_opts, 0, 0, cmd_token},
	{"revoke", "MACHINE", "shut a machine out at its next frame", NULL, NULL, 1, 1, cmd_revoke},
	{"machines", "", "all machines: state, RPO, newest point, errors", NULL, NULL, 0, 0,
		cmd_machines},
	{"show", "MACHINE", "one machine with its disks and alarms", NULL, NULL, 1, 1, cmd_show},
	{"points", "MACHINE", "recovery points, oldest first", NULL, points_opts, 1, 1, cmd_points},
	{"pin", "POINT", "keep a point whatever the policy says", NULL, NULL, 1, 1, cmd_pin},
	{"unpin", "POINT", "leave a point to the policy again", NULL, NULL, 1, 1, cmd_unpin},
	{"nbd", "MACHINE", "serve every disk of a point over NBD, read-only, until interrupted",
		"Prints a line \"NAME SOCKET SIZE\" per disk and \"ready\".", nbd_opts, 1, 1,
		serverctl_nbd},
	{"export", "MACHINE", "write the disks of a point as images", NULL, export_opts, 1, 1,
		serverctl_export},
	{"adopt", "MACHINE", "end a hold: the machine that connects next is the right one", NULL,
		NULL, 1, 1, cmd_adopt},
	{"policy", "MACHINE [set [TIERS]]", "how long which points are kept",
		"TIERS: \"1h:all,1d:5m,15d:1h\" keeps all points for an hour, one per 5 minutes for a day, one per\n"
		"hour for 15 days. Shows what a change drops.",
		policy_opts, 1, 3, serverctl_policy},
	{"scrub", "[MACHINE]", "verify everything that is stored",
		"Interrupted, it goes on from there the next time. Exit 1 if damage was found.",
		scrub_opts, 0, 1, serverctl_scrub},
	{"backup", "DIR", "copy store, catalog and keys, while the server runs",
		"DIR belongs to the server's user and holds nothing else. The next backup to it copies what is new.",
		backup_opts, 1, 1, serverctl_backup},
	{"restore", "BACKUP", "put a backup into an empty folder, while no daemon runs on it", NULL,
		dir_opts, 1, 1, cmd_restore},
	{"rebuild", "", "make a new catalog from the store, while no daemon runs", NULL, dir_opts,
		0, 0, cmd_rebuild},
	{"audit", "", "what operators did", NULL, audit_opts, 0, 0, cmd_audit},
	{.name = NULL},
};

static const struct tm_cli_program program = {
	.name = "serverctl",
	.summary = "runs a Tidemark process server",
	.socket = "/run/tidemark-server/server.sock",
	.socket_env = "TIDEMARK_SERVER_SOCKET",
	.cmds = commands,
};

int main(int argc, char **argv)
{
	return tm_cli_main(&program, argc, argv);
}
