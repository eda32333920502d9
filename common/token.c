// SPDX-License-Identifier: Apache-2.0
#include "common/token.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX     "tm1"
#define PREFIX_LEN 3
#define SUM        4 /* bytes of checksum */
#define RAW        (TM_TOKEN_ID + TM_SECRET + TM_FPR + 8 + SUM)
#define DIGITS     ((RAW * 8 + 4) / 5)
static_assert(PREFIX_LEN + DIGITS < TM_TOKEN_TEXT, "a token fits");

/* Without i, l, o and u, which are easily misread. */
static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";

static void sha256(const void *a, size_t an, const void *b, size_t bn, uint8_t out[32])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	if (!ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1 ||
		EVP_DigestUpdate(ctx, a, an) != 1 || EVP_DigestUpdate(ctx, b, bn) != 1 ||
		EVP_DigestFinal_ex(ctx, out, NULL) != 1)
		abort(); /* only without memory; a wrong hash would be worse */
	EVP_MD_CTX_free(ctx);
}

void tm_token_new(const uint8_t ca_fpr[TM_FPR], uint64_t expires, struct tm_token *token)
{
	/* A guessable secret would let anyone in. */
	if (RAND_bytes(token->id, TM_TOKEN_ID) != 1 ||
		RAND_priv_bytes(token->secret, TM_SECRET) != 1)
		abort();
	memcpy(token->ca_fpr, ca_fpr, TM_FPR);
	token->expires = expires;
}

static void checksum(const uint8_t raw[RAW], uint8_t sum[SUM])
{
	static const char what[] = "tidemark token 1";
	uint8_t hash[32];

	sha256(what, sizeof(what), raw, RAW - SUM, hash);
	memcpy(sum, hash, SUM);
}

const char *tm_token_format(const struct tm_token *t, char out[TM_TOKEN_TEXT])
{
	uint8_t raw[RAW], *p = raw;
	uint32_t bits = 0;
	int have = 0;
	char *o = out + PREFIX_LEN;

	memcpy(p, t->id, TM_TOKEN_ID);
	p += TM_TOKEN_ID;
	memcpy(p, t->secret, TM_SECRET);
	p += TM_SECRET;
	memcpy(p, t->ca_fpr, TM_FPR);
	p += TM_FPR;
	memcpy(p, &t->expires, 8);
	checksum(raw, raw + RAW - SUM);
	memcpy(out, PREFIX, PREFIX_LEN);
	for (size_t i = 0; i < RAW; i++) {
		bits = bits << 8 | raw[i];
		for (have += 8; have >= 5; have -= 5)
			*o++ = digits[bits >> (have - 5) & 31];
	}
	if (have)
		*o++ = digits[bits << (5 - have) & 31];
	*o = 0;
	OPENSSL_cleanse(raw, sizeof(raw));
	return out;
}

static int digit(char c)
{
	const char *p;

	if (c >= 'A' && c <= 'Z')
		c = (char)(c - 'A' + 'a');
	p = c ? strchr(digits, c) : NULL;
	return p ? (int)(p - digits) : -1;
}

static int decode(const char *text, size_t n, uint8_t raw[RAW], struct tm_err *err)
{
	uint32_t bits = 0;
	size_t at = 0;
	int have = 0;

	for (size_t i = 0; i < n; i++) {
		int d = digit(text[i]);

		if (d < 0)
			return tm_fail(err, EINVAL,
				"the token has a wrong character at place %zu: copy it again",
				i + PREFIX_LEN + 1);
		bits = bits << 5 | (uint32_t)d;
		have += 5;
		if (have >= 8 && at < RAW) {
			have -= 8;
			raw[at++] = (uint8_t)(bits >> have);
		}
	}
	if (bits & ((1u << have) - 1))
		return tm_fail(err, EINVAL, "the token's last character is wrong: copy it again");
	return 0;
}

int tm_token_parse(const char *text, struct tm_token *t, struct tm_err *err)
{
	static const char space[] = " \t\r\n";
	uint8_t raw[RAW], sum[SUM];
	const uint8_t *p = raw;
	size_t n;

	text += strspn(text, space);
	n = strlen(text);
	while (n && strchr(space, text[n - 1]))
		n--;
	if (n < PREFIX_LEN || (text[0] | 32) != 't' || (text[1] | 32) != 'm' || text[2] != '1')
		return tm_fail(err, EINVAL, "this is not a token: it begins with \"" PREFIX "\"");
	if (n != PREFIX_LEN + DIGITS)
		return tm_fail(err, EINVAL,
			"the token is cut off or too long: it has %d characters, not %zu",
			PREFIX_LEN + DIGITS, n);
	if (decode(text + PREFIX_LEN, DIGITS, raw, err) < 0)
		return -err->code;
	checksum(raw, sum);
	if (memcmp(sum, raw + RAW - SUM, SUM) != 0)
		return tm_fail(err, EINVAL, "the token's checksum is wrong: copy it again");
	memcpy(t->id, p, TM_TOKEN_ID);
	p += TM_TOKEN_ID;
	memcpy(t->secret, p, TM_SECRET);
	p += TM_SECRET;
	memcpy(t->ca_fpr, p, TM_FPR);
	p += TM_FPR;
	memcpy(&t->expires, p, 8);
	OPENSSL_cleanse(raw, sizeof(raw));
	return 0;
}

void tm_token_hash(
	const uint8_t id[TM_TOKEN_ID], const uint8_t secret[TM_SECRET], uint8_t hash[TM_HASH])
{
	sha256(id, TM_TOKEN_ID, secret, TM_SECRET, hash);
}

bool tm_token_equal(const uint8_t a[TM_HASH], const uint8_t b[TM_HASH])
{
	return CRYPTO_memcmp(a, b, TM_HASH) == 0;
}
