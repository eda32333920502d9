// SPDX-License-Identifier: Apache-2.0
// timeout: 120
#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/catalog.h"

static char dir[64];
static struct catalog *c;
static struct tm_err err;

static void begin(void)
{
	strcpy(dir, "/tmp/tidemark-catalog.XXXXXX");
	cr_assert(mkdtemp(dir));
	cr_assert_eq(catalog_open(dir, true, &c, &err), 0, "%s", err.msg);
}

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
	return remove(path);
}

static void end(void)
{
	catalog_close(c);
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void reopen(void)
{
	catalog_close(c);
	cr_assert_eq(catalog_open(dir, false, &c, &err), 0, "%s", err.msg);
}

TestSuite(catalog, .init = begin, .fini = end);

static const uint8_t id[TM_TOKEN_ID] = "token number one", m1[TM_UUID] = "machine number 1",
		     m2[TM_UUID] = "machine number 2";

static int enroll(
	const uint8_t *token, const uint8_t *secret, const uint8_t *machine, const char **tell)
{
	struct enroll_claim claim = {.host = "host", .peer = "here"};

	memcpy(claim.token_id, token, TM_TOKEN_ID);
	tm_token_hash(token, secret, claim.token_hash);
	memcpy(claim.machine, machine, TM_UUID);
	*tell = NULL;
	return catalog_enroll(c, &claim, tell, &err);
}

static void add_token(const uint8_t *secret, int64_t ttl, uint32_t uses, const uint8_t *machine)
{
	uint8_t hash[TM_HASH];

	tm_token_hash(id, secret, hash);
	cr_assert_eq(catalog_token_add(c, id, hash, time(NULL) + ttl, uses, machine, &err), 0);
}

Test(catalog, a_token_is_good_for_its_uses)
{
	static const uint8_t secret[TM_SECRET] = "secret", wrong[TM_SECRET] = "guess",
			     m3[TM_UUID] = "machine number 3";
	struct catalog_machine m;
	const char *tell;

	add_token(secret, 3600, 2, NULL);
	cr_assert_eq(enroll(id, wrong, m1, &tell), -EACCES);
	cr_assert_null(tell, "who does not know the secret learns nothing");
	cr_assert_eq(enroll(m1, secret, m1, &tell), -EACCES, "no such token");
	cr_assert_eq(enroll(id, secret, m1, &tell), 0, "%s", err.msg);
	reopen();
	cr_assert_eq(catalog_machine_get(c, m1, &m, &err), 0);
	cr_assert_str_eq(m.host, "host");
	cr_assert(!m.known && !m.held && !m.revoked);
	cr_assert_eq(
		enroll(id, secret, m1, &tell), -EEXIST, "its replica is not for a second comer");
	cr_assert_eq(enroll(id, secret, m2, &tell), 0, "the refusal has cost no use");
	cr_assert_eq(enroll(id, secret, m3, &tell), -EACCES);
	cr_assert(strstr(err.msg, "used-up"));
	cr_assert_not_null(tell);
	cr_assert_eq(catalog_machine_get(c, m3, &m, &err), -ENOENT);
}

Test(catalog, a_token_expires)
{
	static const uint8_t secret[TM_SECRET] = "secret";
	const char *tell;

	add_token(secret, 0, 1, NULL);
	cr_assert_eq(enroll(id, secret, m1, &tell), -EACCES);
	cr_assert(strstr(err.msg, "expired"));
}

Test(catalog, a_bound_token_renews_one_machine)
{
	static const uint8_t secret[TM_SECRET] = "secret", other[TM_SECRET] = "other";
	uint8_t id2[TM_TOKEN_ID] = "second token", hash[TM_HASH];
	const char *tell;

	add_token(secret, 3600, 1, NULL);
	cr_assert_eq(enroll(id, secret, m1, &tell), 0);
	tm_token_hash(id2, other, hash);
	cr_assert_eq(catalog_token_add(c, id2, hash, time(NULL) + 3600, 1, m1, &err), 0);
	cr_assert_eq(enroll(id2, other, m2, &tell), -EACCES);
	cr_assert_eq(enroll(id2, other, m1, &tell), 0, "%s", err.msg);
}

Test(catalog, holds_and_sessions)
{
	static const uint8_t secret[TM_SECRET] = "secret";
	struct catalog_machine m;
	const char *tell;

	add_token(secret, 3600, 1, NULL);
	enroll(id, secret, m1, &tell);
	catalog_machine_get(c, m1, &m, &err);
	m.counter = 1ull << 62;
	memset(m.hardware, 7, sizeof(m.hardware));
	cr_assert_eq(catalog_machine_session(c, &m, &err), 0);
	cr_assert_eq(catalog_machine_hold(c, m1, "two of them", &err), 0);
	reopen();
	catalog_machine_get(c, m1, &m, &err);
	cr_assert(m.known && m.held);
	cr_assert_eq(m.counter, 1ull << 62);
	cr_assert_eq(m.hardware[15], 7);
	cr_assert_str_eq(m.why, "two of them");
	cr_assert_eq(catalog_machine_hold(c, m1, NULL, &err), 0);
	catalog_machine_get(c, m1, &m, &err);
	cr_assert(!m.known && !m.held);
	cr_assert_eq(catalog_machine_hold(c, m2, "nobody", &err), -ENOENT);
}

Test(catalog, machines_by_name)
{
	struct catalog_machine m = {.host = "one"}, found;
	char text[] = "6d616368-696e-6520-6e75-6d6265722031";

	memcpy(m.uuid, m1, TM_UUID);
	cr_assert_eq(catalog_machine_put(c, &m, &err), 0);
	cr_assert_eq(catalog_machine_find(c, "one", &found, &err), 0);
	cr_assert_eq(catalog_machine_find(c, text, &found, &err), 0, "%s", err.msg);
	cr_assert_eq(catalog_machine_find(c, "two", &found, &err), -ENOENT);
	memcpy(m.uuid, m2, TM_UUID);
	cr_assert_eq(catalog_machine_put(c, &m, &err), 0);
	cr_assert_eq(catalog_machine_find(c, "one", &found, &err), -EEXIST);
}

Test(catalog, disks_keep_their_state)
{
	struct catalog_disk d = {.name = "sda",
				    .serial = "x",
				    .size = 1ull << 50,
				    .sector = 4096,
				    .tracker = 1,
				    .joined = true,
				    .pending = 99},
			    *list;
	size_t n;

	memset(d.uuid, 1, TM_UUID);
	memset(d.tracking, 2, TM_UUID);
	memset(d.pending_tracking, 3, TM_UUID);
	cr_assert_eq(catalog_disk_put(c, m1, &d, &err), 0);
	d.closed = true;
	cr_assert_eq(catalog_disk_put(c, m1, &d, &err), 0);
	reopen();
	cr_assert_eq(catalog_disks(c, m1, &list, &n, &err), 0);
	cr_assert_eq(n, 1);
	cr_assert_eq(memcmp(list, &d, sizeof(d)), 0);
	free(list);
	cr_assert_eq(catalog_disks(c, m2, &list, &n, &err), 0);
	cr_assert_eq(n, 0);
	free(list);
}

Test(catalog, audit_and_alarms_newest_first)
{
	struct catalog_audit *a;
	struct catalog_alarm *l;
	size_t n;

	for (int i = 0; i < 5; i++) {
		char what[16];

		snprintf(what, sizeof(what), "cmd %d", i);
		cr_assert_eq(catalog_audit(c, "root", what, "done", &err), 0);
		cr_assert_eq(catalog_alarm(c, m1, what, &err), 0);
	}
	cr_assert_eq(catalog_audits(c, 3, &a, &n, &err), 0);
	cr_assert_eq(n, 3);
	cr_assert_str_eq(a[0].what, "cmd 4");
	free(a);
	cr_assert_eq(catalog_alarms(c, m1, 2, &l, &n, &err), 0);
	cr_assert_eq(n, 2);
	cr_assert_str_eq(l[1].text, "cmd 3");
	free(l);
	cr_assert_eq(catalog_alarms(c, m2, 2, &l, &n, &err), 0);
	cr_assert_eq(n, 0);
	free(l);
}

Test(catalog, a_missing_one_is_not_made_by_chance)
{
	struct catalog *other;

	cr_assert_eq(catalog_open("/tmp/tidemark-no-such-folder", false, &other, &err), -ENOENT);
	cr_assert(strstr(err.msg, "rebuild"));
}
