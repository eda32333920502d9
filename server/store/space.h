/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Points over time: which to drop (pure), getting their space back, finding damage.
 */
#ifndef TM_STORE_SPACE_H
#define TM_STORE_SPACE_H

#include "server/store/store.h"

/* ---- Which points to drop (retain.c; no store needed) ---------------------------------------------------------------- */

/* Points younger than `age` are kept one per `every` (0 = all). Tiers ascend by age; what is older than the last one's age goes. */
struct retain_tier {
	uint64_t age_s, every_s;
};

#define RETAIN_TIERS_MAX 8

struct retain_policy {
	uint32_t ntiers;
	struct retain_tier tier[RETAIN_TIERS_MAX];
	uint64_t
		immutable_s; /* counted in the server's accumulated running time from each point's arrival; 0 = none */
};

struct retain_point {
	uint64_t seq;
	int64_t arrival_ns; /* server time */
	uint64_t run_ns;    /* the server's accumulated running time at its arrival */
	uint8_t kind, pinned;
};

/* All for 1 h, one per 5 min to 24 h, one per hour to 15 days. */
void retain_default(struct retain_policy *p);

/*
 * Says which of the n points (ascending by seq) go: drop[i] = 1. Age is counted back from the newest point, so nothing ages while no newer
 * one arrives; a clock that jumped forward ages nothing by more than the server ran meanwhile (now_run_ns). The newest point, pinned ones and
 * those within the immutable window stay; in each interval an app-consistent one is preferred, else the oldest. Returns how many go.
 */
size_t retain_plan(const struct retain_policy *p, const struct retain_point *points, size_t n,
	uint64_t now_run_ns, uint8_t *drop);

/* Which tier the point is in, counted back from the newest one; ntiers = older than all of them. */
uint32_t retain_tier_of(const struct retain_policy *p, const struct retain_point *point,
	const struct retain_point *newest);

/* Is the point still within the immutable window? */
int retain_immutable(
	const struct retain_policy *p, const struct retain_point *point, uint64_t now_run_ns);

/* "1h:all,1d:5m,15d:1h" and back; -EINVAL. Units s, m, h, d, w, y. immutable_s is left alone. */
int retain_parse(const char *text, struct retain_policy *p, struct tm_err *err);
void retain_format(const struct retain_policy *p, char *out, size_t len);

/* ---- Getting space back (collect.c) ---------------------------------------------------------------------------------- */

/*
 * Has the index drop what no kept point, view or pending commit sees, for one machine (NULL: all): runs the engine's compaction over its
 * disks, at low priority. Ingest goes on. One at a time (-EBUSY).
 */
int store_compact(struct store *st, const uint8_t *machine, struct tm_err *err);

/*
 * Bytes received for what has been dropped or aborted of the machine since its last compaction (not known after opening: then at least 1), and
 * what that compaction has to read and write: the size of its part of the index (0 if there is no debt).
 */
int store_debt(struct store *st, const uint8_t machine[TM_UUID], uint64_t *debt, uint64_t *cost,
	struct tm_err *err);

struct store_collect_opts {
	uint64_t copy_max; /* bytes of live cells to copy in this pass, at most; 0 = 1 GiB */
	uint64_t rate;     /* bytes per second, copied and walked over; 0 = unlimited */
	uint8_t lazy; /* 1: walk only if, by what compaction dropped since the last walk, enough comes of it */
};

struct store_collected {
	uint64_t packs, live_bytes, dead_bytes; /* as found */
	uint64_t removed, freed_bytes;          /* packs and their bytes that are gone now */
	uint64_t copied_bytes;
	uint8_t walked;   /* 0: it was not worth a walk; live and dead bytes are estimates */
	uint64_t damaged; /* packs kept because a live cell of them is damaged: scrub */
};

/*
 * Removes packs without a live cell; copies the live cells of those that are more than a third dead (or small and many) verbatim into new packs and
 * removes these. A walk over the whole index (see lazy). Uses the reserve, but for a sixteenth, for what it copies. Ingest and reading go
 * on. One at a time (-EBUSY).
 */
int store_collect(struct store *st, const struct store_collect_opts *opts,
	struct store_collected *result, struct tm_err *err);

/*
 * To be called now and then, and before points are dropped: gives up STORE/ballast if there is so little room that retention could not write, and
 * makes it anew when there is room for it beside the reserve.
 */
void store_ballast(struct store *st);

/* ---- Finding damage (scrub.c) ---------------------------------------------------------------------------------------- */

struct store_damage {
	uint8_t machine[TM_UUID];
	uint32_t disk_no;
	uint64_t block, count;
	uint64_t first_point, last_point; /* all kept points from .. to see it; 0, 0 = none */
	uint8_t in_head;                  /* the newest state sees it */
	uint32_t pack;
	char why[160];
};

/* Where to go on; all zero = from the beginning. To be kept by the caller as it is. */
struct store_scrub_pos {
	uint8_t started, family, key[20];
};

struct store_scrub {
	struct store_scrub_pos pos;
	uint64_t max_cells;      /* of this call; 0 = to the end */
	uint64_t rate;           /* bytes per second; 0 = unlimited */
	uint64_t cells, bytes;   /* looked at, added to */
	uint64_t damaged;        /* added to */
	uint8_t done;            /* reached the end */
	uint64_t total_estimate; /* cells in the store, roughly */
};

/*
 * Reads every file of the index, past all caches, and verifies the engine's sums: of a checkpoint, so that nothing is held up. Calls fn for
 * all that the keys of a damaged file may hold: with pack 0, and where these are no versions with count 0. `go_on` is called now and
 * then with the keys read so far; a nonzero answer ends it with -ECANCELED. What has been found is no error. -EBUSY: another one is under way.
 */
int store_verify_index(struct store *st, uint64_t rate, int (*go_on)(void *arg, uint64_t keys),
	void (*fn)(void *arg, const struct store_damage *d), void *arg, struct tm_err *err);

/* Reads cells and verifies their sums; calls fn for each that is damaged or missing. A damaged index ends it with -EBADMSG or -EIO. */
int store_scrub(struct store *st, struct store_scrub *s,
	void (*fn)(void *arg, const struct store_damage *d), void *arg, struct tm_err *err);

#endif
