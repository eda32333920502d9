/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images of the disks under test, in memory or in files: the base plus what every drained epoch brought. What is drained is
 * staged first and put into the images only when all of an epoch is there, as an epoch may break at any time.
 */
#ifndef TESTS_CRASH_IMAGE_H
#define TESTS_CRASH_IMAGE_H

#include "tests/crash/tmk.h"

struct staged {
	unsigned int disk;
	uint64_t block;
	uint32_t nbad;
	uint32_t count;
	size_t at; /* of the data in stage.data */
};

struct images {
	unsigned int disks;
	char *of[DISKS_MAX];       /* whole blocks; mapped */
	uint64_t bytes[DISKS_MAX]; /* of the disk */
	int fd[DISKS_MAX];         /* -1: in memory */
	struct staged *stage;
	size_t stages, stages_max;
	char *data;
	size_t used, room;
};

/* Makes the image of a disk, all zero, in memory or in the file `path`. */
void image_make(struct images *im, const struct disk *d, const char *path);
/* The disk grew or shrank. */
void image_resize(struct images *im, unsigned int index, uint64_t bytes);
/* A tmk_sink: arg is the images. */
int image_stage(void *arg, unsigned int disk, uint64_t block, uint32_t count, const void *data,
	uint32_t nbad);
void image_drop(struct images *im);
/* Takes what is staged over; `each` (may be NULL) sees every run. Returns the blocks. */
uint64_t image_apply(struct images *im,
	void (*each)(void *arg, const struct staged *s, const void *data), void *arg);
/* The first block at which the image differs from `other` (of the same size), or -1; *n counts them. */
int64_t image_differs(const struct images *im, unsigned int index, const void *other, uint64_t *n);
void image_free(struct images *im);

#endif
