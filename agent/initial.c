// SPDX-License-Identifier: Apache-2.0
/* Initial sync: every block once, part by part; what is durable at the server already is left out. */
#include <errno.h>

#include "agent/agent.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define PART_NS (10 * TM_SEC) /* a part is made durable after so long at the latest */
#define STEP    (4 * JOB_BLOCKS)

static void show(struct member *m, struct stream *s, uint64_t before)
{
	uint64_t done, sent, bad;

	pthread_mutex_lock(&s->lock);
	done = s->done_blocks;
	sent = s->sent_bytes;
	bad = s->bad_blocks;
	pthread_mutex_unlock(&s->lock);
	LOCK_SCOPE(&m->agent->lock);
	m->done = before + done * TM_BLOCK;
	m->sent_bytes = sent;
	m->bad = bad;
}

/* Reads what is missing, in parts; the last part is left to be committed. */
static int read_all(
	struct member *m, struct stream *s, uint64_t blocks, uint64_t before, struct tm_err *err)
{
	uint64_t began = tm_mono_ns(), in_part = 0, part = m->agent->conf.part / TM_BLOCK;
	struct tm_extent gap;

	for (uint64_t at = 0; tm_extents_next_gap(&m->have, at, blocks, &gap);) {
		gap.count = gap.count < STEP ? gap.count : STEP;
		if (agent_turn(m->agent, err) || stream_read(s, m->fd, gap.start, gap.count, err))
			return -err->code;
		at = gap.start + gap.count;
		in_part += gap.count;
		show(m, s, before);
		if (in_part < part && tm_mono_ns() - began < PART_NS)
			continue;
		if (piece_commit(m, s, false, err))
			return -err->code;
		began = tm_mono_ns();
		in_part = 0;
	}
	return 0;
}

int initial_run(struct member *m, uint64_t *piece, struct tm_err *err)
{
	uint64_t blocks = (m->info.ident.size + TM_BLOCK - 1) / TM_BLOCK;
	uint64_t before = m->have.blocks * TM_BLOCK, attempt = m->attempt;
	struct agent *a = m->agent;
	struct stream s;
	int ret;

	stream_init(&s, a->pipeline, ship_push, a->ship);
	s.handle = m->handle;
	s.disk_size = m->info.ident.size;
	pthread_mutex_lock(&a->lock);
	m->total = m->info.ident.size;
	m->done = before;
	pthread_mutex_unlock(&a->lock);
	ret = piece_begin(m, TM_ATTEMPT_INITIAL, &attempt, &s.part, err);
	s.attempt = attempt;
	if (!ret)
		ret = read_all(m, &s, blocks, before, err);
	if (!ret)
		ret = piece_commit(m, &s, true, err);
	if (ret) {
		struct tm_err ignored;

		stream_fail(&s, ret, err->msg);
		stream_flush(&s, &ignored); /* what is under way must come back */
	}
	show(m, &s, before);
	stream_exit(&s);
	if (!ret)
		*piece = attempt;
	return ret;
}
