// SPDX-License-Identifier: GPL-2.0-only
/* /dev/tidemark: the ioctls, poll, and the module's beginning and end. */
#include <linux/capability.h>
#include <linux/compat.h>
#include <linux/delay.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include "tidemark.h"

DEFINE_MUTEX(tm_mutex);
DECLARE_WAIT_QUEUE_HEAD(tm_wait);
struct workqueue_struct *tm_wq;

unsigned int tm_hold_ms = 1000;
module_param_named(hold_ms, tm_hold_ms, uint, 0644);
MODULE_PARM_DESC(hold_ms, "longest time that a write is held before the epoch is broken, ms");
unsigned int tm_image_kb;
module_param_named(image_kb, tm_image_kb, uint, 0644);
MODULE_PARM_DESC(image_kb, "limit of before-image memory, KiB; 0: 1/32 of RAM");

#ifdef TM_TEST
unsigned int tm_test_off, tm_test_delay_us;
module_param_named(test_off, tm_test_off, uint, 0644);
module_param_named(test_delay_us, tm_test_delay_us, uint, 0644);

/*
 * One hook per cut stays between reading the state word and marking while the cut is published: that of a write to
 * a part of one block, so that others write there too, and not yet a dirty one.
 */
static atomic_t victim_wanted = ATOMIC_INIT(0);

void tm_test_delay(struct bio *bio, bool dirty)
{
	unsigned int us = READ_ONCE(tm_test_delay_us);

	if (us && !dirty && bio_sectors(bio) < TM_SECTORS && atomic_read(&victim_wanted) &&
		atomic_xchg(&victim_wanted, 0))
		mdelay(DIV_ROUND_UP(us, 1000));
}

void tm_test_before_cut(void)
{
	int i;

	if (!READ_ONCE(tm_test_delay_us))
		return;
	atomic_set(&victim_wanted, 1);
	for (i = 0; i < 200 && atomic_read(&victim_wanted); i++)
		usleep_range(100, 200);
	atomic_set(&victim_wanted, 0);
}
#endif

struct open_file {
	u64 seen; /* events that HEAD told this descriptor of */
};

union argument {
	struct tmk_version version;
	struct tmk_attach attach;
	struct tmk_detach detach;
	struct tmk_head head;
	struct tmk_exclude exclude;
	struct tmk_info info;
	struct tmk_stats stats;
	struct tmk_cut cut;
	struct tmk_ranges ranges;
	struct tmk_drain drain;
	struct tmk_commit commit;
	struct tmk_abort abort;
	struct tmk_persist persist;
	struct tmk_restore restore;
	struct tmk_resync resync;
};

static long do_version(struct file *file, union argument *a)
{
	memset(&a->version, 0, sizeof(a->version));
	a->version.abi = TMK_ABI_VERSION;
#ifdef TM_TEST
	a->version.features = TMK_FEATURE_TEST;
#endif
	strscpy(a->version.build, TM_BUILD, sizeof(a->version.build));
	return 0;
}

static long do_attach(struct file *file, union argument *a)
{
	return a->attach.flags || a->attach.pad ? -EINVAL : tm_attach(&a->attach);
}

static long do_detach(struct file *file, union argument *a)
{
	return a->detach.flags ? -EINVAL : tm_detach(a->detach.disk);
}

static long do_head(struct file *file, union argument *a)
{
	struct open_file *of = file->private_data;

	if (a->head.flags)
		return -EINVAL;
	memset(&a->head, 0, sizeof(a->head));
	tm_head(&a->head);
	of->seen = a->head.events;
	return 0;
}

static long do_exclude(struct file *file, union argument *a)
{
	const struct tmk_exclude *x = &a->exclude;

	if (x->flags & ~TMK_EXCLUDE_FILE || (x->fd && !(x->flags & TMK_EXCLUDE_FILE)))
		return -EINVAL;
	return tm_exclude(file, x);
}

static long do_info(struct file *file, union argument *a)
{
	return a->info.flags & ~TMK_INFO_NEXT ? -EINVAL : tm_info(&a->info);
}

static long do_stats(struct file *file, union argument *a)
{
	struct tmk_stats *s = &a->stats;
	struct tm_disk *d;
	int i;

	if (s->flags)
		return -EINVAL;
	memset(s, 0, sizeof(*s));
	list_for_each_entry (d, &tm_disks, list) {
		s->disks++;
		for (i = 0; i < TMK_HIST; i++)
			s->held_us[i] += READ_ONCE(d->held_us[i]);
	}
	s->cuts = tm_stats.cuts;
	s->commits = tm_stats.commits;
	s->aborts = tm_stats.aborts;
	s->breaks = tm_stats.breaks;
	s->break_memory = tm_stats.break_memory;
	s->break_deadline = tm_stats.break_deadline;
	s->break_error = tm_stats.break_error;
	s->image_limit = tm_image_limit();
	s->image_now = atomic_long_read(&tm_image_bytes);
	s->image_peak = READ_ONCE(tm_image_peak);
	s->noctx = atomic_long_read(&tm_noctx);
	memcpy(s->cut_us, tm_stats.cut_us, sizeof(s->cut_us));
	return 0;
}

static long cut(struct file *file, struct tmk_cut *c, bool catchup)
{
	u32 timeout_ms = c->timeout_ms;

	if (c->flags || c->pad)
		return -EINVAL;
	memset(c, 0, sizeof(*c));
	c->timeout_ms = timeout_ms;
	return tm_cut(file, c, catchup);
}

static long do_cut(struct file *file, union argument *a)
{
	return cut(file, &a->cut, false);
}

static long do_catchup(struct file *file, union argument *a)
{
	return cut(file, &a->cut, true);
}

static long do_ranges(struct file *file, union argument *a)
{
	return a->ranges.flags || a->ranges.pad ? -EINVAL : tm_ranges(&a->ranges);
}

static long do_drain(struct file *file, union argument *a)
{
	return a->drain.flags || a->drain.pad ? -EINVAL : tm_drain(&a->drain);
}

static long do_commit(struct file *file, union argument *a)
{
	return a->commit.flags & ~TMK_COMMIT_ADOPT || a->commit.pad ? -EINVAL
								    : tm_commit(&a->commit);
}

static long do_abort(struct file *file, union argument *a)
{
	if (a->abort.flags || a->abort.pad)
		return -EINVAL;
	tm_abort_all();
	return 0;
}

static long do_persist(struct file *file, union argument *a)
{
	return a->persist.flags & ~(TMK_PERSIST_SAVE | TMK_PERSIST_WITNESS) || a->persist.pad
		       ? -EINVAL
		       : tm_persist(&a->persist);
}

static long do_restore(struct file *file, union argument *a)
{
	return a->restore.flags || a->restore.pad ? -EINVAL : tm_restore(&a->restore);
}

static long do_resync(struct file *file, union argument *a)
{
	struct tm_disk *d = tm_disk_get(a->resync.disk);

	if (a->resync.flags || a->resync.pad)
		return -EINVAL;
	if (!d)
		return -ENODEV;
	atomic_andnot(a->resync.doubt, &d->doubt);
	a->resync.doubt = atomic_read(&d->doubt);
	return 0;
}

static const struct call {
	unsigned int cmd;
	bool answers_on_error;
	long (*fn)(struct file *file, union argument *a);
} calls[] = {
	{TMK_VERSION, false, do_version},
	{TMK_ATTACH, true, do_attach},
	{TMK_DETACH, false, do_detach},
	{TMK_HEAD, false, do_head},
	{TMK_EXCLUDE, false, do_exclude},
	{TMK_INFO, false, do_info},
	{TMK_STATS, false, do_stats},
	{TMK_CUT, false, do_cut},
	{TMK_RANGES, false, do_ranges},
	{TMK_DRAIN, false, do_drain},
	{TMK_COMMIT, false, do_commit},
	{TMK_ABORT, false, do_abort},
	{TMK_CATCHUP, false, do_catchup},
	{TMK_PERSIST, false, do_persist},
	{TMK_RESTORE, true, do_restore},
	{TMK_RESYNC, false, do_resync},
};

static long tm_ioctl(struct file *file, unsigned int cmd, unsigned long user)
{
	const struct call *call = &calls[_IOC_NR(cmd) % ARRAY_SIZE(calls)];
	size_t size = _IOC_SIZE(cmd);
	union argument *a;
	long err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (call->cmd != cmd)
		return -ENOTTY;
	a = kzalloc(sizeof(*a), GFP_KERNEL);
	if (!a)
		return -ENOMEM;
	err = -EFAULT;
	if ((_IOC_DIR(cmd) & _IOC_WRITE) && copy_from_user(a, (void __user *)user, size))
		goto out;
	err = mutex_lock_interruptible(&tm_mutex);
	if (err)
		goto out;
	err = call->fn(file, a);
	mutex_unlock(&tm_mutex);
	if ((!err || call->answers_on_error) && (_IOC_DIR(cmd) & _IOC_READ) &&
		copy_to_user((void __user *)user, a, size))
		err = -EFAULT;
out:
	kfree(a);
	return err;
}

static __poll_t tm_poll(struct file *file, struct poll_table_struct *table)
{
	struct open_file *of = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &tm_wait, table);
	if (tm_frozen_settled())
		mask |= EPOLLIN | EPOLLRDNORM;
	if (tm_events() != READ_ONCE(of->seen))
		mask |= EPOLLPRI;
	return mask;
}

static int tm_open(struct inode *inode, struct file *file)
{
	struct open_file *of;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	of = kzalloc(sizeof(*of), GFP_KERNEL);
	if (!of)
		return -ENOMEM;
	of->seen = tm_events();
	file->private_data = of;
	return 0;
}

/*
 * Whoever cut an epoch and goes away leaves it to nobody: its blocks go back into the active one. Nor does anybody vouch any
 * more for what lies in the extents of a file.
 */
static int tm_release(struct inode *inode, struct file *file)
{
	mutex_lock(&tm_mutex);
	tm_abort_owned(file);
	tm_exclude_end(file);
	mutex_unlock(&tm_mutex);
	kfree(file->private_data);
	return 0;
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.open = tm_open,
	.release = tm_release,
	.unlocked_ioctl = tm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = tm_poll,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tidemark",
	.fops = &fops,
	.mode = 0600,
};

static int __init tm_init(void)
{
	int err = -ENOMEM;

	tm_wq = alloc_workqueue("tidemark", WQ_MEM_RECLAIM | WQ_HIGHPRI | TM_WQ_PERCPU, 0);
	if (!tm_wq)
		return err;
	err = tm_hook_init();
	if (err)
		goto err_wq;
	err = tm_image_init();
	if (err)
		goto err_hook;
	err = tm_persist_init();
	if (err)
		goto err_image;
	err = tm_power_init();
	if (err)
		goto err_persist;
	err = misc_register(&device);
	if (err)
		goto err_power;
	return 0;

err_power:
	tm_power_exit();
err_persist:
	tm_persist_exit();
err_image:
	tm_image_exit();
err_hook:
	tm_hook_exit();
err_wq:
	destroy_workqueue(tm_wq);
	return err;
}

/* Nothing is attached: every disk holds the module, until the last bio with our end_io has completed. */
static void __exit tm_exit(void)
{
	misc_deregister(&device);
	tm_power_exit();
	tm_persist_exit();
	tm_disk_exit();
	tm_epoch_exit();
	tm_held_exit();
	tm_wait_tasks(); /* who was preempted in our code after the last count is out */
	rcu_barrier();
	tm_image_exit();
	destroy_workqueue(tm_wq);
	tm_hook_exit();
}

module_init(tm_init);
module_exit(tm_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Tidemark: dirty blocks, instant cuts, before-images");
MODULE_VERSION(TM_BUILD);
