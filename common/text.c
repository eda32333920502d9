// SPDX-License-Identifier: Apache-2.0
/* The parts of units.h that look at bytes: hexadecimal and UTF-8. */
#include <errno.h>

#include "common/units.h"

const char *tm_hex_format(const void *bytes, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = bytes;
	char *p = out;

	for (size_t i = 0; i < n; i++) {
		*p++ = digits[b[i] >> 4];
		*p++ = digits[b[i] & 15];
	}
	*p = 0;
	return out;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int tm_hex_parse(const char *text, void *bytes, size_t n)
{
	uint8_t *b = bytes;

	for (size_t i = 0; i < n; i++, text += 2) {
		int high = digit(text[0]), low = high < 0 ? -1 : digit(text[1]);

		if (low < 0)
			return -EINVAL;
		b[i] = (uint8_t)(high << 4 | low);
	}
	return *text ? -EINVAL : 0;
}

/* Length of the sequence at p (at most n bytes) and its code point; 0 if it is not UTF-8 in its shortest form. */
static size_t utf8(const uint8_t *p, size_t n, uint32_t *code)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t len = p[0] < 0x80   ? 1
		     : p[0] < 0xc0 ? 0
		     : p[0] < 0xe0 ? 2
		     : p[0] < 0xf0 ? 3
		     : p[0] < 0xf8 ? 4
				   : 0;

	if (!len || len > n)
		return 0;
	*code = len == 1 ? p[0] : p[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (p[i] & 0x3f);
	}
	if (*code < least[len] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
		return 0;
	return len;
}

bool tm_text_valid(const char *text, size_t n)
{
	const uint8_t *p = (const uint8_t *)text;
	uint32_t code;

	while (n) {
		size_t len = utf8(p, n, &code);

		if (!len || code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 ||
			code == 0x2029)
			return false;
		p += len;
		n -= len;
	}
	return true;
}
