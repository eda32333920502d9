/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the store share; nothing outside server/store/ includes this.
 *
 * Lock order: commit queue -> attempt -> store (machines, disks, attempts, views) -> index -> packs. The index lock is held for reading
 * around every use of RocksDB, for writing while it is reopened; only the committer reopens it, so it needs no lock for its own use.
 * Squash, scrub and the filter look into the store while they walk the index: by store_peek(), which never waits for good.
 */
#ifndef TM_STORE_INTERNAL_H
#define TM_STORE_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "server/store/index.h"
#include "server/store/store.h"

#define STORE_FORMAT    1
#define NEVER           UINT64_MAX
#define PACK_HEADER_LEN 4096u

/* ---- Files (file.c) ---- */

int write_full(int fd, const void *buf, size_t len, uint64_t off, struct tm_err *err);
/* Reads exactly len bytes; -EIO if the file is shorter. */
int read_full(int fd, void *buf, size_t len, uint64_t off, struct tm_err *err);
int sync_dir(int dirfd, const char *what, struct tm_err *err);
int open_dir(int at, const char *name, struct tm_err *err);
/* Makes the folder if it is absent, syncs its parent, returns its descriptor. */
int make_dir(int at, const char *name, struct tm_err *err);
/* Replaces a file as a whole, durably. */
int replace_file(int dirfd, const char *name, const void *buf, size_t len, struct tm_err *err);
/* Reads a whole file of at most max bytes; NUL-terminated, malloc'd. */
int slurp(int dirfd, const char *name, size_t max, char **out, size_t *len, struct tm_err *err);
/* Removes a folder and all in it; a missing one is fine. */
int remove_tree(int at, const char *name, struct tm_err *err);
/* Moves `name` of the folder `from` (called `what`) to lost+found under root, never replacing anything. */
int to_lost_found(int root, int from, const char *what, const char *name, struct tm_err *err);
uint64_t free_bytes(int dirfd);

/* identity.c: writes store.json, durably; reads it into st (uuid, incarnation, moved). */
int identity_write(
	int rootfd, const uint8_t uuid[TM_UUID], uint64_t incarnation, struct tm_err *err);
int identity_read(struct store *st, struct tm_err *err);

/* ---- Packs (pack.c) ---- */

struct pack {
	struct pack *next; /* in its hash bucket */
	uint32_t no, disk;
	int fd;
	int refs;        /* packs->lock, like all below */
	uint64_t end;    /* reserved so far */
	uint64_t writes; /* completed */
	uint64_t synced; /* value of writes that is durable */
	uint8_t writable, failed;
	uint8_t moved;             /* takes what is moved out of old packs */
	pthread_mutex_t sync_lock; /* one flush at a time */
};

#define PACK_BUCKETS 256

struct packs {
	int dirfd;
	int read_only;
	uint64_t max;
	uint8_t uuid[TM_UUID];
	uint64_t incarnation;
	pthread_mutex_t lock;
	struct pack *bucket[PACK_BUCKETS];
	struct pack *current
		[64]; /* being appended to: of each owner (0 = shared, else a disk) at most one for what is new and one for what is moved */
	uint32_t ncurrent, nopen;
	_Atomic uint64_t written; /* bytes, since opening */
	uint32_t next_no, reserved_no;
	int (*reserve)(
		void *arg, uint32_t no, struct tm_err *err); /* makes numbers below no durable */
	void *arg;
};

int packs_init(struct packs *ps, int dirfd, int read_only);
void packs_exit(struct packs *ps);
/* Opens a pack for reading (or finds it open); pack_put() gives it back. -ENOENT if its file is gone. */
int pack_get(struct packs *ps, uint32_t no, struct pack **p, struct tm_err *err);
void pack_put(struct packs *ps, struct pack *p);
/*
 * Appends one put (run header and cells) to the shared pack (own = 0) or the disk's own. moved: to the one for cells that outlived their
 * pack; they will outlive what is new again, and would be moved again with it. *off: where the cells begin; *mark: what pack_sync() must
 * reach for them to be durable. The pack comes with a reference.
 */
int packs_append(struct packs *ps, uint32_t own, int moved, uint32_t disk, uint64_t seq,
	const void *cells, size_t len, struct pack **p, uint32_t *off, uint64_t *mark,
	struct tm_err *err);
/* Makes all writes up to mark durable. A pack whose flush failed once stays failed. */
int pack_sync(struct packs *ps, struct pack *p, uint64_t mark, struct tm_err *err);
/* No more is appended to the packs of this disk (0: all). */
void packs_seal(struct packs *ps, uint32_t own);
/* No more is appended to this pack. */
void pack_seal(struct packs *ps, struct pack *p);
int pack_name(char name[16], uint32_t no);
/* 1 and the number if `name` is a pack's. */
int pack_number(const char *name, uint32_t *no);
/* Is it referenced or written to? (then it must not be removed) If not, its descriptor is closed. */
int pack_busy(struct packs *ps, uint32_t no);
/* The same, but nothing is closed. */
int pack_held(struct packs *ps, uint32_t no);

/* Header of a pack and of each put in it: enough to rebuild the index from packs alone. */
struct pack_header {
	char magic[8]; /* "TMPACK1\n" */
	uint32_t format, no, disk;
	uint32_t nonce; /* drawn: two lives of a store may give out the same number */
	uint64_t incarnation;
	uint8_t uuid[TM_UUID];
	uint64_t sum; /* xxh3-64 of what stands before */
} __attribute__((packed));

struct run_header {
	uint32_t magic; /* RUN_MAGIC */
	uint32_t disk;
	uint64_t seq;
	uint32_t len; /* bytes of cells that follow */
	uint32_t pad;
	uint64_t sum; /* xxh3-64 of what stands before */
} __attribute__((packed));
#define RUN_MAGIC 0x4e524d54u

/* ---- Attempts ---- */

/* One cell as put, kept until it becomes index entries. */
struct item {
	uint64_t block;
	uint32_t count;
	uint32_t disk;
	struct loc loc;
};

struct touched {
	struct pack *pack; /* with a reference */
	uint64_t mark;
};

/* What was put and is not in the index yet. */
struct load {
	struct item *items;
	size_t nitems, room;
	struct touched *touched;
	size_t ntouched;
	uint64_t zero_chunks; /* that the ZERO items cover */
};

enum attempt_state { AT_OPEN = 1, AT_COMMITTED = 2, AT_ABORTED = 3 };

struct attempt {
	struct attempt *next;
	uint64_t seq;
	uint8_t machine[TM_UUID], tracking[TM_UUID];
	uint32_t disk;
	uint8_t kind;
	int refs; /* store->lock */

	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t idle;
	uint32_t inflight; /* puts under way */
	uint32_t pending;  /* parts on their way to the index */
	_Atomic uint8_t closing, failed, bad, spilled,
		complete; /* atomic: shown to others without the lock */
	struct load cur;
	struct own {
		uint32_t disk;
		uint64_t bytes;
	} * own;
	size_t nown;
	_Atomic uint64_t bytes;
	struct tm_range *done;
	size_t ndone;
	_Atomic uint32_t parts;
};

static inline int is_piece(int kind)
{
	return kind != TM_ATTEMPT_EPOCH;
}

struct attempt_rec {
	uint8_t state, kind, complete, bad;
	uint32_t disk;
	uint8_t machine[TM_UUID], tracking[TM_UUID];
	uint64_t visible_at;
	uint32_t parts, nranges; /* tm_range[nranges] follow */
} __attribute__((packed));

enum vis_state {
	VIS_ENDED =
		0,    /* committed (at says when) or aborted: what has at == NEVER may be dropped */
	VIS_OPEN = 1, /* a piece that may still bring something */
	VIS_WHOLE =
		2, /* brings nothing more for its disks that is not in the index, but is not committed yet */
};

/* When conditional entries became visible: seq of an attempt -> seq of the commit, NEVER while it is open or aborted. Sorted by seq. */
struct vis {
	uint64_t seq, at;
	uint32_t disk;
	uint8_t state;
};

/* ---- The store ---- */

struct machine {
	struct machine *next;
	uint8_t uuid[TM_UUID];
	uint64_t
		debt; /* bytes whose points were dropped or whose attempts were aborted since its compaction */
	uint64_t settling; /* of these: what the compaction under way takes off */
	uint8_t has_head;
	struct tm_epoch_id head;
	uint64_t head_seq;
	int64_t head_arrival_ns;
	uint64_t *points; /* kept, ascending */
	size_t npoints, room;
	uint32_t ndisks;
};

struct request {
	struct request *next;
	struct attempt *a; /* NULL: unknown, err says so */
	struct load load;  /* of a part */
	struct store_commit c;
	struct store_point *point;
	uint64_t *pieces;
	struct attempt **piece; /* while the request is being committed */
	struct tm_range *ranges;
	size_t nranges;
	uint8_t is_part, last;
	uint8_t keep; /* the attempt stays open after this error */
	store_done_fn *done;
	void *arg;
	struct store_result result;
	struct tm_err err;
	int ret;
};

#define LEDGER_BUCKETS 1024

/* ledger.c; all functions lock it. */
struct ledger {
	pthread_mutex_t lock;
	struct ledger_note *bucket[LEDGER_BUCKETS];
	int64_t walked_s, begun_s; /* monotonic; 0 = not to be relied on */
	size_t small;              /* the collector's: small packs that it could do nothing about */
	uint8_t settled;           /* the collector's: `small` is to be counted anew */
};

/* The committer's, but for what it shows (index_lock). */
struct reopening {
	uint64_t tried_ns, pause_ns; /* monotonic; 0 = not tried in vain yet */
	uint64_t free;               /* bytes on the disk when it failed */
	struct tm_err why;
};

struct store {
	char *path;
	int rootfd, packsfd, openfd, lockfd;
	struct store_opts o;
	uint8_t uuid[TM_UUID];
	uint64_t incarnation;
	uint8_t moved; /* store.json was copied here since it was written */

	pthread_rwlock_t index_lock;
	struct index ix;
	struct packs packs;
	atomic_int index_failed, full;
	atomic_int interrupted; /* nothing is waited for any more: the owner is about to close */
	struct reopening reopening;
	struct ledger ledger;
	atomic_int compacting, collecting, copying, verifying;
	atomic_int loaded; /* compaction may judge: machines, points and attempts are in memory */
	_Atomic uint64_t space_checked_ms, space_put; /* when, and bytes put since */

	pthread_rwlock_t lock; /* guards all below up to the queue */
	struct machine *machines;
	struct store_disk **disks; /* by number; NULL = none */
	struct machine **owner;    /* whose disk that is, likewise */
	uint32_t ndisks, next_disk;
	struct attempt *attempts;
	struct vis *vis;
	size_t nvis;
	struct store_view *views;
	uint64_t next_seq, reserved_seq;

	pthread_mutex_t info_lock; /* what store_info() counted last */
	uint64_t info_packs, info_bytes;
	int64_t info_s;

	pthread_mutex_t
		points_lock; /* pins, drops, removal of machines: one at a time; before `lock` */
	pthread_mutex_t checkpoint_lock; /* packs are not removed while it is held */

	pthread_mutex_t queue_lock;
	pthread_cond_t queue_cond;
	struct request *queue, **queue_tail;
	pthread_t committer;
	uint8_t stopping, started;
};

/* Around every use of the index; an error if it is closed (then there is nothing to leave). */
static inline int index_enter(struct store *st, struct tm_err *err)
{
	pthread_rwlock_rdlock(&st->index_lock);
	if (st->ix.db)
		return 0;
	pthread_rwlock_unlock(&st->index_lock);
	return tm_fail(err, EIO, "the index is closed after an earlier error");
}

static inline void index_leave(struct store *st)
{
	pthread_rwlock_unlock(&st->index_lock);
}

/*
 * st->lock for reading where the index lock is held already, against the order: tries for a while and gives up (0) rather than wait.
 */
int store_peek(struct store *st);

/* reopen.c */
int store_index_open(struct store *st, int read_only, struct tm_err *err);
/*
 * The committer's: opens the index again after it refused a write, for reading at least. Fails at once while another try would be too
 * early.
 */
int store_index_reopen(struct store *st, struct tm_err *err);
/* Closes it; all that needs it fails from here on. */
void store_index_shut(struct store *st);
/* -ECANCELED when long work should end, because the store is about to be closed or its index must be opened again. */
int store_ending(struct store *st, struct tm_err *err);
/* -ENOSPC below the reserve (store.c). */
int store_space(struct store *st, struct tm_err *err);

/* pace.c: work that may take a while, at `rate` bytes per second (0: as fast as it goes). */
struct pace {
	uint64_t rate;
	uint64_t owed,
		next; /* bytes not slept for yet; monotonic ns before which nothing more is paid */
};
/* Sleeps as long as that many bytes are worth. -ECANCELED as store_ending(). */
int pace_pay(struct store *st, struct pace *p, uint64_t bytes, struct tm_err *err);

/* ledger.c: so many bytes of a pack have died; something died that nobody counted. */
void ledger_dead(struct ledger *l, uint32_t no, uint64_t bytes);
void ledger_unsure(struct ledger *l);
/* A walk that counts all: begins, tells of each pack, has come to its end. What dies meanwhile counts as dead since. */
void ledger_walk(struct ledger *l);
void ledger_counted(struct ledger *l, uint32_t no, uint64_t live);
void ledger_walked(struct ledger *l);
void ledger_gone(struct ledger *l, uint32_t no);
/* Has all been counted not too long ago? */
int ledger_sure(struct ledger *l);
/* What is alive in the pack, roughly; used: bytes of cells in it. */
uint64_t ledger_live(struct ledger *l, uint32_t no, uint64_t used);
void ledger_free(struct ledger *l);

static inline void ledger_drop(struct ledger *l, const struct loc *loc)
{
	if (loc_has_data(loc))
		ledger_dead(l, loc->pack, sizeof(struct tm_cell) + loc->len);
}

/* machine.c: call with st->lock held (for writing if they add). */
struct machine *machine_find(struct store *st, const uint8_t uuid[TM_UUID]);
struct machine *machine_make(struct store *st, const uint8_t uuid[TM_UUID], struct tm_err *err);
int machine_point_add(struct machine *m, uint64_t seq, struct tm_err *err);
/* seqs ascending. */
void machine_points_drop(struct machine *m, const uint64_t *seqs, size_t n);
/* The lowest kept point >= seq; NEVER if none. */
uint64_t machine_point_from(const struct machine *m, uint64_t seq);
int machines_load(struct store *st, struct tm_err *err);
void machines_free(struct store *st);
void head_key(char key[17], const uint8_t machine[TM_UUID]);

struct head_rec {
	struct tm_epoch_id id;
	uint64_t seq;
	int64_t arrival_ns;
} __attribute__((packed));

/* attempt.c */
int attempts_load(struct store *st, struct tm_err *err);
void attempts_free(struct store *st);
struct attempt *attempt_get(struct store *st, uint64_t seq);
void attempt_put(struct store *st, struct attempt *a);
/* Takes it out of the table: late puts get -ESTALE. */
void attempt_remove(struct store *st, struct attempt *a);
void attempt_record(rocksdb_writebatch_t *b, struct index *ix, const struct attempt *a, int state,
	uint64_t visible_at);
/* Waits for puts and parts that are under way and lets no more in; reopening lets them in again. */
int attempt_close(struct attempt *a, struct tm_err *err);
void attempt_reopen(struct attempt *a);
void load_free(struct store *st, struct load *l);
int load_sync(struct store *st, const struct load *l, struct tm_err *err);
/* Adds a run to sorted, merged ranges. */
int ranges_add(struct tm_range **r, size_t *n, struct tm_range add, struct tm_err *err);
/* vis table; st->lock held for writing / for reading. */
int vis_set(struct store *st, uint64_t seq, uint64_t at, uint32_t disk, enum vis_state state,
	struct tm_err *err);
const struct vis *vis_find(const struct vis *vis, size_t n, uint64_t seq);

/* entries.c: must be called before load_entries(), without the index lock. */
void load_stand(struct store *st, const struct attempt *a, struct load *l);
/* Turns what was put into index entries in the batch; cond: visible only when the attempt table says so. */
int load_entries(struct store *st, const struct attempt *a, const struct load *l,
	rocksdb_writebatch_t *b, int cond, struct tm_err *err);
/* Notes that the packs hold something durable, so that opening does not sweep them away. */
void load_pack_records(struct store *st, const struct load *l, rocksdb_writebatch_t *b);

/* commit.c */
int committer_start(struct store *st, struct tm_err *err);
void committer_stop(struct store *st);

/* point.c */
void point_record(rocksdb_writebatch_t *b, struct index *ix, const struct store_point *p);
int point_parse(const char *val, size_t len, struct store_point **p, struct tm_err *err);
int point_read(struct index *ix, const uint8_t machine[TM_UUID], uint64_t seq,
	struct store_point **p, struct tm_err *err);
void point_key(char key[24], const uint8_t machine[TM_UUID], uint64_t seq);

/* view.c, read.c */
struct reader;
struct store_view {
	struct store_view *next;
	struct store *st; /* NULL: of a checkpoint folder, with index and packs of its own */
	struct index *ix;
	struct packs *packs;
	uint8_t machine[TM_UUID];
	uint32_t disk;
	uint64_t seq, size;
	uint64_t *visible; /* conditional attempts that this view sees, ascending */
	size_t nvisible;
	int packsfd, lockfd; /* of a checkpoint folder */
	pthread_mutex_t lock;
	struct reader *idle; /* readers waiting for work */
};
/* Keeps for the view which conditional attempts it sees. */
int view_visible(struct store_view *v, const struct vis *vis, size_t n, struct tm_err *err);
void readers_free(struct store_view *v);

/*
 * checkpoint.c: STORE/open/NAME with a checkpoint of the index and links of all packs; one that is missing is an empty file. NAME begins
 * with '.': it does not outlive the process; remove_tree() ends it. Returns its descriptor.
 */
int checkpoint_hold(struct store *st, const char *name, struct tm_err *err);
/* The same with the index alone. */
int checkpoint_hold_index(struct store *st, const char *name, struct tm_err *err);

/*
 * squash.c: deletes what no point sees, both families of a disk taken together. Begin takes what is there now and the index lock (for
 * reading; NULL and *err on error), end does the work, gives back all and must follow from the same thread.
 */
struct squash *squash_begin(struct store *st, uint32_t disk, struct tm_err *err);
int squash_end(struct squash *q);

/*
 * prune.c: removes records of the machine's attempts that no entry needs any more, if they are many. Nothing is done while packs are collected.
 */
int store_prune(struct store *st, const uint8_t machine[TM_UUID], struct tm_err *err);

/* ballast.c: gives it up if there is next to no room left. */
void ballast_give(struct store *st);

/* filter.c */
/* Is there a kept point or a view in [from, to), or the newest state (to == NEVER)? st->lock held. */
int points_need(struct store *st, const struct machine *m, uint64_t from, uint64_t to);
/*
 * Does what became visible at `at` belong to an epoch that is in the index, but whose point is not among the machine's yet? Then it is
 * neither judged nor held against older versions: the point of an epoch before it may not be known yet, either. st->lock held.
 */
int epoch_unpublished(const struct machine *m, uint64_t at);
rocksdb_compactionfilterfactory_t *filter_factory(void *st);

#endif
