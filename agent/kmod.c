// SPDX-License-Identifier: Apache-2.0
#include "agent/kmod.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/tracker.h"
#include "common/cleanup.h"
#include "common/uuid.h"

int kmod_ioctl(int fd, unsigned long request, void *arg)
{
	int ret;

	do
		ret = ioctl(fd, request, arg);
	while (ret < 0 && errno == EINTR);
	return ret;
}

int kmod_open(int *fd, struct tm_err *err)
{
	struct tmk_version v = {0};

	*fd = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);
	if (*fd < 0)
		return tm_fail_errno(err, "%s", TMK_DEVICE);
	if (kmod_ioctl(*fd, TMK_VERSION, &v) < 0)
		tm_fail_errno(err, "the kernel module does not tell its version");
	else if (v.abi != TMK_ABI_VERSION)
		tm_fail(err, EPROTO, "the kernel module speaks version %u, this agent %u", v.abi,
			TMK_ABI_VERSION);
	else
		return 0;
	close(*fd);
	*fd = -1;
	return -err->code;
}

int tracker_kmod_available(struct tm_err *err)
{
	CLEANUP_CLOSE int fd = -1;

	return kmod_open(&fd, err);
}

static const char *refusal_text(uint32_t reason)
{
	static const char *const texts[] = {
		[TMK_REFUSE_NO_HOOK] = "this kernel cannot redirect block writes",
		[TMK_REFUSE_HOOK_BUSY] =
			"another tool redirects block writes, or kernel.ftrace_enabled is 0",
		[TMK_REFUSE_PARTITION] = "not a whole disk",
		[TMK_REFUSE_READ_ONLY] = "read-only",
		[TMK_REFUSE_ZONED] = "a zoned disk",
		[TMK_REFUSE_DAX] = "a DAX device",
		[TMK_REFUSE_STACKED] = "lies above or below a disk that is attached, or is hidden",
		[TMK_REFUSE_REPLACED] = "the disk was replaced",
		[TMK_REFUSE_TOO_MANY] = "too many disks",
		[TMK_REFUSE_EMPTY] = "no medium, or an odd size",
		[TMK_REFUSE_SHUTDOWN] = "the system is going down",
		[TMK_REFUSE_IN_USE] = "a device-mapper, md or multipath disk in use",
	};

	return reason < TM_ARRAY_SIZE(texts) && texts[reason] ? texts[reason] : NULL;
}

int kmod_attach(int fd, const struct disk_info *d, uint32_t *disk, struct tm_err *err)
{
	struct tmk_attach at = {.major = d->major, .minor = d->minor, .diskseq = d->seq};
	const char *why;

	if (kmod_ioctl(fd, TMK_ATTACH, &at) == 0 || errno == EEXIST) {
		*disk = at.disk;
		return 0;
	}
	why = refusal_text(at.reason);
	if (why)
		return tm_fail(err, errno, "%s cannot be tracked: %s", d->path, why);
	return tm_fail_errno(err, "%s cannot be tracked", d->path);
}

int kmod_info(int fd, uint32_t disk, struct tmk_info *info, struct tm_err *err)
{
	memset(info, 0, sizeof(*info));
	info->disk = disk;
	return kmod_ioctl(fd, TMK_INFO, info) < 0 ? tm_fail_errno(err, "kernel module: INFO") : 0;
}

int kmod_head(int fd, struct tmk_head *head, struct tm_err *err)
{
	memset(head, 0, sizeof(*head));
	if (kmod_ioctl(fd, TMK_HEAD, head) < 0)
		return tm_fail_errno(err, "kernel module: HEAD");
	if (head->nids > TMK_MAX_IDS)
		return tm_fail(err, EPROTO, "kernel module: %u ids", head->nids);
	return 0;
}

int kmod_trust(int fd, uint32_t disk, uint32_t doubt, struct tm_err *err)
{
	struct tmk_resync r = {.disk = disk, .doubt = doubt};

	return kmod_ioctl(fd, TMK_RESYNC, &r) < 0 ? tm_fail_errno(err, "kernel module: RESYNC") : 0;
}

int kmod_cut(int fd, bool catchup, struct tmk_cut *cut, struct tm_err *err)
{
	memset(cut, 0, sizeof(*cut));
	cut->timeout_ms = 1000;
	if (kmod_ioctl(fd, catchup ? TMK_CATCHUP : TMK_CUT, cut) < 0)
		return tm_fail_errno(err, "kernel module: %s", catchup ? "CATCHUP" : "CUT");
	return 0;
}

int kmod_settle(int fd, unsigned ms, struct tm_err *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLPRI};
	int ret = poll(&p, 1, (int)ms);

	if (ret < 0 && errno != EINTR)
		return tm_fail_errno(err, "kernel module: poll");
	if (ret > 0 && (p.revents & POLLIN))
		return 0;
	if (ret > 0 && (p.revents & POLLPRI))
		return tm_fail(err, ESTALE, "the epoch was broken");
	return -EAGAIN;
}

int kmod_ranges(int fd, const struct tmk_id *id, uint32_t disk, uint64_t *cursor,
	struct tmk_extent *ext, uint32_t room, uint32_t *n, bool *done, struct tm_err *err)
{
	struct tmk_ranges r = {.id = *id,
		.disk = disk,
		.cursor = *cursor,
		.extents = (uintptr_t)ext,
		.count = room};

	if (kmod_ioctl(fd, TMK_RANGES, &r) < 0)
		return tm_fail_errno(err, "kernel module: RANGES");
	if (r.n > room)
		return tm_fail(err, EPROTO, "kernel module: %u extents", r.n);
	*cursor = r.cursor;
	*n = r.n;
	*done = r.done;
	return 0;
}

/* One call for a run of blocks; *patched = blocks that were replaced, bad = map of those that could not be had. */
static int drain_run(int fd, struct tmk_drain *d, const struct job *job, unsigned at,
	unsigned count, uint8_t bad[JOB_BLOCKS / 8])
{
	memset(bad, 0, JOB_BLOCKS / 8);
	d->start = job->block + at;
	d->count = count;
	d->buffer = (uintptr_t)((uint8_t *)job->req.to + (size_t)at * TM_BLOCK);
	d->bad = (uintptr_t)bad;
	d->patched = d->nbad = 0;
	return kmod_ioctl(fd, TMK_DRAIN, d) < 0 ? -errno : 0;
}

static void set_bad(struct job *job, unsigned bit, bool is)
{
	uint64_t mask = 1ull << (bit % 64), *word = &job->bad[bit / 64];

	if (!!(*word & mask) == is)
		return;
	*word ^= mask;
	if (is)
		job->nbad++;
	else
		job->nbad--;
}

int kmod_drain(int fd, const struct tmk_id *id, uint32_t disk, struct job *job)
{
	struct tmk_drain d = {.id = *id, .disk = disk};
	uint8_t bad[JOB_BLOCKS / 8];
	int ret;

	for (unsigned i = 0; i < job->nextents; i++) {
		struct job_extent e = job->extent[i];
		/* Where some of it could not be read, block by block: an image may stand in for it. */
		unsigned step = job->nbad ? 1 : e.count;

		for (unsigned at = e.at; at < (unsigned)e.at + e.count; at += step) {
			ret = drain_run(fd, &d, job, at, step, bad);
			if (ret)
				return ret;
			if (step == 1 && d.patched)
				set_bad(job, at, false);
			for (unsigned b = 0; d.nbad && b < step; b++)
				if (bad[b / 8] >> (b % 8) & 1)
					set_bad(job, at + b, true);
		}
	}
	return 0;
}

int kmod_commit_alive(int fd, const struct tmk_id *id, struct tm_err *err)
{
	struct tmk_commit c = {.id = *id};

	return kmod_ioctl(fd, TMK_COMMIT, &c) < 0 ? tm_fail_errno(err, "kernel module: COMMIT") : 0;
}

int kmod_commit(int fd, const struct tmk_id *id, struct tm_err *err)
{
	struct tmk_commit c = {.id = *id};

	if (kmod_ioctl(fd, TMK_COMMIT, &c) == 0)
		return 0;
	if (errno == ESTALE) {
		c.flags = TMK_COMMIT_ADOPT;
		if (kmod_ioctl(fd, TMK_COMMIT, &c) == 0)
			return 0;
	}
	return tm_fail_errno(err, "kernel module: COMMIT");
}

void kmod_abort(int fd)
{
	struct tmk_abort a = {0};

	(void)kmod_ioctl(fd, TMK_ABORT, &a); /* nothing to abort is no error that matters */
}

int kmod_stats(int fd, struct tmk_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	return kmod_ioctl(fd, TMK_STATS, stats) < 0 ? -errno : 0;
}

void kmod_detach(int fd, uint32_t disk)
{
	struct tmk_detach d = {.disk = disk};

	(void)kmod_ioctl(fd, TMK_DETACH, &d); /* gone already: just as well */
}

void kmod_id(const struct tmk_id *from, struct tm_epoch_id *to)
{
	memset(to, 0, sizeof(*to));
	memcpy(to->tracking, from->tracking, TM_UUID);
	to->cut = from->cut;
	memcpy(to->nonce, &from->nonce, sizeof(from->nonce));
}

bool kmod_is(const struct tmk_id *k, const struct tm_epoch_id *w)
{
	struct tm_epoch_id id;

	kmod_id(k, &id);
	return tm_epoch_equal(&id, w);
}
