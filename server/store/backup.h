/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A copy of the store in another folder, made while it runs, and putting one back.
 *
 *	DIR/backup.json  what the finished copy holds: every file with its size and xxh3-64; replaced as a whole
 *	DIR/packs/       packs, each under its number and what only this pack's header sums to
 *	DIR/N/           the rest of the Nth copy: store.json, index/, and what the daemon adds
 *	DIR/lock         flock: whoever writes here holds it
 *
 * A pack that nobody appends to any more never changes: it is copied once. A copy that is broken off at any instruction leaves the one
 * before it whole: nothing that backup.json names is changed or removed before its successor is durable.
 */
#ifndef TM_STORE_BACKUP_H
#define TM_STORE_BACKUP_H

#include "server/store/store.h"

struct backup_opts {
	uint64_t rate; /* bytes per second; 0 = unlimited */
	/* Called several times a second; nonzero ends the work with -ECANCELED. */
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	/* Puts what else belongs to the copy into the folder at path, in files and folders of files. Called before the index is copied. */
	int (*extra)(void *arg, const char *path, struct tm_err *err);
	void *arg;
};

struct backup_result {
	uint64_t points;       /* kept when the copy was made */
	uint64_t packs, bytes; /* of the whole copy */
	uint64_t copied_bytes; /* by this call */
	uint64_t damaged;      /* packs: backup: missing or without a sound header in the store; */
	char first_damaged[300]; /* restore: other than when they were copied */
};

/*
 * Copies the running store to dir (made if absent; -EEXIST if it is not empty and no copy of this store; -EINVAL inside the store). Durable on
 * return. Commits go on; a point in use can be made meanwhile; the space of packs that are collected meanwhile is freed at the end. Holds 1 MiB
 * and some 500 bytes per file. One at a time (-EBUSY).
 */
int store_backup(struct store *st, const char *dir, const struct backup_opts *o,
	struct backup_result *r, struct tm_err *err);

/*
 * Makes the empty or absent folder `dir` a store again, as the finished copy `from` has it; durable on return. Packs that are not as they were
 * copied are counted, all else that is not fails with -EBADMSG.
 */
int store_restore(const char *from, const char *dir, struct backup_result *r, struct tm_err *err);

#endif
