// SPDX-License-Identifier: Apache-2.0
// timeout: 120
/* The control socket and the tools' frame, over a real socket. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cli.h"
#include "common/clock.h"
#include "common/control.h"

static char dir[] = "/tmp/tm-ctl-XXXXXX", path[64];
static struct tm_control *control;
static struct tm_err err;
static _Atomic int running, released, gone;

static int cmd_echo(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *e)
{
	const char *text = "none";
	uint64_t n = 7;
	bool b = false;

	if (tm_arg_string_opt(args, "text", &text, e) < 0 || tm_arg_u64_opt(args, "n", &n, e) < 0 ||
		tm_arg_bool_opt(args, "b", &b, e) < 0)
		return -e->code;
	*result = cJSON_CreateObject();
	cJSON_AddStringToObject(*result, "text", text);
	tm_json_u64(*result, "n", n);
	cJSON_AddBoolToObject(*result, "b", b);
	cJSON_AddNumberToObject(*result, "uid", call->uid);
	return call->ctx == &control ? 0 : tm_fail(e, EIO, "wrong context");
}

static int cmd_fail(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *e)
{
	const char *how;

	if (tm_arg_string(args, "how", &how, e) < 0)
		return -e->code;
	if (strcmp(how, "none") == 0)
		return tm_control_no_such(call, e, "there is no machine %s", "x");
	if (strcmp(how, "state") == 0)
		return tm_control_refused(call, e, "commit without a failover");
	return tm_fail(e, ENOENT, "broken");
}

static int cmd_work(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *e)
{
	running++;
	for (int i = 0; i < 3; i++) {
		cJSON *p = cJSON_CreateObject();

		cJSON_AddStringToObject(p, "text", "working");
		tm_json_u64(p, "done", (uint64_t)i);
		tm_json_u64(p, "total", 3);
		if (tm_control_progress(call, p) < 0)
			return tm_fail(e, EPIPE, "nobody listens");
	}
	return 0;
}

/* Until it is released or the client is gone. */
static int cmd_wait(
	struct tm_control_call *call, const cJSON *args, cJSON **result, struct tm_err *e)
{
	running++;
	while (!released && !tm_control_gone(call))
		usleep(5000);
	if (!released)
		gone++;
	return 0;
}

static const struct tm_control_cmd table[] = {{"echo", cmd_echo}, {"fail", cmd_fail},
	{"work", cmd_work}, {"wait", cmd_wait}, {NULL, NULL}};

static void begin(void)
{
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	cr_assert_eq(
		tm_control_start(path, 0660, table, &control, &control, &err), 0, "%s", err.msg);
}

static void end(void)
{
	tm_control_stop(control);
	cr_assert_lt(access(path, F_OK), 0);
	rmdir(dir);
}

TestSuite(control, .init = begin, .fini = end, .timeout = 100);

static int ask(const char *cmd, cJSON *args, cJSON **result, int *code)
{
	struct tm_control_request rq = {
		.path = path, .cmd = cmd, .args = args, .timeout_ms = 60000};
	int r = tm_control_request(&rq, result, code, &err);

	cJSON_Delete(args);
	return r;
}

static void until(_Atomic int *what, int n)
{
	for (uint64_t t0 = tm_mono_ns(); *what < n; usleep(1000))
		cr_assert_lt(tm_mono_ns() - t0, 60 * TM_SEC);
}

Test(control, answers_with_what_was_asked_and_who_asks)
{
	cJSON *args = cJSON_CreateObject(), *result;
	struct stat st;
	int code;

	cJSON_AddStringToObject(args, "text", "Gr\xc3\xbc\xc3\x9f");
	cJSON_AddStringToObject(args, "n", "18446744073709551615");
	cJSON_AddBoolToObject(args, "b", true);
	cr_assert_eq(ask("echo", args, &result, &code), 0, "%s", err.msg);
	cr_assert_str_eq(tm_json_str(result, "text"), "Gr\xc3\xbc\xc3\x9f");
	cr_assert_eq(tm_json_num(result, "n"), UINT64_MAX);
	cr_assert_eq(tm_json_num(result, "uid"), getuid());
	cJSON_Delete(result);
	cr_assert_eq(ask("echo", NULL, &result, &code), 0);
	cr_assert_eq(tm_json_num(result, "n"), 7u);
	cJSON_Delete(result);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0660);
}

Test(control, failures_carry_text_and_exit_code)
{
	static const struct {
		const char *how, *text;
		int code;
	} ways[] = {{"none", "there is no machine x", 3}, {"state", "commit without a failover", 4},
		{"else", "broken", 1}, {NULL, "argument how is missing", 1}};
	cJSON *result;
	int code;

	for (size_t i = 0; i < 4; i++) {
		cJSON *args = cJSON_CreateObject();

		if (ways[i].how)
			cJSON_AddStringToObject(args, "how", ways[i].how);
		cr_assert_lt(ask("fail", args, &result, &code), 0);
		cr_assert_str_eq(err.msg, ways[i].text);
		cr_assert_eq(code, ways[i].code);
		cr_assert_null(result);
	}
	cr_assert_lt(ask("dance", NULL, &result, &code), 0);
	cr_assert(strstr(err.msg, "does not know the command dance"), "%s", err.msg);
}

Test(control, arguments_of_a_wrong_kind_are_refused)
{
	static const char *const bad[] = {"{\"n\":-1}", "{\"n\":1.5}", "{\"n\":\"x\"}",
		"{\"n\":true}", "{\"text\":5}", "{\"text\":\"a\\nb\"}", "{\"b\":1}",
		"{\"n\":1e300}"};
	cJSON *result;
	int code;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(ask("echo", cJSON_Parse(bad[i]), &result, &code), -EIO, "%s", bad[i]);
		cr_assert(strstr(err.msg, "argument"), "%s", err.msg);
	}
}

static void count(void *ctx, const cJSON *progress)
{
	int *n = ctx;

	cr_assert_eq(tm_json_num(progress, "done"), (uint64_t)*n);
	++*n;
}

Test(control, progress_comes_before_the_result)
{
	int n = 0, code;
	cJSON *result;
	struct tm_control_request rq = {
		.path = path, .cmd = "work", .timeout_ms = 60000, .progress = count, .ctx = &n};

	cr_assert_eq(tm_control_request(&rq, &result, &code, &err), 0, "%s", err.msg);
	cr_assert_eq(n, 3);
	cJSON_Delete(result);
}

static int dial(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(sa.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* One line, or "" at the end of file. */
static const char *hear(int fd)
{
	static char line[4096];
	size_t n = 0;

	while (n < sizeof(line) - 1 && recv(fd, line + n, 1, 0) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
	return line;
}

Test(control, several_requests_on_one_connection_and_garbage_between)
{
	int fd = dial();

	say(fd, "{\"cmd\":\"echo\"}\n{\"cmd\":\"echo\",\"args\":{\"n\":8}}\nnonsense\n[]\n{\"cmd\":5}\n"
		"{\"cmd\":\"echo\",\"args\":[]}\n");
	cr_assert(strstr(hear(fd), "\"n\":7"));
	cr_assert(strstr(hear(fd), "\"n\":8"));
	cr_assert(strstr(hear(fd), "not JSON"));
	for (int i = 0; i < 3; i++)
		cr_assert(strstr(hear(fd), "\"ok\":false"));
	say(fd, "{\"cmd\":\"echo\"}\n");
	cr_assert(strstr(hear(fd), "\"ok\":true"));
	close(fd);
}

Test(control, a_line_without_end_is_cut_off)
{
	char *big = malloc(TM_CONTROL_LINE + 4096);
	size_t n = 0;
	int fd = dial();

	memset(big, '[', TM_CONTROL_LINE + 4096);
	while (n < TM_CONTROL_LINE + 4096) {
		ssize_t k = send(fd, big + n, TM_CONTROL_LINE + 4096 - n, MSG_NOSIGNAL);

		if (k <= 0)
			break;
		n += (size_t)k;
	}
	cr_assert(strstr(hear(fd), "longer than"));
	cr_assert_str_eq(hear(fd), "");
	close(fd);
	free(big);
}

Test(control, handlers_learn_that_the_client_has_gone)
{
	int fd = dial();

	say(fd, "{\"cmd\":\"wait\"}\n");
	until(&running, 1);
	close(fd);
	until(&gone, 1);
}

Test(control, stopping_ends_waiting_handlers)
{
	int fd = dial();

	say(fd, "{\"cmd\":\"wait\"}\n");
	until(&running, 1);
	tm_control_stop(control);
	control = NULL;
	cr_assert_eq(gone, 1);
	close(fd);
}

Test(control, too_many_clients_are_told_so)
{
	int fds[TM_CONTROL_CLIENTS], fd;

	for (int i = 0; i < TM_CONTROL_CLIENTS; i++) {
		fds[i] = dial();
		say(fds[i], "{\"cmd\":\"wait\"}\n");
		until(&running, i + 1);
	}
	fd = dial();
	cr_assert(strstr(hear(fd), "too many clients"));
	close(fd);
	released = 1;
	for (int i = 0; i < TM_CONTROL_CLIENTS; i++) {
		cr_assert(strstr(hear(fds[i]), "\"ok\":true"));
		close(fds[i]);
	}
	/* Room again, once their threads have noticed. */
	for (uint64_t t0 = tm_mono_ns();; usleep(2000)) {
		const char *line;

		fd = dial();
		say(fd, "{\"cmd\":\"echo\"}\n");
		line = hear(fd);
		close(fd);
		if (strstr(line, "\"ok\":true"))
			break;
		cr_assert_lt(tm_mono_ns() - t0, 60 * TM_SEC);
	}
}

Test(control, a_dead_daemons_socket_is_replaced_a_living_ones_not)
{
	struct tm_control *second;
	char dead[80], file[80];
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	cJSON *result;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), code;

	cr_assert_eq(tm_control_start(path, 0600, table, NULL, &second, &err), -EADDRINUSE);
	cr_assert_eq(ask("echo", NULL, &result, &code), 0, "the first one goes on: %s", err.msg);
	cJSON_Delete(result);
	snprintf(dead, sizeof(dead), "%s/dead", dir);
	strcpy(sa.sun_path, dead);
	cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
	cr_assert_eq(tm_control_start(dead, 0600, table, NULL, &second, &err), 0, "%s", err.msg);
	tm_control_stop(second);
	snprintf(file, sizeof(file), "%s/file", dir);
	fd = open(file, O_CREAT | O_WRONLY, 0600);
	close(fd);
	cr_assert_eq(tm_control_start(file, 0600, table, NULL, &second, &err), -EEXIST);
	unlink(file);
}

Test(control, no_daemon_is_said_plainly)
{
	struct tm_control_request rq = {.path = "/tmp/tm-no-such-socket", .cmd = "echo"};
	cJSON *result;
	int code;

	cr_assert_lt(tm_control_request(&rq, &result, &code, &err), 0);
	cr_assert(strstr(err.msg, "the daemon is not running"), "%s", err.msg);
	cr_assert_eq(code, 1);
}

Test(control, a_daemon_that_is_silent_is_given_up)
{
	struct tm_control_request rq = {.path = path, .cmd = "wait", .timeout_ms = 100};
	cJSON *result;
	int code;

	cr_assert_eq(tm_control_request(&rq, &result, &code, &err), -EAGAIN, "%s", err.msg);
	until(&gone, 1);
}

/* The tools. */
static int run_echo(struct tm_cli *cli)
{
	cJSON *args = cJSON_CreateObject(), *result;
	const char *n = tm_cli_value(cli, "number");
	int r;

	cJSON_AddStringToObject(args, "text", cli->argc ? cli->argv[0] : "none");
	if (n)
		cJSON_AddStringToObject(args, "n", n);
	r = tm_cli_request(cli, "echo", args, 0, &result);
	if (r)
		return r;
	r = strcmp(tm_json_str(result, "text"), cli->argc ? cli->argv[0] : "none") == 0 &&
			    (!n || tm_json_num(result, "n") == strtoull(n, NULL, 10))
		    ? TM_EXIT_OK
		    : TM_EXIT_FAILED;
	cJSON_Delete(result);
	return r;
}

static int run_fail(struct tm_cli *cli)
{
	cJSON *args = cJSON_CreateObject(), *result;

	cJSON_AddStringToObject(args, "how", cli->argv[0]);
	return tm_cli_request(cli, "fail", args, 0, &result);
}

static const struct tm_cli_opt echo_opts[] = {
	{"number", "N", "a number"}, {"loud", NULL, "a switch"}, {NULL, NULL, NULL}};
static const struct tm_cli_cmd cmds[] = {
	{"echo", "TEXT", "Says it again", "More about it.", echo_opts, 0, 2, run_echo},
	{"fail", "HOW", "Fails", NULL, NULL, 1, 1, run_fail},
	{NULL, NULL, NULL, NULL, NULL, 0, 0, NULL},
};

static int tool(const char *words)
{
	static struct tm_cli_program program = {.name = "tool", .summary = "A tool", .cmds = cmds};
	char copy[200], *argv[16] = {"tool"};
	int argc = 1;

	program.socket = path;
	snprintf(copy, sizeof(copy), "%s", words);
	for (char *w = strtok(copy, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	return tm_cli_main(&program, argc, argv);
}

Test(control, tools_take_options_anywhere)
{
	cr_assert_eq(tool("echo"), TM_EXIT_OK);
	cr_assert_eq(tool("echo hello"), TM_EXIT_OK);
	cr_assert_eq(tool("echo --number 5 hello"), TM_EXIT_OK);
	cr_assert_eq(tool("echo hello --number=18446744073709551615 --loud"), TM_EXIT_OK);
	cr_assert_eq(tool("echo --json -- --number"), TM_EXIT_OK);
	cr_assert_eq(tool("echo --socket /tmp/tm-no-such-socket"), TM_EXIT_FAILED);
	cr_assert_eq(tool("echo --help"), TM_EXIT_OK);
	cr_assert_eq(tool("--help"), TM_EXIT_OK);
	cr_assert_eq(tool("--version"), TM_EXIT_OK);
}

Test(control, tools_exit_codes)
{
	static const char *const usage[] = {"", "dance", "--dance", "echo --dance", "echo -x",
		"echo --number", "echo --loud=5", "echo a b c", "fail", "fail a b"};

	for (size_t i = 0; i < sizeof(usage) / sizeof(usage[0]); i++)
		cr_assert_eq(tool(usage[i]), TM_EXIT_USAGE, "%s", usage[i]);
	cr_assert_eq(tool("fail none"), TM_EXIT_NO_SUCH);
	cr_assert_eq(tool("fail state"), TM_EXIT_REFUSED);
	cr_assert_eq(tool("fail else"), TM_EXIT_FAILED);
	cr_assert_eq(tool("echo --number x"), TM_EXIT_FAILED);
}

Test(control, tables_align)
{
	static const char *const headers[] = {"<NAME", ">SIZE", "<STATE"};
	struct tm_table *t = tm_table_new(headers, 3);
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	tm_table_cell(t, "sda");
	tm_table_cell(t, "%d", 5);
	tm_table_cell(t, "ok");
	tm_table_cell(t, "pl\xc3\xa4tte");
	tm_table_cell(t, "1234567");
	tm_table_cell(t, "held");
	tm_table_print(t, f);
	fclose(f);
	cr_assert_str_eq(text, "NAME       SIZE  STATE\n"
			       "sda           5  ok\n"
			       "pl\xc3\xa4tte  1234567  held\n");
	free(text);
}
