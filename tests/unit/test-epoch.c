// SPDX-License-Identifier: Apache-2.0
// timeout: 60
#include <criterion/criterion.h>
#include <string.h>

#include "server/epoch.h"

static const struct epoch_parent first = {.has_head = false, .none = true};
static const struct epoch_parent next = {.has_head = true, .head = true};
static const struct epoch_parent anew = {.has_head = true, .none = true};
static const struct epoch_parent foreign = {.has_head = true};
static const struct epoch_parent lost = {.has_head = false};

static const struct epoch_disk whole = {.name = "whole",
	.open = true,
	.joined = true,
	.whole = true,
	.listed = true,
	.frames = true};
static const struct epoch_disk in_doubt = {
	.name = "doubt", .open = true, .joined = true, .listed = true};
static const struct epoch_disk fresh = {.name = "fresh", .open = true};
static const struct epoch_disk absent = {.name = "absent", .joined = true};

static struct epoch_verdict v;
static struct refusal r;

static int judge(const struct epoch_parent *p, const struct epoch_disk *d, size_t n)
{
	memset(&v, 0, sizeof(v));
	memset(&r, 0, sizeof(r));
	return epoch_judge(p, d, n, &v, &r);
}

static struct epoch_disk with_piece(struct epoch_disk d)
{
	d.listed = d.piece = true;
	return d;
}

Test(epoch, all_whole_is_a_point)
{
	struct epoch_disk d[] = {whole, whole};

	cr_assert_eq(judge(&next, d, 2), 0);
	cr_assert(v.point);
	cr_assert(!v.new_line);
}

Test(epoch, parent_must_be_the_head)
{
	struct epoch_disk d[] = {whole};

	cr_assert_lt(judge(&foreign, d, 1), 0);
	cr_assert_eq(r.code, TM_E_PARENT);
	cr_assert_lt(judge(&lost, d, 1), 0);
	cr_assert_eq(r.code, TM_E_PARENT);
}

Test(epoch, a_new_line_needs_every_joined_disk)
{
	struct epoch_disk all[] = {with_piece(in_doubt), with_piece(whole)};
	struct epoch_disk some[] = {with_piece(in_doubt), whole};
	struct epoch_disk gone[] = {with_piece(in_doubt), absent};

	cr_assert_eq(judge(&anew, all, 2), 0);
	cr_assert(v.new_line);
	cr_assert(v.point);
	cr_assert_lt(judge(&anew, some, 2), 0);
	cr_assert_eq(r.code, TM_E_STATE);
	cr_assert_lt(judge(&anew, gone, 2), 0);
	cr_assert_eq(r.code, TM_E_STATE);
}

Test(epoch, the_first_epoch)
{
	struct epoch_disk d[] = {with_piece(fresh)};
	struct epoch_disk none[] = {fresh};

	cr_assert_eq(judge(&first, d, 1), 0);
	cr_assert(v.point);
	cr_assert(v.new_line);
	cr_assert_eq(judge(&first, none, 1), 0);
	cr_assert(!v.point, "nothing is whole");
	cr_assert(strstr(v.missing, "no disk"));
}

Test(epoch, a_disk_in_doubt_stores_only)
{
	struct epoch_disk d[] = {whole, in_doubt};

	cr_assert_eq(judge(&next, d, 2), 0);
	cr_assert(!v.point);
	cr_assert(strstr(v.missing, "doubt"));
	d[1].frames = true;
	cr_assert_eq(judge(&next, d, 2), 0, "newer than the piece that its resync will bring");
	cr_assert(!v.point);
	d[1].catchup = true;
	cr_assert_lt(judge(&next, d, 2), 0, "a catch-up would lie on an unknown state");
	cr_assert_eq(r.code, TM_E_STATE);
	d[1] = with_piece(in_doubt);
	cr_assert_eq(judge(&next, d, 2), 0);
	cr_assert(v.point);
}

Test(epoch, a_disk_that_is_away_stores_only)
{
	struct epoch_disk d[] = {whole, absent};

	cr_assert_eq(judge(&next, d, 2), 0);
	cr_assert(!v.point);
	cr_assert(strstr(v.missing, "absent"));
}

Test(epoch, a_new_disk_does_not_stop_points)
{
	struct epoch_disk d[] = {whole, fresh};

	cr_assert_eq(judge(&next, d, 2), 0);
	cr_assert(v.point);
	d[1].listed = true;
	cr_assert_eq(judge(&next, d, 2), 0);
	cr_assert(v.point);
	d[1].frames = true;
	cr_assert_eq(judge(&next, d, 2), 0, "what is written during its initial sync");
	cr_assert(v.point);
	d[1].catchup = true;
	cr_assert_lt(judge(&next, d, 2), 0);
}

Test(epoch, data_needs_a_part_in_the_epoch)
{
	struct epoch_disk d[] = {whole};

	d[0].listed = false;
	cr_assert_lt(judge(&next, d, 1), 0);
	cr_assert_eq(r.code, TM_E_STATE);
	d[0] = whole;
	d[0].open = false;
	cr_assert_lt(judge(&next, d, 1), 0);
}

Test(epoch, catch_up_continues_what_is_whole)
{
	struct epoch_disk d[] = {whole, in_doubt};

	d[0].catchup = true;
	cr_assert_eq(judge(&next, d, 2), 0);
	d[1].catchup = true;
	cr_assert_lt(judge(&next, d, 2), 0);
	cr_assert_eq(r.code, TM_E_STATE);
	/* Nor does it stand for a resync. */
	cr_assert_lt(judge(&anew, d, 1), 0);
}
