/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The catalog: STORE/catalog.db, what the server knows besides cells and points. SQLite, WAL, synchronous=FULL: a call that
 * returns 0 is durable.
 *
 * It holds machines with their session counters, disks with their sync states, tokens, alarms, settings and the audit table. It is never written per
 * epoch, and nothing in it is needed to read a point: lost, it is rebuilt from the store (rebuild.h).
 *
 * Every function may be called from any thread (one lock inside) and blocks for a flush where it writes. Times are seconds
 * of CLOCK_REALTIME, shown only, except a token's expiry, which has to be compared with something.
 */
#ifndef SERVER_CATALOG_H
#define SERVER_CATALOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/token.h"
#include "common/wire.h"
#include "server/enroll.h"

struct catalog;

/* Opens DIR/catalog.db; creates it if `create` and it is absent, else -ENOENT. */
int catalog_open(const char *dir, bool create, struct catalog **out, struct tm_err *err);
void catalog_close(struct catalog *c); /* NULL is fine */

/*
 * Copies DIR/catalog.db as it is at one moment into a new file, while others use it and without holding them up. The file is not yet durable.
 */
int catalog_copy(const char *dir, const char *to, struct tm_err *err);

struct catalog_machine {
	uint8_t uuid[TM_UUID];
	char host[TM_NAME_MAX + 1];
	int64_t enrolled;          /* time */
	uint64_t counter;          /* newest session counter that was accepted */
	uint8_t instance[TM_UUID]; /* of the agent that had it */
	uint8_t hardware[16];
	uint8_t cert[TM_FPR]; /* fingerprint of its certificate: older ones are refused */
	bool known; /* a session was accepted once: counter, instance and hardware are to be compared */
	bool held, revoked;
	char why[TM_TEXT_MAX + 1]; /* of the hold */
};

/* -ENOENT if there is no such machine. */
int catalog_machine_get(struct catalog *c, const uint8_t uuid[TM_UUID], struct catalog_machine *m,
	struct tm_err *err);
/* By UUID text, or by host name if exactly one machine has it. -ENOENT, -EEXIST (several). */
int catalog_machine_find(
	struct catalog *c, const char *name, struct catalog_machine *m, struct tm_err *err);
/* Adds or replaces it: for the rebuilding. */
int catalog_machine_put(struct catalog *c, const struct catalog_machine *m, struct tm_err *err);
/* A session was accepted: counter, instance, hardware, host. */
int catalog_machine_session(struct catalog *c, const struct catalog_machine *m, struct tm_err *err);
/* why == NULL ends the hold and forgets counter, instance and hardware: the next session is believed. */
int catalog_machine_hold(
	struct catalog *c, const uint8_t uuid[TM_UUID], const char *why, struct tm_err *err);
int catalog_machine_revoke(struct catalog *c, const uint8_t uuid[TM_UUID], struct tm_err *err);
/* All of them in order of host name; *out is the caller's to free. */
int catalog_machines(
	struct catalog *c, struct catalog_machine **out, size_t *n, struct tm_err *err);

struct catalog_disk {
	uint8_t uuid[TM_UUID];
	char name[TM_NAME_MAX + 1], serial[TM_NAME_MAX + 1];
	uint64_t size;
	uint32_t sector;
	uint8_t tracker; /* enum tm_tracker */
	bool closed;     /* no longer protected; its points stay */
	bool joined;     /* has been in an epoch: its machine has no points without it */
	uint8_t tracking
		[TM_UUID]; /* under which the committed state is continued; zero = none, resync */
	uint64_t pending;  /* attempt of an epoch under way that will make this true: 0 = none, */
	uint8_t pending_tracking[TM_UUID]; /*   joined, and tracking this */
};

/* Adds or replaces it. */
int catalog_disk_put(struct catalog *c, const uint8_t machine[TM_UUID],
	const struct catalog_disk *d, struct tm_err *err);
int catalog_disks(struct catalog *c, const uint8_t machine[TM_UUID], struct catalog_disk **out,
	size_t *n, struct tm_err *err);

/* machine: NULL, or the only machine that may use it, which ends that machine's older certificate. */
int catalog_token_add(struct catalog *c, const uint8_t id[TM_TOKEN_ID], const uint8_t hash[TM_HASH],
	int64_t expires, uint32_t uses, const uint8_t *machine, struct tm_err *err);

/* The enroll_fn (enroll.h) of the catalog; ctx is the struct catalog. */
int catalog_enroll(
	void *ctx, const struct enroll_claim *claim, const char **tell, struct tm_err *err);

/* An operator has to see this. machine may be NULL. */
int catalog_alarm(struct catalog *c, const uint8_t *machine, const char *text, struct tm_err *err);
struct catalog_alarm {
	int64_t time;
	char text[TM_TEXT_MAX + 1];
};
/* The newest `max` alarms of the machine, newest first. */
int catalog_alarms(struct catalog *c, const uint8_t machine[TM_UUID], size_t max,
	struct catalog_alarm **out, size_t *n, struct tm_err *err);

/* Settings: of one machine, or of the server (machine NULL). Get: -ENOENT if it is not set. */
int catalog_set(struct catalog *c, const uint8_t *machine, const char *key, const char *value,
	struct tm_err *err);
int catalog_get(struct catalog *c, const uint8_t *machine, const char *key, char *value,
	size_t room, struct tm_err *err);

/* Audit: every operator command, before its answer goes out. */
int catalog_audit(struct catalog *c, const char *who, const char *what, const char *result,
	struct tm_err *err);
/* Who that is, as the audit table names users; returns out. */
const char *catalog_who(unsigned int uid, char *out, size_t room);
struct catalog_audit {
	int64_t id, time;
	char who[64], what[256], result[256];
};
/* The newest `max` entries, newest first. */
int catalog_audits(
	struct catalog *c, size_t max, struct catalog_audit **out, size_t *n, struct tm_err *err);

#endif
