// SPDX-License-Identifier: Apache-2.0
#include "common/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/control.h"

static const struct tm_cli_opt common_opts[] = {
	{"json", NULL, "print one JSON document"},
	{"socket", "PATH", "control socket of the daemon"},
	{"help", NULL, "print this"},
	{NULL, NULL, NULL},
};

static void complain(const char *program, const char *fmt, va_list ap)
{
	char text[600];

	vsnprintf(text, sizeof(text), fmt, ap);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	fprintf(stderr, "%s: %s\n", program, text);
}

int tm_cli_fail(const struct tm_cli *cli, enum tm_exit code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(cli->program->name, fmt, ap);
	va_end(ap);
	return code;
}

int tm_cli_usage(const struct tm_cli *cli, const char *fmt, ...)
{
	const char *name = cli->program->name;
	va_list ap;

	va_start(ap, fmt);
	complain(name, fmt, ap);
	va_end(ap);
	if (cli->cmd)
		fprintf(stderr, "usage: %s %s%s%s [OPTION...]; %s %s --help tells more\n", name,
			cli->cmd->name, *cli->cmd->args ? " " : "", cli->cmd->args, name,
			cli->cmd->name);
	else
		fprintf(stderr, "usage: %s COMMAND [OPTION...]; %s --help lists the commands\n",
			name, name);
	return TM_EXIT_USAGE;
}

static void list_opts(const struct tm_cli_opt *o)
{
	for (; o && o->name; o++) {
		char left[48];

		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->arg ? " " : "",
			o->arg ? o->arg : "");
		printf("  %-24s %s\n", left, o->help);
	}
}

static int help_program(const struct tm_cli_program *p)
{
	printf("%s: %s\n\nusage: %s COMMAND [ARGUMENT...] [OPTION...]\n\n", p->name, p->summary,
		p->name);
	for (const struct tm_cli_cmd *c = p->cmds; c->name; c++) {
		char left[80];

		snprintf(left, sizeof(left), "%s %s", c->name, c->args);
		printf("  %-36s %s\n", left, c->summary);
	}
	printf("\n%s COMMAND --help tells more. Exit codes: 0 done, 1 failed, 2 usage, 3 no such thing, "
	       "4 refused by state.\n",
		p->name);
	return fflush(stdout) ? TM_EXIT_FAILED : TM_EXIT_OK;
}

static int help_cmd(const struct tm_cli_program *p, const struct tm_cli_cmd *c)
{
	printf("usage: %s %s%s%s [OPTION...]\n\n%s.\n", p->name, c->name, *c->args ? " " : "",
		c->args, c->summary);
	if (c->text)
		printf("\n%s\n", c->text);
	printf("\n");
	list_opts(c->opts);
	list_opts(common_opts);
	return fflush(stdout) ? TM_EXIT_FAILED : TM_EXIT_OK;
}

static const struct tm_cli_opt *find_opt(const struct tm_cli_opt *o, const char *name, size_t n)
{
	for (; o && o->name; o++)
		if (strlen(o->name) == n && memcmp(o->name, name, n) == 0)
			return o;
	return NULL;
}

/* An option at *at, which may take the next word too. */
static int option(struct tm_cli *cli, int argc, char **argv, int *at)
{
	const char *name = argv[*at] + 2, *value = strchr(name, '=');
	size_t n = value ? (size_t)(value - name) : strlen(name);
	const struct tm_cli_opt *o = find_opt(common_opts, name, n);

	if (!o)
		o = find_opt(cli->cmd->opts, name, n);
	if (!o)
		return tm_cli_usage(cli, "there is no option --%.*s", (int)n, name);
	if (value && !o->arg)
		return tm_cli_usage(cli, "--%s takes no value", o->name);
	if (value)
		value++;
	else if (!o->arg)
		value = "";
	else if (*at + 1 < argc)
		value = argv[++*at];
	else
		return tm_cli_usage(cli, "--%s needs a value (%s)", o->name, o->arg);
	if (cli->nopts == TM_CLI_OPTS)
		return tm_cli_usage(cli, "too many options");
	cli->opt[cli->nopts].name = o->name;
	cli->opt[cli->nopts++].value = value;
	return TM_EXIT_OK;
}

const char *tm_cli_value(const struct tm_cli *cli, const char *name)
{
	for (int i = cli->nopts - 1; i >= 0; i--)
		if (strcmp(cli->opt[i].name, name) == 0)
			return cli->opt[i].value;
	return NULL;
}

/* Sorts words into options and arguments (moved to the front of argv). */
static int sort_words(struct tm_cli *cli, int argc, char **argv)
{
	bool only_args = false;
	int n = 0;

	for (int i = 0; i < argc; i++) {
		if (!only_args && strcmp(argv[i], "--") == 0) {
			only_args = true;
		} else if (!only_args && strncmp(argv[i], "--", 2) == 0) {
			int r = option(cli, argc, argv, &i);

			if (r)
				return r;
		} else if (!only_args && argv[i][0] == '-' && argv[i][1]) {
			return tm_cli_usage(cli, "there is no option %s", argv[i]);
		} else {
			argv[n++] = argv[i];
		}
	}
	cli->argc = n;
	cli->argv = argv;
	return TM_EXIT_OK;
}

/*
 * Takes --json and --socket from before the command, which comes to argv[1]. There --socket is the control socket; behind the command
 * it is that too, unless the command has an option of its own by this name.
 */
static int take_leading(struct tm_cli *cli, int argc, char **argv)
{
	int at = 1;

	for (; at < argc; at++) {
		if (strcmp(argv[at], "--json") == 0)
			cli->json = true;
		else if (strncmp(argv[at], "--socket=", 9) == 0)
			cli->socket = argv[at] + 9;
		else if (strcmp(argv[at], "--socket") == 0 && at + 1 < argc)
			cli->socket = argv[++at];
		else
			break;
	}
	memmove(&argv[1], &argv[at], (size_t)(argc - at) * sizeof(*argv));
	return argc - at + 1;
}

static bool has_option(const struct tm_cli_cmd *cmd, const char *name)
{
	for (const struct tm_cli_opt *o = cmd->opts; o && o->name; o++)
		if (strcmp(o->name, name) == 0)
			return true;
	return false;
}

static int run(struct tm_cli *cli, int argc, char **argv)
{
	const struct tm_cli_program *p = cli->program;
	const char *env = p->socket_env ? getenv(p->socket_env) : NULL;
	int r = sort_words(cli, argc, argv);

	if (r)
		return r;
	if (tm_cli_value(cli, "help"))
		return help_cmd(p, cli->cmd);
	if (cli->argc < cli->cmd->min)
		return tm_cli_usage(cli, "%s: an argument is missing", cli->cmd->name);
	if (cli->cmd->max >= 0 && cli->argc > cli->cmd->max)
		return tm_cli_usage(cli, "%s: unexpected argument '%s'", cli->cmd->name,
			cli->argv[cli->cmd->max]);
	if (tm_cli_value(cli, "json"))
		cli->json = true;
	if (!cli->socket && !has_option(cli->cmd, "socket"))
		cli->socket = tm_cli_value(cli, "socket");
	if (!cli->socket)
		cli->socket = env && *env ? env : p->socket;
	r = cli->cmd->run(cli);
	if (fflush(stdout) && r == TM_EXIT_OK)
		r = tm_cli_fail(
			cli, TM_EXIT_FAILED, "write to standard output: %s", strerror(errno));
	return r;
}

int tm_cli_main(const struct tm_cli_program *p, int argc, char **argv)
{
	struct tm_cli cli = {.program = p};

	argc = take_leading(&cli, argc, argv);
	if (argc < 2)
		return tm_cli_usage(&cli, "a command is missing");
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
		return help_program(p);
	if (strcmp(argv[1], "--version") == 0) {
		printf("%s (Tidemark) %s\n", p->name, TM_VERSION);
		return TM_EXIT_OK;
	}
	for (const struct tm_cli_cmd *c = p->cmds; c->name; c++)
		if (strcmp(c->name, argv[1]) == 0)
			cli.cmd = c;
	if (!cli.cmd)
		return tm_cli_usage(&cli, "there is no command %s", argv[1]);
	return run(&cli, argc - 2, argv + 2);
}

static void show_progress(void *ctx, const cJSON *progress)
{
	tm_progress_show(ctx, tm_json_str(progress, "text"), tm_json_num(progress, "done"),
		tm_json_num(progress, "total"));
}

int tm_cli_request(struct tm_cli *cli, const char *cmd, cJSON *args, int timeout_s, cJSON **result)
{
	struct tm_progress progress;
	struct tm_control_request rq = {
		.path = cli->socket,
		.cmd = cmd,
		.args = args,
		.timeout_ms = timeout_s < 0 ? -1 : (timeout_s ? timeout_s : 60) * 1000,
		.progress = show_progress,
		.ctx = &progress,
	};
	struct tm_err err = {0};
	int code, r;

	tm_progress_begin(&progress, cmd);
	r = tm_control_request(&rq, result, &code, &err);
	tm_progress_end(&progress);
	cJSON_Delete(args);
	return r == 0 ? TM_EXIT_OK : tm_cli_fail(cli, (enum tm_exit)code, "%s", err.msg);
}

int tm_cli_print_json(const cJSON *doc)
{
	CLEANUP_FREE char *text = cJSON_Print(doc);

	if (!text || puts(text) < 0)
		return TM_EXIT_FAILED;
	return TM_EXIT_OK;
}

const char *tm_json_str(const cJSON *object, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsString(v) ? v->valuestring : "";
}

uint64_t tm_json_num(const cJSON *object, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, name);
	struct tm_err err;
	uint64_t n = 0;

	if (v && tm_arg_u64_opt(object, name, &n, &err) < 0)
		return 0;
	return n;
}
