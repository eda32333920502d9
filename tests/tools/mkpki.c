// SPDX-License-Identifier: Apache-2.0
/* mkpki DIR STORE-UUID: the keys and certificates of a server's own CA, new, for a store that has none. */
#include <stdio.h>

#include "common/pki.h"
#include "common/uuid.h"

int main(int argc, char **argv)
{
	uint8_t uuid[TM_UUID];
	struct tm_err err;

	if (argc != 3 || tm_uuid_parse(argv[2], uuid)) {
		fprintf(stderr, "usage: mkpki DIR STORE-UUID\n");
		return 2;
	}
	if (tm_pki_create(argv[1], uuid, &err)) {
		fprintf(stderr, "mkpki: %s\n", err.msg);
		return 1;
	}
	return 0;
}
