// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "agent/reader.h"
#include "common/clock.h"

struct uring {
	struct io_uring ring;
	bool registered; /* the buffers; without that (a low memlock limit) plain reads do */
};

static bool register_buffers(struct uring *u, const struct reader_buffers *b)
{
	struct iovec *iov = calloc(b->n, sizeof(*iov));
	int ret = -1;

	for (unsigned i = 0; iov && i < b->n; i++) {
		iov[i].iov_base = (char *)b->base + i * b->size;
		iov[i].iov_len = b->size;
	}
	if (iov)
		ret = io_uring_register_buffers(&u->ring, iov, b->n);
	free(iov);
	return ret == 0;
}

static int uring_open(
	unsigned depth, const struct reader_buffers *b, void **engine, struct tm_err *err)
{
	struct uring *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return tm_fail(err, ENOMEM, "no memory for io_uring");
	ret = io_uring_queue_init(depth, &u->ring, 0);
	if (ret < 0) {
		free(u);
		return tm_fail(err, -ret, "io_uring cannot be used: %s", strerror(-ret));
	}
	/* Without it liburing waits by means of the submission queue, which belongs to the submitting threads. */
	if (!(u->ring.features & IORING_FEAT_EXT_ARG)) {
		io_uring_queue_exit(&u->ring);
		free(u);
		return tm_fail(
			err, EOPNOTSUPP, "this kernel's io_uring cannot wait with a time-out");
	}
	u->registered = register_buffers(u, b);
	*engine = u;
	return 0;
}

static void uring_close(void *engine)
{
	struct uring *u = engine;

	io_uring_queue_exit(&u->ring);
	free(u);
}

static int uring_submit(void *engine, struct read_req **reqs, unsigned n)
{
	struct uring *u = engine;
	struct io_uring_sqe *sqe;
	unsigned i;
	int ret;

	for (i = 0; i < n; i++) {
		sqe = io_uring_get_sqe(&u->ring);
		if (!sqe)
			break;
		if (u->registered)
			io_uring_prep_read_fixed(sqe, reqs[i]->fd, reqs[i]->to, reqs[i]->len,
				reqs[i]->offset, (int)reqs[i]->buffer);
		else
			io_uring_prep_read(
				sqe, reqs[i]->fd, reqs[i]->to, reqs[i]->len, reqs[i]->offset);
		io_uring_sqe_set_data(sqe, reqs[i]);
	}
	/* What is in the ring goes out with this call or a later one: it counts as taken. A full completion queue passes. */
	for (unsigned left = i; left;) {
		ret = io_uring_submit(&u->ring);
		if (ret > 0)
			left -= (unsigned)ret < left ? (unsigned)ret : left;
		else if (ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
			return ret ? ret : -EIO;
		else
			nanosleep(&(struct timespec){.tv_nsec = TM_MS}, NULL);
	}
	return (int)i;
}

static void uring_wait(void *engine, unsigned timeout_ms)
{
	struct __kernel_timespec ts = {
		.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * (long long)TM_MS};
	struct uring *u = engine;
	struct io_uring_cqe *cqe;

	(void)io_uring_wait_cqe_timeout(&u->ring, &cqe, &ts);
}

static unsigned uring_collect(void *engine, struct read_req **out, unsigned max)
{
	struct uring *u = engine;
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	while (n < max && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		out[n] = io_uring_cqe_get_data(cqe);
		out[n]->res = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		n++;
	}
	return n;
}

const struct reader_ops reader_uring = {
	"io_uring", uring_open, uring_close, uring_submit, uring_wait, uring_collect};
