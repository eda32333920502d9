/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of serverctl share. */
#ifndef TOOLS_SERVERCTL_H
#define TOOLS_SERVERCTL_H

#include <sys/types.h>

#include "common/cli.h"

/* serverctl-serve.c: a point in use, one nbdkit per disk on unix sockets in a folder. */
struct serve_disk {
	char name[256]; /* of the source's disk, fit for a file name */
	char socket[512], pidfile[512];
	uint64_t size;
	pid_t pid;
};

struct serve {
	char *name, *path; /* of the checkpoint; path NULL: none */
	int lock;          /* keeps the daemon from removing it */
	struct serve_disk *disks;
	size_t n;
};

/* TM_EXIT_OK when every socket answers; else the exit code, the error is printed, and nothing is left. */
int serve_begin(struct tm_cli *cli, const char *machine, const char *point, const char *dir,
	struct serve *s);
/* Ends the nbdkits, removes sockets and checkpoint. */
void serve_end(struct tm_cli *cli, struct serve *s);

int serverctl_nbd(struct tm_cli *cli);
int serverctl_export(struct tm_cli *cli);

/* serverctl-policy.c, serverctl-backup.c */
int serverctl_policy(struct tm_cli *cli);
int serverctl_scrub(struct tm_cli *cli);
int serverctl_backup(struct tm_cli *cli);

/* A program of ours: beside this one, in ../sbin, or by $PATH. Malloc'ed. */
char *serverctl_sibling(const char *name);

#endif
