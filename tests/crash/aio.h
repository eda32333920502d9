/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of asynchronous O_DIRECT writes: io_uring, or the kernel's AIO. One thread. */
#ifndef TESTS_CRASH_AIO_H
#define TESTS_CRASH_AIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aio;
/* NULL with errno if there is none. */
struct aio *aio_new(unsigned int depth, bool uring);
void aio_free(struct aio *a);
/* Submits one write; tag comes back with its completion. dsync: it is stable once complete. 0 or -errno. */
int aio_write(struct aio *a, int fd, const void *buf, size_t len, uint64_t off, bool dsync,
	unsigned int tag);
/* Waits up to a tenth of a second for one completion: 1: *tag and *res (bytes or -errno) are set; 0: none; or -errno. */
int aio_reap(struct aio *a, unsigned int *tag, int *res);

#endif
