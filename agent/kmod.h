/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel module's calls, with errors in words. The descriptor stays open: closing it aborts what is frozen. */
#ifndef AGENT_KMOD_H
#define AGENT_KMOD_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/disk.h"
#include "agent/pipeline.h"
#include "common/err.h"
#include "common/tidemark_abi.h"
#include "common/wire.h"

/*
 * ioctl(), again when it was interrupted before it did anything: work that io_uring has for a thread interrupts its waiting for the
 * module's lock, as a signal would.
 */
int kmod_ioctl(int fd, unsigned long request, void *arg);

int kmod_open(int *fd, struct tm_err *err);

/* Attaches the disk, or finds it attached. */
int kmod_attach(int fd, const struct disk_info *d, uint32_t *disk, struct tm_err *err);
int kmod_info(int fd, uint32_t disk, struct tmk_info *info, struct tm_err *err);
int kmod_head(int fd, struct tmk_head *head, struct tm_err *err);
/* Clears these doubts. */
int kmod_trust(int fd, uint32_t disk, uint32_t doubt, struct tm_err *err);

/* Cuts; catchup: unpreserved. */
int kmod_cut(int fd, bool catchup, struct tmk_cut *cut, struct tm_err *err);
/* Waits until the frozen epoch is settled on all disks, at most ms. -EAGAIN: not yet. -ESTALE: it is broken. */
int kmod_settle(int fd, unsigned ms, struct tm_err *err);
/* Extents from *cursor on; *n = how many. *done: that was all. */
int kmod_ranges(int fd, const struct tmk_id *id, uint32_t disk, uint64_t *cursor,
	struct tmk_extent *ext, uint32_t room, uint32_t *n, bool *done, struct tm_err *err);
/* Patches what the job has read with the before-images, releases it, and corrects its map of bad blocks. */
int kmod_drain(int fd, const struct tmk_id *id, uint32_t disk, struct job *job);

/* The server has it: forget it. An epoch that was broken or aborted meanwhile is adopted, its bits stay. */
int kmod_commit(int fd, const struct tmk_id *id, struct tm_err *err);
/* The same, but only if it lives. */
int kmod_commit_alive(int fd, const struct tmk_id *id, struct tm_err *err);
void kmod_abort(int fd);
int kmod_stats(int fd, struct tmk_stats *stats);
void kmod_detach(int fd, uint32_t disk);

void kmod_id(const struct tmk_id *from, struct tm_epoch_id *to);
bool kmod_is(const struct tmk_id *k, const struct tm_epoch_id *w);

#endif
