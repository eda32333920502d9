// SPDX-License-Identifier: Apache-2.0
/*
 * Packs that a backup which was broken off has left whole: written down beside the finished copy's list, so that the next one need not copy
 * them again. A pack comes into it only after its file and its name are durable, and only if it cannot change any more.
 */
#include <fcntl.h>
#include <unistd.h>

#include "common/clock.h"
#include "server/store/manifest.h"

#define PARTIAL "partial.json"
#define SAVE_NS (2 * TM_SEC)

void partial_read(struct partial *p, int dirfd, const uint8_t store[TM_UUID])
{
	struct tm_err ignored;

	memset(p, 0, sizeof(*p));
	p->saved = tm_mono_ns();
	/* What can't be read is copied again. */
	if (!manifest_read(dirfd, PARTIAL, &p->was, &ignored) &&
		memcmp(p->was.store, store, TM_UUID))
		manifest_free(&p->was);
	memcpy(p->now.store, store, TM_UUID);
}

const struct copied *partial_find(const struct partial *p, const char *name)
{
	const struct copied *f = manifest_find(&p->was, name, 0);

	return f && f->final ? f : NULL;
}

int partial_keep(struct partial *p, const struct copied *f, struct tm_err *err)
{
	return manifest_add(&p->now, f->name, f->size, f->sum, 1, err);
}

static int save(struct partial *p, int dirfd, int packsfd, struct tm_err *err)
{
	if (sync_dir(packsfd, "packs", err) || manifest_write(dirfd, PARTIAL, &p->now, err))
		return -err->code;
	p->saved = tm_mono_ns();
	p->unsaved = 0;
	return 0;
}

int partial_add(
	struct partial *p, int dirfd, int packsfd, const struct copied *f, struct tm_err *err)
{
	if (partial_keep(p, f, err))
		return -err->code;
	p->unsaved = 1;
	return tm_mono_ns() - p->saved < SAVE_NS ? 0 : save(p, dirfd, packsfd, err);
}

void partial_end(struct partial *p, int dirfd, int packsfd, int done)
{
	struct tm_err ignored;

	if (done)
		unlinkat(dirfd, PARTIAL, 0);
	else if (p->unsaved)
		save(p, dirfd, packsfd, &ignored);
}

void partial_free(struct partial *p)
{
	manifest_free(&p->was);
	manifest_free(&p->now);
}
