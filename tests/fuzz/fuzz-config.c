// SPDX-License-Identifier: Apache-2.0
/* Input: a configuration file; then the same bytes as one value of each kind. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/config.h"
#include "common/units.h"
#include "common/uuid.h"

struct config {
	uint64_t number, size, duration;
	bool flag;
	char *text;
};

static const struct tm_setting table[] = {
	TM_SETTING("a", "number", TM_SET_INT, struct config, number, 1, 100, "7"),
	TM_SETTING("a", "size", TM_SET_SIZE, struct config, size, 0, 0, "1M"),
	TM_SETTING("b", "duration", TM_SET_DURATION, struct config, duration, 0, 0, "1s"),
	TM_SETTING("b", "flag", TM_SET_BOOL, struct config, flag, 0, 0, "no"),
	TM_SETTING("b", "text", TM_SET_STRING, struct config, text, 0, 20, "x"),
	{0},
};

static void values(const char *text)
{
	struct tm_epoch_id id;
	uint8_t uuid[TM_UUID];
	struct tm_err err;
	uint64_t v;
	uint16_t port;
	char host[64];
	bool flag;

	tm_u64_parse(text, &v, &err);
	tm_size_parse(text, &v, &err);
	tm_duration_parse(text, &v, &err);
	tm_bool_parse(text, &flag, &err);
	tm_time_parse(text, &v, &err);
	tm_addr_parse(text, 1, host, sizeof(host), &port, &err);
	tm_uuid_parse(text, uuid);
	tm_epoch_parse(text, &id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config c = {0};
	struct tm_err err;
	char path[40], *text = malloc(size + 1);
	int fd = memfd_create("config", MFD_CLOEXEC);

	if (!text || fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	memcpy(text, data, size);
	text[size] = 0;
	values(text);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (tm_config_load(path, false, table, &c, &err) == 0) {
		if (c.number < 1 || c.number > 100 || strlen(c.text) > 20)
			abort();
		tm_config_free(table, &c);
	}
	close(fd);
	free(text);
	return 0;
}
