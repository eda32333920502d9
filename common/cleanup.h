/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Undo at the end of a scope, and arithmetic that tells of an overflow.
 *
 *	CLEANUP_FREE char *text = NULL;
 *	CLEANUP_CLOSE int fd = -1;
 *
 * The variable must be initialised. tm_take(p) hands the pointer on and leaves NULL behind.
 */
#ifndef TM_CLEANUP_H
#define TM_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void tm_cleanup_free(void *p)
{
	int keep = errno;

	free(*(void **)p);
	errno = keep;
}

static inline void tm_cleanup_close(int *fd)
{
	int keep = errno;

	if (*fd >= 0)
		close(*fd);
	errno = keep;
}

/* For files that were read: a writer closes by hand and looks at the result. */
static inline void tm_cleanup_fclose(FILE **f)
{
	int keep = errno;

	if (*f)
		fclose(*f);
	errno = keep;
}

static inline void tm_cleanup_closedir(DIR **d)
{
	int keep = errno;

	if (*d)
		closedir(*d);
	errno = keep;
}

static inline void tm_cleanup_unlock(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

static inline pthread_mutex_t *tm_lock(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

#define CLEANUP_FREE     __attribute__((cleanup(tm_cleanup_free)))
#define CLEANUP_CLOSE    __attribute__((cleanup(tm_cleanup_close)))
#define CLEANUP_FCLOSE   __attribute__((cleanup(tm_cleanup_fclose)))
#define CLEANUP_CLOSEDIR __attribute__((cleanup(tm_cleanup_closedir)))

/* Holds a mutex from here to the end of the scope: LOCK_SCOPE(&s->lock); */
#define TM_LOCK_NAME2(line) tm_scope_lock_##line
#define TM_LOCK_NAME(line)  TM_LOCK_NAME2(line)
#define LOCK_SCOPE(m)                                                                      \
	__attribute__((cleanup(tm_cleanup_unlock), unused)) pthread_mutex_t *TM_LOCK_NAME( \
		__LINE__) = tm_lock(m)

#define tm_take(p)                            \
	({                                    \
		__typeof__(p) tm_taken = (p); \
		(p) = NULL;                   \
		tm_taken;                     \
	})

/* True if the sum or product does not fit; else *res is set. */
#define tm_add_overflow(a, b, res) __builtin_add_overflow(a, b, res)
#define tm_mul_overflow(a, b, res) __builtin_mul_overflow(a, b, res)

#define TM_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
