// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/crash/aio.h"

#ifndef RWF_DSYNC
#define RWF_DSYNC 2
#endif

struct aio {
	bool uring;
	struct io_uring ring;
	aio_context_t ctx;
};

struct aio *aio_new(unsigned int depth, bool uring)
{
	struct aio *a = calloc(1, sizeof(*a));
	long r;

	if (!a)
		return NULL;
	a->uring = uring;
	if (uring)
		r = io_uring_queue_init(depth, &a->ring, 0);
	else
		r = syscall(SYS_io_setup, depth, &a->ctx) < 0 ? -errno : 0;
	if (r < 0) {
		free(a);
		errno = (int)-r;
		return NULL;
	}
	return a;
}

void aio_free(struct aio *a)
{
	if (!a)
		return;
	if (a->uring)
		io_uring_queue_exit(&a->ring);
	else
		syscall(SYS_io_destroy, a->ctx);
	free(a);
}

static int uring_write(struct aio *a, int fd, const void *buf, size_t len, uint64_t off, bool dsync,
	unsigned int tag)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&a->ring);
	int r;

	if (!sqe)
		return -EBUSY;
	io_uring_prep_write(sqe, fd, buf, (unsigned int)len, (off_t)off);
	sqe->rw_flags = dsync ? RWF_DSYNC : 0;
	sqe->user_data = tag;
	do {
		r = io_uring_submit(&a->ring);
	} while (r == -EINTR || r == -EAGAIN || r == -EBUSY);
	return r < 0 ? r : 0;
}

int aio_write(struct aio *a, int fd, const void *buf, size_t len, uint64_t off, bool dsync,
	unsigned int tag)
{
	struct iocb cb, *list = &cb;
	long r;

	if (a->uring)
		return uring_write(a, fd, buf, len, off, dsync, tag);
	memset(&cb, 0, sizeof(cb));
	cb.aio_data = tag;
	cb.aio_lio_opcode = IOCB_CMD_PWRITE;
	cb.aio_rw_flags = dsync ? RWF_DSYNC : 0;
	cb.aio_fildes = (uint32_t)fd;
	cb.aio_buf = (uintptr_t)buf;
	cb.aio_nbytes = len;
	cb.aio_offset = (int64_t)off;
	do {
		r = syscall(SYS_io_submit, a->ctx, 1, &list);
	} while (r < 0 && (errno == EINTR || errno == EAGAIN));
	return r < 0 ? -errno : 0;
}

int aio_reap(struct aio *a, unsigned int *tag, int *res)
{
	struct timespec ts = {.tv_nsec = 100000000};
	struct io_event ev;
	long r;

	if (a->uring) {
		struct __kernel_timespec kts = {.tv_nsec = 100000000};
		struct io_uring_cqe *cqe;

		r = io_uring_peek_cqe(&a->ring, &cqe);
		if (r)
			r = io_uring_wait_cqe_timeout(&a->ring, &cqe, &kts);
		if (r == -ETIME || r == -EINTR || r == -EAGAIN)
			return 0;
		if (r)
			return (int)r;
		*tag = (unsigned int)cqe->user_data;
		*res = cqe->res;
		io_uring_cqe_seen(&a->ring, cqe);
		return 1;
	}
	r = syscall(SYS_io_getevents, a->ctx, 1, 1, &ev, &ts);
	if (r <= 0)
		return r && errno != EINTR ? -errno : 0;
	*tag = (unsigned int)ev.data;
	*res = (int)ev.res;
	return 1;
}
