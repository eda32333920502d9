// SPDX-License-Identifier: Apache-2.0
#include "common/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <uuid/uuid.h>

#include "common/units.h"

void tm_uuid_new(uint8_t uuid[TM_UUID])
{
	uuid_generate_random(uuid);
}

const char *tm_uuid_format(const uint8_t uuid[TM_UUID], char out[TM_UUID_TEXT])
{
	uuid_unparse_lower(uuid, out);
	return out;
}

int tm_uuid_parse(const char *text, uint8_t uuid[TM_UUID])
{
	return strlen(text) == TM_UUID_TEXT - 1 && uuid_parse(text, uuid) == 0 ? 0 : -EINVAL;
}

bool tm_uuid_is_zero(const uint8_t uuid[TM_UUID])
{
	static const uint8_t zero[TM_UUID];

	return memcmp(uuid, zero, TM_UUID) == 0;
}

bool tm_epoch_is_zero(const struct tm_epoch_id *id)
{
	static const struct tm_epoch_id zero;

	return memcmp(id, &zero, sizeof(zero)) == 0;
}

const char *tm_epoch_format(const struct tm_epoch_id *id, char out[TM_EPOCH_TEXT])
{
	char tracking[TM_UUID_TEXT], nonce[2 * TM_UUID + 1];

	if (tm_epoch_is_zero(id)) {
		strcpy(out, "none");
		return out;
	}
	snprintf(out, TM_EPOCH_TEXT, "%s/%llu/%s", tm_uuid_format(id->tracking, tracking),
		(unsigned long long)id->cut, tm_hex_format(id->nonce, TM_UUID, nonce));
	return out;
}

int tm_epoch_parse(const char *text, struct tm_epoch_id *id)
{
	char tracking[TM_UUID_TEXT], cut[24];
	struct tm_err err;
	uint64_t number;
	int end = 0;

	if (strcmp(text, "none") == 0) {
		memset(id, 0, sizeof(*id));
		return 0;
	}
	if (sscanf(text, "%36[0-9a-fA-F-]/%20[0-9]/%n", tracking, cut, &end) != 2 || !end)
		return -EINVAL;
	if (tm_u64_parse(cut, &number, &err) < 0)
		return -EINVAL;
	id->cut = number;
	if (tm_uuid_parse(tracking, id->tracking) < 0)
		return -EINVAL;
	return tm_hex_parse(text + end, id->nonce, TM_UUID);
}
