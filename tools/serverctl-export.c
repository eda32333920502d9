// SPDX-License-Identifier: Apache-2.0
/* Images of a point's disks, made by qemu-img from the served point; what reads as zeros stays a hole. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/control.h"
#include "common/file.h"
#include "tools/serverctl.h"

static const struct {
	const char *name, *options;
} formats[] = {
	{"raw", NULL}, {"qcow2", NULL}, {"vhdx", "subformat=dynamic"}, {"vmdk", NULL},
	{"vpc", "subformat=dynamic,force_size=on"}, /* else the size is rounded to a disk geometry */
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = 1;
}

/* qemu-img's progress, "    (12.34/100%)\r", from its output until that ends. */
static void follow(int fd, const struct serve_disk *d, struct tm_progress *p)
{
	char buf[256];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf) - 1)) > 0 || (n < 0 && errno == EINTR)) {
		const char *at;

		if (n < 0)
			continue;
		buf[n] = 0;
		at = strrchr(buf, '(');
		if (at)
			tm_progress_show(p, d->name,
				(uint64_t)(strtod(at + 1, NULL) / 100.0 * (double)d->size),
				d->size);
	}
}

static pid_t start_convert(
	const char *uri, const char *format, const char *options, const char *out, int *fd)
{
	const char *argv[16] = {"qemu-img", "convert", "-p", "-f", "raw", "-O", format};
	int n = 7, p[2];
	pid_t pid;

	if (options) {
		argv[n++] = "-o";
		argv[n++] = options;
	}
	argv[n++] = uri;
	argv[n++] = out;
	argv[n] = NULL;
	if (pipe2(p, O_CLOEXEC))
		return -1;
	pid = fork();
	if (pid == 0) {
		dup2(p[1], STDOUT_FILENO);
		execvp(argv[0], (char **)argv);
		_exit(127);
	}
	close(p[1]);
	*fd = p[0];
	return pid;
}

static int convert(struct tm_cli *cli, const struct serve_disk *d, size_t format, const char *tmp)
{
	CLEANUP_FREE char *uri = tm_path("nbd+unix:///?socket=%s", d->socket);
	struct tm_progress p;
	int status = 0, fd = -1;
	pid_t pid;

	if (!uri)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
	pid = start_convert(uri, formats[format].name, formats[format].options, tmp, &fd);
	if (pid < 0)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "qemu-img: %s", strerror(errno));
	tm_progress_begin(&p, "export");
	follow(fd, d, &p);
	tm_progress_end(&p);
	close(fd);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (interrupted)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "interrupted");
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return tm_cli_fail(cli, TM_EXIT_FAILED, "qemu-img failed on disk %s%s", d->name,
			WIFEXITED(status) && WEXITSTATUS(status) == 127 ? ": install qemu-utils"
									: "");
	return TM_EXIT_OK;
}

/* On the disk, under its name. */
static int publish(struct tm_cli *cli, const char *tmp, const char *path)
{
	CLEANUP_CLOSE int fd = open(tmp, O_RDONLY | O_CLOEXEC);
	struct tm_err err;

	if (fd < 0 || fsync(fd))
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s: %s", tmp, strerror(errno));
	if (tm_file_rename(tmp, path, &err))
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s", err.msg);
	return TM_EXIT_OK;
}

static int export_disk(struct tm_cli *cli, const struct serve_disk *d, size_t format,
	const char *dir, cJSON *images)
{
	CLEANUP_FREE char *path = tm_path("%s/%s.%s", dir, d->name, formats[format].name);
	CLEANUP_FREE char *tmp = tm_path("%s/.%s.%s.part", dir, d->name, formats[format].name);
	cJSON *o;
	int rc;

	if (!path || !tmp)
		return tm_cli_fail(cli, TM_EXIT_FAILED, "out of memory");
	if (access(path, F_OK) == 0)
		return tm_cli_fail(cli, TM_EXIT_REFUSED,
			"%s is there already: remove it or name another folder", path);
	rc = convert(cli, d, format, tmp);
	if (!rc)
		rc = publish(cli, tmp, path);
	if (rc) {
		unlink(tmp);
		return rc;
	}
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "name", d->name);
	cJSON_AddStringToObject(o, "path", path);
	cJSON_AddStringToObject(o, "format", formats[format].name);
	tm_json_u64(o, "size", d->size);
	cJSON_AddItemToArray(images, o);
	if (!cli->json)
		printf("%s\n", path);
	return TM_EXIT_OK;
}

static int export_all(struct tm_cli *cli, const struct serve *s, size_t format, const char *dir)
{
	cJSON *doc = cJSON_CreateObject(), *images = cJSON_AddArrayToObject(doc, "images");
	int rc = TM_EXIT_OK;

	for (size_t i = 0; !rc && i < s->n; i++)
		rc = export_disk(cli, &s->disks[i], format, dir, images);
	if (!rc && cli->json)
		rc = tm_cli_print_json(doc);
	cJSON_Delete(doc);
	return rc;
}

static int format_of(const char *name, size_t *format)
{
	for (*format = 0; *format < TM_ARRAY_SIZE(formats); ++*format)
		if (strcmp(formats[*format].name, name) == 0)
			return 0;
	return -EINVAL;
}

int serverctl_export(struct tm_cli *cli)
{
	const char *dir = tm_cli_value(cli, "output"), *name = tm_cli_value(cli, "format");
	struct sigaction sa = {.sa_handler = on_signal};
	char sockets[] = "/tmp/tidemark-export.XXXXXX";
	struct tm_err err;
	struct serve s;
	size_t format;
	int rc;

	if (!dir)
		return tm_cli_usage(cli, "--output DIR is missing");
	if (format_of(name ? name : "qcow2", &format))
		return tm_cli_usage(cli, "unknown format %s: raw, qcow2, vhdx, vmdk or vpc", name);
	if (tm_mkdirs(dir, 0755, &err))
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s", err.msg);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	if (!mkdtemp(sockets))
		return tm_cli_fail(cli, TM_EXIT_FAILED, "%s: %s", sockets, strerror(errno));
	rc = serve_begin(cli, cli->argv[0], tm_cli_value(cli, "point"), sockets, &s);
	if (!rc) {
		rc = export_all(cli, &s, format, dir);
		serve_end(cli, &s);
	}
	rmdir(sockets);
	return rc;
}
