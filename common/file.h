/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that survive a power cut: contents are synced before the name appears, and folders are synced too.
 */
#ifndef TM_FILE_H
#define TM_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/*
 * Puts data in place of the file at path, durably and at once: a temporary file in the same folder, fsync, rename, fsync of the
 * folder. After a crash the old or the new contents are there, whole.
 */
int tm_file_write(const char *path, const void *data, size_t len, mode_t mode, struct tm_err *err);

/* The same, but -EEXIST if path exists already (race free). */
int tm_file_create(const char *path, const void *data, size_t len, mode_t mode, struct tm_err *err);

/*
 * Reads a whole regular file of at most max bytes; *data is malloc'ed, *len bytes, with a NUL behind them. -EFBIG if it is longer,
 * -ENOENT if there is none.
 */
int tm_file_read(const char *path, size_t max, char **data, size_t *len, struct tm_err *err);

/* Removes the file durably; no file is no error. */
int tm_file_remove(const char *path, struct tm_err *err);

/* rename() and fsync of both folders. */
int tm_file_rename(const char *from, const char *to, struct tm_err *err);

/* Makes the folder and those above it that are missing, durably. A folder that exists keeps its mode. */
int tm_mkdirs(const char *path, mode_t mode, struct tm_err *err);

int tm_fsync_dir(const char *path, struct tm_err *err);

/* fsync of the folder that holds path. */
int tm_fsync_parent(const char *path, struct tm_err *err);

/* All len bytes or a negative errno (-ENODATA: the file ended before). Interrupted calls go on. */
int tm_pread_full(int fd, void *buf, size_t len, uint64_t offset);
int tm_pwrite_full(int fd, const void *buf, size_t len, uint64_t offset);
int tm_write_full(int fd, const void *buf, size_t len);

/* "folder/name" malloc'ed by printf rules; NULL only without memory. */
char *tm_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
