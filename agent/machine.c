// SPDX-License-Identifier: Apache-2.0
/* The machine's thread: connects, opens the disks at the server, and keeps everything going until the session ends; again and again. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "agent/agent.h"
#include "agent/command.h"
#include "agent/jobs.h"
#include "agent/throttle.h"
#include "agent/tracker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

void agent_error(struct agent *a, const char *todo, const char *fmt, ...)
{
	char text[TM_TEXT_MAX + 1];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (strcmp(text, a->error))
		tm_log(strncmp(text, "ALARM", 5) ? TM_LOG_WARNING : TM_LOG_ERR, "%s", text);
	snprintf(a->error, sizeof(a->error), "%s", text);
	a->todo = todo;
	a->error_time = tm_real_ns();
}

void agent_wake(struct agent *a)
{
	a->changes++;
	pthread_cond_broadcast(&a->changed);
}

void agent_kick(struct agent *a)
{
	LOCK_SCOPE(&a->lock);
	agent_wake(a);
}

int agent_turn(struct agent *a, struct tm_err *err)
{
	LOCK_SCOPE(&a->lock);

	while (a->paused && !a->stop && !a->rejoin && !session_ended(a->session, NULL, NULL))
		pthread_cond_wait(&a->changed, &a->lock);
	if (a->stop || a->rejoin)
		return tm_fail(err, ECANCELED, "the agent ends");
	return session_ended(a->session, err, NULL) ? -err->code : 0;
}

/* Waits for a change, at most until `until` (monotonic ns). Caller holds the lock. */
static void wait_change(struct agent *a, uint64_t until)
{
	struct timespec ts;

	if (until == UINT64_MAX) {
		pthread_cond_wait(&a->changed, &a->lock);
		return;
	}
	ts = tm_timespec(until);
	pthread_cond_clockwait(&a->changed, &a->lock, CLOCK_MONOTONIC, &ts);
}

static int connect_session(struct agent *a, uint16_t *refusal, struct tm_err *err)
{
	struct session_opts opts = {.host = a->id.host, .port = a->id.port};
	struct tm_msg_hello hello = {
		.version_min = TM_WIRE_VERSION, .version_max = TM_WIRE_VERSION};
	char hardware[2048], host[TM_NAME_MAX + 1] = "unknown", name[TM_UUID_TEXT];
	CLEANUP_FREE char *pki = NULL;
	struct session *s = NULL;
	XXH128_canonical_t hash;
	int ret;

	*refusal = 0;
	tm_uuid_format(a->id.machine, name);
	tm_log_machine(name);
	if (asprintf(&pki, "%s/pki", a->state.dir) < 0) {
		pki = NULL;
		return tm_fail(err, ENOMEM, "no memory");
	}
	gethostname(host, sizeof(host) - 1);
	disk_hardware(hardware, sizeof(hardware));
	XXH128_canonicalFromHash(&hash, XXH3_128bits(hardware, strlen(hardware)));
	memcpy(hello.hardware, hash.digest, sizeof(hello.hardware));
	memcpy(hello.machine, a->id.machine, TM_UUID);
	memcpy(hello.instance, a->instance, TM_UUID);
	if (tm_tls_client(pki, a->id.server, &opts.tls, err))
		return -err->code;
	opts.owner = command_owner(a);
	opts.state = &a->state;
	ret = session_open(&opts, &hello, host, hardware, &s, refusal, err);
	if (!ret) {
		struct ship_opts so = {
			.to = opts, .connections = (unsigned)a->conf.connections, .rate = &a->rate};

		memcpy(so.machine, a->id.machine, TM_UUID);
		pthread_mutex_lock(&a->lock);
		a->session = s;
		pthread_mutex_unlock(&a->lock);
		ret = a->tracker->head(a, session_welcome(s), err);
		if (!ret) {
			struct ship *ship = NULL;

			ret = ship_start(&so, s, &ship, err);
			pthread_mutex_lock(&a->lock);
			a->ship = ship;
			pthread_mutex_unlock(&a->lock);
		}
	}
	tm_tls_put(opts.tls); /* connections hold it themselves */
	return ret;
}

/* One turn of the session's life. Caller holds the lock. */
static void turn(struct agent *a)
{
	uint64_t now = tm_mono_ns(), until = UINT64_MAX, seen = a->changes;

	throttle_step(a, now, &until);
	jobs_reap(a);
	members_update(a, now, &until);
	jobs_requests(a);
	a->tracker->step(a, now, &until);
	jobs_start(a, now);
	if (!a->tracker->finish(a) && a->changes == seen) /* the lock was dropped meanwhile */
		wait_change(a, until);
}

static void run_session(struct agent *a, struct tm_err *why, uint16_t *refusal)
{
	tm_log(TM_LOG_INFO, "connected to %s:%u", a->id.host, a->id.port);
	pthread_mutex_lock(&a->lock);
	a->held = false;
	while (!a->stop && !a->rejoin && !session_ended(a->session, why, refusal))
		turn(a);
	if (a->stop || a->rejoin)
		tm_fail(why, ECANCELED, "the agent ends the session");
	pthread_mutex_unlock(&a->lock);
}

static void end_session(struct agent *a, const struct tm_err *why)
{
	struct session *s = a->session;
	struct ship *ship = a->ship;
	struct tm_conn_stats st;
	unsigned links;

	if (!s)
		return;
	session_fail(s, why, 0);
	agent_kick(a); /* threads that wait while paused */
	if (ship)
		ship_stop(ship);
	jobs_join(a);
	pthread_mutex_lock(&a->lock);
	a->tracker->cancel(a);
	if (ship) {
		ship_stats(ship, &st, &links);
		a->wire_past += st.sent + st.received;
	}
	session_stats(s, &st);
	a->wire_past += st.sent + st.received;
	a->ship = NULL;
	a->session = NULL;
	members_close(a);
	pthread_mutex_unlock(&a->lock);
	session_close(s);
	ship_free(ship);
}

/* Between attempts: longer each time, with jitter, so that a server that comes back is not met by all at once. */
static void back_off(struct agent *a, unsigned *tries, uint16_t refusal)
{
	uint64_t ms = 100ull << (*tries < 10 ? *tries : 10), until;

	++*tries;
	if (refusal == TM_E_HELD || refusal == TM_E_AUTH || refusal == TM_E_VERSION)
		ms = ms < 2000 ? 2000 : ms;
	if (ms > a->conf.reconnect_max)
		ms = a->conf.reconnect_max;
	until = tm_mono_ns() + (ms / 2 + (uint64_t)rand() % (ms / 2 + 1)) * TM_MS;
	while (!a->stop && !a->rejoin && tm_mono_ns() < until)
		wait_change(a, until);
}

static const char *todo_session(uint16_t refusal)
{
	switch (refusal) {
	case TM_E_HELD:
		return "find the other machine of this identity and end it; then, at the server: serverctl adopt";
	case TM_E_AUTH:
		return "was this machine revoked? then \"agentctl leave\", and enroll it anew";
	case TM_E_VERSION:
		return "install agent and server of the same version, or neighbouring ones";
	default:
		return "look at the network and at the server (systemctl status tidemark-server); the agent goes on by itself";
	}
}

/* That of the disks; protecting the first disk begins a new session. */
static void choose_tracker(struct agent *a)
{
	LOCK_SCOPE(&a->state.lock);

	a->tracker = &tracker_scan;
	for (size_t i = 0; i < a->state.ndisks; i++)
		if (!a->state.disks[i].leaving && a->state.disks[i].tracker == TM_TRACKER_KMOD)
			a->tracker = &tracker_kmod;
}

static void *run(void *arg)
{
	struct agent *a = arg;
	unsigned tries = 0;

	pthread_mutex_lock(&a->lock);
	while (!a->stop) {
		struct tm_err why = {0};
		uint16_t refusal = 0;
		uint64_t began = tm_mono_ns();

		a->rejoin = false;
		if (!a->enrolled) {
			wait_change(a, UINT64_MAX);
			continue;
		}
		pthread_mutex_unlock(&a->lock);
		choose_tracker(a);
		if (connect_session(a, &refusal, &why) == 0)
			run_session(a, &why, &refusal);
		if (a->session && !refusal)
			session_ended(a->session, NULL, &refusal);
		end_session(a, &why);
		pthread_mutex_lock(&a->lock);
		if (a->stop || a->rejoin)
			continue;
		a->held = refusal == TM_E_HELD;
		agent_error(a, todo_session(refusal), "%s%s",
			a->held ? "held by the server until an operator decides (serverctl adopt): "
				: "",
			why.msg);
		if (tm_mono_ns() - began > 10 * TM_SEC)
			tries = 0;
		back_off(a, &tries, refusal);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

int machine_start(struct agent *a, struct tm_err *err)
{
	return pthread_create(&a->thread, NULL, run, a)
		       ? tm_fail(err, EAGAIN, "no thread for the machine")
		       : 0;
}

void machine_stop(struct agent *a)
{
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	agent_wake(a);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL);
}
