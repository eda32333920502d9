// SPDX-License-Identifier: Apache-2.0
#include "agent/scripts.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

#define SAID_MAX 4096 /* bytes of what it says that are kept */

/* Waits for the child; past the limit its whole group is killed. */
static int reap(pid_t pid, uint64_t limit_ns, int *status)
{
	uint64_t end = tm_mono_ns() + limit_ns;
	pid_t ret;

	while ((ret = waitpid(pid, status, WNOHANG)) == 0 || (ret < 0 && errno == EINTR)) {
		if (tm_mono_ns() > end) {
			kill(-pid, SIGKILL);
			while (waitpid(pid, status, 0) < 0 && errno == EINTR)
				;
			return -ETIMEDOUT;
		}
		nanosleep(&(struct timespec){.tv_nsec = 10 * TM_MS}, NULL);
	}
	return ret < 0 ? -errno : 0;
}

/* What the script said goes where our own errors go; its last line, without the end, into line. */
static void relay(int fd, char *line, size_t room)
{
	char text[SAID_MAX + 1];
	off_t size = lseek(fd, 0, SEEK_END);
	ssize_t n = pread(fd, text, SAID_MAX, size > SAID_MAX ? size - SAID_MAX : 0);
	char *last;

	line[0] = '\0';
	if (n <= 0)
		return;
	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		tm_log(TM_LOG_DEBUG, "a script's words are lost");
	while (n && strchr(" \t\r\n", text[n - 1]))
		n--;
	text[n] = '\0';
	last = strrchr(text, '\n');
	snprintf(line, room, ": %.200s", last ? last + 1 : text);
}

static int spawn(const char *path, const char *phase, int said, pid_t *pid)
{
	char *argv[] = {(char *)path, (char *)phase, NULL};
	char *env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, dflt;
	int ret;

	sigemptyset(&none);
	sigemptyset(&dflt);
	sigaddset(&dflt, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(
		&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &dflt);
	ret = posix_spawn_file_actions_init(&files);
	if (!ret) {
		ret = posix_spawn_file_actions_adddup2(&files, said, STDERR_FILENO);
		if (!ret)
			ret = posix_spawn(pid, path, &files, &attr, argv, env);
		posix_spawn_file_actions_destroy(&files);
	}
	posix_spawnattr_destroy(&attr);
	return ret;
}

static int run(const char *path, const char *phase, uint64_t limit_ns, struct tm_err *err)
{
	/* A file, no pipe: what a script leaves running in the background keeps nobody waiting. */
	CLEANUP_CLOSE int said = memfd_create("script", MFD_CLOEXEC);
	char line[256];
	int status = 0, ret;
	pid_t pid;

	if (said < 0)
		return tm_fail_errno(err, "%s", path);
	ret = spawn(path, phase, said, &pid);
	if (ret)
		return tm_fail(err, ret, "%s: %s", path, strerror(ret));
	ret = reap(pid, limit_ns, &status);
	relay(said, line, sizeof(line));
	if (ret == -ETIMEDOUT)
		return tm_fail(err, ETIMEDOUT, "%s %s: not done within %llu s%s", path, phase,
			(unsigned long long)(limit_ns / TM_SEC), line);
	if (ret)
		return tm_fail(err, -ret, "%s %s: %s%s", path, phase, strerror(-ret), line);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return tm_fail(err, ECANCELED, "%s %s: %s %d%s", path, phase,
		WIFEXITED(status) ? "exit" : "signal",
		WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), line);
}

static int trusted(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == 0 &&
	       !(st.st_mode & (S_IWGRP | S_IWOTH)) && (st.st_mode & S_IXUSR);
}

int scripts_run(const char *folder, const char *phase, uint64_t limit_ns, struct tm_err *err)
{
	struct dirent **list = NULL;
	char path[PATH_MAX];
	struct tm_err e;
	int n, ret = 0;

	n = folder && folder[0] ? scandir(folder, &list, NULL, alphasort) : 0;
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, list[i]->d_name);
		if (list[i]->d_name[0] != '.' && trusted(path) && run(path, phase, limit_ns, &e) &&
			!ret) {
			*err = e;
			ret = -e.code;
		}
		free(list[i]);
	}
	free(list);
	return ret;
}
