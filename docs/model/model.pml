/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tidemark.ko: cut, settle, held writes, before-images, DRAIN, COMMIT, ABORT.
 * 2 disks x 2 blocks (blocks 0,1 = disk 0; 2,3 = disk 1), NWR writers, CUTS cuts, one worker per disk.
 *
 * Default = the protocol as kmod/ has it (kmod/epoch.c: cut, break, commit, abort; hook.c and held.c: a write's way).
 *   NO_x   one mechanism off          LIT_x  the literal text, where it is open (repair off)
 *   EARLY  the alternative design: before-image read does not wait for settle, block marked at publish
 *   OPT_x  environment: more hostile devices or writers
 * Properties, chosen at run time by the environment variable CHK: 1 = P1, 2 = P2, 4 = P4 exact, 8 = P4 "never a newer
 * one"; P3 is spin's own check for invalid end states.  SCN = "abcde": the block of each write of writers 0, 0, 1, 1, 2;
 * run.sh goes through all assignments that differ by more than renaming blocks, disks and writers.
 * A content is the id of the write that put it there; 0 = the base.
 */
/* NWR, CUTS, MAXAB (aborts) come from the command line: run.sh */
#define NPER(w)  ((w) == 2 -> 1 : 2)      /* writers 0,1: a causal pair of writes; writer 2: one */
#define MAXID    7
#define BIT(b)   (1 << (b))
#define D(b)     ((b) >> 1)
mtype = { HELD, INWORK, ISSUED };

/* ---- the kernel's state -------------------------------------------------------------------------------- */
byte E[2];                 /* active epoch, per disk: (E, hold, fz) is one word, read in one load */
bit  hold[2];              /* CUTTING: new writes are queued */
bit  fz[2];                /* epoch E-1 is frozen */
byte dm[3];                /* dirty maps, epoch mod 3: active, frozen, spare (4 bits = 4 blocks) */
byte infl[4];              /* in flight, [epoch parity * 2 + disk]: two counters, as a swap design has */
byte dr, im, cl;           /* of the frozen epoch: drained, has a before-image, claimed (being preserved) */
byte img[4];
byte inrcu, gp;            /* read-side sections now; those that the grace period still waits for */
byte st[NWR], cw[NWR];     /* one bio per writer: state; write id while held, counter when issued */
byte aborts, inwork;       /* inwork: a cut or an abort is in progress (the ioctl mutex) */
bit  merging, brk;                  /* the frozen epoch is broken, not yet merged (LIT_ABORT variants only) */
/* ---- the device, the server, and ghosts ---------------------------------------------------------------- */
byte disk[4], R[4];        /* source content; replica as of the newest durable point */
byte done;                 /* writes completed (bit id-1) */
byte pre[MAXID], blk[MAXID], ver[MAXID], ep[MAXID], nver[4]; /* completed before its submission; block; apply order; epoch */
byte gold[4];              /* what the frozen epoch left in each block */
byte left = NWR;           /* writers not finished */
byte chk, A[5];            /* from the environment */
#define FRZ(d)      ((E[d] + 2) % 3)                    /* map of E-1 */
#define settled(d)  (infl[((E[d] + 1) & 1) * 2 + (d)] == 0)
#ifdef NO_BUSY                                          /* a claimed block is taken for a preserved one */
#define KEPT        (dr | im | cl)
#else
#define KEPT        (dr | im)
#endif
#ifdef NO_IMG
#define need(b, e)  (0)
#else                                                   /* to be preserved, for a writer that saw epoch e active */
#define need(b, e)  (!brk && (dm[((e) + 2) % 3] & BIT(b)) && !(KEPT & BIT(b)))
#endif
/* ---- one passage of the hook's decision; preemption off = an RCU read-side section ------------------------ */
/* step A: read the word.  step B: test the frozen map.  step C: mark, count, interpose.  res: entered or not. */
inline rcu_out(R_) { inrcu = inrcu & ~BIT(R_); gp = gp & ~BIT(R_) }
inline decideA(R_, W_, B_, F_, U_) {          /* rcu slot, write id, block, first passage?, in a read-side section? */
    atomic {
        res = !hold[D(B_)];
#ifdef LIT_2LOADS                                       /* state and epoch are two words, read one after the other */
        if :: U_ -> inrcu = inrcu | BIT(R_) :: else fi }
    atomic {
#endif
        le = E[D(B_)]; lf = fz[D(B_)];
        if :: F_ -> pre[W_] = done; blk[W_] = B_ :: else fi;
        if :: res && U_ -> inrcu = inrcu | BIT(R_) :: !res -> rcu_out(R_); le = 0; lf = 0 :: else fi } }
inline decideBC(R_, W_, B_, P_, U_) {         /* ..., out: the counter it is counted in */
    if
    :: res ->
        atomic {                                        /* B */
            if :: lf && need(B_, le) -> res = 0; le = 0; lf = 0; if :: U_ -> rcu_out(R_) :: else fi
               :: else fi }
        if
        :: res ->
            atomic {                                    /* C */
                dm[le % 3] = dm[le % 3] | BIT(B_); ep[W_] = le; P_ = (le & 1) * 2 + D(B_); infl[P_]++;
                le = 0; lf = 0; if :: U_ -> rcu_out(R_) :: else fi }
        :: else fi
    :: else fi }
inline queue(P_) {                            /* redirect target: after the callback, outside RCU; back when issued */
    atomic { cw[w] = id; st[w] = HELD }
    atomic { st[w] == ISSUED -> st[w] = 0; P_ = cw[w]; cw[w] = 0 } }
/* ---- an application thread with the device behind it ------------------------------------------------------ */
proctype writer(byte w) {
    byte k, b, id, le, par, par2 = 9; bit lf, res, ctx;
    do
    :: atomic { k < NPER(w) ->
            b = A[w * 2 + k]; id = w * 2 + k + 1; k++; ctx = 1;
#ifndef LIT_MARKFIRST
            decideA(w, id, b, 1, 1) }
#ifdef OPT_NOCTX                                        /* no context to be had: marked twice, not counted, not ours */
        if
        :: atomic { res && w == 0 && k == 1 && !(lf && need(b, le)) ->
                ep[id] = le; ctx = 0; dm[le % 3] = dm[le % 3] | BIT(b);
#if OPT_NOCTX == 1                                      /* "both" = the active and the next epoch */
                dm[(le + 1) % 3] = dm[(le + 1) % 3] | BIT(b);
#else                                                   /* "both" = the active and the frozen epoch */
                if :: lf -> dm[(le + 2) % 3] = dm[(le + 2) % 3] | BIT(b) :: else fi;
#endif
                le = 0; lf = 0; rcu_out(w) }
        :: decideBC(w, id, b, par, 1) fi;
#else
        decideBC(w, id, b, par, 1);
#endif
#else                                                   /* steps 2, then 3 in the order of the text */
            inrcu = inrcu | BIT(w); le = E[D(b)]; lf = fz[D(b)]; pre[id] = done; blk[id] = b }
        atomic {
            dm[le % 3] = dm[le % 3] | BIT(b); ep[id] = le; par = (le & 1) * 2 + D(b); infl[par]++;
            res = !(hold[D(b)] || (lf && need(b, le))); rcu_out(w); le = 0; lf = 0 }
#endif
        if :: !res -> queue(par) :: else fi;
        /* B.13: the same bio passes the hook again. Recognised, it passes untouched: no step at all. Otherwise: */
#ifdef NO_REC
        if :: decideA(w, id, b, 0, 1); decideBC(w, id, b, par2, 1); if :: !res -> queue(par2) :: else fi
           :: skip fi;
#elif defined(OPT_NOCTX)
        if :: !ctx -> decideA(w, id, b, 0, 1); decideBC(w, id, b, par, 1);   /* as new; from now on it has a context */
                      if :: !res -> queue(par) :: else fi; ctx = 1
           :: skip fi;
#endif
        if
        :: atomic {                                     /* the device applies it, some time */
            disk[b] = id; nver[b]++; ver[id] = nver[b];
            if :: (fz[D(b)] || hold[D(b)]) && ep[id] < E[D(b)] -> gold[b] = id :: else fi }
           atomic {                                     /* and completes it, some time later */
            if :: ctx -> infl[par]-- :: else fi;
            if :: par2 != 9 -> infl[par2]--; par2 = 9 :: else fi;
            done = done | BIT(id - 1); par = 0; res = 0; if :: k == NPER(w) -> left--; break :: else fi }
#ifdef OPT_EIO
        :: atomic { if :: ctx -> infl[par]-- :: else fi; par = 0; res = 0;
                    if :: k == NPER(w) -> left--; break :: else fi }  /* EIO: not applied, not "completed", stays marked */
#endif
        fi
    od }
/* ---- the per-disk worker: held list -> preserve -> enter -> issue ------------------------------------------ */
proctype worker(bit d; byte rid) {
    byte w, b, tmp, me, le, par, id; bit lf, res;
endw: do
    :: atomic {                                         /* any held bio of this disk, in any order */
        if :: st[0] == HELD && D(blk[cw[0]]) == d -> w = 0
           :: st[1] == HELD && D(blk[cw[1]]) == d -> w = 1
           :: NWR > 2 && st[NWR - 1] == HELD && D(blk[cw[NWR - 1]]) == d -> w = NWR - 1
        fi; id = cw[w]; b = blk[id]; st[w] = INWORK }
again:  atomic { !hold[d] ->
            if
#ifdef NO_BUSY
            :: fz[d] && need(b, E[d]) -> me = E[d]; cl = cl | BIT(b); res = 0
#else
            :: fz[d] && need(b, E[d]) -> (!fz[d] || hold[d] || !need(b, E[d]) || !(cl & BIT(b)));   /* busy: queue behind */
                 if :: fz[d] && !hold[d] && need(b, E[d]) -> me = E[d]; cl = cl | BIT(b); res = 0 :: else -> goto again fi
#endif
            :: else -> res = 1 fi }
        if
        :: !res ->
#if !defined(NO_SETTLEW) && !defined(EARLY)
            (settled(d) || brk || !(fz[d] && E[d] == me));      /* or the epoch is gone: aborted, broken */
#endif
            tmp = disk[b];                              /* read the old content */
            atomic {                                    /* publish, under the lock that abort and DRAIN take */
                if
#if defined(NO_RECHK)
                :: true
#elif defined(NO_RECHK_D)
                :: fz[d] && E[d] == me && !brk
#else                                                   /* FIX: still the same, unbroken epoch, block not drained */
                :: fz[d] && E[d] == me && !brk && !(dr & BIT(b))
#endif
                   -> img[b] = tmp; im = im | BIT(b);
#ifdef EARLY
                      dm[E[d] % 3] = dm[E[d] % 3] | BIT(b)
#endif
                :: else fi; cl = cl & ~BIT(b); tmp = 0; me = 0 }
            goto again
        :: else fi;
#ifdef LIT_MARKFIRST
        atomic { st[w] = ISSUED; cw[w] = (ep[id] & 1) * 2 + d }   /* marked and counted before it was held */
#else
#ifdef LIT_WRCU                                         /* the worker's entry is not a read-side section */
        decideA(rid, id, b, 0, 0); decideBC(rid, id, b, par, 0);
#else
        decideA(rid, id, b, 0, 1); decideBC(rid, id, b, par, 1);
#endif
        if :: !res -> goto again :: else fi;            /* the world moved: once more */
        atomic { st[w] = ISSUED; cw[w] = par }
#endif
        atomic { w = 0; b = 0; id = 0; par = 0; le = 0; lf = 0; res = 0 }
    od }
inline forget() {
    dr = 0; im = 0; fz[0] = 0; fz[1] = 0;
    img[0] = 0; img[1] = 0; img[2] = 0; img[3] = 0; gold[0] = 0; gold[1] = 0; gold[2] = 0; gold[3] = 0 }
/* ---- broken at any moment / ABORT / the descriptor closes --------------------------------------------------- */
#define MERGED  (dm[FRZ(0)] & ~(NO_MERGEDR * dr))             /* NO_MERGEDR=1: drained blocks are left out of the merge */
#ifdef LIT_ABORTCUT                                     /* a break may take effect while the cut holds writes */
#define MUTEX   (1)
#else
#define MUTEX   (!inwork)
#endif
inline merge(M_) { dm[E[0] % 3] = dm[E[0] % 3] | (M_) }
proctype aborter() { byte old;
enda: do
    :: atomic { fz[0] && fz[1] && aborts < MAXAB && MUTEX -> aborts++;
#if !defined(ABORT)
        merge(MERGED); dm[FRZ(0)] = 0; forget() }        /* one critical section */
#elif ABORT == 1                                        /* idle first, then merge; CUT does not wait for the merge */
        old = FRZ(0); forget(); merging = 1 }
       atomic { merge(dm[old]); dm[old] = 0; merging = 0; old = 0 }
#elif ABORT == 2                                        /* merge first, then idle */
        merge(MERGED); dm[FRZ(0)] = 0 }
       atomic { forget() }
#else                                                   /* broken (no DRAIN, COMMIT, preserving), merge, idle */
        brk = 1 }
       atomic { merge(MERGED); dm[FRZ(0)] = 0 }
       atomic { brk = 0; forget() }
#endif
    od }

#define INC(i)   (ver[i] > 0 && ver[i] <= ((R[blk[i]] == 0) -> 0 : ver[R[blk[i]]]))   /* in the point, or overwritten there */
#define P2(b)    (disk[b] == R[b] || (dm[E[0] % 3] & BIT(b)))
#define lowest(m, b)  b = (((m) & 1) -> 0 : (((m) & 2) -> 1 : (((m) & 4) -> 2 : 3)))
#ifdef LIT_NOSTALE
#define stale    (0)
#else
#define stale    (!fz[0] || E[0] != me || brk)
#endif
/* ---- the agent with its server: CUT, read, DRAIN, durable, COMMIT ------------------------------------------- */
proctype agent() {
    byte n, me, todo, rd, sent, b, i, j; byte srv[4];
    do
    :: n < CUTS ->
        n++; !fz[0];                                    /* refused while an epoch is frozen */
#ifndef LIT_SETTLE                                      /* FIX 1: nothing older than the active epoch is in flight */
        infl[((E[0] + 1) & 1) * 2] == 0 && infl[((E[0] + 1) & 1) * 2 + 1] == 0;
#endif
        atomic {                                        /* publish */
#ifdef PERDISK
            E[0]++; hold[0] = 1; fz[0] = 1; inwork = 1; gold[0] = disk[0]; gold[1] = disk[1] }
        atomic { E[1]++; hold[1] = 1; fz[1] = 1; gold[2] = disk[2]; gold[3] = disk[3];
#else
            E[0]++; E[1]++; fz[0] = 1; fz[1] = 1; inwork = 1;
#ifndef NO_HOLD
            hold[0] = 1; hold[1] = 1;
#endif
            gold[0] = disk[0]; gold[1] = disk[1]; gold[2] = disk[2]; gold[3] = disk[3];
#endif
            gp = inrcu; me = E[0] }
#ifndef NO_GRACE
        gp == 0;
#endif
#ifdef PERDISK
        hold[0] = 0;
#endif
        atomic { hold[0] = 0; hold[1] = 0; todo = dm[FRZ(0)];    /* open; RANGES */
            inwork = 0 }
        do
        :: todo & ~rd & 15 ->                           /* O_DIRECT read of the next block, once its disk is settled */
            lowest(todo & ~rd, b);                      /* in block order; reads may run ahead of DRAINs */
#ifndef NO_SETTLED
            (settled(D(b)) || stale);
#endif
            atomic { srv[b] = disk[b]; rd = rd | BIT(b) }
        :: todo & rd ->                                 /* DRAIN of the first block read */
            lowest(todo & rd, b);
            atomic {
#ifndef NO_DRWAIT
                (!(cl & BIT(b)) || stale);
#endif
                if :: stale -> goto gone
                   :: else ->
#ifndef NO_PATCH
                      if :: im & BIT(b) -> srv[b] = img[b]; img[b] = 0; im = im & ~BIT(b) :: else fi;
#endif
                      dr = dr | BIT(b); todo = todo & ~BIT(b); sent = sent | BIT(b) fi;
                assert(!(chk & 4) || srv[b] == gold[b]);
                assert(!(chk & 8) || srv[b] == 0 || ep[srv[b]] < me);
                b = 0 }
        :: todo == 0 -> break od;
        atomic {                                        /* all disks complete, durable: the point */
            b = 0; do :: b < 4 -> if :: sent & BIT(b) -> R[b] = srv[b] :: else fi; b++ :: else -> break od;
            i = 1; do :: i < MAXID ->
                if :: INC(i) -> j = 1; do :: j < MAXID ->
                        assert(!(chk & 1) || !(pre[i] & BIT(j - 1)) || INC(j)); j++ :: else -> break od
                   :: else fi; i++ :: else -> break od; i = 0; j = 0;
            b = 0 }
        atomic {                                        /* COMMIT; refused if the epoch is gone (harmless: sent again) */
            if :: !stale -> dm[FRZ(0)] = 0; forget();
                assert(!(chk & 2) || (P2(0) && P2(1) && P2(2) && P2(3)))
               :: else fi }
gone:   atomic { todo = 0; rd = 0; sent = 0; b = 0; me = 0; srv[0] = 0; srv[1] = 0; srv[2] = 0; srv[3] = 0 }
    :: else -> break od; left == 0 && !fz[0] && !merging;
    assert(!(chk & 2) || (P2(0) && P2(1) && P2(2) && P2(3)))
}
init { atomic {
    c_code { char *e = getenv("SCN"), *c = getenv("CHK"); int n;
             now.chk = c ? atoi(c) : 7;
             for (n = 0; n < 5; n++) now.A[n] = e && strlen(e) > n ? e[n] - '0' : 0; };
    run agent(); run aborter(); run worker(0, NWR); run worker(1, NWR + 1);
#ifdef OPT_ASYNC
    run worker(0, NWR + 2);                             /* two preservations at once on disk 0 */
#endif
    if :: NWR > 2 -> run writer(2) :: else fi;
    run writer(0); run writer(1) } }
