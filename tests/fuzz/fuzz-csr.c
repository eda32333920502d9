// SPDX-License-Identifier: Apache-2.0
/* Input: a certificate request as a peer would send it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/pki.h"

static const char dir[] = "build/fuzz/csr"; /* stays; made by the first run */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct tm_err err;
	uint8_t server[TM_UUID] = {1};

	if (tm_pki_create(dir, server, &err) < 0 && err.code != EEXIST)
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t machine[TM_UUID] = {2}, fpr[TM_FPR];
	void *cert = NULL, *ca = NULL;
	size_t cert_len, ca_len;
	struct tm_err err;

	if (tm_pki_sign(dir, data, size, machine, &cert, &cert_len, &ca, &ca_len, fpr, &err) == 0) {
		free(cert);
		free(ca);
	}
	return 0;
}
