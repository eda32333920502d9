// SPDX-License-Identifier: Apache-2.0
/* Input: text. What parses comes back from formatting. */
#include <stdlib.h>
#include <string.h>

#include "common/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tm_token a, b;
	struct tm_err err;
	char *text = malloc(size + 1), again[TM_TOKEN_TEXT];

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (tm_token_parse(text, &a, &err) == 0 &&
		(tm_token_parse(tm_token_format(&a, again), &b, &err) < 0 ||
			memcmp(&a, &b, sizeof(a)) != 0))
		abort();
	free(text);
	return 0;
}
