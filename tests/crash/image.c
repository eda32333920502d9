// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/crash/image.h"

static size_t whole(uint64_t bytes)
{
	return (size_t)(bytes + TMK_BLOCK - 1) / TMK_BLOCK * TMK_BLOCK;
}

static void map(struct images *im, unsigned int i, uint64_t bytes)
{
	im->bytes[i] = bytes;
	if (im->fd[i] < 0) {
		im->of[i] = alloc_pages(whole(bytes));
		return;
	}
	if (ftruncate(im->fd[i], (off_t)bytes) < 0)
		fail("cannot size an image: %s", strerror(errno));
	im->of[i] = mmap(NULL, whole(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, im->fd[i], 0);
	if (im->of[i] == MAP_FAILED)
		fail("cannot map an image: %s", strerror(errno));
}

void image_make(struct images *im, const struct disk *d, const char *path)
{
	unsigned int i = im->disks++;

	im->fd[i] = path ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
	if (path && im->fd[i] < 0)
		fail("%s: %s", path, strerror(errno));
	map(im, i, d->bytes);
}

void image_resize(struct images *im, unsigned int i, uint64_t bytes)
{
	char *old = im->of[i];
	uint64_t was = im->bytes[i];

	map(im, i, bytes);
	if (im->fd[i] < 0)
		memcpy(im->of[i], old, bytes < was ? bytes : was);
	munmap(old, whole(was));
}

int image_stage(void *arg, unsigned int disk, uint64_t block, uint32_t count, const void *data,
	uint32_t nbad)
{
	struct images *im = arg;
	size_t len = (size_t)count * TMK_BLOCK;

	if (im->stages == im->stages_max) {
		im->stages_max = im->stages_max ? im->stages_max * 2 : 256;
		im->stage = realloc(im->stage, im->stages_max * sizeof(*im->stage));
	}
	if (im->used + len > im->room) {
		im->room = (im->used + len) * 2;
		im->data = realloc(im->data, im->room);
	}
	if (!im->stage || !im->data)
		fail("no memory to stage an epoch");
	memcpy(im->data + im->used, data, len);
	im->stage[im->stages++] = (struct staged){disk, block, nbad, count, im->used};
	im->used += len;
	return 0;
}

void image_drop(struct images *im)
{
	im->stages = 0;
	im->used = 0;
}

uint64_t image_apply(struct images *im,
	void (*each)(void *arg, const struct staged *s, const void *data), void *arg)
{
	uint64_t blocks = 0;

	for (size_t i = 0; i < im->stages; i++) {
		const struct staged *s = &im->stage[i];
		uint64_t at = s->block * TMK_BLOCK;
		size_t len = (size_t)s->count * TMK_BLOCK;

		if (at >= im->bytes[s->disk])
			fail("drained block %llu lies beyond disk %u", (unsigned long long)s->block,
				s->disk);
		if (at + len > im->bytes[s->disk])
			len = (size_t)(im->bytes[s->disk] - at);
		memcpy(im->of[s->disk] + at, im->data + s->at, len);
		if (each)
			each(arg, s, im->data + s->at);
		blocks += s->count;
	}
	image_drop(im);
	return blocks;
}

int64_t image_differs(const struct images *im, unsigned int i, const void *other, uint64_t *n)
{
	const char *o = other;
	int64_t first = -1;

	*n = 0;
	for (uint64_t at = 0; at < im->bytes[i]; at += TMK_BLOCK) {
		size_t len =
			im->bytes[i] - at < TMK_BLOCK ? (size_t)(im->bytes[i] - at) : TMK_BLOCK;

		if (!memcmp(im->of[i] + at, o + at, len))
			continue;
		if (first < 0)
			first = (int64_t)(at / TMK_BLOCK);
		++*n;
	}
	return first;
}

void image_free(struct images *im)
{
	for (unsigned int i = 0; i < im->disks; i++) {
		munmap(im->of[i], whole(im->bytes[i]));
		if (im->fd[i] >= 0)
			close(im->fd[i]);
	}
	free(im->stage);
	free(im->data);
	memset(im, 0, sizeof(*im));
}
