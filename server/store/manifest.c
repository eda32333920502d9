// SPDX-License-Identifier: Apache-2.0
/* The list of a copy's files: backup.json. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <uuid/uuid.h>

#include "server/store/manifest.h"

#define PROGRAM "tidemark-backup"
#define MAX     (1u << 30) /* bytes of the list: some million packs */

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct copied *)a)->name, ((const struct copied *)b)->name);
}

void manifest_sort(struct manifest *m)
{
	if (m->n)
		qsort(m->file, m->n, sizeof(*m->file), by_name);
}

int manifest_add(struct manifest *m, const char *name, uint64_t size, uint64_t sum, int final,
	struct tm_err *err)
{
	size_t room = m->room ? m->room * 2 : 64;
	struct copied *grown;

	if (m->n == m->room) {
		grown = reallocarray(m->file, room, sizeof(*grown));
		if (!grown)
			return tm_fail(err, ENOMEM, "out of memory");
		m->file = grown;
		m->room = room;
	}
	m->file[m->n] = (struct copied){strdup(name), size, sum, (uint8_t) final};
	if (!m->file[m->n].name)
		return tm_fail(err, ENOMEM, "out of memory");
	m->n++;
	return 0;
}

const struct copied *manifest_find(const struct manifest *m, const char *name, int prefix)
{
	size_t lo = 0, hi = m->n, mid, len = strlen(name);

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (strcmp(m->file[mid].name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == m->n || strncmp(m->file[lo].name, name, len))
		return NULL;
	return prefix || !m->file[lo].name[len] ? &m->file[lo] : NULL;
}

static int parse_number(const cJSON *o, const char *name, int base, uint64_t *v)
{
	const cJSON *s = cJSON_GetObjectItemCaseSensitive(o, name);
	char *end;

	if (!cJSON_IsString(s) || !*s->valuestring)
		return -1;
	errno = 0;
	*v = strtoull(s->valuestring, &end, base);
	return errno || *end ? -1 : 0;
}

/* Names lead nowhere else: no folder above, none deeper than this has. */
static int name_ok(const char *name)
{
	return *name && *name != '/' && strlen(name) < 400 && !strstr(name, "..") &&
	       !strstr(name, "//");
}

static int parse_file(struct manifest *m, const cJSON *o, struct tm_err *err)
{
	const cJSON *name = cJSON_GetObjectItemCaseSensitive(o, "name");
	uint64_t size, sum;

	if (!cJSON_IsString(name) || !name_ok(name->valuestring) ||
		parse_number(o, "size", 10, &size) || parse_number(o, "sum", 16, &sum))
		return tm_fail(err, EBADMSG, MANIFEST " is damaged");
	return manifest_add(m, name->valuestring, size, sum,
		cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "final")), err);
}

static int parse(struct manifest *m, const cJSON *j, struct tm_err *err)
{
	const cJSON *program = cJSON_GetObjectItemCaseSensitive(j, "program"), *f;
	const cJSON *store = cJSON_GetObjectItemCaseSensitive(j, "store");
	const cJSON *format = cJSON_GetObjectItemCaseSensitive(j, "format");
	const cJSON *files = cJSON_GetObjectItemCaseSensitive(j, "files");
	int ret = 0;

	if (!cJSON_IsString(program) || strcmp(program->valuestring, PROGRAM) ||
		!cJSON_IsNumber(format) || !cJSON_IsString(store) || !cJSON_IsArray(files) ||
		uuid_parse(store->valuestring, m->store) ||
		parse_number(j, "generation", 10, &m->generation) ||
		parse_number(j, "points", 10, &m->points))
		return tm_fail(err, EBADMSG, MANIFEST " is damaged");
	if (format->valuedouble != 1)
		return tm_fail(err, ENOTSUP,
			"the backup has format %.0f: this version does not know it",
			format->valuedouble);
	cJSON_ArrayForEach (f, files)
		if (!ret)
			ret = parse_file(m, f, err);
	return ret;
}

int manifest_read(int dirfd, const char *name, struct manifest *m, struct tm_err *err)
{
	char *text;
	size_t len;
	cJSON *j;
	int ret;

	memset(m, 0, sizeof(*m));
	ret = slurp(dirfd, name, MAX, &text, &len, err);
	if (ret)
		return ret;
	j = cJSON_Parse(text);
	free(text);
	ret = parse(m, j, err);
	cJSON_Delete(j);
	if (ret)
		manifest_free(m);
	manifest_sort(m);
	return ret;
}

static void add_number(cJSON *o, const char *name, const char *format, uint64_t v)
{
	char text[32];

	snprintf(text, sizeof(text), format, (unsigned long long)v);
	cJSON_AddStringToObject(o, name, text);
}

int manifest_write(int dirfd, const char *name, struct manifest *m, struct tm_err *err)
{
	cJSON *j = cJSON_CreateObject(), *files, *o;
	char id[37], *text;
	int ret;

	manifest_sort(m);
	uuid_unparse_lower(m->store, id);
	cJSON_AddStringToObject(j, "program", PROGRAM);
	cJSON_AddNumberToObject(j, "format", 1);
	cJSON_AddStringToObject(j, "store", id);
	add_number(j, "generation", "%llu", m->generation);
	add_number(j, "points", "%llu", m->points);
	files = cJSON_AddArrayToObject(j, "files");
	for (size_t i = 0; i < m->n; i++) {
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "name", m->file[i].name);
		add_number(o, "size", "%llu", m->file[i].size);
		add_number(o, "sum", "%016llx", m->file[i].sum);
		cJSON_AddBoolToObject(o, "final", m->file[i].final);
		cJSON_AddItemToArray(files, o);
	}
	text = cJSON_Print(j);
	ret = text ? 0 : tm_fail(err, ENOMEM, "out of memory");
	/* Without memory for a part of it the list would be short: none is better than that. */
	if (!ret && cJSON_GetArraySize(files) != (int)m->n)
		ret = tm_fail(err, ENOMEM, "out of memory");
	if (!ret && replace_file(dirfd, name, text, strlen(text), err))
		ret = tm_wrap(err, "backup");
	free(text);
	cJSON_Delete(j);
	return ret;
}

void manifest_free(struct manifest *m)
{
	for (size_t i = 0; i < m->n; i++)
		free(m->file[i].name);
	free(m->file);
	memset(m, 0, sizeof(*m));
}
