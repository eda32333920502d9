// SPDX-License-Identifier: Apache-2.0
/*
 * A point served over NBD. The daemon only makes the checkpoint; the readers are this process's children and need neither daemon nor
 * catalog. They end with this process, however it ends, and the daemon then removes the checkpoint.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/file.h"
#include "tools/serverctl.h"

#define START_NS (120 * TM_SEC)

/* The last component, of harmless characters only. */
static void file_name(const char *name, char *out, size_t room)
{
	const char *slash = strrchr(name, '/');
	size_t n = 0;

	for (const char *p = slash ? slash + 1 : name; *p && n + 1 < room; p++)
		out[n++] =
			strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-",
				*p)
				? *p
				: '_';
	if (n == 0 || out[0] == '.')
		out[0] = '_', n = n ? n : 1;
	out[n] = 0;
}

static bool taken(const struct serve *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->disks[i].name, name) == 0)
			return true;
	return false;
}

/* The disks' names and numbers out of the daemon's answer. */
static int take_disks(struct serve *s, const cJSON *answer, const char *dir)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(answer, "disks"), *o;

	s->disks = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof(*s->disks));
	if (!s->disks)
		return -ENOMEM;
	cJSON_ArrayForEach (o, list) {
		struct serve_disk *d = &s->disks[s->n];
		char base[200];

		file_name(tm_json_str(o, "name"), base, sizeof(base));
		snprintf(d->name, sizeof(d->name), "%s", base);
		for (int k = 2; taken(s, d->name); k++)
			snprintf(d->name, sizeof(d->name), "%s-%d", base, k);
		if ((size_t)snprintf(d->socket, sizeof(d->socket), "%s/%s.sock", dir, d->name) >=
			sizeof(((struct sockaddr_un *)0)->sun_path))
			return -ENAMETOOLONG;
		snprintf(d->pidfile, sizeof(d->pidfile), "%s/.%s.pid", dir, d->name);
		d->size = tm_json_num(o, "size");
		s->n++;
	}
	return 0;
}

static int start_one(struct serve *s, struct serve_disk *d, const char *uuid, const char *plugin)
{
	CLEANUP_FREE char *dir = tm_path("dir=%s", s->path);
	CLEANUP_FREE char *disk = tm_path("disk=%s", uuid);
	const char *argv[] = {"nbdkit", "--exit-with-parent", "-f", "-r", "-P", d->pidfile, "-U",
		d->socket, plugin, dir, disk, NULL};
	sigset_t none;

	if (!dir || !disk)
		return -ENOMEM;
	unlink(d->socket);
	unlink(d->pidfile);
	d->pid = fork();
	if (d->pid == 0) {
		/* An interrupt at the terminal is for the parent; it ends its children in order. */
		setpgid(0, 0);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		execvp(argv[0], (char **)argv);
		_exit(127);
	}
	return d->pid < 0 ? -errno : 0;
}

/* True once the socket answers, which nbdkit tells by its pid file; false if nbdkit ended or takes for ever. */
static bool wait_ready(struct serve_disk *d)
{
	uint64_t until = tm_mono_ns() + START_NS;

	while (access(d->pidfile, F_OK) != 0) {
		if (waitpid(d->pid, NULL, WNOHANG) == d->pid) {
			d->pid = 0;
			return false;
		}
		if (tm_mono_ns() > until)
			return false;
		poll(NULL, 0, 50);
	}
	return true;
}

static int start_all(struct tm_cli *cli, struct serve *s, const cJSON *answer)
{
	CLEANUP_FREE char *plugin = serverctl_sibling("nbdkit-tidemark-plugin.so");
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(answer, "disks");

	if (!plugin)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
	for (size_t i = 0; i < s->n; i++) {
		int rc = start_one(s, &s->disks[i],
			tm_json_str(cJSON_GetArrayItem(list, (int)i), "disk"),
			strchr(plugin, '/') ? plugin : "tidemark");

		if (rc)
			return tm_cli_fail(cli, TM_EXIT_FAILED, "nbdkit: %s", strerror(-rc));
	}
	for (size_t i = 0; i < s->n; i++)
		if (!wait_ready(&s->disks[i]))
			return tm_cli_fail(cli, TM_EXIT_FAILED,
				"nbdkit does not serve disk %s: see above, or install nbdkit",
				s->disks[i].name);
	return TM_EXIT_OK;
}

static int take_point(struct tm_cli *cli, struct serve *s, const cJSON *answer, const char *dir)
{
	CLEANUP_FREE char *lock = NULL;
	int rc;

	s->path = strdup(tm_json_str(answer, "path"));
	s->name = strdup(tm_json_str(answer, "name"));
	lock = s->path ? tm_path("%s/lock", s->path) : NULL;
	if (!s->path || !s->name || !lock)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
	s->lock = open(lock, O_RDONLY | O_CLOEXEC);
	if (s->lock < 0 || flock(s->lock, LOCK_SH))
		return tm_cli_fail(cli, TM_EXIT_FAILED,
			"%s: %s: run as root or as the server's user", lock, strerror(errno));
	rc = take_disks(s, answer, dir);
	if (rc)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s: %s", dir, strerror(-rc));
	return start_all(cli, s, answer);
}

int serve_begin(struct tm_cli *cli, const char *machine, const char *point, const char *dir,
	struct serve *s)
{
	cJSON *args = cJSON_CreateObject(), *answer;
	struct tm_err err;
	int rc;

	memset(s, 0, sizeof(*s));
	s->lock = -1;
	cJSON_AddStringToObject(args, "machine", machine);
	cJSON_AddStringToObject(args, "point", point ? point : "latest");
	if (tm_mkdirs(dir, 0755, &err)) {
		cJSON_Delete(args);
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s", err.msg);
	}
	rc = tm_cli_request(cli, "checkpoint", args, 300, &answer);
	if (rc)
		return rc;
	rc = take_point(cli, s, answer, dir);
	cJSON_Delete(answer);
	if (rc)
		serve_end(cli, s);
	return rc;
}

/* Asks the daemon to remove the checkpoint; one that is not there will do it when it is. */
static void release(struct tm_cli *cli, const char *name)
{
	cJSON *args = cJSON_CreateObject(), *result = NULL;
	struct tm_control_request rq = {
		.path = cli->socket, .cmd = "release", .args = args, .timeout_ms = 60000};
	struct tm_err err;
	int code;

	cJSON_AddStringToObject(args, "name", name);
	if (tm_control_request(&rq, &result, &code, &err) == 0)
		cJSON_Delete(result);
	cJSON_Delete(args);
}

void serve_end(struct tm_cli *cli, struct serve *s)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->disks[i].pid > 0)
			kill(s->disks[i].pid, SIGTERM);
	for (size_t i = 0; i < s->n; i++) {
		if (s->disks[i].pid > 0)
			waitpid(s->disks[i].pid, NULL, 0);
		unlink(s->disks[i].socket);
		unlink(s->disks[i].pidfile);
	}
	if (s->lock >= 0)
		close(s->lock);
	if (s->name)
		release(cli, s->name);
	free(s->disks);
	free(s->path);
	free(s->name);
	memset(s, 0, sizeof(*s));
	s->lock = -1;
}

static void print_ready(struct tm_cli *cli, const struct serve *s)
{
	cJSON *doc, *list;

	if (!cli->json) {
		for (size_t i = 0; i < s->n; i++)
			printf("%s %s %" PRIu64 "\n", s->disks[i].name, s->disks[i].socket,
				s->disks[i].size);
		puts("ready");
		fflush(stdout);
		return;
	}
	doc = cJSON_CreateObject();
	list = cJSON_AddArrayToObject(doc, "disks");
	for (size_t i = 0; i < s->n; i++) {
		cJSON *o = cJSON_CreateObject();

		cJSON_AddStringToObject(o, "name", s->disks[i].name);
		cJSON_AddStringToObject(o, "socket", s->disks[i].socket);
		tm_json_u64(o, "size", s->disks[i].size);
		cJSON_AddItemToArray(list, o);
	}
	tm_cli_print_json(doc);
	fflush(stdout);
	cJSON_Delete(doc);
}

/* Until a signal, or a child that ends by itself: then its name. */
static const char *wait_end(struct serve *s, int sigfd)
{
	struct signalfd_siginfo si;

	while (read(sigfd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo != SIGCHLD)
			return NULL;
		for (size_t i = 0; i < s->n; i++)
			if (waitpid(s->disks[i].pid, NULL, WNOHANG) == s->disks[i].pid) {
				s->disks[i].pid = 0;
				return s->disks[i].name;
			}
	}
	return NULL;
}

int serverctl_nbd(struct tm_cli *cli)
{
	const char *dir = tm_cli_value(cli, "socket"), *dead;
	CLEANUP_CLOSE int sigfd = -1;
	struct serve s;
	sigset_t set;
	int rc;

	if (!dir)
		return tm_cli_usage(cli, "--socket DIR is missing");
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigfd = signalfd(-1, &set, SFD_CLOEXEC);
	if (sigfd < 0)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "signalfd: %s", strerror(errno));
	rc = serve_begin(cli, cli->argv[0], tm_cli_value(cli, "point"), dir, &s);
	if (rc)
		return rc;
	print_ready(cli, &s);
	dead = wait_end(&s, sigfd);
	if (dead)
		rc = tm_cli_fail(cli, TM_EXIT_FAILED, "nbdkit for disk %s has ended", dead);
	serve_end(cli, &s);
	return rc;
}
