// SPDX-License-Identifier: GPL-2.0-only
/* Exclusion: extents of a disk whose writes are not followed. */
#include <linux/file.h>
#include "tidemark.h"

struct tmk_extent *tm_extents_get(u64 user, u32 count, u64 limit)
{
	struct tmk_extent *x;
	u64 at = 0;
	u32 i;

	if (!count || count > TMK_MAX_EXTENTS)
		return ERR_PTR(-EINVAL);
	x = kvmalloc_array(count, sizeof(*x), GFP_KERNEL);
	if (!x)
		return ERR_PTR(-ENOMEM);
	if (copy_from_user(x, u64_to_user_ptr(user), count * sizeof(*x))) {
		kvfree(x);
		return ERR_PTR(-EFAULT);
	}
	for (i = 0; i < count; at = x[i].start + x[i].count, i++) {
		if (x[i].start < at || !x[i].count || x[i].start >= limit ||
			x[i].count > limit - x[i].start) {
			kvfree(x);
			return ERR_PTR(-EINVAL);
		}
	}
	return x;
}

void tm_exclusion_free(struct tm_exclusion *x)
{
	if (x && x->pinned)
		fput(x->pinned);
	kvfree(x);
}

/*
 * The old file's blocks may become another's with this: no hook may look at the list any more before. What was written to them
 * is nowhere else, so from here on it counts as written just now.
 */
static void replace_exclusion(struct tm_disk *d, struct tm_exclusion *new)
{
	struct tm_exclusion *old =
		rcu_dereference_protected(d->excluded, lockdep_is_held(&tm_mutex));
	u32 i;

	rcu_assign_pointer(d->excluded, new);
	if (!old)
		return;
	synchronize_rcu();
	for (i = 0; i < old->count; i++) {
		const struct tm_excluded *e = &old->extents[i];

		if (e->written)
			tm_mark(d, e->start, e->start + e->written);
	}
	tm_exclusion_free(old);
}

/* The same list once more: what has been written to it so far stays left out. */
static bool same_exclusion(struct tm_disk *d, const struct tm_exclusion *new)
{
	struct tm_exclusion *old =
		rcu_dereference_protected(d->excluded, lockdep_is_held(&tm_mutex));
	u32 i;

	if (!old || old->owner != new->owner || old->count != new->count || !old->pinned ||
		!new->pinned || file_inode(old->pinned) != file_inode(new->pinned))
		return false;
	for (i = 0; i < new->count; i++)
		if (old->extents[i].start != new->extents[i].start ||
			old->extents[i].count != new->extents[i].count)
			return false;
	return true;
}

/* A reference keeps an unlinked file's blocks its own. Regular files only: a reference to /dev/tidemark would keep itself. */
static int pin(struct tm_disk *d, u32 fd, struct file **out)
{
	struct file *f = fget(fd);
	struct block_device *bdev;
	struct inode *inode;

	if (!f)
		return -EBADF;
	inode = file_inode(f);
	bdev = inode->i_sb->s_bdev;
	if (!S_ISREG(inode->i_mode) || !bdev || bdev->bd_disk != d->gd) {
		fput(f);
		return -EXDEV;
	}
	*out = f;
	return 0;
}

static struct tm_exclusion *exclusion_new(
	struct tm_disk *d, struct file *owner, const struct tmk_exclude *arg)
{
	struct tmk_extent *x = tm_extents_get(arg->extents, arg->count, tm_disk_blocks(d));
	struct tm_exclusion *new;
	int err = 0;
	u32 i;

	if (IS_ERR(x))
		return ERR_CAST(x);
	new = kvzalloc(struct_size(new, extents, arg->count), GFP_KERNEL);
	if (!new)
		err = -ENOMEM;
	else if (arg->flags & TMK_EXCLUDE_FILE)
		err = pin(d, arg->fd, &new->pinned);
	if (err) {
		kvfree(new);
		kvfree(x);
		return ERR_PTR(err);
	}
	new->owner = new->pinned ? owner : NULL;
	new->count = arg->count;
	for (i = 0; i < arg->count; i++) {
		new->extents[i].start = x[i].start;
		new->extents[i].count = x[i].count;
	}
	kvfree(x);
	return new;
}

int tm_exclude(struct file *owner, const struct tmk_exclude *arg)
{
	struct tm_disk *d = tm_disk_get(arg->disk);
	struct tm_exclusion *x = NULL;

	if (!d)
		return -ENODEV;
	if (arg->count) {
		x = exclusion_new(d, owner, arg);
		if (IS_ERR(x))
			return PTR_ERR(x);
	}
	if (x && same_exclusion(d, x))
		tm_exclusion_free(x);
	else
		replace_exclusion(d, x);
	return 0;
}

void tm_exclude_end(const struct file *owner)
{
	struct tm_exclusion *x;
	struct tm_disk *d;

	list_for_each_entry (d, &tm_disks, list) {
		x = rcu_dereference_protected(d->excluded, lockdep_is_held(&tm_mutex));
		if (x && x->owner == owner)
			replace_exclusion(d, NULL);
	}
}
