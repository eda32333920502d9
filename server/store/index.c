// SPDX-License-Identifier: Apache-2.0
/*
 * RocksDB and its options. Nothing else calls rocksdb_open or sets an option.
 */
#include <errno.h>
#include <stdlib.h>

#include "server/store/internal.h"

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
	/* Written out as it comes: a background flush must not stand in a commit's way. */
	rocksdb_options_set_bytes_per_sync(o, 1 << 20);
	rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
	rocksdb_options_set_stats_dump_period_sec(o, 0);
	rocksdb_options_set_keep_log_file_num(o, 3);
	rocksdb_options_set_max_log_file_size(o, 4 << 20);
	rocksdb_options_set_info_log_level(o, 2);
	/* A log torn by power loss is used up to the tear: what lies behind was never acknowledged. */
	rocksdb_options_set_wal_recovery_mode(o, 2);
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

int index_open(struct index *ix, const char *path, const struct index_conf *c, struct tm_err *err)
{
	const rocksdb_options_t *cfo[CF_N];
	char *msg = NULL;

	memset(ix, 0, sizeof(*ix));
	ix->cache = rocksdb_cache_create_lru(c->cache_bytes);
	ix->opts = rocksdb_options_create();
	tune_db(ix, c);
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
	if (c->read_only)
		ix->db = rocksdb_open_for_read_only_column_families(
			ix->opts, path, CF_N, cf_names, cfo, ix->cf, 0, &msg);
	else
		ix->db = rocksdb_open_column_families(
			ix->opts, path, CF_N, cf_names, cfo, ix->cf, &msg);
	if (!msg)
		return 0;
	ix->db = NULL;
	index_fail(err, "cannot open the store", msg);
	index_close(ix);
	return -err->code;
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

int index_write(struct index *ix, rocksdb_writebatch_t *b, int sync, struct tm_err *err)
{
	char *msg = NULL;

	if (!ix->db)
		return tm_fail(err, EIO, "the index is closed after an earlier error");
	rocksdb_write(ix->db, sync ? ix->sync : ix->nosync, b, &msg);
	return msg ? index_fail(err, "cannot write", msg) : 0;
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
