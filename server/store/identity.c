// SPDX-License-Identifier: Apache-2.0
/*
 * store.json: which store this is, of which format, how often it was opened, and at which place. The place is the file itself, its
 * inode and time of birth: a copy of the file has others, and so tells that the store may be an older one that was put back.
 */
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "server/store/internal.h"

#define NAME  "store.json"
#define PLACE 80 /* room for a place as text */

static int place_of(int fd, const char *name, char place[PLACE], struct tm_err *err)
{
	struct statx x = {0};

	if (statx(fd, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &x))
		return tm_fail_errno(err, "cannot look at " NAME);
	snprintf(place, PLACE, "%llu.%lld.%u", (unsigned long long)x.stx_ino,
		x.stx_mask & STATX_BTIME ? (long long)x.stx_btime.tv_sec : 0,
		x.stx_mask & STATX_BTIME ? x.stx_btime.tv_nsec : 0);
	return 0;
}

static int fill(int fd, const uint8_t uuid[TM_UUID], uint64_t incarnation, struct tm_err *err)
{
	char text[500], id[37], place[PLACE];
	int n;

	if (place_of(fd, "", place, err))
		return -err->code;
	uuid_unparse_lower(uuid, id);
	n = snprintf(text, sizeof(text),
		"{\n\t\"program\": \"tidemark\",\n\t\"format\": %d,\n\t\"features\": [],\n"
		"\t\"uuid\": \"%s\",\n\t\"incarnation\": %llu,\n\t\"place\": \"%s\"\n}\n",
		STORE_FORMAT, id, (unsigned long long)incarnation, place);
	if (write_full(fd, text, (size_t)n, 0, err))
		return -err->code;
	return fsync(fd) ? tm_fail_errno(err, "cannot flush " NAME) : 0;
}

int identity_write(
	int rootfd, const uint8_t uuid[TM_UUID], uint64_t incarnation, struct tm_err *err)
{
	int fd = openat(rootfd, NAME ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), ret;

	if (fd < 0)
		return tm_fail_errno(err, "cannot create " NAME);
	ret = fill(fd, uuid, incarnation, err);
	close(fd);
	if (!ret && renameat(rootfd, NAME ".new", rootfd, NAME))
		ret = tm_fail_errno(err, "cannot rename " NAME ".new");
	if (!ret)
		ret = sync_dir(rootfd, NAME, err);
	if (ret)
		unlinkat(rootfd, NAME ".new", 0);
	return ret;
}

static int check(const cJSON *j, const char *here, struct store *st, struct tm_err *err)
{
	const cJSON *format = cJSON_GetObjectItem(j, "format");
	const cJSON *features = cJSON_GetObjectItem(j, "features");
	const cJSON *id = cJSON_GetObjectItem(j, "uuid");
	const cJSON *inc = cJSON_GetObjectItem(j, "incarnation");
	const cJSON *place = cJSON_GetObjectItem(j, "place");

	if (!cJSON_IsNumber(format) || !cJSON_IsArray(features) || !cJSON_IsString(id) ||
		!cJSON_IsNumber(inc) || uuid_parse(id->valuestring, st->uuid))
		return tm_fail(err, EBADMSG, "store.json is damaged: restore it from a backup");
	if (format->valuedouble != STORE_FORMAT || cJSON_GetArraySize(features) > 0)
		return tm_fail(err, ENOTSUP,
			"the store has format %.0f or features that this version does not know: "
			"use a newer one",
			format->valuedouble);
	st->incarnation = (uint64_t)inc->valuedouble;
	/* None: written by an earlier version, before places were kept. */
	st->moved = cJSON_IsString(place) && strcmp(place->valuestring, here) != 0;
	return 0;
}

int identity_read(struct store *st, struct tm_err *err)
{
	char *text, here[PLACE];
	size_t len;
	cJSON *j;
	int ret;

	if (slurp(st->rootfd, NAME, 64 << 10, &text, &len, err))
		return tm_wrap(err, "%s is not a store", st->path);
	j = cJSON_Parse(text);
	ret = place_of(st->rootfd, NAME, here, err);
	if (!ret)
		ret = check(j, here, st, err);
	cJSON_Delete(j);
	free(text);
	return ret;
}
