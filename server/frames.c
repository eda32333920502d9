// SPDX-License-Identifier: Apache-2.0
#include "server/frames.h"

#include <errno.h>
#include <xxhash.h>

void frames_clear(struct frames *f)
{
	tm_extents_clear(&f->set);
	f->digest = 0;
}

bool frames_has(const struct frames *f, uint32_t frame)
{
	return tm_extents_has(&f->set, frame);
}

int frames_add(struct frames *f, uint32_t frame, uint64_t digest, struct tm_err *err)
{
	if (tm_extents_has(&f->set, frame))
		return 0;
	if (f->set.n >= FRAMES_GAPS)
		return tm_fail(err, EBADMSG, "frames with more than %u gaps", FRAMES_GAPS);
	if (tm_extents_add(&f->set, frame, 1) != 0)
		return tm_fail(err, ENOMEM, "out of memory for frame numbers");
	f->digest += digest;
	return 1;
}

int frames_remove(struct frames *f, uint32_t frame, uint64_t digest, struct tm_err *err)
{
	if (!tm_extents_has(&f->set, frame))
		return 0;
	if (tm_extents_remove(&f->set, frame, 1) != 0)
		return tm_fail(err, ENOMEM, "out of memory for frame numbers");
	f->digest -= digest;
	return 0;
}

bool frames_whole(const struct frames *f, uint32_t count)
{
	return f->set.blocks == count && tm_extents_covers(&f->set, 0, count);
}

uint64_t frames_digest(uint32_t frame, const void *cells, size_t len)
{
	return XXH3_64bits_withSeed(cells, len, frame);
}
