// SPDX-License-Identifier: Apache-2.0
/*
 * nbdkit plugin: one disk of a point in use, read-only.
 *
 *   nbdkit -r -U sock ./nbdkit-tidemark-plugin.so dir=STORE/open/ID disk=sda
 *
 * Reads the checkpoint folder alone: the process server may be stopped, upgraded or gone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "server/store/store.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define EXTENTS_MAX  65536u /* per answer; the client asks again for the rest */

static char *dir;
static const char *disk;
static uint64_t cache_bytes = 64u << 20;
static struct store_view *view;

static int tm_config(const char *key, const char *value)
{
	int64_t size;

	if (!strcmp(key, "dir")) {
		free(dir);
		dir = nbdkit_realpath(value);
		return dir ? 0 : -1;
	}
	if (!strcmp(key, "disk")) {
		disk = value;
		return 0;
	}
	if (!strcmp(key, "cache")) {
		size = nbdkit_parse_size(value);
		cache_bytes = size > 0 ? (uint64_t)size : 0;
		return size < 0 ? -1 : 0;
	}
	nbdkit_error("unknown parameter '%s'", key);
	return -1;
}

static int tm_config_complete(void)
{
	if (dir && disk)
		return 0;
	nbdkit_error("dir=STORE/open/ID and disk=NUMBER|UUID|NAME are needed");
	return -1;
}

/* What can be wrong is told before the fork, where the caller still sees it. */
static int tm_get_ready(void)
{
	struct tm_err err;

	if (store_view_check_dir(dir, disk, &err) == 0)
		return 0;
	nbdkit_error("%s", err.msg);
	return -1;
}

/* Not earlier: the index may start threads, and a fork would lose them. */
static int tm_after_fork(void)
{
	struct tm_err err;

	if (store_view_open_dir(dir, disk, cache_bytes, &view, &err) == 0)
		return 0;
	nbdkit_error("%s", err.msg);
	return -1;
}

static void tm_unload(void)
{
	store_view_close(view);
	free(dir);
}

static void *tm_open(int readonly)
{
	return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t tm_get_size(void *handle)
{
	return (int64_t)store_view_size(view);
}

static int tm_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
	*minimum = 1;
	*preferred = TM_CHUNK;
	*maximum = 32u << 20;
	return 0;
}

static int tm_yes(void *handle)
{
	return 1;
}

static int tm_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
	struct tm_err err;

	if (store_view_read(view, buf, count, offset, &err) == 0)
		return 0;
	nbdkit_error("%s", err.msg);
	nbdkit_set_error(EIO);
	return -1;
}

struct walk {
	struct nbdkit_extents *extents;
	uint32_t n, max;
	int failed;
};

static int add_extent(void *arg, uint64_t off, uint64_t len, enum store_extent_kind kind)
{
	struct walk *w = arg;
	uint32_t type = kind == STORE_ZERO ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;

	if (nbdkit_add_extent(w->extents, off, len, type)) {
		w->failed = 1;
		return 1;
	}
	return ++w->n >= w->max;
}

static int tm_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
	struct nbdkit_extents *extents)
{
	struct walk w = {.extents = extents, .max = flags & NBDKIT_FLAG_REQ_ONE ? 1 : EXTENTS_MAX};
	struct tm_err err;
	int ret = store_view_extents(view, offset, count, add_extent, &w, &err);

	if (ret < 0) {
		nbdkit_error("%s", err.msg);
		nbdkit_set_error(EIO);
		return -1;
	}
	return w.failed ? -1 : 0;
}

static struct nbdkit_plugin plugin = {
	.name = "tidemark",
	.version = TM_VERSION,
	.longname = "Tidemark recovery point",
	.description = "Serves one disk of a Tidemark recovery point, read-only.",
	.config = tm_config,
	.config_complete = tm_config_complete,
	.config_help = "dir=DIR     (required) the point in use: STORE/open/ID\n"
		       "disk=DISK   (required) number, UUID or name of the disk\n"
		       "cache=SIZE  block cache of the index (default 64M)",
	.get_ready = tm_get_ready,
	.after_fork = tm_after_fork,
	.unload = tm_unload,
	.open = tm_open,
	.get_size = tm_get_size,
	.block_size = tm_block_size,
	.can_multi_conn = tm_yes,
	.can_extents = tm_yes,
	.pread = tm_pread,
	.extents = tm_extents,
};

struct nbdkit_plugin *plugin_init(void); /* the macro declares none */
NBDKIT_REGISTER_PLUGIN(plugin)
