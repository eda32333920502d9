/* SPDX-License-Identifier: Apache-2.0 */
/* Which point is meant: an id, "latest", "latest-app", or a time (the newest point not after it). */
#ifndef SERVER_RESOLVE_H
#define SERVER_RESOLVE_H

#include "server/store/store.h"

enum resolve_kind { RESOLVE_ID, RESOLVE_LATEST, RESOLVE_LATEST_APP, RESOLVE_TIME };

struct resolve {
	enum resolve_kind kind;
	uint64_t id;     /* ID */
	int64_t time_ns; /* TIME: of the source's clock, as points are shown */
};

/* -EINVAL: it is none of them. */
int resolve_parse(const char *text, struct resolve *r, struct tm_err *err);

/* The point; -ENOENT. *p: store_point_free(). */
int resolve_point(struct store *st, const uint8_t machine[TM_UUID], const char *text,
	struct store_point **p, struct tm_err *err);

#endif
