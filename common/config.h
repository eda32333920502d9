/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files (INI) into a struct, by a table of settings. An unknown section or key, a key given twice, a value that does
 * not parse or is out of bounds is an error that names file and line.
 */
#ifndef TM_CONFIG_H
#define TM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum tm_setting_type {
	TM_SET_INT,      /* uint64_t; min..max */
	TM_SET_SIZE,     /* uint64_t bytes, "128M" */
	TM_SET_DURATION, /* uint64_t ns, "1s" */
	TM_SET_BOOL,     /* bool */
	TM_SET_STRING,   /* char *, malloc'ed; min..max are lengths */
};

struct tm_setting {
	const char *section, *name; /* section NULL ends the table */
	enum tm_setting_type type;
	size_t offset;     /* in the struct */
	uint64_t min, max; /* max 0 = no bound */
	const char *def;   /* default, as in a file; NULL for a string = NULL */
};

#define TM_SETTING(section_, name_, type_, struct_, field_, min_, max_, def_)       \
	{                                                                           \
		section_, name_, type_, offsetof(struct_, field_), min_, max_, def_ \
	}

/* Sets the defaults, then reads path; path NULL, or a missing file with `may_miss`, leaves the defaults. On failure *config is freed. */
int tm_config_load(const char *path, bool may_miss, const struct tm_setting *table, void *config,
	struct tm_err *err);

/* Frees the strings. */
void tm_config_free(const struct tm_setting *table, void *config);

#endif
