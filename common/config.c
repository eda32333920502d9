// SPDX-License-Identifier: Apache-2.0
#include "common/config.h"

#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/units.h"

#define SETTINGS_MAX 256
#define FILE_MAX     (1u << 20)

struct loading {
	const char *path;
	const char *text; /* what is left to read */
	int line;         /* number of the line read last */
	const struct tm_setting *table;
	void *config;
	bool seen[SETTINGS_MAX];
	struct tm_err *err;
	int failed;
};

static int in_bounds(const struct tm_setting *s, uint64_t v, struct tm_err *err)
{
	if (v < s->min || (s->max && v > s->max))
		return tm_fail(err, EINVAL, "out of bounds");
	return 0;
}

static int set(const struct tm_setting *s, void *config, const char *value, struct tm_err *err)
{
	char *field = (char *)config + s->offset;
	uint64_t v = 0;
	bool flag = false;
	char *copy;
	int r = 0;

	switch (s->type) {
	case TM_SET_INT:
		r = tm_u64_parse(value, &v, err);
		break;
	case TM_SET_SIZE:
		r = tm_size_parse(value, &v, err);
		break;
	case TM_SET_DURATION:
		r = tm_duration_parse(value, &v, err);
		break;
	case TM_SET_BOOL:
		r = tm_bool_parse(value, &flag, err);
		memcpy(field, &flag, sizeof(flag));
		return r;
	case TM_SET_STRING:
		r = in_bounds(s, strlen(value), err);
		if (r < 0)
			return r;
		copy = strdup(value);
		if (!copy)
			return tm_fail(err, ENOMEM, "out of memory");
		free(*(char **)field);
		memcpy(field, &copy, sizeof(copy));
		return 0;
	}
	if (r == 0)
		r = in_bounds(s, v, err);
	if (r == 0)
		memcpy(field, &v, sizeof(v));
	return r;
}

/* Gives inih the next line, as fgets() does; knowing the number is ours. */
static char *next_line(char *buf, int room, void *arg)
{
	struct loading *l = arg;
	size_t n = strcspn(l->text, "\n");

	n += l->text[n] == '\n';
	if (!n || l->failed)
		return NULL;
	l->line++;
	if (n >= (size_t)room) {
		l->failed = tm_fail(l->err, EINVAL, "%s:%d: the line is longer than %d characters",
			l->path, l->line, room - 2);
		return NULL;
	}
	memcpy(buf, l->text, n);
	buf[n] = 0;
	l->text += n;
	return buf;
}

/* inih's callback: 0 = wrong. */
static int one(void *arg, const char *section, const char *name, const char *value)
{
	struct loading *l = arg;
	struct tm_err err;

	if (l->failed)
		return 0;
	for (size_t i = 0; l->table[i].section; i++) {
		const struct tm_setting *s = &l->table[i];

		if (strcmp(s->section, section) != 0 || strcmp(s->name, name) != 0)
			continue;
		if (l->seen[i])
			l->failed = tm_fail(
				l->err, EINVAL, "%s:%d: %s is given twice", l->path, l->line, name);
		else if (set(s, l->config, value ? value : "", &err) < 0)
			l->failed = tm_fail(l->err, err.code, "%s:%d: %s = %.100s: %s", l->path,
				l->line, name, value ? value : "", err.msg);
		l->seen[i] = true;
		return !l->failed;
	}
	l->failed = tm_fail(l->err, EINVAL, "%s:%d: there is no setting [%s] %s", l->path, l->line,
		section, name);
	return 0;
}

static int defaults(const struct tm_setting *table, void *config, struct tm_err *err)
{
	for (const struct tm_setting *s = table; s->section; s++) {
		char *none = NULL;

		if (s->type == TM_SET_STRING)
			memcpy((char *)config + s->offset, &none, sizeof(none));
	}
	for (const struct tm_setting *s = table; s->section; s++) {
		if (table + SETTINGS_MAX <= s)
			return tm_fail(err, EINVAL, "too many settings");
		if (s->def && set(s, config, s->def, err) < 0)
			return tm_wrap(err, "default of [%s] %s", s->section, s->name);
	}
	return 0;
}

static int load(struct loading *l, bool may_miss)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;
	int r;

	r = tm_file_read(l->path, FILE_MAX, &text, &len, l->err);
	if (r == -ENOENT && may_miss)
		return 0;
	if (r < 0)
		return r;
	if (strlen(text) != len)
		return tm_fail(l->err, EINVAL, "%s holds a NUL byte", l->path);
	l->text = text;
	r = ini_parse_stream(next_line, l, one, l);
	/* inih goes on after a line that it does not understand; its number is the first that is wrong. */
	if (l->failed && (r <= 0 || r >= l->line))
		return l->failed;
	if (r > 0)
		return tm_fail(
			l->err, EINVAL, "%s:%d: neither [section] nor name = value", l->path, r);
	return r < 0 ? tm_fail(l->err, ENOMEM, "%s: out of memory", l->path) : 0;
}

int tm_config_load(const char *path, bool may_miss, const struct tm_setting *table, void *config,
	struct tm_err *err)
{
	struct loading l = {.path = path, .table = table, .config = config, .err = err};

	if (defaults(table, config, err) < 0 || (path && load(&l, may_miss) < 0)) {
		tm_config_free(table, config);
		return -err->code;
	}
	return 0;
}

void tm_config_free(const struct tm_setting *table, void *config)
{
	for (const struct tm_setting *s = table; s->section; s++) {
		char **field = (char **)((char *)config + s->offset);

		if (s->type != TM_SET_STRING)
			continue;
		free(*field);
		*field = NULL;
	}
}
