/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oracle's way through filesystems. A writer's n-th act follows from (writer, n): it appends a record to its log, replaces a
 * record in place, or replaces a file by rename; it is done when fsync has said so. Every record says what was done
 * elsewhere when it was made, so that what can be read in a mounted image can be judged by itself.
 */
#ifndef TESTS_CRASH_FILES_H
#define TESTS_CRASH_FILES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FILE_WRITERS 8
#define FILE_SLOTS   64
#define FILE_LOG_MAX 20000 /* records; after that the log is left alone */
#define FILE_REC     512

struct file_rec {
	uint64_t magic, run;
	uint32_t writer, seq;
	uint32_t known[FILE_WRITERS]; /* done by each writer when this was made */
	uint64_t sum;
	char fill[FILE_REC - 32 - 4 * FILE_WRITERS];
};

struct file_writers {
	uint64_t run;
	uint32_t writers;
	char dir[FILE_WRITERS][96]; /* writer i works in dir[i]/writer-i */
	_Atomic uint32_t done[FILE_WRITERS], begun[FILE_WRITERS];
	atomic_bool stop;
	pthread_t thread[FILE_WRITERS];
	char error[FILE_WRITERS][160];
};

void file_writers_start(struct file_writers *fw);
/* The first error, or NULL. */
const char *file_writers_stop(struct file_writers *fw);

/* What must be in an image, kept from check to check. Zero at first, but for fw. */
struct file_expect {
	const struct file_writers *fw;
	uint32_t claim[FILE_WRITERS];   /* done by each, by all that is known */
	uint32_t applied[FILE_WRITERS]; /* acts up to here are in the fields below */
	uint32_t logged[FILE_WRITERS];  /* records in the log */
	uint32_t *log[FILE_WRITERS];    /* their acts */
	uint32_t slot[FILE_WRITERS][FILE_SLOTS];
	uint32_t current[FILE_WRITERS];
};

/*
 * Reads what writer w has in the image mounted at `dir` (its dir[w] there) and adds what it claims; file_judge() then says what is
 * wrong: true if nothing; why has 256 bytes.
 */
bool file_read(struct file_expect *e, uint32_t w, const char *dir, char *why);
bool file_judge(struct file_expect *e, uint32_t w, const char *dir, char *why);

#endif
