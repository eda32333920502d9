/* SPDX-License-Identifier: Apache-2.0 */
/* What the catalog_*.c files share and nobody else includes: the handle, and SQL in one call. */
#ifndef SERVER_CATALOG_SQL_H
#define SERVER_CATALOG_SQL_H

#include <pthread.h>
#include <sqlite3.h>

#include "server/catalog.h"

struct catalog {
	sqlite3 *db;
	pthread_mutex_t
		lock; /* one statement, or one read and write that belong together, at a time */
};

/*
 * Prepares sql and binds by `types`: i = int64_t, t = const char * (NULL is NULL), u = 16 bytes (NULL is an empty blob),
 * h = 32 bytes. NULL with err set on failure. The caller finalises. Holds no lock; the caller does.
 */
sqlite3_stmt *sql_query(
	struct catalog *c, struct tm_err *err, const char *sql, const char *types, ...);

/* Steps: 1 a row, 0 done, negative errno. */
int sql_step(struct catalog *c, sqlite3_stmt *st, struct tm_err *err);

/* Runs a statement without rows. Returns the rows changed. */
int sql_run(struct catalog *c, struct tm_err *err, const char *sql, const char *types, ...);

/* Statements without rows or parameters, several with ";" between. */
int sql_execute(struct catalog *c, const char *sql, struct tm_err *err);

void sql_text(sqlite3_stmt *st, int column, char *out, size_t room);
void sql_blob(sqlite3_stmt *st, int column, void *out, size_t len); /* zeros where it is shorter */

/*
 * Steps through all rows: row fills in an item of `size` bytes from each. Finalises st; NULL is an error that err tells of already. *out is
 * the caller's to free.
 */
int sql_list(struct catalog *c, sqlite3_stmt *st, size_t size,
	void (*row)(sqlite3_stmt *st, void *item), void **out, size_t *n, struct tm_err *err);

#endif
