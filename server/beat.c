// SPDX-License-Identifier: Apache-2.0
/* Heartbeats: what the agent says of itself, and what the server knows of its points. */
#include <string.h>

#include "common/clock.h"
#include "common/uuid.h"
#include "server/session.h"

/* A proof that nothing was written since the newest point makes that point newer. Caller holds m->lock. */
static void extend_point(struct machine *m, const struct tm_msg_heartbeat *h, int64_t now)
{
	int64_t valid =
		now - (int64_t)(h->clean_age_ns < INT64_MAX / 2 ? h->clean_age_ns : INT64_MAX / 2);

	if (!m->head.point || m->head.point != m->head.seq || m->commits ||
		tm_epoch_is_zero(&h->clean) || !tm_epoch_equal(&h->clean, &m->head.id))
		return;
	if (valid > m->valid)
		m->valid = valid;
}

static void take(struct machine *m, const struct tm_in_heartbeat *in)
{
	m->last_beat = tm_mono_ns();
	m->read_rate = in->m->read_rate;
	m->wire_rate = in->m->wire_rate;
	m->paused = in->m->paused;
	memcpy(m->error, in->error, sizeof(m->error));
	for (uint32_t i = 0; i < in->m->ndisks; i++) {
		struct disk *d = machine_disk(m, in->disks[i].handle);

		if (d)
			d->beat = in->disks[i];
	}
	extend_point(m, in->m, (int64_t)m->last_beat);
}

int heartbeat(struct session *s, const void *body, size_t len, struct refusal *r)
{
	struct machine *m = s->machine;
	struct tm_msg_heartbeat_ok ok = {.newest = 0};
	struct tm_in_heartbeat in;
	struct tm_out out;
	struct tm_err err;

	if (tm_parse_heartbeat(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	pthread_mutex_lock(&m->lock);
	take(m, &in);
	ok.rpo_ms = machine_rpo_ms(m);
	ok.newest = m->head.point;
	pthread_mutex_unlock(&m->lock);
	ok.full = __atomic_load_n(&m->server->full, __ATOMIC_RELAXED);
	if (tm_build_heartbeat_ok(&out, &ok, &err) == 0)
		tm_conn_send_msg(s->conn, &out, &err);
	return 0;
}
