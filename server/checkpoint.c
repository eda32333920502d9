// SPDX-License-Identifier: Apache-2.0
#include "server/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

#define PREFIX     "serve-"
#define GRACE_NS   (60 * TM_SEC) /* unused for this long: its user is gone */
#define UNUSED_MAX 64u

/* Checkpoints that were seen unused, and since when. */
struct unused {
	char name[64];
	uint64_t since; /* monotonic ns */
	bool seen;      /* in this sweep */
};

static struct unused unused[UNUSED_MAX]; /* the sweeping thread's */
static unsigned int nunused;

int checkpoint_make(struct machine *m, uint64_t point, char **path, struct tm_err *err)
{
	char name[64], id[TM_UUID_TEXT];
	uint8_t uuid[TM_UUID];

	tm_uuid_new(uuid);
	snprintf(name, sizeof(name), PREFIX "%s", tm_uuid_format(uuid, id));
	return store_checkpoint(m->server->store, m->uuid, point, name, path, err);
}

int checkpoint_release(struct server *s, const char *name, struct tm_err *err)
{
	if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
		return tm_fail(err, EINVAL, "%s is not a point served by serverctl", name);
	return store_checkpoint_remove(s->store, name, 0, err);
}

static struct unused *entry(const char *name)
{
	for (unsigned int i = 0; i < nunused; i++)
		if (strcmp(unused[i].name, name) == 0)
			return &unused[i];
	return NULL;
}

static int look(void *arg, const struct store_checkpoint_info *info)
{
	struct unused *u;

	if (info->in_use || strncmp(info->name, PREFIX, strlen(PREFIX)) != 0 ||
		strlen(info->name) >= sizeof(u->name))
		return 0;
	u = entry(info->name);
	if (!u && nunused < UNUSED_MAX) {
		u = &unused[nunused++];
		strcpy(u->name, info->name);
		u->since = tm_mono_ns();
	}
	if (u)
		u->seen = true;
	return 0;
}

/* Forgets those that are in use again or gone, removes those whose time is up. */
static void settle(struct server *s)
{
	unsigned int kept = 0;
	struct tm_err err;

	for (unsigned int i = 0; i < nunused; i++) {
		if (!unused[i].seen)
			continue;
		if (tm_mono_ns() - unused[i].since > GRACE_NS) {
			int rc = checkpoint_release(s, unused[i].name, &err);

			if (rc == 0)
				tm_log(TM_LOG_NOTICE, "removed %s: its reader is gone",
					unused[i].name);
			else if (rc != -EBUSY && rc != -ENOENT)
				tm_log(TM_LOG_WARNING, "%s: %s", unused[i].name, err.msg);
			continue;
		}
		unused[kept++] = unused[i];
	}
	nunused = kept;
}

void checkpoints_sweep(struct server *s)
{
	struct tm_err err;

	for (unsigned int i = 0; i < nunused; i++)
		unused[i].seen = false;
	if (store_checkpoints(s->store, look, NULL, &err))
		tm_log(TM_LOG_WARNING, "points in use: %s", err.msg);
	else
		settle(s);
}
