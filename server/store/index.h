/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index: what the store needs of RocksDB, keys and values.
 */
#ifndef TM_STORE_INDEX_H
#define TM_STORE_INDEX_H

#include <rocksdb/c.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "server/store/store.h"

#define PREFIX_LEN 12 /* of a key: disk and unit */
#define KEY_LEN    20

enum cf { CF_META, CF_CHUNK, CF_BLOCK, CF_POINT, CF_ATTEMPT, CF_PACK, CF_N };

/* Where a version lies; the value of the chunk and block families. */
struct loc {
	uint32_t pack;
	uint32_t off; /* of the cell's header */
	uint16_t len; /* of the stored bytes */
	uint8_t codec;
	uint8_t flags;
	uint64_t sum; /* plain_sum of the cell */
} __attribute__((packed));
static_assert(sizeof(struct loc) == 20, "index value");

#define LOC_COND  1 /* visible only if the attempt table says so */
#define LOC_STAND 2 /* in memory only: zeros to be written wherever they are */

static inline int loc_has_data(const struct loc *l)
{
	return l->codec == TM_CODEC_RAW || l->codec == TM_CODEC_LZ4;
}

struct index {
	rocksdb_t *db;
	rocksdb_column_family_handle_t *cf[CF_N];
	rocksdb_options_t *opts, *cf_opts[CF_N];
	rocksdb_cache_t *cache;
	rocksdb_writeoptions_t *sync, *nosync;
	rocksdb_readoptions_t *total, *prefix;
	atomic_int *broken; /* set when a write fails; may be NULL */
	uint8_t read_only; /* opened for reading for want of better: why says what forbids writing */
	struct tm_err why;
};

struct index_conf {
	uint64_t cache_bytes, buffer_bytes;
	uint64_t rate; /* bytes per second for flushes and compaction; 0 = unlimited */
	int read_only, create, stats;
	rocksdb_compactionfilterfactory_t *(*filter)(
		void *arg); /* NULL = none; made once per family */
	void *filter_arg;
	atomic_int *broken;
};

int index_open(struct index *ix, const char *path, const struct index_conf *c, struct tm_err *err);
void index_close(struct index *ix);
/* 0 if it can be written to. */
int index_writable(const struct index *ix, struct tm_err *err);
/* Writes a batch; sync = durable on return. After an error only opening it again tells whether the batch is in it. */
int index_write(struct index *ix, rocksdb_writebatch_t *b, int sync, struct tm_err *err);
/* Turns RocksDB's message into an error and frees it. */
int index_fail(struct tm_err *err, const char *what, char *msg);
/* 1: found, *val malloc'd by RocksDB (rocksdb_free). 0: not there. */
int index_get(struct index *ix, enum cf cf, const void *key, size_t klen, char **val, size_t *vlen,
	struct tm_err *err);
/* What the engine has written since opening, if it counts. */
void index_io(struct index *ix, struct store_io *io);
rocksdb_iterator_t *index_iter(struct index *ix, enum cf cf, int total);
/* The iterator's error, if any; an iterator that ended without one gives 0. */
int index_iter_error(rocksdb_iterator_t *it, struct tm_err *err);

static inline void put_be64(void *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, 8);
}

static inline uint64_t get_be64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return __builtin_bswap64(v);
}

static inline void put_be32(void *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, 4);
}

static inline uint32_t get_be32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return __builtin_bswap32(v);
}

static inline void key_make(char key[KEY_LEN], uint32_t disk, uint64_t unit, uint64_t seq)
{
	put_be32(key, disk);
	put_be64(key + 4, unit);
	put_be64(key + 12, ~seq);
}

static inline uint32_t key_disk(const char *key)
{
	return get_be32(key);
}

static inline uint64_t key_unit(const char *key)
{
	return get_be64(key + 4);
}

static inline uint64_t key_seq(const char *key)
{
	return ~get_be64(key + 12);
}

#endif
