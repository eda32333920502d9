/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thin wrappers of the calls of /dev/tidemark, for the test programs. All return 0 or a negative errno unless said
 * otherwise; none prints. A struct tmk is used by one thread at a time; several may be open.
 */
#ifndef TESTS_CRASH_TMK_H
#define TESTS_CRASH_TMK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/tidemark_abi.h"

#define DISKS_MAX 8

/* One disk under test. */
struct disk {
	char path[128];
	int fd; /* O_RDONLY | O_DIRECT */
	unsigned int major, minor;
	uint32_t num; /* given by ATTACH */
	uint64_t bytes;
	uint32_t sector; /* logical, bytes */
};

struct tmk {
	int fd;
	struct tmk_id id; /* of the newest cut */
};

/* A run of blocks as drained: `data` is only lent. */
typedef int (*tmk_sink)(void *arg, unsigned int disk, uint64_t block, uint32_t count,
	const void *data, uint32_t nbad);

/* How often a call that fails for want of memory is made again, and how many have failed so. */
extern unsigned long tmk_patience, tmk_nomem;

int tmk_open(struct tmk *t);
void tmk_close(struct tmk *t);
/* Opens PATH and learns its numbers and sizes. */
int disk_open(struct disk *d, const char *path);
/* Learns the size anew, after a resize. */
int disk_size(struct disk *d);
void disk_close(struct disk *d);
/* Attaches and takes the fresh map's doubt back: the caller knows the base. *reason may be NULL. */
int tmk_attach(struct tmk *t, struct disk *d, uint32_t *reason);
int tmk_detach(struct tmk *t, const struct disk *d);
int tmk_resync(struct tmk *t, const struct disk *d, uint32_t doubt);
int tmk_info(struct tmk *t, uint32_t disk, struct tmk_info *info);
/* The attached disk with the lowest number >= disk; -ENODEV: none. */
int tmk_info_next(struct tmk *t, uint32_t disk, struct tmk_info *info);
int tmk_stats(struct tmk *t, struct tmk_stats *stats);
int tmk_head(struct tmk *t, struct tmk_head *head);
/* Cuts; while the writes of an aborted epoch are in flight it waits and tries again, `ms` in all. */
int tmk_cut(struct tmk *t, uint32_t ms, struct tmk_cut *cut);
/* Waits until the frozen epoch is settled on all disks. -ETIME: not within `ms`; -ESTALE: it is frozen no more. */
int tmk_settle(struct tmk *t, int ms);
/* Reads and drains all of the frozen epoch on one disk, extent by extent, at most `piece` blocks each. */
int tmk_drain_disk(struct tmk *t, const struct disk *d, unsigned int index, uint32_t piece,
	tmk_sink sink, void *arg);
int tmk_commit(struct tmk *t, const struct tmk_id *id);
int tmk_abort(struct tmk *t);
/* True if the module is a test build. */
bool tmk_is_test(struct tmk *t);
const char *tmk_refusal_name(uint32_t reason);

/* Module parameters. */
int param_set(const char *name, uint64_t value);
int param_get(const char *name, uint64_t *value);

/* Reads all of a disk by O_DIRECT into `to` (d->bytes, aligned to 4096, room for whole blocks). */
int disk_read_all(const struct disk *d, void *to);
void *alloc_pages(size_t bytes); /* zeroed, aligned to 4096; exits if there is no memory */
uint64_t now_us(void);

/* Ends the program with a message: 1 = the test failed. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
