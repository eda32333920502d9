// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/control.h"
#include "agent/throttle.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/uuid.h"

#define TELL_NS (5 * TM_SEC) /* the service manager, how it goes */

#define SET(name, type, field, min, max, def) \
	TM_SETTING("agent", name, type, struct agent_conf, field, min, max, def)

static const struct tm_setting settings[] = {
	SET("engine", TM_SET_STRING, engine, 1, 16, "auto"),
	SET("memory", TM_SET_SIZE, memory, PIPELINE_MEMORY_MIN, 64ull << 30, "128M"),
	SET("workers", TM_SET_INT, workers, 0, 256, "0"),
	SET("queue_depth", TM_SET_INT, queue_depth, 1, 1024, "32"),
	SET("connections", TM_SET_INT, connections, 1, 64, "4"),
	SET("interval", TM_SET_DURATION, interval, 0, 0, "60s"),
	SET("app_interval", TM_SET_DURATION, app_interval, 0, 0, "0"),
	SET("reconnect_max_ms", TM_SET_INT, reconnect_max, 10, 3600000, "30000"),
	SET("part", TM_SET_SIZE, part, 1 << 20, 1ull << 40, "2G"),
	SET("freeze_limit", TM_SET_DURATION, freeze_limit, TM_MS, 3600 * TM_SEC, "30s"),
	SET("throttle", TM_SET_SIZE, throttle, 0, 0, "0"),
	SET("throttle_schedule", TM_SET_STRING, throttle_schedule, 0, 1000, ""),
	SET("scripts", TM_SET_STRING, scripts, 0, 4096, "/etc/tidemark/scripts"),
	SET("script_limit", TM_SET_DURATION, script_limit, TM_SEC, 3600 * TM_SEC, "60s"),
	SET("maps", TM_SET_STRING, maps, 0, 4096, ""),
	SET("spool", TM_SET_SIZE, spool, 0, SPOOL_SIZE_MAX, "0"),
	SET("spool_path", TM_SET_STRING, spool_path, 0, 4096, ""),
	SET("verify_after_boot", TM_SET_BOOL, verify_after_boot, 0, 0, "no"),
	{0},
};

struct options {
	const char *state, *socket, *config;
};

static int usage(int code)
{
	fprintf(code ? stderr : stdout,
		"usage: tidemark-agent [--state DIR] [--socket PATH] [--config FILE]\n");
	return code;
}

/* -1: go on; else the exit code. */
static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {{"state", 1, NULL, 's'}, {"socket", 1, NULL, 'k'},
		{"config", 1, NULL, 'c'}, {"version", 0, NULL, 'v'}, {"help", 0, NULL, 'h'}, {0}};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			o->state = optarg;
			break;
		case 'k':
			o->socket = optarg;
			break;
		case 'c':
			o->config = optarg;
			break;
		case 'v':
			printf("tidemark-agent %s\n", TM_VERSION);
			return 0;
		default:
			return usage(c == 'h' ? 0 : 2);
		}
	}
	return optind < argc ? usage(2) : -1;
}

/* The buffers are locked by their registration; the rest is small. What cannot be had is done without. */
static void harden(void)
{
#ifdef PR_SET_IO_FLUSHER
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
#endif
	signal(SIGPIPE, SIG_IGN);
}

/* A spool that cannot be had is done without, and said. */
static void open_spool(struct agent *a)
{
	const char *dir = a->conf.spool_path[0] ? a->conf.spool_path : a->state.dir;
	uint64_t size = a->conf.spool / TM_DATA_MAX * TM_DATA_MAX;
	struct tm_err err;

	if (!size)
		return;
	if (spoolfile_open(dir, size, &a->spoolfile, &err) == 0 &&
		spool_open(a->pipeline, a->spoolfile.fd, size, &a->spool, &err) == 0)
		return;
	spoolfile_free(&a->spoolfile);
	agent_error(a, TODO_SPOOL, "no spool for a slow link: %s", err.msg);
	snprintf(a->spool_error, sizeof(a->spool_error), "%.400s", err.msg);
}

static int prepare(struct agent *a, const struct options *o, struct tm_err *err)
{
	struct pipeline_opts po = {0};

	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	a->rpo_ms = UINT64_MAX;
	tm_uuid_new(a->instance);
	if (tm_config_load(o->config ? o->config : "/etc/tidemark/agent.conf", !o->config, settings,
		    &a->conf, err))
		return -err->code;
	if (tm_schedule_parse(a->conf.throttle_schedule, &a->schedule, err))
		return tm_wrap(err, "throttle_schedule");
	if (reader_engine_parse(a->conf.engine, &po.engine))
		return tm_fail(err, EINVAL, "engine = %s: must be auto, io_uring or libaio",
			a->conf.engine);
	if (state_open(o->state, &a->state, err))
		return -err->code;
	a->paused = a->state.paused;
	tm_rate_init(&a->rate, 0);
	throttle_apply(a);
	po.memory = a->conf.memory;
	po.depth = (unsigned)a->conf.queue_depth;
	po.workers = (unsigned)a->conf.workers;
	if (pipeline_start(&po, &a->pipeline, err))
		return -err->code;
	open_spool(a);
	a->enrolled = enroll_load(o->state, &a->id, err) == 0;
	return a->enrolled || err->code == ENOENT ? 0 : -err->code;
}

/*
 * Until a signal asks to end. The service manager is told how it goes, and that we live only while the lock that everything needs can be
 * had.
 */
static void wait_for_end(struct agent *a, const sigset_t *set)
{
	uint64_t every = tm_notify_watchdog();
	struct timespec step = tm_timespec(every && every < TELL_NS ? every : TELL_NS), late;
	char text[TM_TEXT_MAX + 100] = "WATCHDOG=1\nSTATUS=";
	const size_t head = strlen(text);

	while (sigtimedwait(set, NULL, &step) < 0) {
		late = tm_timespec(tm_mono_ns() + TELL_NS);
		if (pthread_mutex_clocklock(&a->lock, CLOCK_MONOTONIC, &late))
			continue;
		status_line(a, text + head, sizeof(text) - head);
		pthread_mutex_unlock(&a->lock);
		tm_notify(text);
	}
}

static int serve(struct agent *a, const struct options *o, struct tm_err *err)
{
	struct tm_control *control = NULL;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (prepare(a, o, err) || machine_start(a, err))
		return -err->code;
	if (tm_control_start(o->socket, 0600, agent_commands, a, &control, err) == 0) {
		tm_log(TM_LOG_NOTICE, "ready: version " TM_VERSION ", reading by %s, %u workers",
			pipeline_engine(a->pipeline), pipeline_workers(a->pipeline));
		tm_notify("READY=1");
		wait_for_end(a, &set);
		tm_log(TM_LOG_NOTICE, "ending");
		tm_notify("STOPPING=1");
	}
	machine_stop(a);
	tm_control_stop(control);
	spool_close(a->spool);
	spoolfile_free(&a->spoolfile);
	pipeline_stop(a->pipeline);
	state_close(&a->state);
	tm_rate_exit(&a->rate);
	tm_config_free(settings, &a->conf);
	return control ? 0 : -err->code;
}

int main(int argc, char **argv)
{
	struct options o = {
		.state = "/var/lib/tidemark-agent", .socket = "/run/tidemark/agent.sock"};
	static struct agent agent;
	struct tm_err err = {0};
	int code = parse(argc, argv, &o);

	if (code >= 0)
		return code;
	tm_log_init("tidemark-agent", TM_LOG_INFO);
	harden();
	if (serve(&agent, &o, &err)) {
		tm_log(TM_LOG_ERR, "%s", err.msg);
		return 1;
	}
	return 0;
}
