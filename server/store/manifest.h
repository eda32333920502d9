/* SPDX-License-Identifier: Apache-2.0 */
/* What backup.c and restore.c share: the list of a copy's files, and copying one. */
#ifndef TM_STORE_MANIFEST_H
#define TM_STORE_MANIFEST_H

#include "server/store/backup.h"
#include "server/store/internal.h"

#define MANIFEST "backup.json"

struct copied {
	char *name; /* within the copy's folder: "packs/..." or "N/..." */
	uint64_t size, sum;
	uint8_t final; /* a pack that can't have changed after it was copied */
};

struct manifest {
	uint8_t store[TM_UUID];
	uint64_t generation; /* 0: no copy was finished yet */
	uint64_t points;
	struct copied *file; /* sorted by name after manifest_read() and manifest_write() */
	size_t n, room;
};

/* Adds a file; the name is copied. */
int manifest_add(struct manifest *m, const char *name, uint64_t size, uint64_t sum, int final,
	struct tm_err *err);
/* manifest_find() needs it after manifest_add(). */
void manifest_sort(struct manifest *m);
/* NULL if it is not there. prefix: only the beginning of the name has to be `name`. */
const struct copied *manifest_find(const struct manifest *m, const char *name, int prefix);
/* -ENOENT if the folder holds none, -EBADMSG if it is damaged. */
int manifest_read(int dirfd, const char *name, struct manifest *m, struct tm_err *err);
/* Replaces it as a whole, durably. */
int manifest_write(int dirfd, const char *name, struct manifest *m, struct tm_err *err);
void manifest_free(struct manifest *m);

/* partial.c: packs that a backup which was broken off has left whole. */
struct partial {
	struct manifest was; /* as found */
	struct manifest now; /* those of them that are still wanted, and new ones */
	uint64_t saved;      /* monotonic ns */
	uint8_t unsaved;
};
/* Nothing is found if it can't be read or is of another store. */
void partial_read(struct partial *p, int dirfd, const uint8_t store[TM_UUID]);
const struct copied *partial_find(const struct partial *p, const char *name);
int partial_keep(struct partial *p, const struct copied *f, struct tm_err *err);
/* A pack that was copied just now; written down every two seconds. */
int partial_add(
	struct partial *p, int dirfd, int packsfd, const struct copied *f, struct tm_err *err);
/* The copy is done, or broken off: then what was copied is written down. */
void partial_end(struct partial *p, int dirfd, int packsfd, int done);
void partial_free(struct partial *p);

struct copier {
	const struct backup_opts *o;
	uint64_t done, total; /* bytes */
	uint64_t begun;       /* monotonic ns */
	char *buf;
};

int copier_init(struct copier *c, const struct backup_opts *o, struct tm_err *err);
void copier_exit(struct copier *c);
/*
 * Copies a file as long as it is now; the new one has its name, and is durable but for its folder, once it is whole. to = NULL: only flushes
 * and sums it. -ECANCELED.
 */
int copier_file(struct copier *c, int from_at, const char *from, int to_at, const char *to,
	uint64_t *size, uint64_t *sum, struct tm_err *err);

#endif
