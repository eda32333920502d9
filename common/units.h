/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers, sizes, durations, times and addresses as people write and read them. Parsers are strict: 0, or -EINVAL with err set. */
#ifndef TM_UNITS_H
#define TM_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Decimal digits only. */
int tm_u64_parse(const char *text, uint64_t *out, struct tm_err *err);

/* "4096", "16K", "1.5G": K M G T are powers of two; an i or iB or B behind is allowed. */
int tm_size_parse(const char *text, uint64_t *bytes, struct tm_err *err);

/* "90", "90s", "5m", "1h", "15d", "250ms"; a bare number means seconds. */
int tm_duration_parse(const char *text, uint64_t *ns, struct tm_err *err);

/* yes/no, true/false, on/off, 1/0. */
int tm_bool_parse(const char *text, bool *out, struct tm_err *err);

/* ISO 8601: "2026-11-28T01:30:00Z", with +HH:MM, with a fraction, without a zone (UTC), or the date alone. Nanoseconds since 1970. */
int tm_time_parse(const char *text, uint64_t *ns, struct tm_err *err);

/* "HOST", "HOST:PORT", "[V6]", "[V6]:PORT", or a bare V6 address. */
int tm_addr_parse(const char *text, uint16_t default_port, char *host, size_t host_room,
	uint16_t *port, struct tm_err *err);

#define TM_TEXT_ROOM 40
/* Each returns out. */
const char *tm_size_format(uint64_t bytes, char out[TM_TEXT_ROOM]);  /* "1.5 GiB" */
const char *tm_duration_format(uint64_t ns, char out[TM_TEXT_ROOM]); /* "3 h 12 m", "4.2 s" */
const char *tm_time_format(uint64_t ns, char out[TM_TEXT_ROOM]);     /* "2026-11-28T01:30:00Z" */
const char *tm_time_format_ms(uint64_t ns, char out[TM_TEXT_ROOM]);  /* "...:00.123Z" */
const char *tm_hex_format(const void *bytes, size_t n, char *out);   /* out: 2 * n + 1 */

/* Exactly 2 * n hexadecimal digits; 0 or -EINVAL. */
int tm_hex_parse(const char *text, void *bytes, size_t n);

/* True if the n bytes are valid UTF-8 without control characters (NUL, DEL, C1 included). */
bool tm_text_valid(const char *text, size_t n);

#endif
