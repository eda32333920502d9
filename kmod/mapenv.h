/* SPDX-License-Identifier: GPL-2.0-only */
/* What the dirty map and its saved form need of their surroundings: the kernel's, or a few lines for user space. */
#ifndef TM_MAPENV_H
#define TM_MAPENV_H

#ifdef __KERNEL__
#include <linux/kernel.h>
#include <linux/bitops.h>
#include <linux/crc32.h>
#include <linux/atomic.h>
#include <linux/mm.h>
#include <linux/slab.h>

/* A zeroed page without sleeping, from a reserve when memory is short; NULL when that is empty too (image.c). */
void *tm_page_get(void);
void tm_page_put(void *page);

static inline void tm_word_or(unsigned long *word, unsigned long bits)
{
	atomic_long_or(bits, (atomic_long_t *)word);
}

static inline void *tm_env_zalloc(size_t size)
{
	return kvzalloc(size, GFP_KERNEL);
}

static inline void tm_env_free(void *p)
{
	kvfree(p);
}
#else
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
#define BITS_PER_LONG    64
#define READ_ONCE(x)     (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))
#define cmpxchg(p, old, new)                                                           \
	({                                                                             \
		__typeof__(*(p)) was_ = (old);                                         \
		__atomic_compare_exchange_n(                                           \
			(p), &was_, (new), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
		was_;                                                                  \
	})
#define min_t(t, a, b)  ((t)(a) < (t)(b) ? (t)(a) : (t)(b))
#define max_t(t, a, b)  ((t)(a) > (t)(b) ? (t)(a) : (t)(b))
#define hweight_long(w) ((unsigned long)__builtin_popcountl(w))
#define __ffs(w)        ((unsigned long)__builtin_ctzl(w))

void *tm_page_get(void); /* the test's own, so that it can fail */
void tm_page_put(void *page);
u32 crc32_le(u32 crc, const void *p, size_t n); /* the same */

static inline void tm_word_or(unsigned long *word, unsigned long bits)
{
	__atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
}

static inline void *tm_env_zalloc(size_t size)
{
	return calloc(1, size);
}

static inline void tm_env_free(void *p)
{
	free(p);
}
#endif

#endif
