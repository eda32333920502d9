// SPDX-License-Identifier: GPL-2.0-only
/*
 * Epochs: cut, break, commit, abort. One epoch at most is frozen (being drained); drained ones wait in unacked for
 * their commit. Everything here is under tm_mutex except tm_break(), tm_event() and the state word.
 */
#include <linux/random.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uuid.h>
#include "save.h"
#include "tidemark.h"

struct tm_stats tm_stats;
static DEFINE_SPINLOCK(tm_state_lock); /* tm_word is written under it; broken, events */
static bool broken;                    /* the frozen epoch is, and has not been merged yet */
static u64 events;
static bool has_frozen; /* for poll(), which takes no mutex */

static struct tm_epoch *frozen;
static LIST_HEAD(unacked); /* drained, oldest first */
static unsigned int nunacked;
static u8 tracking[16];
static u64 last_cut;
static struct tmk_id acked;
static struct tmk_id ids[TMK_MAX_IDS]; /* cut since acked, oldest first */
static unsigned int nids;

static void merge_frozen(void);

static void break_work_fn(struct work_struct *unused)
{
	mutex_lock(&tm_mutex);
	if (tm_broken())
		merge_frozen();
	mutex_unlock(&tm_mutex);
}
static DECLARE_WORK(break_work, break_work_fn);

bool tm_broken(void)
{
	return READ_ONCE(broken);
}

u64 tm_events(void)
{
	return READ_ONCE(events);
}

void tm_event(void)
{
	unsigned long flags;

	spin_lock_irqsave(&tm_state_lock, flags);
	WRITE_ONCE(events, events + 1);
	spin_unlock_irqrestore(&tm_state_lock, flags);
	wake_up_all(&tm_wait);
}

/* Ends preservation. While a cut holds writes the word is left alone: the cut looks at broken when it opens. */
static bool set_broken(void)
{
	unsigned long flags;
	bool did = false;

	spin_lock_irqsave(&tm_state_lock, flags);
	if (READ_ONCE(has_frozen) && !broken) {
		WRITE_ONCE(broken, true);
		WRITE_ONCE(events, events + 1);
		if (!(tm_word & TM_CUTTING))
			WRITE_ONCE(tm_word, tm_word & ~TM_FROZEN);
		did = true;
	}
	spin_unlock_irqrestore(&tm_state_lock, flags);
	return did;
}

void tm_break(enum tm_break why)
{
	if (!set_broken())
		return;
	tm_stats.breaks++;
	if (why == TM_BREAK_MEMORY)
		tm_stats.break_memory++;
	else if (why == TM_BREAK_DEADLINE)
		tm_stats.break_deadline++;
	else
		tm_stats.break_error++;
	queue_work(system_long_wq, &break_work);
	tm_kick_all();
	wake_up_all(&tm_wait);
}

static struct tm_map *map_at(struct tm_map __rcu **slot)
{
	return rcu_dereference_protected(*slot, lockdep_is_held(&tm_mutex));
}

static struct tm_map *active_map(struct tm_disk *d)
{
	return map_at(&d->map[tm_epoch_of(tm_word) % TM_MAPS]);
}

static void epoch_free(struct tm_epoch *e)
{
	unsigned int i;

	for (i = 0; i < TMK_MAX_DISKS; i++)
		tm_map_free(e->maps[i]);
	kfree(e);
}

/* Takes the frozen epoch's maps off the disks, into e->maps; "kept" goes. Nobody preserves for it any more. */
static void take_maps(struct tm_epoch *e)
{
	unsigned int at = e->number % TM_MAPS;
	struct tm_map *kept[TMK_MAX_DISKS] = {};
	struct tm_disk *d;
	unsigned int i;

	list_for_each_entry (d, &tm_disks, list) {
		if (!(e->disks & BIT_ULL(d->slot)))
			continue;
		e->maps[d->slot] = map_at(&d->map[at]);
		kept[d->slot] = map_at(&d->kept[at]);
		spin_lock_irq(&d->lock);
		RCU_INIT_POINTER(d->map[at], NULL);
		RCU_INIT_POINTER(d->kept[at], NULL);
		d->undrained = 0;
		spin_unlock_irq(&d->lock);
		if (d->nimages)
			tm_image_drop_all(d);
	}
	synchronize_rcu_expedited(); /* hooks that read the word before may still look at the maps */
	for (i = 0; i < TMK_MAX_DISKS; i++)
		tm_map_free(kept[i]);
}

static void merge_maps(struct tm_epoch *e)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list)
		if (e->maps[d->slot])
			tm_map_merge(active_map(d), e->maps[d->slot], tm_disk_blocks(d));
}

/*
 * Broken -> merged -> idle, in this order (ABORT_BRK; ABORT_I1 and ABORT_M1 lose writes). Broken came first: DRAIN
 * and COMMIT answer ESTALE, nothing more is preserved. The caller has the mutex, so no cut comes between.
 */
static void merge_frozen(void)
{
	struct tm_epoch *e = frozen;
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list)
		if ((e->disks & BIT_ULL(d->slot)) && map_at(&d->map[e->number % TM_MAPS]))
			tm_map_merge(active_map(d), map_at(&d->map[e->number % TM_MAPS]),
				tm_disk_blocks(d));
	take_maps(e);
	frozen = NULL;
	spin_lock_irq(&tm_state_lock);
	WRITE_ONCE(has_frozen, false);
	WRITE_ONCE(broken, false);
	spin_unlock_irq(&tm_state_lock);
	epoch_free(e);
	tm_kick_all();
	wake_up_all(&tm_wait);
}

static bool is_drained(void)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list)
		if ((frozen->disks & BIT_ULL(d->slot)) && READ_ONCE(d->undrained))
			return false;
	return true;
}

/* The frozen epoch is drained: it only waits for its commit now. False: it broke meanwhile. */
static bool retire(void)
{
	struct tm_epoch *e = frozen;

	spin_lock_irq(&tm_state_lock);
	if (broken) {
		spin_unlock_irq(&tm_state_lock);
		return false;
	}
	WRITE_ONCE(tm_word, tm_word & ~TM_FROZEN);
	WRITE_ONCE(has_frozen, false);
	spin_unlock_irq(&tm_state_lock);
	frozen = NULL;
	take_maps(e);
	list_add_tail(&e->list, &unacked);
	nunacked++;
	tm_kick_all();
	return true;
}

static bool all_settled(void)
{
	struct tm_disk *d;
	bool yes = true;

	rcu_read_lock();
	list_for_each_entry_rcu (d, &tm_disks, list)
		yes &= tm_settled(d);
	rcu_read_unlock();
	return yes;
}

bool tm_frozen_settled(void)
{
	return READ_ONCE(has_frozen) && !READ_ONCE(broken) && all_settled();
}

/* Gives the mutex away meanwhile: a disk that hangs keeps nobody from asking how it is. All may have changed then. */
static int wait_settled(unsigned long end)
{
	long left = (long)(end - jiffies);

	if (left <= 0)
		return -ETIME;
	mutex_unlock(&tm_mutex);
	left = wait_event_interruptible_timeout(tm_wait, all_settled(), left);
	mutex_lock(&tm_mutex);
	return left > 0 ? 0 : left < 0 ? -EINTR : -ETIME;
}

static void push_id(const struct tmk_id *id)
{
	if (nids == TMK_MAX_IDS) {
		memmove(ids, ids + 1, sizeof(ids[0]) * --nids);
	}
	ids[nids++] = *id;
}

/* Room for the next epoch on every disk; nothing has changed yet when it fails. */
static int prepare_maps(struct tm_epoch *e, struct tm_map **next, struct tm_map **kept)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list) {
		next[d->slot] = tm_map_new(tm_disk_blocks(d));
		kept[d->slot] = tm_map_new(tm_disk_blocks(d));
		if (!next[d->slot] || !kept[d->slot])
			return -ENOMEM;
		e->disks |= BIT_ULL(d->slot);
	}
	return 0;
}

static void install_maps(struct tm_epoch *e, struct tm_map **next, struct tm_map **kept)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list) {
		rcu_assign_pointer(d->map[(e->number + 1) % TM_MAPS], next[d->slot]);
		rcu_assign_pointer(d->kept[e->number % TM_MAPS], kept[d->slot]);
		next[d->slot] = NULL;
		kept[d->slot] = NULL;
	}
}

/*
 * The instant. Published with all writes being held; the grace period sees out every hook that still works with the
 * old word; then the gate opens (NO_HOLD, NO_GRACE, NO_CUTPROT).
 */
static void publish(struct tm_epoch *e, struct tmk_cut *arg)
{
	unsigned long word = (e->number + 1) << 2;
	u64 start;

	tm_test_before_cut();
	start = tm_now();
	arg->realtime_ns = ktime_get_real_ns();
	arg->boottime_ns = ktime_get_boottime_ns();
	spin_lock_irq(&tm_state_lock);
	WRITE_ONCE(has_frozen, true);
	WRITE_ONCE(tm_word, word | (tm_off(TM_OFF_HOLD) ? TM_FROZEN : TM_CUTTING));
	spin_unlock_irq(&tm_state_lock);
	synchronize_rcu_expedited();
	spin_lock_irq(&tm_state_lock);
	WRITE_ONCE(tm_word, word | (broken || e->catchup ? 0 : TM_FROZEN));
	spin_unlock_irq(&tm_state_lock);
	arg->hold_ns = tm_now() - start;
	tm_stats.cuts++;
	tm_stats.cut_us[tm_bucket(arg->hold_ns)]++;
}

/* As a cut does, without an epoch: for saving the maps. Opening is any context's; shutting has no epoch frozen. */
void tm_gate(bool shut)
{
	unsigned long flags;

	spin_lock_irqsave(&tm_state_lock, flags);
	WRITE_ONCE(tm_word, shut ? tm_word | TM_CUTTING : tm_word & ~TM_CUTTING);
	spin_unlock_irqrestore(&tm_state_lock, flags);
	if (shut)
		synchronize_rcu_expedited();
	else
		tm_kick_all();
}

static void count_undrained(struct tm_epoch *e, struct tmk_cut *arg)
{
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list) {
		u64 n = tm_map_count(map_at(&d->map[e->number % TM_MAPS]), tm_disk_blocks(d));

		spin_lock_irq(&d->lock);
		d->undrained = n;
		spin_unlock_irq(&d->lock);
		arg->blocks += n;
		arg->disks++;
	}
}

static void name_epoch(struct tm_epoch *e)
{
	memcpy(e->id.tracking, tracking, sizeof(tracking));
	e->id.cut = ++last_cut;
	get_random_bytes(&e->id.nonce, sizeof(e->id.nonce));
	e->parent =
		list_empty(&unacked) ? acked : list_last_entry(&unacked, struct tm_epoch, list)->id;
	push_id(&e->id);
}

static int may_cut(void)
{
	if (list_empty(&tm_disks))
		return -ENODEV;
	if (tm_shutting_down())
		return -ESHUTDOWN;
	tm_persist_spoil(); /* saved maps hold until something is done */
	if (frozen && tm_broken())
		merge_frozen();
	if (frozen && !is_drained())
		return -EBUSY;
	if (nunacked + !!frozen >= TMK_MAX_UNACKED)
		return -ENOSPC;
	if (frozen && !retire())
		merge_frozen();
	return 0;
}

int tm_cut(struct file *file, struct tmk_cut *arg, bool catchup)
{
	unsigned long end = jiffies + msecs_to_jiffies(min(arg->timeout_ms, 60000U));
	struct tm_map **spare;
	struct tm_epoch *e;
	struct tm_disk *d;
	int err, i;

	/* Writes of epochs older than the active one, left by an abort, must be over: counters are two (LIT_SETTLE). */
	do {
		err = may_cut();
	} while (!err && !all_settled() && !(err = wait_settled(end)));
	if (err)
		return err;
	e = kzalloc(sizeof(*e), GFP_KERNEL);
	spare = kcalloc(2 * TMK_MAX_DISKS, sizeof(*spare), GFP_KERNEL);
	err = -ENOMEM;
	if (!e || !spare)
		goto out;
	list_for_each_entry (d, &tm_disks, list)
		tm_disk_resize(d);
	err = prepare_maps(e, spare, spare + TMK_MAX_DISKS);
	if (err)
		goto out;
	e->number = tm_epoch_of(tm_word);
	e->owner = file;
	e->catchup = catchup;
	name_epoch(e);
	install_maps(e, spare, spare + TMK_MAX_DISKS);
	frozen = e;
	publish(e, arg);
	count_undrained(e, arg);
	arg->id = e->id;
	arg->parent = e->parent;
	tm_kick_all();
	wake_up_all(&tm_wait);
	e = NULL;
out:
	for (i = 0; spare && i < 2 * TMK_MAX_DISKS; i++)
		tm_map_free(spare[i]);
	kfree(spare);
	kfree(e);
	return err;
}

static bool same_id(const struct tmk_id *a, const struct tmk_id *b)
{
	return !memcmp(a, b, sizeof(*a));
}

static void set_acked(const struct tmk_id *id)
{
	unsigned int i;

	acked = *id;
	for (i = 0; i < nids; i++)
		if (same_id(&ids[i], id))
			break;
	if (i == nids)
		return;
	nids -= i + 1;
	memmove(ids, ids + i + 1, nids * sizeof(ids[0]));
}

/* The server has an epoch that this side gave up: it becomes the parent of what follows; all its blocks go again. */
static int adopt(const struct tmk_id *id)
{
	unsigned int i;

	if (frozen || nunacked)
		return -EBUSY;
	for (i = 0; i < nids; i++)
		if (same_id(&ids[i], id))
			break;
	if (i == nids)
		return -ESTALE;
	set_acked(id);
	return 0;
}

static struct tm_epoch *first_unacked(void)
{
	return list_first_entry_or_null(&unacked, struct tm_epoch, list);
}

static struct tm_epoch *find_epoch(const struct tmk_id *id)
{
	struct tm_epoch *e;

	if (frozen && !tm_broken() && same_id(&frozen->id, id))
		return frozen;
	list_for_each_entry (e, &unacked, list)
		if (same_id(&e->id, id))
			return e;
	return NULL;
}

int tm_commit(const struct tmk_commit *arg)
{
	struct tm_epoch *e = find_epoch(&arg->id);

	if (!e)
		return arg->flags & TMK_COMMIT_ADOPT ? adopt(&arg->id) : -ESTALE;
	if (e == frozen) {
		if (nunacked || !is_drained())
			return -EBUSY;
		if (!retire())
			return -ESTALE;
	} else if (e != first_unacked()) {
		return -EBUSY;
	}
	list_del(&e->list);
	nunacked--;
	set_acked(&e->id);
	epoch_free(e); /* take_maps() saw the grace period out */
	tm_stats.commits++;
	return 0;
}

void tm_abort_all(void)
{
	struct tm_epoch *e;

	if (!frozen && !nunacked)
		return;
	if (frozen) {
		set_broken();
		tm_kick_all();
		merge_frozen();
	}
	while ((e = first_unacked())) {
		merge_maps(e);
		list_del(&e->list);
		nunacked--;
		epoch_free(e);
	}
	tm_stats.aborts++;
	tm_event();
}

void tm_abort_owned(struct file *file)
{
	struct tm_epoch *e;
	bool mine = frozen && frozen->owner == file;

	list_for_each_entry (e, &unacked, list)
		mine |= e->owner == file;
	if (mine)
		tm_abort_all();
}

void tm_epochs_detach(struct tm_disk *d)
{
	struct tm_epoch *e;

	if (frozen && (frozen->disks & BIT_ULL(d->slot))) {
		set_broken();
		tm_kick_all();
		merge_frozen();
	}
	list_for_each_entry (e, &unacked, list) {
		tm_map_free(e->maps[d->slot]);
		e->maps[d->slot] = NULL;
		e->disks &= ~BIT_ULL(d->slot);
	}
}

int tm_epoch_map(const struct tmk_id *id, struct tm_disk *d, struct tm_map **map, bool *is_frozen)
{
	struct tm_epoch *e = find_epoch(id);

	if (!e)
		return -ESTALE;
	if (!(e->disks & BIT_ULL(d->slot)))
		return -ENODEV;
	*is_frozen = e == frozen;
	*map = e == frozen ? map_at(&d->map[e->number % TM_MAPS]) : e->maps[d->slot];
	return 0;
}

struct tm_map *tm_kept(struct tm_disk *d)
{
	return map_at(&d->kept[frozen->number % TM_MAPS]);
}

bool tm_frozen_preserved(void)
{
	return frozen && !frozen->catchup;
}

void tm_head(struct tmk_head *arg)
{
	arg->state = TMK_IDLE;
	if (frozen && !tm_broken()) {
		arg->state = is_drained() ? TMK_DRAINED : TMK_FROZEN;
		arg->frozen = frozen->id;
	}
	arg->events = tm_events();
	if (!list_empty(&tm_disks))
		memcpy(arg->tracking, tracking, sizeof(tracking));
	arg->acked = acked;
	arg->unacked = nunacked + (arg->state != TMK_IDLE);
	arg->nids = nids;
	memcpy(arg->ids, ids, nids * sizeof(ids[0]));
}

/* Tracking begins: nothing is known of what was before. */
void tm_tracking_new(u8 uuid[16])
{
	generate_random_uuid(tracking);
	memcpy(uuid, tracking, sizeof(tracking));
	memset(&acked, 0, sizeof(acked));
	last_cut = 0;
	nids = 0;
}

void tm_tracking_save(struct tm_tracking *t)
{
	memcpy(t->uuid, tracking, sizeof(tracking));
	t->acked = acked;
	t->last_cut = last_cut;
	t->nids = nids;
	memcpy(t->ids, ids, nids * sizeof(ids[0]));
}

/* The ids too: an answer of the server may have been lost with the connection at the shutdown. */
int tm_tracking_restore(const struct tm_tracking *t)
{
	if (!memcmp(tracking, t->uuid, sizeof(tracking)))
		return 0;
	if (last_cut || t->nids > TMK_MAX_IDS)
		return -EEXIST;
	memcpy(tracking, t->uuid, sizeof(tracking));
	acked = t->acked;
	last_cut = t->last_cut;
	nids = t->nids;
	memcpy(ids, t->ids, nids * sizeof(ids[0]));
	return 0;
}

void tm_epoch_exit(void)
{
	cancel_work_sync(&break_work);
}
