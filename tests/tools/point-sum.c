// SPDX-License-Identifier: Apache-2.0
/*
 * point-sum SOCKET MACHINE POINT DISK: sha256 of a disk as of a point, read from the checkpoint that the server makes of it, as the nbdkit
 * plugin reads it; for guests, which have no nbdkit. The point is out of use again afterwards.
 */
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/cli.h"
#include "common/control.h"
#include "common/units.h"
#include "server/store/store.h"

#define STEP (1u << 20)

static int ask(const char *socket, const char *cmd, cJSON *args, cJSON **answer)
{
	struct tm_control_request rq = {
		.path = socket, .cmd = cmd, .args = args, .timeout_ms = 300000};
	struct tm_err err;
	int code, ret = tm_control_request(&rq, answer, &code, &err);

	cJSON_Delete(args);
	if (ret)
		fprintf(stderr, "%s: %s\n", cmd, err.msg);
	return ret;
}

static int sum(const char *dir, const char *disk)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	CLEANUP_FREE uint8_t *buf = malloc(STEP);
	unsigned char got[EVP_MAX_MD_SIZE];
	char text[2 * EVP_MAX_MD_SIZE + 1];
	struct store_view *v = NULL;
	struct tm_err err;
	unsigned len = 0;
	int ret = -1;

	if (!md || !buf || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
		return -1;
	ret = store_view_open_dir(dir, disk, 0, &v, &err);
	for (uint64_t at = 0, size = ret ? 0 : store_view_size(v); !ret && at < size;) {
		size_t n = size - at < STEP ? (size_t)(size - at) : STEP;

		ret = store_view_read(v, buf, n, at, &err);
		if (!ret)
			EVP_DigestUpdate(md, buf, n);
		at += n;
	}
	if (ret)
		fprintf(stderr, "%s\n", err.msg);
	else if (EVP_DigestFinal_ex(md, got, &len))
		puts(tm_hex_format(got, len, text));
	store_view_close(v);
	EVP_MD_CTX_free(md);
	return ret;
}

int main(int argc, char **argv)
{
	cJSON *args = cJSON_CreateObject(), *answer = NULL, *released = NULL;
	char lock[4096];
	int fd, ret;

	if (argc != 5)
		return 2;
	cJSON_AddStringToObject(args, "machine", argv[2]);
	cJSON_AddStringToObject(args, "point", argv[3]);
	if (ask(argv[1], "checkpoint", args, &answer))
		return 1;
	/* As long as somebody holds the lock the point is in use. */
	snprintf(lock, sizeof(lock), "%s/lock", tm_json_str(answer, "path"));
	fd = open(lock, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_SH)) {
		perror(lock);
		return 1;
	}
	ret = sum(tm_json_str(answer, "path"), argv[4]);
	close(fd);
	args = cJSON_CreateObject();
	cJSON_AddStringToObject(args, "name", tm_json_str(answer, "name"));
	if (ask(argv[1], "release", args, &released))
		ret = -1;
	cJSON_Delete(released);
	cJSON_Delete(answer);
	return ret ? 1 : 0;
}
