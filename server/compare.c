// SPDX-License-Identifier: Apache-2.0
#include "server/compare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/log.h"

#define WINDOW TM_REGION_CHUNKS /* chunks read at a time: a region */

/* The state that a pass compares with, and what zeros hash to under its seed. */
struct compare_view {
	struct store_view *view;
	uint64_t seed;
	unsigned int refs;         /* machine->lock */
	struct compare_view *next; /* in machine->unused: machine->lock */
	struct tm_hash128 zero;
};

static struct tm_hash128 hash(const void *data, size_t len, uint64_t seed)
{
	XXH128_hash_t h = XXH3_128bits_withSeed(data, len, seed);

	return (struct tm_hash128){h.low64, h.high64};
}

/* Caller holds m->lock. */
static void release(struct machine *m, struct compare_view *v)
{
	if (--v->refs)
		return;
	v->next = m->unused;
	m->unused = v;
}

static void view_put(struct machine *m, struct compare_view *v)
{
	pthread_mutex_lock(&m->lock);
	release(m, v);
	pthread_mutex_unlock(&m->lock);
	compare_reap(m);
}

void compare_drop(struct machine *m, struct disk *d)
{
	struct compare_view *v = d->view;

	d->view = NULL;
	if (v)
		release(m, v);
}

void compare_reap(struct machine *m)
{
	struct compare_view *list;

	pthread_mutex_lock(&m->lock);
	list = m->unused;
	m->unused = NULL;
	pthread_mutex_unlock(&m->lock);
	while (list) {
		struct compare_view *v = list;

		list = v->next;
		store_view_close(v->view);
		free(v);
	}
}

static struct compare_view *view_new(
	struct machine *m, uint32_t no, uint64_t seed, struct tm_err *err)
{
	static const uint8_t zeros[TM_CHUNK];
	struct compare_view *v = calloc(1, sizeof(*v));

	if (!v) {
		tm_fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	v->seed = seed;
	v->refs = 1;
	v->zero = hash(zeros, sizeof(zeros), seed);
	if (store_view_open(m->server->store, m->uuid, no, 0, &v->view, err)) {
		free(v);
		return NULL;
	}
	return v;
}

/* The view of this pass; the first one of a pass opens it. */
static struct compare_view *view_get(
	struct machine *m, uint32_t handle, uint64_t seed, uint64_t *size, struct tm_err *err)
{
	struct compare_view *v = NULL, *mine;
	struct disk *d;
	uint32_t no;

	pthread_mutex_lock(&m->lock);
	d = machine_disk(m, handle);
	if (d && d->view && d->view->seed == seed) {
		v = d->view;
		v->refs++;
	}
	no = d ? d->no : 0;
	*size = d ? d->c.size : 0;
	pthread_mutex_unlock(&m->lock);
	if (v || !d) {
		if (!d)
			tm_fail(err, ESTALE, "disk %u is not open", handle);
		return v;
	}
	mine = view_new(m, no, seed, err);
	if (!mine)
		return NULL;
	pthread_mutex_lock(&m->lock);
	d = machine_disk(m, handle);
	if (d && d->view && d->view->seed == seed) {
		v = d->view; /* another connection was first */
		v->refs++;
	} else if (d) {
		compare_drop(m, d);
		d->view = mine;
		mine->refs++;
	}
	pthread_mutex_unlock(&m->lock);
	if (!v) {
		compare_reap(m);
		return mine;
	}
	view_put(m, mine);
	return v;
}

/* Which of a window's chunks hold anything but zeros. */
struct window {
	uint64_t first; /* chunk */
	uint32_t n;
	bool data[WINDOW];
};

static int mark(void *arg, uint64_t off, uint64_t len, enum store_extent_kind kind)
{
	struct window *w = arg;
	uint64_t from = off / TM_CHUNK, to = (off + len + TM_CHUNK - 1) / TM_CHUNK;

	for (uint64_t i = from; kind == STORE_DATA && i < to; i++)
		if (i >= w->first && i < w->first + w->n)
			w->data[i - w->first] = true;
	return 0;
}

/* Chunks that cannot be read as they were compare as different: *ok tells. */
static void hash_chunks(const struct compare_view *v, uint8_t *buf, uint64_t first, uint32_t n,
	struct tm_hash128 *out, bool *ok)
{
	struct tm_err err;
	int rc = store_view_read(v->view, buf, (size_t)n * TM_CHUNK, first * TM_CHUNK, &err);

	for (uint32_t i = 0; i < n; i++) {
		ok[i] = rc == 0 || store_view_read(v->view, buf + (size_t)i * TM_CHUNK, TM_CHUNK,
					   (first + i) * TM_CHUNK, &err) == 0;
		if (ok[i])
			out[i] = hash(buf + (size_t)i * TM_CHUNK, TM_CHUNK, v->seed);
	}
}

static int hash_window(const struct compare_view *v, uint8_t *buf, uint64_t first, uint32_t n,
	struct tm_hash128 *out, bool *ok, struct tm_err *err)
{
	struct window w = {.first = first, .n = n};
	int rc = store_view_extents(
		v->view, first * TM_CHUNK, (uint64_t)n * TM_CHUNK, mark, &w, err);

	if (rc)
		return rc;
	for (uint32_t i = 0, run; i < n; i += run) {
		run = 1;
		if (!w.data[i]) {
			out[i] = v->zero;
			ok[i] = true;
			continue;
		}
		while (i + run < n && w.data[i + run])
			run++;
		hash_chunks(v, buf, first + i, run, out + i, ok + i);
	}
	return 0;
}

/* What one request works with. */
struct compare {
	struct session *s;
	const struct compare_view *v;
	uint64_t chunks; /* of the disk */
	uint8_t *buf;
	struct tm_hash128 hashes[WINDOW];
	bool ok[WINDOW];
};

static void set_equal(
	uint8_t *bitmap, uint32_t i, const struct tm_hash128 *a, const struct tm_hash128 *b)
{
	if (a->low == b->low && a->high == b->high)
		bitmap[i / 8] |= (uint8_t)(1u << (i % 8));
}

/* A pass over a large disk does not keep the next session waiting. */
static int goes_on(const struct compare *c, struct tm_err *err)
{
	if (__atomic_load_n(&c->s->ending, __ATOMIC_ACQUIRE))
		return tm_fail(err, ESTALE, "the session has ended");
	return 0;
}

static int compare_chunks(
	struct compare *c, const struct tm_in_compare *in, uint8_t *bitmap, struct tm_err *err)
{
	for (uint32_t done = 0, n; done < in->m->n; done += n) {
		int rc;

		n = in->m->n - done < WINDOW ? in->m->n - done : WINDOW;
		rc = goes_on(c, err);
		if (!rc)
			rc = hash_window(
				c->v, c->buf, in->m->first + done, n, c->hashes, c->ok, err);
		if (rc)
			return rc;
		for (uint32_t i = 0; i < n; i++)
			if (c->ok[i])
				set_equal(bitmap, done + i, &c->hashes[i], &in->hashes[done + i]);
	}
	return 0;
}

static int compare_regions(
	struct compare *c, const struct tm_in_compare *in, uint8_t *bitmap, struct tm_err *err)
{
	for (uint32_t k = 0; k < in->m->n; k++) {
		uint64_t first = (in->m->first + k) * TM_REGION_CHUNKS, rest = c->chunks - first;
		uint32_t n = rest < TM_REGION_CHUNKS ? (uint32_t)rest : TM_REGION_CHUNKS;
		struct tm_hash128 h;
		bool ok = true;
		int rc = goes_on(c, err);

		if (!rc)
			rc = hash_window(c->v, c->buf, first, n, c->hashes, c->ok, err);
		if (rc)
			return rc;
		for (uint32_t i = 0; i < n; i++)
			ok = ok && c->ok[i];
		h = hash(c->hashes, n * sizeof(c->hashes[0]), c->v->seed);
		if (ok)
			set_equal(bitmap, k, &h, &in->hashes[k]);
	}
	return 0;
}

static int compare(
	struct session *s, const struct tm_in_compare *in, uint8_t *bitmap, struct refusal *r)
{
	struct machine *m = s->machine;
	struct compare *c;
	struct compare_view *v;
	struct tm_err err;
	uint64_t size, units;
	int rc;

	v = view_get(m, in->m->handle, in->m->seed, &size, &err);
	if (!v)
		return refuse_store(r, -err.code, 0, &err);
	c = calloc(1, sizeof(*c));
	if (c)
		c->buf = malloc((size_t)WINDOW * TM_CHUNK);
	rc = -ENOMEM;
	tm_fail(&err, ENOMEM, "out of memory");
	if (c && c->buf) {
		c->s = s;
		c->v = v;
		c->chunks = (size + TM_CHUNK - 1) / TM_CHUNK;
		units = in->m->level ? (c->chunks + TM_REGION_CHUNKS - 1) / TM_REGION_CHUNKS
				     : c->chunks;
		if (in->m->first > units || in->m->n > units - in->m->first)
			rc = tm_fail(&err, EBADMSG, "compares beyond the end of the disk");
		else if (in->m->level)
			rc = compare_regions(c, in, bitmap, &err);
		else
			rc = compare_chunks(c, in, bitmap, &err);
		free(c->buf);
	}
	free(c);
	view_put(m, v);
	return rc ? refuse_store(r, rc, 0, &err) : 0;
}

int compare_serve(
	struct session *s, struct tm_conn *c, const void *body, size_t len, struct refusal *r)
{
	uint8_t bitmap[(TM_COMPARE_MAX + 7) / 8] = {0};
	struct tm_msg_compared msg;
	struct tm_in_compare in;
	struct tm_out out;
	struct tm_err err;

	if (tm_parse_compare(body, len, &in, &err))
		return refuse(r, TM_E_PROTO, 0, "%s", err.msg);
	if (compare(s, &in, bitmap, r))
		return -1;
	msg = (struct tm_msg_compared){
		.first = in.m->first, .handle = in.m->handle, .n = in.m->n, .level = in.m->level};
	if (tm_build_compared(&out, &msg, bitmap, in.m->n, &err) == 0)
		tm_conn_send_msg(c, &out, &err);
	return 0;
}
