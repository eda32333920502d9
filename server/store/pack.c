// SPDX-License-Identifier: Apache-2.0
/*
 * Packs: append-only files of cells. The shared one takes recent epochs of all machines, so that a commit flushes one file
 * whoever waits; a disk that brings much gets its own, so that its bulk does not delay others' flushes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "server/store/internal.h"

#define OPEN_MAX_PACKS 256u         /* descriptors kept for reading */
#define WRITE_OUT      (8ull << 20) /* dirty bytes of a pack before the kernel is told to write them */
#define NO_STEP        256u         /* pack numbers reserved at once */

int packs_init(struct packs *ps, int dirfd, int read_only)
{
	memset(ps, 0, sizeof(*ps));
	ps->dirfd = dirfd;
	ps->read_only = read_only;
	return pthread_mutex_init(&ps->lock, NULL);
}

static void pack_free(struct pack *p)
{
	close(p->fd);
	pthread_mutex_destroy(&p->sync_lock);
	free(p);
}

void packs_exit(struct packs *ps)
{
	struct pack *p, *next;

	for (int i = 0; i < PACK_BUCKETS; i++)
		for (p = ps->bucket[i]; p; p = next) {
			next = p->next;
			pack_free(p);
		}
	memset(ps->bucket, 0, sizeof(ps->bucket));
	pthread_mutex_destroy(&ps->lock);
}

int pack_name(char name[16], uint32_t no)
{
	return snprintf(name, 16, "%08x", no);
}

int pack_number(const char *name, uint32_t *no)
{
	char back[16];

	if (sscanf(name, "%8x", no) != 1 || *no == 0)
		return 0;
	pack_name(back, *no);
	return !strcmp(name, back);
}

static struct pack *find(struct packs *ps, uint32_t no)
{
	struct pack *p;

	for (p = ps->bucket[no % PACK_BUCKETS]; p && p->no != no; p = p->next)
		;
	return p;
}

static void unhash(struct packs *ps, struct pack *p)
{
	struct pack **pp;

	for (pp = &ps->bucket[p->no % PACK_BUCKETS]; *pp != p; pp = &(*pp)->next)
		;
	*pp = p->next;
	ps->nopen--;
}

/* Too many descriptors: closes one that nobody uses. Which one hardly matters, opening is cheap. */
static void evict(struct packs *ps)
{
	static uint32_t hand;

	for (int n = 0; n < PACK_BUCKETS; n++, hand++)
		for (struct pack *p = ps->bucket[hand % PACK_BUCKETS]; p; p = p->next)
			if (p->refs == 0 && !p->writable) {
				unhash(ps, p);
				pack_free(p);
				return;
			}
}

static struct pack *add(struct packs *ps, uint32_t no, uint32_t disk, int fd, struct tm_err *err)
{
	struct pack *p = calloc(1, sizeof(*p));

	if (!p) {
		tm_fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	if (ps->nopen >= OPEN_MAX_PACKS)
		evict(ps);
	p->no = no;
	p->disk = disk;
	p->fd = fd;
	p->refs = 1;
	pthread_mutex_init(&p->sync_lock, NULL);
	p->next = ps->bucket[no % PACK_BUCKETS];
	ps->bucket[no % PACK_BUCKETS] = p;
	ps->nopen++;
	return p;
}

int pack_get(struct packs *ps, uint32_t no, struct pack **out, struct tm_err *err)
{
	struct pack *p;
	char name[16];
	int fd, ret = 0;

	pthread_mutex_lock(&ps->lock);
	p = find(ps, no);
	if (p) {
		p->refs++;
	} else {
		pack_name(name, no);
		fd = openat(ps->dirfd, name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			ret = tm_fail_errno(err, "cannot open pack %s", name);
		else if (!(p = add(ps, no, 0, fd, err))) {
			close(fd);
			ret = -err->code;
		}
	}
	pthread_mutex_unlock(&ps->lock);
	*out = p;
	return ret;
}

void pack_put(struct packs *ps, struct pack *p)
{
	pthread_mutex_lock(&ps->lock);
	p->refs--;
	pthread_mutex_unlock(&ps->lock);
}

int pack_held(struct packs *ps, uint32_t no)
{
	struct pack *p;
	int held;

	pthread_mutex_lock(&ps->lock);
	p = find(ps, no);
	held = p && (p->refs || p->writable);
	pthread_mutex_unlock(&ps->lock);
	return held;
}

int pack_busy(struct packs *ps, uint32_t no)
{
	struct pack *p;
	int busy;

	pthread_mutex_lock(&ps->lock);
	p = find(ps, no);
	busy = p && (p->refs || p->writable);
	if (p && !busy) {
		unhash(ps, p);
		pack_free(p);
	}
	pthread_mutex_unlock(&ps->lock);
	return busy;
}

static void seal(struct packs *ps, uint32_t i)
{
	struct pack *p = ps->current[i];

	p->writable = 0;
	p->refs--;
	ps->current[i] = ps->current[--ps->ncurrent];
}

void pack_seal(struct packs *ps, struct pack *p)
{
	pthread_mutex_lock(&ps->lock);
	for (uint32_t i = 0; i < ps->ncurrent; i++)
		if (ps->current[i] == p) {
			seal(ps, i);
			break;
		}
	pthread_mutex_unlock(&ps->lock);
}

void packs_seal(struct packs *ps, uint32_t own)
{
	pthread_mutex_lock(&ps->lock);
	for (uint32_t i = ps->ncurrent; i-- > 0;)
		if (own == 0 || ps->current[i]->disk == own)
			seal(ps, i);
	pthread_mutex_unlock(&ps->lock);
}

static int write_header(struct packs *ps, int fd, uint32_t no, uint32_t disk, struct tm_err *err)
{
	struct pack_header h = {
		.format = STORE_FORMAT, .no = no, .disk = disk, .incarnation = ps->incarnation};
	char page[PACK_HEADER_LEN] = {0};

	if (getrandom(&h.nonce, sizeof(h.nonce), 0) != sizeof(h.nonce))
		return tm_fail_errno(err, "cannot draw a number");
	memcpy(h.magic, "TMPACK1\n", sizeof(h.magic));
	memcpy(h.uuid, ps->uuid, sizeof(h.uuid));
	h.sum = XXH3_64bits(&h, offsetof(struct pack_header, sum));
	memcpy(page, &h, sizeof(h));
	return write_full(fd, page, sizeof(page), 0, err);
}

/* The file and its name are durable before anything can refer to it. */
static struct pack *create(struct packs *ps, uint32_t disk, struct tm_err *err)
{
	struct pack *p;
	char name[16];
	int fd, ret;

	if (ps->next_no >= ps->reserved_no) {
		if (ps->reserve(ps->arg, ps->next_no + NO_STEP, err))
			return NULL;
		ps->reserved_no = ps->next_no + NO_STEP;
	}
	pack_name(name, ps->next_no);
	fd = openat(ps->dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		tm_fail_errno(err, "cannot create pack %s", name);
		return NULL;
	}
	ret = write_header(ps, fd, ps->next_no, disk, err);
	if (!ret && fsync(fd))
		ret = tm_fail_errno(err, "cannot flush pack %s", name);
	if (!ret)
		ret = sync_dir(ps->dirfd, "packs", err);
	p = ret ? NULL : add(ps, ps->next_no, disk, fd, err);
	if (!p) {
		close(fd);
		unlinkat(ps->dirfd, name, 0);
		/* The name may come back with a power cut: the number is not used again. */
		ps->next_no++;
		return NULL;
	}
	ps->next_no++;
	p->end = PACK_HEADER_LEN;
	ps->written += PACK_HEADER_LEN;
	p->writable = 1;
	return p;
}

/* The pack that is appended to for this owner, with room for len bytes. */
static struct pack *current(
	struct packs *ps, uint32_t own, int moved, size_t len, struct tm_err *err)
{
	struct pack *p;
	uint32_t i;

	for (i = 0; i < ps->ncurrent; i++)
		if (ps->current[i]->disk == own && ps->current[i]->moved == moved)
			break;
	if (i < ps->ncurrent && ps->current[i]->end + len <= ps->max)
		return ps->current[i];
	if (i < ps->ncurrent)
		seal(ps, i);
	if (ps->ncurrent == sizeof(ps->current) / sizeof(ps->current[0]))
		seal(ps, 0);
	p = create(ps, own, err);
	if (p) {
		p->moved = (uint8_t)moved;
		ps->current[ps->ncurrent++] = p;
	}
	return p;
}

static int write_run(struct pack *p, const struct run_header *h, const void *cells, uint64_t off,
	struct tm_err *err)
{
	struct iovec iov[2] = {{(void *)h, sizeof(*h)}, {(void *)cells, h->len}};
	ssize_t n = pwritev(p->fd, iov, 2, (off_t)off);

	if (n < 0 && errno != EINTR)
		return tm_fail_errno(err, "cannot write to pack %08x", p->no);
	if (n == (ssize_t)(sizeof(*h) + h->len))
		return 0;
	/* Cut short (a signal, a nearly full disk): once more piece by piece, which tells the reason. */
	if (write_full(p->fd, h, sizeof(*h), off, err) ||
		write_full(p->fd, cells, h->len, off + sizeof(*h), err))
		return tm_wrap(err, "pack %08x", p->no);
	return 0;
}

/* Has the kernel write out what came to WRITE_OUT, so that a later flush finds little left to do. */
static void write_out(struct pack *p, uint64_t before, uint64_t after)
{
	uint64_t from = before / WRITE_OUT * WRITE_OUT, to = after / WRITE_OUT * WRITE_OUT;

	if (to > from)
		sync_file_range(p->fd, (off_t)from, (off_t)(to - from), SYNC_FILE_RANGE_WRITE);
}

int packs_append(struct packs *ps, uint32_t own, int moved, uint32_t disk, uint64_t seq,
	const void *cells, size_t len, struct pack **out, uint32_t *off, uint64_t *mark,
	struct tm_err *err)
{
	struct run_header h = {.magic = RUN_MAGIC, .disk = disk, .seq = seq, .len = (uint32_t)len};
	struct pack *p;
	uint64_t at = 0;
	int ret;

	h.sum = XXH3_64bits(&h, offsetof(struct run_header, sum));
	pthread_mutex_lock(&ps->lock);
	p = current(ps, own, moved, sizeof(h) + len, err);
	if (p) {
		p->refs++;
		at = p->end;
		p->end += sizeof(h) + len;
	}
	pthread_mutex_unlock(&ps->lock);
	if (!p)
		return -err->code;
	ret = write_run(p, &h, cells, at, err);
	ps->written += sizeof(h) + len;
	if (!ret)
		write_out(p, at, at + sizeof(h) + len);
	pthread_mutex_lock(&ps->lock);
	*mark = ++p->writes;
	pthread_mutex_unlock(&ps->lock);
	if (ret) {
		/* A gap is left behind: what is walked run by run must end before it. */
		pack_seal(ps, p);
		pack_put(ps, p);
		return ret;
	}
	*out = p;
	*off = (uint32_t)(at + sizeof(h));
	return 0;
}

int pack_sync(struct packs *ps, struct pack *p, uint64_t mark, struct tm_err *err)
{
	uint64_t writes;
	int failed, ret = 0;

	pthread_mutex_lock(&p->sync_lock);
	pthread_mutex_lock(&ps->lock);
	writes = p->writes;
	failed = p->failed;
	if (p->synced >= mark) {
		pthread_mutex_unlock(&ps->lock);
		pthread_mutex_unlock(&p->sync_lock);
		return 0;
	}
	pthread_mutex_unlock(&ps->lock);
	/* After a failed flush the kernel may have dropped the pages: flushing again would lie. */
	if (failed)
		ret = tm_fail(err, EIO, "pack %08x was given up after a failed flush", p->no);
	else if (fdatasync(p->fd))
		ret = tm_fail_errno(err, "cannot flush pack %08x", p->no);
	pthread_mutex_lock(&ps->lock);
	if (ret)
		p->failed = 1;
	else if (p->synced < writes)
		p->synced = writes;
	pthread_mutex_unlock(&ps->lock);
	if (ret)
		pack_seal(ps, p);
	pthread_mutex_unlock(&p->sync_lock);
	return ret;
}
