// SPDX-License-Identifier: Apache-2.0
/* Input: the type (2 bytes), then a payload. */
#include <stdlib.h>

#include "tests/fuzz/parse-any.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tm_err err = {0};
	uint16_t type;
	int r;

	if (size < sizeof(type))
		return 0;
	memcpy(&type, data, sizeof(type));
	r = parse_any(type, data + sizeof(type), size - sizeof(type), &err);
	if (r < -1 && !err.msg[0])
		abort(); /* every refusal says why */
	return 0;
}
