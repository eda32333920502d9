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
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"

#define LIMIT_NS (60 * TM_SEC) /* for one script */

/* Waits for the child; past the limit its whole group is killed. */
static int reap(pid_t pid, int *status)
{
	uint64_t end = tm_mono_ns() + LIMIT_NS;
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

static int run(const char *path, const char *phase, struct tm_err *err)
{
	char *argv[] = {(char *)path, (char *)phase, NULL};
	char *env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", NULL};
	posix_spawnattr_t attr;
	sigset_t none, dflt;
	int status = 0, ret;
	pid_t pid;

	sigemptyset(&none);
	sigemptyset(&dflt);
	sigaddset(&dflt, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(
		&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &dflt);
	ret = posix_spawn(&pid, path, NULL, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	if (ret)
		return tm_fail(err, ret, "%s: %s", path, strerror(ret));
	ret = reap(pid, &status);
	if (ret)
		return tm_fail(err, -ret, "%s %s: %s", path, phase, strerror(-ret));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return tm_fail(err, ECANCELED, "%s %s: %s %d", path, phase,
		WIFEXITED(status) ? "exit" : "signal",
		WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static int trusted(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == 0 &&
	       !(st.st_mode & (S_IWGRP | S_IWOTH)) && (st.st_mode & S_IXUSR);
}

int scripts_run(const char *folder, const char *phase, struct tm_err *err)
{
	struct dirent **list = NULL;
	char path[PATH_MAX];
	struct tm_err e;
	int n, ret = 0;

	n = folder && folder[0] ? scandir(folder, &list, NULL, alphasort) : 0;
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, list[i]->d_name);
		if (list[i]->d_name[0] != '.' && trusted(path) && run(path, phase, &e) && !ret) {
			*err = e;
			ret = -e.code;
		}
		free(list[i]);
	}
	free(list);
	return ret;
}
