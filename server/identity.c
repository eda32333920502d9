// SPDX-License-Identifier: Apache-2.0
/*
 * Is whoever shows this machine's certificate the machine? A copy of its keys cannot be told from it by cryptography, but by what
 * only one of two can have: the next session counter, the hardware, the live connection.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/uuid.h"
#include "server/session.h"

#define LIVE_NS \
	(3 * TM_SEC) /* data received this long after the newcomer's HELLO: the predecessor lives */
#define JUDGE_NS (6 * TM_SEC)  /* until then it is silent: half-open */
#define LEAVE_NS (60 * TM_SEC) /* for a cut-off predecessor to finish what it is doing */

static void wait_until(struct machine *m, uint64_t at)
{
	struct timespec ts = tm_timespec(at);

	pthread_cond_clockwait(&m->changed, &m->lock, CLOCK_MONOTONIC, &ts);
}

enum life { DEAD, SILENT, LIVE };

/*
 * What the kernel knows of the predecessor's connection: a killed process's socket is closed at once, and the time of the newest data
 * is that of its arrival, however late our own thread reads it.
 */
static enum life life_of(int socket, uint64_t since)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);
	uint64_t now = tm_mono_ns();

	memset(&info, 0, sizeof(info));
	if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &len) ||
		info.tcpi_state != TCP_ESTABLISHED)
		return DEAD;
	return now - (uint64_t)info.tcpi_last_data_recv * TM_MS >= since + LIVE_NS ? LIVE : SILENT;
}

/* Caller holds m->lock. True: another instance is alive and stays so. */
static bool two_live(struct machine *m, const uint8_t *instance)
{
	uint64_t since = tm_mono_ns();

	while (m->session && !tm_uuid_equal(m->session->instance, instance)) {
		enum life life = life_of(m->session->socket, since);

		if (life == LIVE)
			return true;
		if (life == DEAD || tm_mono_ns() > since + JUDGE_NS)
			break;
		wait_until(m, tm_mono_ns() + 200 * TM_MS);
	}
	return false;
}

/* Caller holds m->lock. */
static bool predecessor_leaves(struct machine *m)
{
	uint64_t until = tm_mono_ns() + LEAVE_NS;

	while (m->session || m->commits) {
		if (tm_mono_ns() > until)
			return false;
		if (m->session)
			tm_conn_cancel(m->session->conn);
		wait_until(m, tm_mono_ns() + TM_SEC);
	}
	return true;
}

static int hold(struct machine *m, struct refusal *r, const char *why)
{
	machine_hold(m, why);
	return refuse(
		r, TM_E_HELD, 0, "%s: on hold until an operator decides (serverctl adopt)", why);
}

static int compare_known(struct machine *m, const struct catalog_machine *c, struct tm_conn *conn,
	const struct tm_in_hello *in, struct refusal *r)
{
	char why[256];

	if (!c->known)
		return 0;
	if (in->m->counter <= c->counter) {
		snprintf(why, sizeof(why),
			"session counter %llu from %s was used before (newest: %llu): a copy of the machine, or an older state of it",
			(unsigned long long)in->m->counter, tm_conn_name(conn),
			(unsigned long long)c->counter);
		return hold(m, r, why);
	}
	if (memcmp(in->m->hardware, c->hardware, sizeof(c->hardware)) != 0) {
		snprintf(why, sizeof(why), "other hardware at %s than before", tm_conn_name(conn));
		return hold(m, r, why);
	}
	return 0;
}

/* Without m->lock: looks at and writes the catalog. */
static int believe(
	struct machine *m, struct tm_conn *conn, const struct tm_in_hello *in, struct refusal *r)
{
	struct catalog_machine c;
	struct tm_err err;
	int rc;

	if (catalog_machine_get(m->server->catalog, m->uuid, &c, &err))
		return refuse(r, TM_E_IO, 0, "%s", err.msg);
	if (c.revoked)
		return refuse(r, TM_E_AUTH, 0, "the machine is revoked");
	if (c.held)
		return refuse(r, TM_E_HELD, 0,
			"on hold until an operator decides (serverctl adopt): %.200s", c.why);
	rc = compare_known(m, &c, conn, in, r);
	if (rc)
		return rc;
	c.counter = in->m->counter;
	memcpy(c.instance, in->m->instance, TM_UUID);
	memcpy(c.hardware, in->m->hardware, sizeof(c.hardware));
	memcpy(c.host, in->host, sizeof(c.host));
	if (catalog_machine_session(m->server->catalog, &c, &err) || machine_note(m, &err))
		return refuse(r, TM_E_IO, 0, "%s", err.msg);
	return 0;
}

static bool arrive(struct machine *m)
{
	uint64_t until = tm_mono_ns() + LEAVE_NS;

	while (m->arriving && tm_mono_ns() < until)
		wait_until(m, until);
	if (m->arriving)
		return false;
	m->arriving = true;
	return true;
}

int identity_check(
	struct machine *m, struct tm_conn *c, const struct tm_in_hello *in, struct refusal *r)
{
	bool clone, gone;
	char why[256];
	int rc;

	pthread_mutex_lock(&m->lock);
	if (!arrive(m)) {
		pthread_mutex_unlock(&m->lock);
		return refuse(r, TM_E_BUSY, 0, "another session of the machine is just beginning");
	}
	clone = two_live(m, in->m->instance);
	if (clone)
		snprintf(why, sizeof(why), "two live agents: at %s and at %s",
			tm_conn_name(m->session->conn), tm_conn_name(c));
	gone = !clone && predecessor_leaves(m);
	pthread_mutex_unlock(&m->lock);
	if (clone)
		rc = hold(m, r, why);
	else if (!gone)
		rc = refuse(r, TM_E_BUSY, 0, "the session before has not ended yet");
	else
		rc = believe(m, c, in, r);
	if (rc) {
		pthread_mutex_lock(&m->lock);
		identity_done(m);
		pthread_mutex_unlock(&m->lock);
	}
	return rc;
}

void identity_done(struct machine *m)
{
	m->arriving = false;
	pthread_cond_broadcast(&m->changed);
}
