/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The interface of tidemark.ko: ioctls on /dev/tidemark. The rules of each call are in tidemark(4).
 *
 * Numbers are in native byte order. Places and sizes are in blocks of 4096 bytes unless a name says
 * otherwise; a last, partial block counts as one. Fields named "pad" and unknown flags must be zero
 * (EINVAL). Pointers are carried as 64-bit integers. All calls need CAP_SYS_ADMIN.
 */
#ifndef TIDEMARK_ABI_H
#define TIDEMARK_ABI_H

#include <linux/types.h>
#include <linux/ioctl.h>

#define TMK_ABI_VERSION 1
#define TMK_DEVICE      "/dev/tidemark"
#define TMK_BLOCK       4096
#define TMK_MAX_DISKS   64    /* attached at a time */
#define TMK_MAX_UNACKED 4     /* epochs drained and not committed */
#define TMK_MAX_IDS     64    /* ids kept since the last acknowledged one */
#define TMK_MAX_DRAIN   4096  /* blocks in one DRAIN */
#define TMK_MAX_EXTENTS 65536 /* extents in one call */
#define TMK_HIST        32    /* buckets of a histogram: bucket n counts 2^n .. 2^(n+1)-1 us */

/* An epoch's identity, drawn at the cut. All zero: none. */
struct tmk_id {
	__u8 tracking[16]; /* UUID: drawn when tracking began without proof of what was before */
	__u64 cut;         /* counts from 1 under one tracking UUID */
	__u64 nonce;       /* random */
};

struct tmk_extent {
	__u64 start, count;
};

struct tmk_version {
	__u32 abi;      /* out: TMK_ABI_VERSION */
	__u32 features; /* out: TMK_FEATURE_* */
	char build[56]; /* out: NUL-terminated */
};
#define TMK_FEATURE_TEST 1 /* test build: not for production */

enum tmk_refusal {
	TMK_OK = 0,
	TMK_REFUSE_NO_HOOK = 1, /* EOPNOTSUPP: this kernel cannot redirect submit_bio_noacct */
	TMK_REFUSE_HOOK_BUSY =
		2, /* EBUSY: another tool redirects it, or kernel.ftrace_enabled is 0 */
	TMK_REFUSE_PARTITION = 3, /* EINVAL: not a whole disk */
	TMK_REFUSE_READ_ONLY = 4, /* EROFS */
	TMK_REFUSE_ZONED = 5,     /* EOPNOTSUPP */
	TMK_REFUSE_DAX = 6,       /* EOPNOTSUPP */
	TMK_REFUSE_STACKED = 7,  /* EBUSY: lies above or below a disk that is attached, or hidden */
	TMK_REFUSE_ATTACHED = 8, /* EEXIST: out: disk is its number */
	TMK_REFUSE_REPLACED = 9, /* ESTALE: the disk's sequence number is not the one named */
	TMK_REFUSE_TOO_MANY = 10, /* ENOSPC */
	TMK_REFUSE_EMPTY = 11,    /* ENOMEDIUM: no or odd capacity, or sectors above 4096 bytes */
	TMK_REFUSE_SHUTDOWN = 12, /* ESHUTDOWN: the system is going down */
	TMK_REFUSE_IN_USE = 13,   /* EBUSY: a dm, md or multipath disk that somebody has claimed */
};

struct tmk_attach {
	__u32 major, minor; /* in: the whole disk */
	__u64 diskseq;      /* in: 0 = any; out: as the kernel has it, 0 where it has none */
	__u32 flags;        /* in: 0 */
	__u32 disk;   /* out: the disk's number, never given twice while the module is loaded */
	__u32 reason; /* out, also on failure: enum tmk_refusal */
	__u32 pad;
	__u64 sectors; /* out: size in sectors of 512 bytes */
};

struct tmk_detach {
	__u32 disk;
	__u32 flags; /* 0 */
};

enum tmk_state {
	TMK_IDLE = 0,    /* no epoch is frozen */
	TMK_FROZEN = 1,  /* one is, being drained */
	TMK_DRAINED = 2, /* it is drained on all disks: the next cut may come */
};

struct tmk_head {
	__u32 flags; /* in: 0 */
	__u32 state; /* out: enum tmk_state */
	__u64 events; /* out: counts breaks, disks gone, doubts; reading it quiets POLLPRI of this descriptor */
	__u8 tracking[16];    /* out: of the epochs to come; zero while nothing is attached */
	struct tmk_id acked;  /* out: newest committed epoch */
	struct tmk_id frozen; /* out: zero when idle */
	__u32 unacked; /* out: epochs cut, alive (neither broken nor aborted), not committed: ids[] has them */
	__u32 nids; /* out: valid entries of ids[] */
	/* out: ids cut since the acknowledged one, oldest first, broken and aborted ones too */
	struct tmk_id ids[TMK_MAX_IDS];
};

struct tmk_exclude {
	__u32 disk;
	__u32 flags;   /* 0 or TMK_EXCLUDE_FILE */
	__u64 extents; /* struct tmk_extent[count]; the new list replaces the old one */
	__u32 count;
	__u32 fd; /* with TMK_EXCLUDE_FILE: of the file that lies in the extents; else 0 */
};
#define TMK_EXCLUDE_FILE \
	1 /* the file is kept from being freed while the list holds, and the list ends with the descriptor that set it */

/* Why the module's map of a disk may not be trusted: flags of tmk_info.doubt. Cleared by RESYNC only. */
#define TMK_DOUBT_FRESH   1 /* attached without a restored map: what was written before is unknown */
#define TMK_DOUBT_LOST    2  /* a write passed that could not be recorded */
#define TMK_DOUBT_RESUMED 4  /* memory came back from a hibernation image */
#define TMK_DOUBT_SHRUNK  8  /* the disk shrank */
#define TMK_DOUBT_ERROR   16 /* an error inside the module */

struct tmk_info {
	__u32 disk;  /* in; out: the disk told of */
	__u32 flags; /* in: 0 or TMK_INFO_NEXT */
	__u32 major, minor;
	__u64 diskseq;
	char name[32];
	__u8 tracking[16]; /* of this disk: drawn at attach, or restored */
	__u64 sectors;     /* of 512 bytes */
	__u32 sector_size; /* logical */
	__u32 gone;        /* 1: removed while attached */
	__u32 doubt;       /* TMK_DOUBT_* */
	__u32 settled;     /* 1: no write of the frozen epoch, or an older one, is in flight */
	__u64 dirty;       /* blocks of the active epoch */
	__u64 frozen;      /* blocks of the frozen epoch */
	__u64 undrained;   /* of these */
	__u64 held;        /* writes held now */
	__u64 inflight;    /* writes in flight now */
	__u64 images;      /* before-images now, blocks */
	__u64 writes;      /* counters since attach: writes seen, */
	__u64 redirected;  /* writes held, */
	__u64 preserved;   /* before-images taken, */
	__u64 unreadable;  /* and blocks whose old content could not be read */
	__u64 map_bytes;   /* memory of the maps */
	__u64 held_max_us; /* longest time that a write was held */
};
#define TMK_INFO_NEXT 1 /* the disk with the lowest number >= disk; ENODEV: none */

struct tmk_stats {
	__u32 flags; /* in: 0 */
	__u32 disks; /* attached */
	__u64 cuts;  /* since the module was loaded */
	__u64 commits, aborts, breaks;
	__u64 image_limit, image_now, image_peak;        /* bytes */
	__u64 break_memory, break_deadline, break_error; /* reasons of breaks */
	__u64 recursions;        /* always 0: the hook needs no guard against recursion */
	__u64 noctx;             /* writes that got no context at once */
	__u64 cut_us[TMK_HIST];  /* how long a cut held writes */
	__u64 held_us[TMK_HIST]; /* how long a write was held, for whatever reason */
};

struct tmk_cut {
	__u32 flags; /* in: 0 */
	__u32 timeout_ms; /* in: to wait for writes of aborted epochs; ETIME when passed. 0: do not wait */
	struct tmk_id id, parent;       /* out */
	__u64 realtime_ns, boottime_ns; /* out: clocks at the cut */
	__u64 hold_ns;                  /* out: how long writes were held */
	__u32 disks;                    /* out: disks in the epoch */
	__u32 pad;
	__u64 blocks; /* out: dirty blocks on all of them */
};

struct tmk_ranges {
	struct tmk_id id;
	__u32 disk;
	__u32 flags;   /* 0 */
	__u64 cursor;  /* in: first block of interest; out: where to go on */
	__u64 extents; /* struct tmk_extent[count], ascending, never touching */
	__u32 count;   /* in: room, at least 1 */
	__u32 n;       /* out: filled */
	__u32 done;    /* out: 1: there are no more */
	__u32 pad;
};

struct tmk_drain {
	struct tmk_id id;
	__u32 disk;
	__u32 flags; /* 0 */
	__u64 start;
	__u32 count;   /* 1 .. TMK_MAX_DRAIN */
	__u32 patched; /* out: blocks overwritten in the buffer */
	__u64 buffer; /* count * 4096 bytes as read from the disk; 0: nothing is to be patched (catch-up only) */
	__u64 bad; /* bit map of (count + 7) / 8 bytes, set by the call: old content unreadable; may be 0 */
	__u32 nbad; /* out: bits set there; with bad == 0 and nbad > 0 the call fails with EIO, undrained */
	__u32 pad;
};

struct tmk_commit {
	struct tmk_id id;
	__u32 flags; /* 0 or TMK_COMMIT_ADOPT */
	__u32 pad;
};
#define TMK_COMMIT_ADOPT \
	1 /* the id is of a broken or aborted epoch: it becomes the acknowledged one, no bit is cleared */

struct tmk_abort {
	__u32 flags; /* 0 */
	__u32 pad;
};

struct tmk_persist {
	__u32 disk;  /* on which the file lies */
	__u32 flags; /* 0 or TMK_PERSIST_* */
	__u64 extents; /* struct tmk_extent[count] of the file, in its order; count 0: forget the file */
	__u32 count;
	__u32 pad;
	__u64 need; /* out: blocks that saving would take now */
};
#define TMK_PERSIST_SAVE \
	1 /* no new file (count 0): save all maps now, as at shutdown. Any write from here on makes doubt */
#define TMK_PERSIST_WITNESS \
	2 /* extents: blocks of the disk that any other system changes that uses it; they replace the list before */
#define TMK_MAX_WITNESS 8192 /* blocks in such a list */

/*
 * A block of the file while no maps are saved in it. The module writes to blocks that hold this, with their number and
 * the same file everywhere, and to no others: whatever became of the file, nobody else's data is hit. Who has read the
 * saved maps writes it again, first block first.
 */
#define TMK_MAP_EMPTY 0x7974706d656d740aULL
struct tmk_map_block {
	__u64 magic;   /* TMK_MAP_EMPTY */
	__u64 index;   /* in the file, counted along the extents as registered */
	__u8 file[16]; /* random */
	__u8 zero[4064];
};

/* How the file begins while maps are saved in it; the rest is the module's own. */
#define TMK_MAP_SAVED 0x70616d656469740aULL
struct tmk_map_head {
	__u64 magic; /* TMK_MAP_SAVED */
	__u64 bytes; /* of the file that are in use */
	__u8 file[16];
	__u32 disks, pad;
	__u64 sectors[TMK_MAX_DISKS]; /* of 512 bytes: how large each disk was */
};

struct tmk_restore {
	__u32 disk;   /* attached disk to restore */
	__u32 flags;  /* 0 */
	__u64 data;   /* the saved file as read from the disk */
	__u64 len;    /* bytes of it */
	__u32 reason; /* out, also on failure: enum tmk_restore_doubt */
	__u32 pad;
	__u64 dirty; /* out: blocks merged */
};

enum tmk_restore_doubt {
	TMK_RESTORED = 0,
	TMK_RESTORE_NO_FILE = 1,  /* not a saved map, or an unknown format */
	TMK_RESTORE_UNCLEAN = 2,  /* used up, or never finished */
	TMK_RESTORE_CHECKSUM = 3, /* damaged */
	TMK_RESTORE_NO_DISK = 4,  /* the disk is not in it, or has another size */
	TMK_RESTORE_FOREIGN = 5,  /* the disk was written while it was not tracked */
	TMK_RESTORE_LATE = 6,     /* a cut was taken or the disk's map was restored already */
	TMK_RESTORE_DOUBT = 7,    /* the map was in doubt when it was saved */
};

struct tmk_resync {
	__u32 disk;
	__u32 flags; /* 0 */
	__u32 doubt; /* in: the TMK_DOUBT_* flags to clear; out: what is left */
	__u32 pad;
};

#define TMK_IOC     0xb7
#define TMK_VERSION _IOR(TMK_IOC, 0, struct tmk_version)
#define TMK_ATTACH  _IOWR(TMK_IOC, 1, struct tmk_attach)
#define TMK_DETACH  _IOW(TMK_IOC, 2, struct tmk_detach)
#define TMK_HEAD    _IOWR(TMK_IOC, 3, struct tmk_head)
#define TMK_EXCLUDE _IOW(TMK_IOC, 4, struct tmk_exclude)
#define TMK_INFO    _IOWR(TMK_IOC, 5, struct tmk_info)
#define TMK_STATS   _IOWR(TMK_IOC, 6, struct tmk_stats)
#define TMK_CUT     _IOWR(TMK_IOC, 7, struct tmk_cut)
#define TMK_RANGES  _IOWR(TMK_IOC, 8, struct tmk_ranges)
#define TMK_DRAIN   _IOWR(TMK_IOC, 9, struct tmk_drain)
#define TMK_COMMIT  _IOW(TMK_IOC, 10, struct tmk_commit)
#define TMK_ABORT   _IOW(TMK_IOC, 11, struct tmk_abort)
#define TMK_CATCHUP        \
	_IOWR(TMK_IOC, 12, \
		struct tmk_cut) /* a cut whose epoch is not preserved: no point, only shipping */
#define TMK_PERSIST _IOWR(TMK_IOC, 13, struct tmk_persist)
#define TMK_RESTORE _IOWR(TMK_IOC, 14, struct tmk_restore)
#define TMK_RESYNC  _IOWR(TMK_IOC, 15, struct tmk_resync)

/*
 * Errors that tell of the epoch: EAGAIN (RANGES, DRAIN: not settled yet: poll for POLLIN), ESTALE (broken,
 * aborted or unknown: throw away what was read of it), EBUSY (CUT: one is frozen; COMMIT: not all of it is drained,
 * or an older one waits), ENOSPC (CUT: TMK_MAX_UNACKED wait for their commit).
 * poll(): POLLIN: an epoch is frozen and settled on all disks; POLLPRI: events rose since this descriptor's last HEAD.
 */
#endif
