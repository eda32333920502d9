// SPDX-License-Identifier: Apache-2.0
/*
 * RocksDB and its options. Nothing else calls rocksdb_open or sets an option.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "server/store/internal.h"

#define LOG_AT_OPENING_ONLY 5            /* the engine's HEADER_LEVEL */
#define LOG_ROOM            (1ull << 20) /* more than it writes there */
#define LOG_PATH            80

static const char *const cf_names[CF_N] = {
	"default",
	"chunk",
	"block",
	"point",
	"attempt",
	"pack",
};

/* Index values are sums and offsets: they don't compress, but keys repeat and LZ4 costs next to nothing. */
static void tune_family(struct index *ix, int i, const struct index_conf *c)
{
	rocksdb_options_t *o = ix->cf_opts[i];
	rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
	int cells = i == CF_CHUNK || i == CF_BLOCK;

	rocksdb_block_based_options_set_block_cache(t, ix->cache);
	/* Index and filter blocks count as cache too: else memory would grow with the store. */
	rocksdb_block_based_options_set_cache_index_and_filter_blocks(t, 1);
	rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(t, 1);
	rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(t, 1);
	rocksdb_block_based_options_set_format_version(t, 5);
	if (cells) {
		/* Every lookup is a seek to the newest version of one unit: the filter holds units, not keys. */
		rocksdb_options_set_prefix_extractor(
			o, rocksdb_slicetransform_create_fixed_prefix(PREFIX_LEN));
		rocksdb_block_based_options_set_filter_policy(
			t, rocksdb_filterpolicy_create_bloom_full(10));
		rocksdb_block_based_options_set_whole_key_filtering(t, 0);
		rocksdb_options_set_memtable_prefix_bloom_size_ratio(o, 0.05);
		if (c->filter)
			rocksdb_options_set_compaction_filter_factory(o, c->filter(c->filter_arg));
	}
	rocksdb_options_set_block_based_table_factory(o, t);
	rocksdb_block_based_options_destroy(t);
	rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
	rocksdb_options_set_compression(o, rocksdb_lz4_compression);
	rocksdb_options_set_write_buffer_size(o, cells ? c->buffer_bytes / 3 : c->buffer_bytes / 8);
}

static void tune_db(struct index *ix, const struct index_conf *c)
{
	rocksdb_options_t *o = ix->opts;

	rocksdb_options_set_create_if_missing(o, (unsigned char)c->create);
	rocksdb_options_set_create_missing_column_families(o, (unsigned char)c->create);
	rocksdb_options_set_paranoid_checks(o, 1);
	rocksdb_options_set_db_write_buffer_size(o, c->buffer_bytes);
	/* Rarely written families would pin old logs: bounded, so that opening after a crash is quick. */
	rocksdb_options_set_max_total_wal_size(o, 2 * c->buffer_bytes);
	rocksdb_options_set_max_open_files(o, 500);
	rocksdb_options_set_max_background_jobs(o, 2);
	if (c->rate) {
		/* Flushes come first; what compaction leaves of the rate is never nothing. */
		rocksdb_ratelimiter_t *limit =
			rocksdb_ratelimiter_create((int64_t)c->rate, 100000, 10);

		rocksdb_options_set_ratelimiter(o, limit);
		rocksdb_ratelimiter_destroy(limit);
	}
	/* Written out as it comes: a background flush must not stand in a commit's way. */
	rocksdb_options_set_bytes_per_sync(o, 1 << 20);
	rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
	rocksdb_options_set_stats_dump_period_sec(o, 0);
	rocksdb_options_set_info_log_level(o, LOG_AT_OPENING_ONLY);
	/* A log torn by power loss is used up to the tear: what lies behind was never acknowledged. */
	rocksdb_options_set_wal_recovery_mode(o, 2);
}

/*
 * A folder in memory. Its name follows from the store's place, so that what a kill in the middle of an opening has left is found by the next
 * one: whoever opens holds the store's lock. Where somebody else has that name it gets any.
 */
static int folder_in_memory(const char *path, char dir[LOG_PATH])
{
	struct tm_err ignored;
	struct stat sb;

	if (stat(path, &sb) == 0) {
		snprintf(dir, LOG_PATH, "/dev/shm/tidemark-%llx-%llx",
			(unsigned long long)sb.st_dev, (unsigned long long)sb.st_ino);
		if (remove_tree(AT_FDCWD, dir, &ignored) == 0 && mkdir(dir, 0700) == 0)
			return 1;
	}
	snprintf(dir, LOG_PATH, "/dev/shm/tidemark-XXXXXX");
	return mkdtemp(dir) != NULL;
}

/*
 * The engine insists on a log of its own, and its writer goes on after an error, where a build with assertions (Debian's) ends the
 * process: it must not stand on a disk that runs full. So it lies in memory, without a name once the index is open, and gets lines
 * while opening only. Where no such folder can be made there must be room for it beside the index.
 */
static int log_elsewhere(struct index *ix, const char *path, char dir[LOG_PATH], struct tm_err *err)
{
	struct statvfs sv;
	int elsewhere = folder_in_memory(path, dir);

	if (elsewhere && !statvfs(dir, &sv) && (uint64_t)sv.f_bavail * sv.f_frsize >= LOG_ROOM) {
		rocksdb_options_set_db_log_dir(ix->opts, dir);
		return 0;
	}
	if (elsewhere)
		rmdir(dir);
	dir[0] = 0;
	if (statvfs(path, &sv))
		return errno == ENOENT ? 0 : tm_fail_errno(err, "cannot look at %s", path);
	if ((uint64_t)sv.f_bavail * sv.f_frsize < LOG_ROOM)
		return tm_fail(err, ENOSPC, "there is no room for opening the index: free some");
	return 0;
}

int index_fail(struct tm_err *err, const char *what, char *msg)
{
	int code = strstr(msg, "No space left") ? ENOSPC : EIO;

	if (strstr(msg, "lock hold by") || strstr(msg, "While lock file"))
		code = EBUSY;
	tm_fail(err, code, "%s: index: %.400s", what, msg);
	rocksdb_free(msg);
	return -code;
}

static int open_engine(struct index *ix, const char *path, const struct index_conf *c,
	const rocksdb_options_t *const *cfo, struct tm_err *err)
{
	char log[LOG_PATH], *msg = NULL;
	struct tm_err ignored;

	if (c->read_only) {
		ix->db = rocksdb_open_for_read_only_column_families(
			ix->opts, path, CF_N, cf_names, cfo, ix->cf, 0, &msg);
	} else {
		if (log_elsewhere(ix, path, log, err))
			return -err->code;
		ix->db = rocksdb_open_column_families(
			ix->opts, path, CF_N, cf_names, cfo, ix->cf, &msg);
		/* It stays open; nobody looks for it. */
		if (log[0])
			remove_tree(AT_FDCWD, log, &ignored);
	}
	if (msg && (strstr(msg, "Corruption") || strstr(msg, "No such file")))
		return index_fail(err,
			"cannot open the store: a file of it is damaged or gone, restore a backup",
			msg);
	return msg ? index_fail(err, "cannot open the store", msg) : 0;
}

int index_open(struct index *ix, const char *path, const struct index_conf *c, struct tm_err *err)
{
	const rocksdb_options_t *cfo[CF_N];

	memset(ix, 0, sizeof(*ix));
	ix->broken = c->broken;
	ix->read_only = (uint8_t)c->read_only;
	ix->cache = rocksdb_cache_create_lru(c->cache_bytes);
	ix->opts = rocksdb_options_create();
	tune_db(ix, c);
	if (c->stats)
		rocksdb_options_enable_statistics(ix->opts);
	for (int i = 0; i < CF_N; i++) {
		ix->cf_opts[i] = rocksdb_options_create();
		tune_family(ix, i, c);
		cfo[i] = ix->cf_opts[i];
	}
	ix->sync = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(ix->sync, 1);
	ix->nosync = rocksdb_writeoptions_create();
	ix->total = rocksdb_readoptions_create();
	rocksdb_readoptions_set_total_order_seek(ix->total, 1);
	ix->prefix = rocksdb_readoptions_create();
	rocksdb_readoptions_set_prefix_same_as_start(ix->prefix, 1);
	if (open_engine(ix, path, c, cfo, err)) {
		ix->db = NULL;
		index_close(ix);
		return -err->code;
	}
	return 0;
}

void index_close(struct index *ix)
{
	if (!ix->opts)
		return;
	if (ix->db) {
		for (int i = 0; i < CF_N; i++)
			rocksdb_column_family_handle_destroy(ix->cf[i]);
		rocksdb_close(ix->db);
	}
	for (int i = 0; i < CF_N; i++)
		rocksdb_options_destroy(ix->cf_opts[i]);
	rocksdb_options_destroy(ix->opts);
	rocksdb_cache_destroy(ix->cache);
	rocksdb_writeoptions_destroy(ix->sync);
	rocksdb_writeoptions_destroy(ix->nosync);
	rocksdb_readoptions_destroy(ix->total);
	rocksdb_readoptions_destroy(ix->prefix);
	memset(ix, 0, sizeof(*ix));
}

int index_writable(const struct index *ix, struct tm_err *err)
{
	if (!ix->db)
		return tm_fail(err, EIO, "the index is closed after an earlier error");
	/* The engine may go on by itself after an error, on a log that ends in half a record: nothing goes in behind that. */
	if (ix->broken && atomic_load(ix->broken) && !ix->read_only)
		return tm_fail(err, EIO, "the index refuses writes until it is opened again");
	if (ix->read_only)
		return tm_fail(err, ix->why.code ? ix->why.code : EROFS,
			"the index is open for reading only: %s", ix->why.msg);
	return 0;
}

int index_write(struct index *ix, rocksdb_writebatch_t *b, int sync, struct tm_err *err)
{
	char *msg = NULL;

	if (index_writable(ix, err))
		return -err->code;
	rocksdb_write(ix->db, sync ? ix->sync : ix->nosync, b, &msg);
	if (!msg)
		return 0;
	if (ix->broken)
		atomic_store(ix->broken, 1);
	return index_fail(err, "cannot write", msg);
}

int index_get(struct index *ix, enum cf cf, const void *key, size_t klen, char **val, size_t *vlen,
	struct tm_err *err)
{
	char *msg = NULL;

	if (!ix->db)
		return tm_fail(err, EIO, "the index is closed after an earlier error");
	*val = rocksdb_get_cf(ix->db, ix->total, ix->cf[cf], key, klen, vlen, &msg);
	if (msg)
		return index_fail(err, "cannot read", msg);
	return *val != NULL;
}

rocksdb_iterator_t *index_iter(struct index *ix, enum cf cf, int total)
{
	return rocksdb_create_iterator_cf(ix->db, total ? ix->total : ix->prefix, ix->cf[cf]);
}

int index_iter_error(rocksdb_iterator_t *it, struct tm_err *err)
{
	char *msg = NULL;

	rocksdb_iter_get_error(it, &msg);
	return msg ? index_fail(err, "cannot read", msg) : 0;
}

/* The number behind NAME and, in its line, behind WORD. */
static uint64_t figure(const char *text, const char *name, const char *word)
{
	const char *at = strstr(text, name), *end = at ? strchr(at, '\n') : NULL;

	at = at ? strstr(at, word) : NULL;
	return at && (!end || at < end) ? strtoull(at + strlen(word), NULL, 10) : 0;
}

void index_io(struct index *ix, struct store_io *io)
{
	char *text = rocksdb_options_statistics_get_string(ix->opts);

	if (!text)
		return;
	io->log = figure(text, "rocksdb.wal.bytes", "COUNT : ");
	io->flushed = figure(text, "rocksdb.flush.write.bytes", "COUNT : ");
	io->compacted = figure(text, "rocksdb.compact.write.bytes", "COUNT : ");
	io->compact_us = figure(text, "rocksdb.compaction.times.cpu_micros", "SUM : ");
	rocksdb_free(text);
}
