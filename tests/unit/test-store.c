// SPDX-License-Identifier: Apache-2.0
// timeout: 300
/*
 * Thousands of random operations against the store and an oracle: epochs, pieces, aborts, parts, forgetting, points, pins, drops,
 * views, points in use, closing and opening again. After each round every kept point reads back exactly.
 */
#include <criterion/criterion.h>

#include "server/store/space.h"
#include "tests/unit/store-model.h"

static char dir[256];
static struct store *st;
static struct md *md;
static struct tm_err err;

static const struct store_opts tiny = {
	.reserve_bytes = UINT64_MAX,
	.prune_min = 1,
	.items_max = 24,
	.pack_bytes = 200 << 10,
	.cache_bytes = 1 << 20,
	.buffer_bytes = 1 << 20,
};

static void must(int ret)
{
	cr_assert_eq(ret, 0, "seed %s: %s", getenv("TM_SEED") ?: "default", err.msg);
}

static void setup(void)
{
	const char *seed = getenv("TM_SEED");
	struct store_disk d;

	md = calloc(1, sizeof(*md));
	md->seed = seed ? (unsigned)atoi(seed) : 20260101;
	md->next_id = 1;
	md_tmpdir(dir, sizeof(dir));
	must(store_create(dir, &err));
	must(store_open(dir, &tiny, &st, &err));
	for (int i = 0; i < MD_MACHINES; i++) {
		md_random_uuid(md, md->m[i].uuid);
		for (int k = 0; k < MD_DISKS; k++) {
			memset(&d, 0, sizeof(d));
			memcpy(d.machine, md->m[i].uuid, TM_UUID);
			md_random_uuid(md, d.uuid);
			d.size = (uint64_t)MD_BLOCKS * TM_BLOCK;
			snprintf(d.name, sizeof(d.name), "sd%c", 'a' + k);
			must(store_disk_register(st, &d, &err));
			md->m[i].no[k] = d.no;
		}
	}
}

static void teardown(void)
{
	store_close(st);
	if (!getenv("KEEP"))
		md_rmdir(dir);
	for (int i = 0; i < MD_MACHINES; i++)
		for (int p = 0; p < md->m[i].npoints; p++)
			for (int d = 0; d < MD_DISKS; d++)
				free(md->m[i].p[p].disk[d]);
	free(md);
}

static struct md_attempt *pick(struct md_machine *m, int free_one)
{
	unsigned k = md_rand(md, MD_OPEN);

	for (unsigned i = 0; i < MD_OPEN; i++)
		if ((m->a[(k + i) % MD_OPEN].seq == 0) == free_one)
			return &m->a[(k + i) % MD_OPEN];
	return NULL;
}

static void op_begin(struct md_machine *m)
{
	struct md_attempt *a = pick(m, 1);
	uint8_t tracking[TM_UUID] = {1};

	if (!a)
		return;
	memset(a, 0, sizeof(*a));
	a->kind = md_rand(md, 3) ? TM_ATTEMPT_EPOCH : TM_ATTEMPT_INITIAL + (int)md_rand(md, 3);
	a->disk = (int)md_rand(md, MD_DISKS);
	a->id.cut = md->next_id++;
	must(store_attempt_begin(st, m->uuid, a->kind, m->no[a->disk], tracking, &a->seq, &err));
}

static void op_put(struct md_machine *m)
{
	static char buf[40 * TM_CELL_ROOM];
	struct md_attempt *a = pick(m, 0);
	unsigned n = 1 + md_rand(md, md_rand(md, 3) ? 5 : 40);
	size_t len = 0;
	int disk;

	if (!a || a->complete)
		return;
	disk = a->kind == TM_ATTEMPT_EPOCH ? (int)md_rand(md, MD_DISKS) : a->disk;
	while (n--)
		len += md_cell(md, a, &a->cur[disk], buf + len);
	must(store_put(st, a->seq, m->no[disk], buf, len, &err));
}

/* Puts what the store may have forgotten once more, in new versions: as an agent does that is told to. */
static void put_again(struct md_machine *m, struct md_attempt *a)
{
	static _Alignas(64) char plain[TM_BLOCK];
	static char buf[TM_CELL_ROOM];

	for (unsigned b = 0; b < MD_BLOCKS; b++) {
		struct md_block *k = &a->cur[a->disk].b[b];

		if (!k->set)
			continue;
		k->id = md->next_id++;
		k->data = 1;
		md_fill(k->id, b, plain);
		must(store_put(
			st, a->seq, m->no[a->disk], buf, tm_cell_encode(b, 1, plain, buf), &err));
	}
}

static void op_part(struct md_machine *m, int last)
{
	struct store_range r = {0, 1};
	struct md_attempt *a = pick(m, 0);

	if (!a || a->kind == TM_ATTEMPT_EPOCH || a->complete)
		return;
	must(store_part(st, a->seq, &r, 1, last, &err));
	md_merge(&a->parted, &a->cur[a->disk]);
	memset(&a->cur[a->disk], 0, sizeof(a->cur[a->disk]));
	a->complete = last;
}

static void op_forget(struct md_machine *m)
{
	struct md_attempt *a = pick(m, 0);
	int ret;

	if (!a || a->complete)
		return;
	ret = store_forget(st, a->seq, &err);
	if (a->kind != TM_ATTEMPT_EPOCH) {
		must(ret);
		put_again(m, a);
		return;
	}
	cr_assert(ret == 0 || ret == -ESTALE);
	if (ret == 0)
		memset(a->cur, 0, sizeof(a->cur));
}

static void op_abort(struct md_machine *m)
{
	struct md_attempt *a = pick(m, 0);

	if (!a)
		return;
	must(store_abort(st, a->seq, &err));
	cr_assert_eq(store_put(st, a->seq, m->no[0], "", 0, &err), -ESTALE);
	a->seq = 0;
}

static void take(struct md_machine *m, struct md_attempt *a)
{
	if (a->kind != TM_ATTEMPT_EPOCH) {
		md_merge(&m->head[a->disk], &a->parted);
	} else {
		for (int d = 0; d < MD_DISKS; d++)
			md_merge(&m->head[d], &a->cur[d]);
	}
	a->seq = 0;
}

static void add_point(struct md_machine *m, uint64_t seq)
{
	struct md_point *p = &m->p[m->npoints++];

	p->seq = seq;
	for (int d = 0; d < MD_DISKS; d++) {
		p->disk[d] = malloc(sizeof(*p->disk[d]));
		*p->disk[d] = m->head[d];
	}
}

static void describe(struct md_machine *m, struct store_point *p, struct store_point_disk *disks)
{
	memset(p, 0, sizeof(*p));
	memset(disks, 0, MD_DISKS * sizeof(*disks));
	p->kind = TM_POINT_CRASH;
	p->ndisks = MD_DISKS;
	p->disks = disks;
	snprintf(p->label, sizeof(p->label), "label %u", md->next_id);
	for (int d = 0; d < MD_DISKS; d++) {
		disks[d].no = m->no[d];
		disks[d].size = (uint64_t)MD_BLOCKS * TM_BLOCK;
		snprintf(disks[d].name, sizeof(disks[d].name), "sd%c", 'a' + d);
	}
}

static void op_commit(struct md_machine *m)
{
	struct store_point_disk disks[MD_DISKS];
	struct md_attempt *a = NULL, *piece[MD_OPEN];
	uint64_t pieces[MD_OPEN], seq;
	struct store_commit c = {.pieces = pieces};
	struct store_result r;
	struct store_point p;

	/* The oldest epoch, as the protocol has it. */
	for (int i = 0; i < MD_OPEN; i++)
		if (m->a[i].seq && m->a[i].kind == TM_ATTEMPT_EPOCH && (!a || m->a[i].seq < a->seq))
			a = &m->a[i];
	if (!a || m->npoints == MD_POINTS)
		return;
	seq = a->seq;
	for (int i = 0; i < MD_OPEN; i++)
		if (m->a[i].seq && m->a[i].complete && m->a[i].seq < seq && md_rand(md, 4)) {
			piece[c.npieces] = &m->a[i];
			pieces[c.npieces++] = m->a[i].seq;
		}
	c.id = a->id;
	c.parent = m->head_id;
	c.new_line = m->head_seq == 0;
	if (md_rand(md, 3)) {
		describe(m, &p, disks);
		c.point = &p;
	}
	must(store_commit(st, seq, &c, &r, &err));
	cr_assert_eq(r.seq, seq);
	for (uint32_t i = 0; i < c.npieces; i++)
		take(m, piece[i]);
	take(m, a);
	m->head_id = c.id;
	m->head_seq = seq;
	if (c.point)
		add_point(m, seq);
}

static void op_refused(struct md_machine *m)
{
	struct store_commit c = {.id.cut = 1, .parent.cut = 99999999};
	struct md_attempt *a = pick(m, 0);

	if (a && a->kind == TM_ATTEMPT_EPOCH)
		cr_assert_eq(store_commit(st, a->seq, &c, NULL, &err),
			a->seq > m->head_seq ? -EINVAL : -ESTALE);
	if (a && a->kind == TM_ATTEMPT_EPOCH && a->seq < m->head_seq)
		a->seq = 0;
}

static void op_drop(struct md_machine *m)
{
	struct md_point *p;
	uint64_t seqs[8];
	size_t n = 0;

	for (int i = 0; i < 8 && m->npoints > 1; i++) {
		p = &m->p[md_rand(md, (unsigned)m->npoints - 1)];
		if (p->dropped || p->pinned)
			continue;
		p->dropped = 1;
		seqs[n++] = p->seq;
	}
	must(n ? store_points_drop(st, m->uuid, seqs, n, &err) : 0);
}

static void op_pin(struct md_machine *m)
{
	struct md_point *p;

	if (!m->npoints)
		return;
	p = &m->p[md_rand(md, (unsigned)m->npoints)];
	if (p->dropped)
		return;
	p->pinned = !p->pinned;
	must(store_point_pin(st, m->uuid, p->seq, p->pinned, &err));
	if (p->pinned)
		cr_assert_eq(store_points_drop(st, m->uuid, &p->seq, 1, &err), -EPERM);
}

static void op_reopen(void)
{
	struct store_range *done;
	uint32_t parts;
	uint64_t seq;
	size_t n;

	store_close(st);
	must(store_open(dir, &tiny, &st, &err));
	for (int i = 0; i < MD_MACHINES; i++)
		for (int k = 0; k < MD_OPEN; k++) {
			struct md_attempt *a = &md->m[i].a[k];
			uint8_t tracking[TM_UUID] = {1};

			if (a->seq && a->kind == TM_ATTEMPT_EPOCH) {
				cr_assert_eq(store_abort(st, a->seq, &err), -ESTALE);
				a->seq = 0;
			} else if (a->seq) {
				must(store_attempt_resume(st, md->m[i].no[a->disk], a->kind,
					tracking, &seq, &done, &n, &parts, &err));
				free(done);
				put_again(&md->m[i], a);
			}
		}
}

static void check_some(struct md_machine *m)
{
	struct md_point *p;

	cr_assert_eq(md_check_head(md, st, m), 0);
	for (int i = 0; i < 3 && m->npoints; i++) {
		p = &m->p[md_rand(md, (unsigned)m->npoints)];
		if (!p->dropped)
			cr_assert_eq(md_check_point(md, st, m, p), 0);
	}
}

static void op_checkpoint(struct md_machine *m)
{
	struct md_point *p = m->npoints ? &m->p[md_rand(md, (unsigned)m->npoints)] : NULL;
	struct store_view *v;
	char *path, disk[16];

	if (!p || p->dropped)
		return;
	must(store_checkpoint(st, m->uuid, p->seq, "test-1", &path, &err));
	for (int d = 0; d < MD_DISKS; d++) {
		snprintf(disk, sizeof(disk), d ? "%u" : "sda", m->no[d]);
		must(store_view_open_dir(path, disk, 1 << 20, &v, &err));
		cr_assert_eq(md_compare(md, v, p->seq, m->no[d], p->disk[d]), 0);
		if (d == 0)
			cr_assert_eq(store_checkpoint_remove(st, "test-1", 0, &err), -EBUSY);
		store_view_close(v);
	}
	must(store_checkpoint_remove(st, "test-1", 0, &err));
	free(path);
}

static void op_compact(struct md_machine *m)
{
	must(store_compact(st, md_rand(md, 2) ? m->uuid : NULL, &err));
}

static void op_collect(void)
{
	struct store_collect_opts o = {
		.copy_max = md_rand(md, 2) ? 1 << 20 : 0, .lazy = md_rand(md, 2) != 0};
	struct store_collected r;

	must(store_collect(st, &o, &r, &err));
	cr_assert_eq(r.damaged, 0);
}

static void no_damage(void *arg, const struct store_damage *d)
{
	cr_assert_fail("scrub finds damage: %s", d->why);
}

static void scrub_all(void)
{
	struct store_scrub s = {.max_cells = 1 + md_rand(md, 500)};

	while (!s.done)
		must(store_scrub(st, &s, no_damage, NULL, &err));
}

struct count {
	struct md_machine *m;
	int n, i;
};

static int count_point(void *arg, const struct store_point *p)
{
	struct count *c = arg;

	while (c->i < c->m->npoints && c->m->p[c->i].dropped)
		c->i++;
	if (c->i == c->m->npoints || c->m->p[c->i].seq != p->seq ||
		c->m->p[c->i].pinned != p->pinned || p->ndisks != MD_DISKS)
		return -EBADMSG;
	c->i++;
	c->n++;
	return 0;
}

static void check_all(void)
{
	for (int i = 0; i < MD_MACHINES; i++) {
		struct md_machine *m = &md->m[i];
		struct count c = {.m = m};
		struct store_head h;

		if (m->head_seq) {
			must(store_head(st, m->uuid, &h, &err));
			cr_assert_eq(h.seq, m->head_seq);
			cr_assert_eq(memcmp(&h.id, &m->head_id, sizeof(h.id)), 0);
		}
		cr_assert_eq(
			store_points(st, m->uuid, 0, count_point, &c, &err), 0, "points differ");
		while (c.i < m->npoints && m->p[c.i].dropped)
			c.i++;
		cr_assert_eq(c.i, m->npoints, "points missing");
		for (int k = 0; k < m->npoints; k++)
			if (!m->p[k].dropped)
				cr_assert_eq(md_check_point(md, st, m, &m->p[k]), 0);
		cr_assert_eq(md_check_head(md, st, m), 0);
	}
}

static void random_op(void)
{
	struct md_machine *m = &md->m[md_rand(md, MD_MACHINES)];
	unsigned k = md_rand(md, 1000);

	if (k < 150)
		op_begin(m);
	else if (k < 600)
		op_put(m);
	else if (k < 670)
		op_part(m, k < 630);
	else if (k < 690)
		op_forget(m);
	else if (k < 710)
		op_abort(m);
	else if (k < 900)
		op_commit(m);
	else if (k < 910)
		op_refused(m);
	else if (k < 930)
		op_drop(m);
	else if (k < 940)
		op_pin(m);
	else if (k < 943)
		op_reopen();
	else if (k < 946)
		op_checkpoint(m);
	else if (k < 950)
		op_compact(m);
	else if (k < 955)
		op_collect();
	else if (k < 957)
		scrub_all();
	else
		check_some(m);
}

/* Abandons all attempts, keeps every tenth point. */
static void drop_most(void)
{
	for (int i = 0; i < MD_MACHINES; i++) {
		struct md_machine *m = &md->m[i];

		for (int k = 0; k < MD_OPEN; k++)
			if (m->a[k].seq) {
				must(store_abort(st, m->a[k].seq, &err));
				m->a[k].seq = 0;
			}
		for (int k = 0; k < m->npoints - 1; k++) {
			struct md_point *p = &m->p[k];

			if (p->dropped || p->pinned || k % 10 == 0)
				continue;
			must(store_points_drop(st, m->uuid, &p->seq, 1, &err));
			p->dropped = 1;
		}
	}
}

/* After dropping, compaction and collection little more is left than what kept points see: at most each its disks' blocks. */
static void space_is_bounded(void)
{
	struct store_collected r;
	uint64_t most = 0;

	for (int i = 0; i < MD_MACHINES; i++)
		for (int k = 0; k < md->m[i].npoints; k++)
			most += !md->m[i].p[k].dropped;
	most = (most + MD_MACHINES) * MD_DISKS * MD_BLOCKS * (TM_BLOCK + sizeof(struct tm_cell));
	must(store_collect(st, NULL, &r, &err));
	cr_assert_leq(r.live_bytes, most);
	cr_assert_leq(r.dead_bytes, r.live_bytes / 2 + tiny.pack_bytes * 8);
	fprintf(stderr, "%lu packs, %lu KiB live, %lu KiB dead\n", r.packs, r.live_bytes >> 10,
		r.dead_bytes >> 10);
}

Test(store, model, .init = setup, .fini = teardown, .timeout = 280)
{
	const char *n = getenv("TM_OPS");
	int ops = n ? atoi(n) : 3000;

	for (int i = 0; i < ops; i++)
		random_op();
	check_all();
	op_reopen();
	check_all();
	drop_most();
	op_compact(&md->m[0]);
	must(store_compact(st, NULL, &err));
	op_collect();
	check_all();
	scrub_all();
	space_is_bounded();
	op_reopen();
	check_all();
}
