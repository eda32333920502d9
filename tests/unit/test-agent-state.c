// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/state.h"
#include "common/file.h"
#include "common/uuid.h"

static char dir[] = "/tmp/test-agent-state.XXXXXX";

static void make_dir(void)
{
	cr_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(state, .init = make_dir, .fini = remove_dir);

static struct state_disk some_disk(const char *path)
{
	struct state_disk d = {.tracker = TM_TRACKER_SCAN};

	tm_uuid_new(d.uuid);
	tm_uuid_new(d.tracking);
	snprintf(d.path, sizeof(d.path), "%s", path);
	snprintf(d.ident.serial, sizeof(d.ident.serial), "S \"1\"\\");
	snprintf(d.doubt, sizeof(d.doubt), "why");
	d.ident.size = 1ull << 49;
	return d;
}

Test(state, everything_comes_back)
{
	struct state_disk d = some_disk("/dev/sda"), other = some_disk("/dev/sdb");
	struct state st, again;
	struct tm_err err;
	uint64_t counter;

	cr_assert_eq(state_open(dir, &st, &err), 0, "%s", err.msg);
	cr_assert_eq(state_count(&st, &counter, &err), 0);
	cr_assert_eq(counter, 1);
	tm_uuid_new(st.acked.tracking);
	st.acked.cut = 7;
	tm_uuid_new(st.acked.nonce);
	st.point = UINT64_MAX;
	st.paused = true;
	cr_assert_eq(state_add(&st, &d, &err), 0);
	cr_assert_eq(state_add(&st, &other, &err), 0);
	/* As after kill -9: nothing is closed properly but the lock. */
	cr_assert_eq(state_open(dir, &again, &err), -EBUSY);
	close(st.lock_fd);
	st.lock_fd = -1;
	cr_assert_eq(state_open(dir, &again, &err), 0, "%s", err.msg);
	cr_assert_eq(again.counter, 1);
	cr_assert(tm_epoch_equal(&again.acked, &st.acked));
	cr_assert(tm_epoch_is_zero(&again.sent));
	cr_assert_eq(again.point, UINT64_MAX);
	cr_assert(again.paused);
	cr_assert_eq(again.ndisks, 2);
	cr_assert_arr_eq(again.disks[0].uuid, d.uuid, TM_UUID);
	cr_assert_str_eq(again.disks[0].ident.serial, d.ident.serial);
	cr_assert_str_eq(again.disks[0].doubt, "why");
	cr_assert_eq(again.disks[0].ident.size, 1ull << 49);
	cr_assert_eq(state_remove(&again, d.uuid, &err), 0);
	cr_assert_eq(again.ndisks, 1);
	cr_assert_str_eq(again.disks[0].path, "/dev/sdb");
	state_close(&again);
	state_close(&st);
}

Test(state, damage_is_no_new_state)
{
	char path[64];
	struct tm_err err;
	struct state st;

	cr_assert_eq(state_open(dir, &st, &err), 0);
	state_close(&st);
	snprintf(path, sizeof(path), "%s/state.json", dir);
	for (const char *const *bad = (const char *const[]){"", "{", "{}", "[]",
		     "{\"version\": 2, \"counter\": 1}", NULL};
		*bad; bad++) {
		cr_assert_eq(tm_file_write(path, *bad, strlen(*bad), 0600, &err), 0);
		cr_assert_lt(state_open(dir, &st, &err), 0, "accepted: %s", *bad);
	}
}

Test(disk, who_is_who)
{
	struct disk_ident a = {.serial = "A", .table = "T1", .fs = "F"}, b = a, none = {0};
	char why[300];

	cr_assert(disk_same(&a, &b, why, sizeof(why)));
	strcpy(b.table, "T2"); /* partitioned anew, but the same hardware */
	cr_assert(disk_same(&a, &b, why, sizeof(why)));
	strcpy(b.serial, "B");
	strcpy(b.table, "T1"); /* a clone on other hardware */
	cr_assert_not(disk_same(&a, &b, why, sizeof(why)));
	cr_assert(strstr(why, "serial"));
	a.serial[0] = '\0';
	cr_assert(disk_same(&a, &b, why, sizeof(why)));
	strcpy(b.table, "T2");
	cr_assert_not(disk_same(&a, &b, why, sizeof(why)));
	cr_assert(disk_same(&none, &b, why, sizeof(why)));
}
