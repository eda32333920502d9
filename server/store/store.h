/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: every version of every block of every disk, and the points at which they belong together.
 *
 * Cells lie in append-only packs, a RocksDB index says where each version lies (docs: wire-and-store.md, "Store"). Whatever is
 * said to be durable here survives power loss at any instruction. Nothing becomes visible before its attempt is committed.
 *
 * All functions may be called from any thread at any time between store_open() and store_close() unless they say otherwise.
 * Errors are negative errno with *err set. The same few everywhere:
 *   -ENOENT     no such machine, disk, point, attempt to resume, checkpoint
 *   -ESTALE     the attempt is unknown, aborted, committed, or overtaken by a later epoch of its machine
 *   -ENOSPC     below the reserve; nothing was changed, the attempt stays usable, try again when space is back
 *   -EIO        writing failed; the attempt is lost and must be sent again under a new number
 *   -EBADMSG    a cell or record is malformed or damaged
 */
#ifndef TM_STORE_H
#define TM_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "common/cell.h"
#include "common/err.h"
#include "common/wire.h"

struct store;
struct store_view;

/* A BAD cell of more blocks than this is refused (-E2BIG): each chunk of it costs an index entry. */
#define STORE_BAD_MAX (1u << 20)

struct store_opts {
	uint64_t cache_bytes;  /* block cache of the index, all views together; 0 = 64 MiB */
	uint64_t buffer_bytes; /* write buffers of the index, all together; 0 = 64 MiB */
	uint64_t
		reserve_bytes; /* free space to keep; below it -ENOSPC; 0 = 256 MiB; UINT64_MAX = none */
	uint64_t pack_bytes; /* packs are sealed at this size; 0 = 1 GiB */
	uint32_t items_max;  /* index entries an attempt may hold in memory; 0 = 65,536 (3 MiB) */
	uint64_t
		rate; /* bytes per second for the index's compaction and the squash pass; 0 = unlimited */
	uint32_t
		prune_min; /* records of ended attempts of a machine that are worth a walk; 0 = 4,096 (0.3 MiB) */
	uint32_t own_pack_mib; /* an epoch's disk gets a pack of its own beyond this; 0 = 16 */
	uint8_t stats;         /* 1: the engine counts for store_io(); costs some processor time */
};

struct store_info {
	uint8_t uuid[TM_UUID];
	uint64_t incarnation;       /* grows at each opening */
	uint64_t packs, pack_bytes; /* at most ten seconds old */
	uint64_t index_bytes;       /* estimated */
	uint64_t free_bytes;        /* of the filesystem */
	uint8_t full;               /* 1: below the reserve */
	uint8_t failed; /* 1: the index refuses writes; it is opened again until it does not */
	char why[512];  /* if it failed to be opened again */
};

/* Makes an empty store in the folder `dir` (made if absent). -EEXIST if one is there. Durable on return. */
int store_create(const char *dir, struct tm_err *err);

/*
 * Opens the store and takes its lock (-EBUSY: another process has it). opts may be NULL. Attempts of epochs that were open are
 * gone; piece attempts wait to be resumed or aborted. Unknown files in packs/ and open/ are moved to lost+found/.
 */
int store_open(
	const char *dir, const struct store_opts *opts, struct store **st, struct tm_err *err);

/*
 * The owner is about to close: compaction under way ends early, and commits that wait for a full or failing disk are answered with an
 * error, though a later opening may find them. Any thread, any number of times.
 */
void store_interrupt(struct store *st);

/* Ends all. Views must be closed and no call under way. Open attempts are as after a crash. */
void store_close(struct store *st);

int store_info(struct store *st, struct store_info *info, struct tm_err *err);

/* Bytes written since opening. Those of the index are counted only if opts.stats, else 0. */
struct store_io {
	uint64_t packs; /* cells received or copied, with their headers */
	uint64_t log, flushed, compacted;
	uint64_t compact_us; /* processor time of the index's compaction */
};
void store_io(struct store *st, struct store_io *io);

/* ---- Machines and disks ---------------------------------------------------------------------------------------------- */

struct store_disk {
	uint8_t machine[TM_UUID];
	uint8_t uuid[TM_UUID]; /* the agent's */
	uint32_t no;           /* dense, from 1, never reused */
	uint64_t size;         /* bytes, newest known */
	char name[TM_NAME_MAX + 1];
	char serial[TM_NAME_MAX + 1];
};

/*
 * Finds the disk {machine, uuid} or gives it a number, and keeps size, name and serial if they changed. Durable on return. `d->no`
 * is filled in.
 */
int store_disk_register(struct store *st, struct store_disk *d, struct tm_err *err);

/* Calls fn for every disk; a nonzero answer ends the walk and is returned. machine NULL = all. fn must not call back into the store. */
int store_disks(struct store *st, const uint8_t *machine,
	int (*fn)(void *arg, const struct store_disk *d), void *arg, struct tm_err *err);

/* A text per machine, at most 64 KiB, from which the caller rebuilds its catalog; the store does not look into it. Durable on return. */
int store_note_set(struct store *st, const uint8_t machine[TM_UUID], const void *note, size_t len,
	struct tm_err *err);
/* *note is malloc'd with a NUL behind it; -ENOENT if none was set. */
int store_note_get(struct store *st, const uint8_t machine[TM_UUID], char **note, size_t *len,
	struct tm_err *err);

/* Calls fn for every machine that has a disk, a note or a point. Same rules as store_disks(). */
int store_machines(struct store *st, int (*fn)(void *arg, const uint8_t machine[TM_UUID]),
	void *arg, struct tm_err *err);

/* The newest committed epoch of the machine, point or merely stored. -ENOENT if none. */
struct store_head {
	struct tm_epoch_id id;
	uint64_t seq;       /* its attempt */
	uint64_t point;     /* newest kept point; 0 = none */
	int64_t arrival_ns; /* CLOCK_REALTIME */
};
int store_head(
	struct store *st, const uint8_t machine[TM_UUID], struct store_head *h, struct tm_err *err);

/* Forgets a machine: its points, notes, disks, and in time its space. -EBUSY while an attempt or view of it is open. */
int store_machine_remove(struct store *st, const uint8_t machine[TM_UUID], struct tm_err *err);

/* ---- Attempts -------------------------------------------------------------------------------------------------------- */

/* Runs of blocks; sorted and not overlapping where the store hands them out. */
#define store_range tm_range

/*
 * Begins an attempt; *seq is its number: in order over the whole store, never given twice, whatever crashes. kind is enum
 * tm_attempt_kind. EPOCH: all disks of the machine, disk_no and tracking are ignored. The piece kinds: one disk under one tracking;
 * durable on return, so that it can be resumed.
 *
 * Of two versions of a block the one with the higher seq is the newer, so: begin a piece before reading what it holds; begin an
 * epoch's attempts in the order of the cuts (one machine's epochs must be committed in the order of their seq).
 */
int store_attempt_begin(struct store *st, const uint8_t machine[TM_UUID], int kind,
	uint32_t disk_no, const uint8_t *tracking, uint64_t *seq, struct tm_err *err);

/*
 * Finds the newest open piece attempt of this kind of the disk under the same tracking (-ENOENT: none; those under another tracking are
 * then best aborted, see store_attempts()). *done: malloc'd ranges that are durable; *next_part: parts committed so far.
 */
int store_attempt_resume(struct store *st, uint32_t disk_no, int kind,
	const uint8_t tracking[TM_UUID], uint64_t *seq, struct store_range **done, size_t *ndone,
	uint32_t *next_part, struct tm_err *err);

struct store_attempt_info {
	uint64_t seq;
	uint8_t machine[TM_UUID];
	uint8_t tracking[TM_UUID]; /* piece kinds */
	uint32_t disk_no;          /* piece kinds */
	uint32_t parts;
	uint64_t bytes; /* received since it was begun or the store was opened */
	uint8_t kind;
	uint8_t complete; /* piece kinds: store_part() with last = 1 was durable */
};
/* Every open attempt; same rules as store_disks(). */
int store_attempts(struct store *st, int (*fn)(void *arg, const struct store_attempt_info *a),
	void *arg, struct tm_err *err);

/*
 * Appends cells that tm_cell_check() has passed (form is looked at again, sums are not). Nothing durable yet. Several threads may
 * put into the same attempt; one block sent twice in the same part is taken in the order of the calls.
 */
int store_put(struct store *st, uint64_t seq, uint32_t disk_no, const void *cells, size_t len,
	struct tm_err *err);

/*
 * Forgets what was put since the attempt began (EPOCH) or since its last store_part(). -ESTALE if that is not possible any more (a large
 * epoch): abort it and begin another.
 */
int store_forget(struct store *st, uint64_t seq, struct tm_err *err);

/*
 * Piece kinds: makes all that was put so far durable, and the n ranges known as done for store_attempt_resume(). last = 1: the
 * piece is complete and may be listed in a commit. Durable on return; shares its flush with others.
 */
int store_part(struct store *st, uint64_t seq, const struct store_range *done, size_t n, int last,
	struct tm_err *err);

/* Ends an attempt: what it put is never visible. Late store_put() get -ESTALE. Durable on return for piece kinds. -ESTALE if unknown. */
int store_abort(struct store *st, uint64_t seq, struct tm_err *err);

/* ---- Commit and points ----------------------------------------------------------------------------------------------- */

struct store_point_disk {
	uint8_t uuid[TM_UUID];
	uint32_t no;
	uint64_t size; /* bytes at the cut */
	char name[TM_NAME_MAX + 1];
};

struct store_point {
	uint64_t seq; /* the point's id: the attempt of its epoch */
	uint8_t machine[TM_UUID];
	struct tm_epoch_id id, parent;
	uint8_t kind; /* enum tm_point_kind */
	uint8_t pinned;
	uint8_t bad;        /* its epoch or pieces brought BAD blocks */
	uint16_t freeze_ms; /* as in the wire's EPOCH_COMMIT */
	int64_t cut_ns;     /* CLOCK_REALTIME of the source: shown, never computed with */
	int64_t arrival_ns; /* CLOCK_REALTIME of the server at commit */
	uint64_t run_ns; /* the caller's accumulated running time at commit (immutable windows) */
	uint64_t bytes;  /* cells received for it */
	uint64_t digest;
	char label[TM_LABEL_MAX + 1];
	char reason[TM_TEXT_MAX + 1];
	uint32_t ndisks;
	struct store_point_disk *disks;
};

struct store_commit {
	struct tm_epoch_id id, parent;
	uint8_t new_line; /* 1: parent need not be the head (first epoch, or resync under a new tracking) */
	const uint64_t *
		pieces; /* complete piece attempts of the same machine that become visible with this epoch; */
	uint32_t npieces; /*   each must have been begun before this epoch's attempt */
	const struct store_point *
		point; /* NULL: stored, no point yet. seq, machine, id, parent, bytes, arrival_ns are set by the store */
};

struct store_result {
	uint64_t seq;
	uint64_t bytes;
	int64_t arrival_ns;
	uint8_t bad; /* BAD blocks came with it */
};

/*
 * Commits an EPOCH attempt: blocks until it, its pieces and its point are durable and visible, in one step. One flush is shared by all who
 * wait. Data of epochs that were only stored belongs to the next point. -EINVAL: parent is not the machine's head (and
 * not new_line), or a piece does not fit; the attempt stays open. After any other error but -ENOSPC it is gone.
 */
int store_commit(struct store *st, uint64_t seq, const struct store_commit *c,
	struct store_result *result, struct tm_err *err);

/* The same without waiting: done is called once, from the store's committer thread, and must not block. *c is copied. ret as above. */
typedef void store_done_fn(
	void *arg, int ret, const struct store_result *result, const struct tm_err *err);
void store_commit_start(struct store *st, uint64_t seq, const struct store_commit *c,
	store_done_fn *done, void *arg);
/* store_part() without waiting, likewise (result->seq only). */
void store_part_start(struct store *st, uint64_t seq, const struct store_range *ranges, size_t n,
	int last, store_done_fn *done, void *arg);

/* A point by its id. *p is malloc'd: store_point_free(). -ENOENT. */
int store_point_get(struct store *st, const uint8_t machine[TM_UUID], uint64_t seq,
	struct store_point **p, struct tm_err *err);
/* The newest point, of kind APP only if app. -ENOENT. */
int store_point_newest(struct store *st, const uint8_t machine[TM_UUID], int app,
	struct store_point **p, struct tm_err *err);
void store_point_free(struct store_point *p);

/* Points of a machine with seq >= from, oldest first. Same rules as store_disks(); *p is valid during the call only. */
int store_points(struct store *st, const uint8_t machine[TM_UUID], uint64_t from,
	int (*fn)(void *arg, const struct store_point *p), void *arg, struct tm_err *err);

/* Durable on return. */
int store_point_pin(struct store *st, const uint8_t machine[TM_UUID], uint64_t seq, int pinned,
	struct tm_err *err);

/* Drops points, durably; their space comes back through compaction. -EPERM if one is pinned or the newest: nothing is dropped then. */
int store_points_drop(struct store *st, const uint8_t machine[TM_UUID], const uint64_t *seqs,
	size_t n, struct tm_err *err);

/* ---- Reading --------------------------------------------------------------------------------------------------------- */

/*
 * A disk as of point seq, or, with seq 0, as of the newest committed epoch (of any kind; later commits do not show). What it sees
 * is kept from compaction while it is open. Reading is thread-safe.
 */
int store_view_open(struct store *st, const uint8_t machine[TM_UUID], uint32_t disk_no,
	uint64_t seq, struct store_view **v, struct tm_err *err);

/*
 * A disk of a point in use: `dir` is STORE/open/ID, `disk` its number, UUID or name in the point. Needs neither server nor lock nor
 * catalog. cache_bytes 0 = 64 MiB.
 */
int store_view_open_dir(const char *dir, const char *disk, uint64_t cache_bytes,
	struct store_view **v, struct tm_err *err);
/* The same, only to see whether there is such a point and disk: starts no thread. */
int store_view_check_dir(const char *dir, const char *disk, struct tm_err *err);
void store_view_close(struct store_view *v);

uint64_t store_view_size(
	const struct store_view *v); /* bytes of the disk; 0 if it was never in a point */

/*
 * Reads len bytes at off; past the end of the disk: zeros. -EIO if a block of it is BAD or its cell is missing or damaged; buf is then
 * undefined. Never other data than the disk had.
 */
int store_view_read(struct store_view *v, void *buf, size_t len, uint64_t off, struct tm_err *err);

enum store_extent_kind { STORE_DATA, STORE_ZERO }; /* ZERO: nothing stored, or zeros (holes) */

/* Calls fn for runs covering [off, off + len) in order; a nonzero answer ends the walk and is returned. */
int store_view_extents(struct store_view *v, uint64_t off, uint64_t len,
	int (*fn)(void *arg, uint64_t off, uint64_t len, enum store_extent_kind kind), void *arg,
	struct tm_err *err);

/*
 * Puts a point in use: STORE/open/NAME (letters, digits, '-', '_', '.'; not beginning with '.') holds a checkpoint of the index, hard links of
 * the packs and point.json, durable, whatever becomes of the point. -EEXIST if the name is taken. *path is malloc'd.
 */
int store_checkpoint(struct store *st, const uint8_t machine[TM_UUID], uint64_t seq,
	const char *name, char **path, struct tm_err *err);

struct store_checkpoint_info {
	char name[256];
	uint8_t machine[TM_UUID];
	uint64_t seq;
	uint64_t bytes; /* space that only this checkpoint holds */
	uint8_t in_use; /* a reader has it open */
};
int store_checkpoints(struct store *st,
	int (*fn)(void *arg, const struct store_checkpoint_info *info), void *arg,
	struct tm_err *err);

/* Removes a checkpoint; -EBUSY while a reader has it open, unless force. */
int store_checkpoint_remove(struct store *st, const char *name, int force, struct tm_err *err);

#endif
