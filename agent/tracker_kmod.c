// SPDX-License-Identifier: Apache-2.0
/* The kernel module as tracker: continuous epochs, doubts, and where the server is. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "agent/bootmap.h"
#include "agent/epoch.h"
#include "agent/tracker.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/log.h"
#include "common/uuid.h"

#define NOTE_NS \
	(60 * TM_SEC) /* the newest point is written down so often, no more: the state may lie on a tracked disk */
#define CATCHUP_BREAKS 3u /* so many epochs broken in a row: the load outruns us */

static int get_kmod(struct agent *a, struct tm_err *err)
{
	struct kmod *k = a->kmod;

	if (k)
		return 0;
	k = calloc(1, sizeof(*k));
	if (!k)
		return tm_fail(err, ENOMEM, "no memory");
	if (kmod_open(&k->fd, err)) {
		free(k);
		return -err->code;
	}
	k->boot_report = bootmap_report();
	if (bootmap_prepare(
		    a->conf.maps[0] ? a->conf.maps : a->state.dir, a->state.dir, &k->map, err))
		tm_log(TM_LOG_NOTICE, "every boot will need a resync: maps cannot be saved: %s",
			err->msg);
	pthread_mutex_lock(&a->lock);
	a->kmod = k;
	pthread_mutex_unlock(&a->lock);
	return 0;
}

/* The server has committed epoch `last` of ids: the older ones that live went with it, in order. */
static int catch_up_with(
	struct kmod *k, const struct tmk_head *head, unsigned last, struct tm_err *err)
{
	struct tm_err ignored;

	for (unsigned i = 0; i < last; i++)
		(void)kmod_commit_alive(k->fd, &head->ids[i], &ignored);
	return kmod_commit(k->fd, &head->ids[last], err);
}

static bool never_acked(const struct tmk_head *head)
{
	static const struct tmk_id none;

	return memcmp(&head->acked, &none, sizeof(none)) == 0;
}

static int doubt_line(struct agent *a, const struct tmk_head *head, const struct tm_msg_welcome *w,
	struct tm_err *err)
{
	bool gone;

	pthread_mutex_lock(&a->state.lock);
	gone = a->state.point > w->head_attempt;
	pthread_mutex_unlock(&a->state.lock);
	if (gone || !never_acked(head))
		alarm_gone(a, w);
	memset(&a->head, 0, sizeof(a->head));
	return new_line(a,
		never_acked(head) ? "the kernel module does not know the server's newest epoch"
				  : "the server's newest epoch is not ours",
		err);
}

static int kmod_tracker_head(struct agent *a, const struct tm_msg_welcome *w, struct tm_err *err)
{
	struct tmk_head head;
	struct kmod *k;
	unsigned at = 0;
	int ret;

	if (get_kmod(a, err))
		return -err->code;
	k = a->kmod;
	if (kmod_head(k->fd, &head, err))
		return -err->code;
	a->head = w->head;
	while (at < head.nids && !kmod_is(&head.ids[at], &w->head))
		at++;
	if (kmod_is(&head.acked, &w->head)) /* also: nothing on both sides */
		ret = 0;
	else if (at < head.nids)
		ret = catch_up_with(k, &head, at, err);
	else
		ret = doubt_line(a, &head, w, err);
	kmod_abort(k->fd);
	k->tail = a->head;
	k->next_cut = 0;
	k->breaks = 0;
	k->round_blocks = 0;
	k->owed = w->flags & TM_WELCOME_NO_POINT;
	return ret;
}

/* What the boot would need; without it the disks are compared. */
static void prepare_boot(struct member *m)
{
	struct kmod *k = m->agent->kmod;
	struct tm_err err;

	if (bootmap_witness(k->fd, m->kdisk, m->info.name, m->fd, &err))
		tm_log_of(TM_LOG_WARNING, NULL, m->info.path, "%s: %s", m->info.path, err.msg);
	if (k->map.nruns && makedev(m->info.major, m->info.minor) == k->map.disk &&
		bootmap_register(k->fd, m->kdisk, &k->map, &err))
		tm_log_of(TM_LOG_WARNING, NULL, m->info.path, "%s: %s", m->info.path, err.msg);
}

static const char *doubt_text(uint32_t doubt)
{
	return doubt & TMK_DOUBT_ERROR     ? "an error inside the kernel module"
	       : doubt & TMK_DOUBT_LOST    ? "a write could not be recorded"
	       : doubt & TMK_DOUBT_SHRUNK  ? "the disk shrank"
	       : doubt & TMK_DOUBT_RESUMED ? "the machine came back from hibernation"
					   : "tracking began anew";
}

/* Tracking that began anew though the disk had been tracked has a story. */
static void set_doubt(struct member *m, const struct tmk_info *info, struct state_disk *d)
{
	const char *report = m->agent->kmod->boot_report;
	char why[120] = "the module saw nothing of what came before";

	if ((info->doubt && info->doubt != TMK_DOUBT_FRESH) || tm_uuid_is_zero(d->kernel)) {
		snprintf(d->doubt, sizeof(d->doubt), "%s", doubt_text(info->doubt));
		return;
	}
	(void)bootmap_reason(report, m->info.major, m->info.minor, why, sizeof(why));
	snprintf(d->doubt, sizeof(d->doubt), "tracking began anew: %s", why);
	tm_log_of(TM_LOG_WARNING, NULL, m->info.path, "%s: resync: %s", m->info.path, d->doubt);
}

/* Durable before the module forgets its doubt: from here on the server holds it, by the tracking UUID. */
static int note_doubt(struct member *m, const struct tmk_info *info, struct tm_err *err)
{
	struct state *st = &m->agent->state;
	struct state_disk *d;
	LOCK_SCOPE(&st->lock);

	d = state_find(st, m->uuid);
	if (!d)
		return tm_fail(err, ENOENT, "not protected any more");
	if (info->doubt || !tm_uuid_equal(d->kernel, info->tracking)) {
		set_doubt(m, info, d);
		memcpy(d->kernel, info->tracking, TM_UUID);
		tm_uuid_new(d->tracking);
		if (state_save(st, err))
			return -err->code;
	}
	memcpy(m->tracking, d->tracking, TM_UUID);
	return 0;
}

/* verify_after_boot: what a system without the module wrote in the midst of the disk is found by comparing only. */
static int want_comparison(struct member *m, struct tm_err *err)
{
	struct agent *a = m->agent;
	bool back = bootmap_restored(a->kmod->boot_report, m->info.major, m->info.minor);
	struct state_disk *d;
	bool wanted;
	int ret = 0;

	pthread_mutex_lock(&a->state.lock);
	d = state_find(&a->state, m->uuid);
	if (d && back && a->conf.verify_after_boot && !d->compare) {
		d->compare = true;
		ret = state_save(&a->state, err);
	}
	wanted = d && d->compare;
	pthread_mutex_unlock(&a->state.lock);
	pthread_mutex_lock(&a->lock);
	m->resync |= wanted;
	pthread_mutex_unlock(&a->lock);
	return ret;
}

/* A spool whose own writes would be tracked would feed itself. */
static void leave_spool_out(struct member *m)
{
	struct agent *a = m->agent;
	struct tm_err err;

	if (!a->spool || spoolfile_exclude(&a->spoolfile, a->kmod->fd, m->kdisk, m->info.major,
				 m->info.minor, &err) == 0)
		return;
	tm_wrap(&err, "the spool is out of use");
	spool_give_up(a->spool, err.msg);
	LOCK_SCOPE(&a->lock);
	agent_error(a, TODO_SPOOL, "%s", err.msg);
}

static int kmod_tracker_attach(struct member *m, struct tm_err *err)
{
	struct kmod *k = m->agent->kmod;
	struct tmk_info info;

	if (m->tracker != TM_TRACKER_KMOD || kmod_attach(k->fd, &m->info, &m->kdisk, err))
		return m->tracker == TM_TRACKER_KMOD ? -err->code : 0;
	leave_spool_out(m);
	if (kmod_info(k->fd, m->kdisk, &info, err) || note_doubt(m, &info, err))
		return -err->code;
	if (info.doubt && kmod_trust(k->fd, m->kdisk, info.doubt, err))
		return -err->code;
	prepare_boot(m);
	return want_comparison(m, err);
}

static void kmod_tracker_detach(struct member *m)
{
	struct kmod *k = m->agent->kmod;

	if (k && m->kdisk)
		kmod_detach(k->fd, m->kdisk);
	m->kdisk = 0;
}

/* Dirty blocks of all disks; a disk in doubt or gone is opened anew, which finds out. Lock held. */
static uint64_t look(struct agent *a, struct kmod *k)
{
	struct tmk_info info;
	struct tm_err err;
	uint64_t dirty = 0;

	for (struct member *m = a->members; m; m = m->next) {
		if (!m->kdisk || kmod_info(k->fd, m->kdisk, &info, &err))
			continue;
		m->backlog = (info.dirty + info.undrained) * TM_BLOCK;
		dirty += info.dirty;
		if ((info.doubt || info.gone) && m->handle && !m->running) {
			tm_log_of(TM_LOG_WARNING, NULL, m->info.path, "%s: %s", m->info.path,
				info.gone ? "the disk is gone" : doubt_text(info.doubt));
			m->handle = 0;
			m->piece = 0;
			if (info.gone)
				m->kdisk = 0;
			agent_wake(a);
		}
	}
	return dirty;
}

static bool asked(const struct agent *a)
{
	for (struct request *rq = a->requests; rq; rq = rq->next)
		if (rq->kind == REQUEST_POINT && !rq->done && !rq->taken)
			return true;
	return false;
}

static bool any_part(const struct agent *a)
{
	for (struct member *m = a->members; m; m = m->next)
		if (m->kdisk && m->handle && (m->piece || member_joined(m)))
			return true;
	return false;
}

/*
 * Epochs that keep breaking are of no use: what is dirty is shipped unpreserved, round by round, each durable for good, until so
 * little is left that a usual epoch of it fits the spool or the memory for before-images, or until the rounds shrink no more. Then a usual epoch is
 * tried; when it breaks, the next round follows.
 */
static bool wants_catchup(const struct agent *a, const struct kmod *k, uint64_t dirty)
{
	struct spool_stats spool = {0};
	struct tmk_stats s;

	if (k->breaks < CATCHUP_BREAKS || !dirty)
		return false;
	if (!k->round_blocks)
		return true;
	if (a->spool)
		spool_stats(a->spool, &spool);
	if (kmod_stats(k->fd, &s) || dirty * TM_BLOCK <= s.image_limit ||
		dirty * TM_BLOCK <= spool.size)
		return false;
	return dirty < k->round_blocks / 4 * 3;
}

static void show_catchup(struct agent *a, bool on)
{
	for (struct member *m = a->members; m; m = m->next) {
		if (on && member_joined(m) && m->kdisk)
			m->state = SYNC_CATCHUP;
		else if (!on && m->state == SYNC_CATCHUP)
			m->state = SYNC_CONTINUOUS;
	}
}

static void made_round(struct agent *a, struct kmod *k)
{
	k->rounds++;
	k->round_blocks = k->epoch_blocks ? k->epoch_blocks : 1;
	k->owed = true;
	k->next_cut = tm_mono_ns();
	tm_log(TM_LOG_INFO, "catch-up: %llu bytes sent",
		(unsigned long long)(k->epoch_blocks * TM_BLOCK));
}

/* The interval is from cut to cut: what shipping and the network take must not lengthen it. */
static void made(struct agent *a, struct kmod *k, uint64_t begun, bool catchup, int ret,
	const struct tm_err *err)
{
	uint64_t interval = session_welcome(a->session)->interval_ms * TM_MS;
	uint64_t now = tm_mono_ns();

	k->next_cut = begun + (interval ? interval : TM_SEC);
	if (!ret && catchup) {
		made_round(a, k);
		return;
	}
	k->round_blocks = 0;
	if (!ret) {
		k->breaks = 0;
		return;
	}
	if (ret == -ESTALE) {
		struct tmk_head head;
		struct tm_err ignored;

		k->breaks++;
		k->broken++;
		(void)kmod_head(k->fd, &head, &ignored); /* quiets poll() */
		k->next_cut = now;
	}
	if (!session_ended(a->session, NULL, NULL))
		agent_error(a,
			ret == -ESTALE
				? "nothing, if it is rare; else a spool (tidemark-agent(8)), more memory for before-images (image_kb of the module, tidemark(4)), or a faster link"
				: "nothing: it is tried again",
			"epoch not shipped, its blocks go with the next one: %s", err->msg);
	if (ret != -ESTALE)
		k->next_cut = now + TM_SEC;
}

/* A piece goes into one epoch only; until that is answered the next one cannot know whether it is needed there. */
static bool pieces_wait(const struct kmod *k)
{
	for (unsigned i = 0; i < k->nqueue; i++)
		if (k->queue[i].point->npieces)
			return true;
	return false;
}

static void kmod_tracker_step(struct agent *a, uint64_t now, uint64_t *until)
{
	struct kmod *k = a->kmod;
	struct tm_err err = {0};
	uint64_t dirty, poll = now + 200 * TM_MS;
	bool catchup, owed;
	int ret;

	dirty = look(a, k);
	*until = poll < *until ? poll : *until;
	if (a->paused || k->nqueue == TMK_MAX_UNACKED || pieces_wait(k) || !any_part(a) ||
		!line_ready(a))
		return;
	owed = k->owed && !k->nqueue;
	if (!asked(a) && !a->urgent_round && ((!dirty && !owed) || now < k->next_cut))
		return;
	if (k->breaks && now < k->next_cut)
		return;
	catchup = wants_catchup(a, k, dirty);
	if (catchup)
		show_catchup(a, true);
	pthread_mutex_unlock(&a->lock);
	ret = epoch_make(a, k, catchup, &err);
	pthread_mutex_lock(&a->lock);
	made(a, k, now, catchup, ret, &err);
	agent_wake(a);
}

static void note_point(struct agent *a, struct kmod *k)
{
	struct tm_err err;

	if (k->noted && tm_mono_ns() - k->noted < NOTE_NS)
		return;
	k->noted = tm_mono_ns();
	LOCK_SCOPE(&a->state.lock);
	if (state_save(&a->state, &err))
		tm_log(TM_LOG_WARNING, "%s", err.msg);
}

static void take_out(struct kmod *k)
{
	memmove(&k->queue[0], &k->queue[1], (k->nqueue - 1) * sizeof(k->queue[0]));
	k->nqueue--;
}

/* The oldest epoch has its answer. */
static void answered(struct agent *a, struct kmod *k)
{
	struct queued q = k->queue[0];
	struct tm_err err = {0};
	int ret;

	take_out(k);
	pthread_mutex_unlock(&a->lock);
	ret = point_wait(a, q.point, &err);
	if (!ret)
		ret = kmod_commit(k->fd, &q.id, &err);
	else
		kmod_abort(k->fd);
	pthread_mutex_lock(&a->lock);
	if (!ret) {
		a->head = q.point->c.id;
		point_done(a, q.point);
		if (q.point->c.kind != TM_POINT_NONE) {
			k->owed = false;
			show_catchup(a, false);
		}
		note_point(a, k);
	} else {
		/* Those behind it are refused too, for want of their parent. */
		point_failed(a, q.point, &err);
		if (!k->nqueue)
			k->tail = a->head;
		k->next_cut = tm_mono_ns() + TM_SEC;
	}
	free(q.point);
}

static bool kmod_tracker_finish(struct agent *a)
{
	struct kmod *k = a->kmod;

	if (!k->nqueue || !point_answered(a, k->queue[0].point))
		return false;
	answered(a, k);
	return true;
}

static void kmod_tracker_cancel(struct agent *a)
{
	struct kmod *k = a->kmod;
	struct tm_err ignored;

	if (!k)
		return;
	while (k->nqueue) {
		struct point *p = k->queue[0].point;

		take_out(k);
		(void)point_wait(a, p, &ignored); /* the session has ended: it returns at once */
		point_put_back(a, p);
		free(p);
	}
	/* What was cut stays in the module until the next session has seen how far the server came. */
}

static bool kmod_tracker_clean(struct agent *a)
{
	struct kmod *k = a->kmod;
	struct tmk_info info;
	struct tmk_head head;
	struct tm_err err;

	/* Asked before the maps are looked at: an epoch cut in between has made them empty without being durable. */
	if (!k || !a->members || k->nqueue || tm_epoch_is_zero(&a->head))
		return false;
	for (struct member *m = a->members; m; m = m->next)
		if (!member_joined(m) || !m->kdisk || kmod_info(k->fd, m->kdisk, &info, &err) ||
			info.dirty || info.frozen || info.doubt || info.gone || info.inflight)
			return false;
	/* And after: the same newest epoch, none on its way. */
	return kmod_head(k->fd, &head, &err) == 0 && !head.unacked && head.state == TMK_IDLE &&
	       kmod_is(&head.acked, &a->head);
}

static void spool_status(struct agent *a, struct cJSON *o)
{
	struct spool_stats s = {0};

	if (a->spool)
		spool_stats(a->spool, &s);
	tm_json_u64(o, "spool_size", s.size);
	tm_json_u64(o, "spool_used", s.used);
	tm_json_u64(o, "spool_peak", s.peak);
	tm_json_u64(o, "spool_frames", s.written);
	cJSON_AddStringToObject(o, "spool_error", a->spool ? s.error : a->spool_error);
}

static void kmod_tracker_status(struct agent *a, struct cJSON *o)
{
	struct kmod *k = a->kmod;
	struct tmk_stats s = {0};

	if (!k || kmod_stats(k->fd, &s))
		return;
	tm_json_u64(o, "epochs_unacknowledged", k->nqueue);
	tm_json_u64(o, "epochs_broken", s.breaks);
	tm_json_u64(o, "broken_for_memory", s.break_memory);
	tm_json_u64(o, "broken_by_deadline", s.break_deadline);
	tm_json_u64(o, "catchup_rounds", k->rounds);
	tm_json_u64(o, "images_bytes", s.image_now);
	tm_json_u64(o, "images_peak", s.image_peak);
	tm_json_u64(o, "images_limit", s.image_limit);
	spool_status(a, o);
	tm_json_u64(o, "cut_us", k->cut_hold_ns / 1000);
	tm_json_u64(o, "epoch_bytes", k->epoch_blocks * TM_BLOCK);
}

const struct tracker tracker_kmod = {.name = "kmod",
	.head = kmod_tracker_head,
	.attach = kmod_tracker_attach,
	.detach = kmod_tracker_detach,
	.step = kmod_tracker_step,
	.finish = kmod_tracker_finish,
	.cancel = kmod_tracker_cancel,
	.clean = kmod_tracker_clean,
	.status = kmod_tracker_status};
