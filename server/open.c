// SPDX-License-Identifier: Apache-2.0
/* Opening and closing the server's parts in the right order. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/units.h"
#include "server/machine.h"

#define RUN_KEY "run_ns"

uint64_t server_run_ns(const struct server *s)
{
	return s->run_base + (tm_mono_ns() - s->started);
}

int server_run_save(struct server *s, struct tm_err *err)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)server_run_ns(s));
	return catalog_set(s->catalog, NULL, RUN_KEY, text, err);
}

static int load_run(struct server *s, struct tm_err *err)
{
	char text[24];
	int rc = catalog_get(s->catalog, NULL, RUN_KEY, text, sizeof(text), err);

	if (rc == -ENOENT)
		return 0;
	return rc ? rc : tm_u64_parse(text, &s->run_base, err);
}

static uint64_t reserve(const struct server *s)
{
	const uint64_t most = 256u << 20, least = 32u << 20;
	struct statvfs fs;
	uint64_t share;

	if (s->conf.reserve || statvfs(s->dir, &fs))
		return s->conf.reserve ? s->conf.reserve : most;
	share = (uint64_t)fs.f_blocks * fs.f_frsize / 20;
	if (share < least)
		share = least;
	return share < most ? share : most;
}

static int open_store(struct server *s, struct tm_err *err)
{
	struct store_opts opts = {
		.reserve_bytes = reserve(s), .cache_bytes = s->conf.cache, .rate = s->conf.reclaim};
	struct store_info info;
	int rc = store_open(s->dir, &opts, &s->store, err);

	if (!rc)
		rc = store_info(s->store, &info, err);
	if (rc)
		return rc;
	memcpy(s->uuid, info.uuid, TM_UUID);
	s->incarnation = info.incarnation;
	s->full = info.full;
	return 0;
}

int server_open(struct server *s, const char *dir, struct tm_err *err)
{
	int rc;

	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	budget_init(&s->budget, s->conf.memory);
	s->done_tail = &s->done;
	s->started = tm_mono_ns();
	s->dir = tm_path("%s", dir);
	s->pki = tm_path("%s/pki", dir);
	if (!s->dir || !s->pki)
		return tm_fail(err, ENOMEM, "out of memory");
	rc = open_store(s, err);
	if (!rc)
		rc = catalog_open(dir, false, &s->catalog, err);
	if (!rc)
		rc = load_run(s, err);
	if (!rc)
		rc = tm_tls_server(s->pki, &s->tls, err);
	return rc ? rc : machines_open(s, err);
}

void server_close(struct server *s)
{
	struct tm_err err;

	if (s->catalog && server_run_save(s, &err))
		tm_log(TM_LOG_WARNING, "%s", err.msg);
	tm_tls_put(s->tls);
	machines_close(s);
	if (s->store)
		store_close(s->store);
	catalog_close(s->catalog);
	budget_exit(&s->budget);
	free(s->dir);
	free(s->pki);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
}
