// SPDX-License-Identifier: Apache-2.0
/* tidemark-server: the process server's daemon. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/file.h"
#include "common/log.h"
#include "common/notify.h"
#include "server/chores.h"
#include "server/commit.h"
#include "server/control.h"
#include "server/init.h"
#include "server/keeper.h"
#include "server/listen.h"
#include "server/store/backup.h"

#define TELL_NS (5 * TM_SEC) /* the service manager, how it goes */

static const struct tm_setting settings[] = {
	TM_SETTING("server", "listen", TM_SET_STRING, struct server_conf, listen, 1, 255, "*:7340"),
	TM_SETTING("server", "socket", TM_SET_STRING, struct server_conf, socket, 1, 100,
		"/run/tidemark-server/server.sock"),
	TM_SETTING("server", "data_connections", TM_SET_INT, struct server_conf, data_max, 1,
		SESSION_DATA_MAX, "4"),
	TM_SETTING("server", "credit", TM_SET_SIZE, struct server_conf, credit, 2u << 20,
		1ull << 32, "16M"),
	TM_SETTING("server", "memory", TM_SET_SIZE, struct server_conf, memory, 4u << 20,
		1ull << 40, "128M"),
	TM_SETTING("server", "interval", TM_SET_DURATION, struct server_conf, interval, 10 * TM_MS,
		3600 * TM_SEC, "1s"),
	TM_SETTING("server", "connections", TM_SET_INT, struct server_conf, connections, 8, 65536,
		"4096"),
	TM_SETTING(
		"server", "strangers", TM_SET_INT, struct server_conf, strangers, 4, 65536, "512"),
	TM_SETTING("server", "silence", TM_SET_DURATION, struct server_conf, silence, TM_SEC,
		3600 * TM_SEC, "30s"),
	TM_SETTING("server", "patience", TM_SET_DURATION, struct server_conf, patience, TM_SEC,
		3600 * TM_SEC, "60s"),
	TM_SETTING("server", "keep_attempts", TM_SET_DURATION, struct server_conf, keep, TM_SEC,
		86400 * TM_SEC, "10m"),
	TM_SETTING(
		"store", "reserve", TM_SET_SIZE, struct server_conf, reserve, 0, 1ull << 50, "0"),
	TM_SETTING("store", "retention", TM_SET_DURATION, struct server_conf, retention,
		100 * TM_MS, 86400 * TM_SEC, "60s"),
	/* Below the least the index could not keep pace with what comes in. */
	TM_SETTING("store", "reclaim_rate", TM_SET_SIZE, struct server_conf, reclaim, 16u << 20,
		1ull << 40, "64M"),
	TM_SETTING("store", "cache", TM_SET_SIZE, struct server_conf, cache, 1u << 20, 1ull << 40,
		"64M"),
	{.section = NULL},
};

struct options {
	const char *dir, *config, *listen, *socket, *user;
	const char *restore;
	bool init, rebuild;
	int level;
};

static int usage(FILE *f, int code)
{
	fprintf(f,
		"usage: tidemark-server [--dir DIR] [--config FILE] [--listen ADDR:PORT] [--socket PATH]\n"
		"                       [--user NAME] [--debug]\n"
		"       tidemark-server --dir DIR --init [--listen ADDR:PORT]\n"
		"       tidemark-server --dir DIR --rebuild\n"
		"       tidemark-server --dir DIR --restore BACKUP\n"
		"\n"
		"Receives the disks of enrolled machines and keeps their recovery points in DIR. FILE is\n"
		"DIR/server.conf unless named. It needs no privileges: started as root with --user, it\n"
		"becomes that user once DIR and the socket's folder are its own.\n");
	return code;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {{"dir", 1, 0, 'd'}, {"config", 1, 0, 'c'},
		{"listen", 1, 0, 'l'}, {"socket", 1, 0, 's'}, {"user", 1, 0, 'u'},
		{"init", 0, 0, 'i'}, {"rebuild", 0, 0, 'r'}, {"restore", 1, 0, 'R'},
		{"debug", 0, 0, 'D'}, {"help", 0, 0, 'h'}, {"version", 0, 0, 'V'}, {0}};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'd':
			o->dir = optarg;
			break;
		case 'c':
			o->config = optarg;
			break;
		case 'l':
			o->listen = optarg;
			break;
		case 's':
			o->socket = optarg;
			break;
		case 'u':
			o->user = optarg;
			break;
		case 'i':
			o->init = true;
			break;
		case 'r':
			o->rebuild = true;
			break;
		case 'R':
			o->restore = optarg;
			break;
		case 'D':
			o->level = TM_LOG_DEBUG;
			break;
		case 'h':
			exit(usage(stdout, 0));
		case 'V':
			printf("tidemark-server " TM_VERSION "\n");
			exit(0);
		default:
			return usage(stderr, 2);
		}
	}
	if (optind != argc)
		return usage(stderr, 2);
	return 0;
}

static int load_config(const struct options *o, struct server_conf *conf, struct tm_err *err)
{
	CLEANUP_FREE char *path = tm_path("%s/server.conf", o->dir);
	char **strings[] = {&conf->listen, &conf->socket};
	const char *given[] = {o->listen, o->socket};
	int rc = tm_config_load(o->config ? o->config : path, !o->config, settings, conf, err);

	for (size_t i = 0; !rc && i < TM_ARRAY_SIZE(given); i++) {
		if (!given[i])
			continue;
		free(*strings[i]);
		*strings[i] = strdup(given[i]);
		if (!*strings[i])
			rc = tm_fail(err, ENOMEM, "out of memory");
	}
	return rc;
}

static int become(const char *name, struct tm_err *err)
{
	struct passwd *pw;

	if (!name || geteuid() != 0)
		return 0;
	errno = 0;
	pw = getpwnam(name);
	if (!pw)
		return tm_fail(err, ENOENT, "there is no user %s", name);
	if (initgroups(name, pw->pw_gid) || setgid(pw->pw_gid) || setuid(pw->pw_uid))
		return tm_fail_errno(err, "cannot become %s", name);
	return 0;
}

/* How it goes, for the service manager. */
static void tell(struct server *s)
{
	unsigned n = 0, connected = 0;
	struct machine *m;
	char text[200];

	pthread_mutex_lock(&s->lock);
	m = s->machines; /* the list only grows at its head */
	pthread_mutex_unlock(&s->lock);
	for (; m; m = m->next) {
		LOCK_SCOPE(&m->lock);

		n++;
		connected += m->session != NULL;
	}
	snprintf(text, sizeof(text), "WATCHDOG=1\nSTATUS=%u of %u machines connected%s", connected,
		n, __atomic_load_n(&s->full, __ATOMIC_RELAXED) ? ", the store is full" : "");
	tm_notify(text);
}

/* Until a signal asks to end. */
static void run(struct server *s, int sigfd)
{
	struct pollfd p = {.fd = sigfd, .events = POLLIN};
	struct chores chores = {.saved = tm_mono_ns()};
	uint64_t told = 0;

	while (poll(&p, 1, 1000) <= 0) {
		chores_run(s, &chores);
		if (tm_mono_ns() - told < TELL_NS)
			continue;
		told = tm_mono_ns();
		tell(s);
	}
}

static int daemon_main(struct server *s, const char *dir, int sigfd, struct tm_err *err)
{
	struct tm_control *control = NULL;
	struct listener *l = NULL;
	struct keeper *keeper = NULL;
	pthread_t finisher;
	uint16_t port;
	int rc = server_open(s, dir, err);

	if (rc)
		goto out;
	rc = pthread_create(&finisher, NULL, commit_finisher, s);
	if (rc) {
		rc = tm_fail(err, rc, "no thread: %s", strerror(rc));
		goto out;
	}
	rc = control_start(s, &control, err);
	if (!rc)
		rc = keeper_start(s, &keeper, err);
	if (!rc)
		rc = listener_start(s, &l, &port, err);
	if (!rc) {
		tm_log(TM_LOG_NOTICE, "tidemark-server " TM_VERSION ": %s, listening on port %u",
			dir, port);
		tm_notify("READY=1");
		run(s, sigfd);
		tm_notify("STOPPING=1");
		tm_log(TM_LOG_NOTICE, "ending");
	}
	/* What waits for a full disk is answered; a long compaction is not waited for. */
	store_interrupt(s->store);
	listener_stop(l);
	keeper_stop(keeper);
	tm_control_stop(control);
	__atomic_store_n(&s->stopping, true, __ATOMIC_RELEASE);
	commit_drain(s);
	pthread_join(finisher, NULL);
out:
	server_close(s);
	return rc;
}

static int signals(struct tm_err *err)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd < 0 ? tm_fail_errno(err, "signalfd") : fd;
}

/* Into the catalog that was put back: what stands before it happened before the backup. */
static int audit_restore(const struct options *o, int damaged, struct tm_err *err)
{
	struct catalog *c;
	char who[64], what[256];
	int rc = catalog_open(o->dir, false, &c, err);

	if (rc)
		return rc;
	snprintf(what, sizeof(what), "restore %.240s", o->restore);
	rc = catalog_audit(c, catalog_who(getuid(), who, sizeof(who)), what,
		damaged ? "done, with damaged packs" : "done", err);
	catalog_close(c);
	return rc;
}

static int restore(const struct options *o, struct tm_err *err)
{
	struct backup_result r;
	int rc = store_restore(o->restore, o->dir, &r, err);

	if (!rc)
		rc = audit_restore(o, r.damaged != 0, err);
	if (rc)
		return rc;
	if (r.damaged)
		return tm_fail(err, EBADMSG,
			"put back, but %" PRIu64
			" packs of the backup are damaged, such as %s: start the server and run serverctl scrub",
			r.damaged, r.first_damaged);
	printf("%" PRIu64 " points, %" PRIu64 " packs, %" PRIu64 " bytes put back into %s\n",
		r.points, r.packs, r.bytes, o->dir);
	return 0;
}

static int start(const struct options *o, struct tm_err *err)
{
	struct server s = {.dir = NULL};
	CLEANUP_CLOSE int sigfd = -1;
	int rc = become(o->user, err);

	if (rc)
		return rc;
	if (o->init)
		return init_store(o->dir, o->listen, err);
	if (o->rebuild)
		return rebuild_catalog(o->dir, err);
	if (o->restore)
		return restore(o, err);
	rc = load_config(o, &s.conf, err);
	if (!rc) {
		sigfd = signals(err);
		rc = sigfd < 0 ? sigfd : daemon_main(&s, o->dir, sigfd, err);
		tm_config_free(settings, &s.conf);
	}
	return rc;
}

int main(int argc, char **argv)
{
	struct options o = {.dir = "/var/lib/tidemark-server", .level = TM_LOG_INFO};
	struct tm_err err;
	int rc = parse(argc, argv, &o);

	if (rc)
		return rc;
	tm_log_init("tidemark-server", (enum tm_log_level)o.level);
	umask(0027);
	if (start(&o, &err) == 0)
		return 0;
	if (o.init || o.rebuild || o.restore)
		fprintf(stderr, "tidemark-server: %s\n", err.msg);
	else
		tm_log(TM_LOG_ERR, "%s", err.msg);
	return 1;
}
