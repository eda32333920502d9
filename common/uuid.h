/* SPDX-License-Identifier: Apache-2.0 */
/* UUIDs as 16 bytes in the order of their text, and epoch ids. */
#ifndef TM_UUID_H
#define TM_UUID_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/wire.h"

#define TM_UUID_TEXT 37 /* with the NUL */

void tm_uuid_new(uint8_t uuid[TM_UUID]); /* random */

/* Lower case, 8-4-4-4-12; returns out. */
const char *tm_uuid_format(const uint8_t uuid[TM_UUID], char out[TM_UUID_TEXT]);

/* 0 or -EINVAL; exactly the 36 characters, either case. */
int tm_uuid_parse(const char *text, uint8_t uuid[TM_UUID]);

bool tm_uuid_is_zero(const uint8_t uuid[TM_UUID]);

static inline bool tm_uuid_equal(const uint8_t a[TM_UUID], const uint8_t b[TM_UUID])
{
	return memcmp(a, b, TM_UUID) == 0;
}

bool tm_epoch_is_zero(const struct tm_epoch_id *id);

static inline bool tm_epoch_equal(const struct tm_epoch_id *a, const struct tm_epoch_id *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* "tracking/cut/nonce" for logs and JSON, "none" for zero; returns out. */
#define TM_EPOCH_TEXT 96
const char *tm_epoch_format(const struct tm_epoch_id *id, char out[TM_EPOCH_TEXT]);
int tm_epoch_parse(const char *text, struct tm_epoch_id *id); /* 0 or -EINVAL */

#endif
