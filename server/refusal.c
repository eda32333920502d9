// SPDX-License-Identifier: Apache-2.0
#include "server/refusal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"

int refuse(struct refusal *r, uint16_t code, uint64_t attempt, const char *fmt, ...)
{
	va_list ap;

	r->code = code;
	r->fatal = code == TM_E_PROTO || code == TM_E_AUTH || code == TM_E_VERSION ||
		   code == TM_E_HELD;
	r->attempt = attempt;
	va_start(ap, fmt);
	vsnprintf(r->text, sizeof(r->text), fmt, ap);
	va_end(ap);
	return -1;
}

int refuse_store(struct refusal *r, int rc, uint64_t attempt, const struct tm_err *err)
{
	switch (rc) {
	case -ENOSPC:
		return refuse(r, TM_E_FULL, attempt, "%s", err->msg);
	case -ESTALE:
	case -ENOENT:
		return refuse(r, TM_E_STALE, attempt, "%s", err->msg);
	case -EBADMSG:
	case -E2BIG:
		return refuse(r, TM_E_PROTO, attempt, "%s", err->msg);
	case -EINVAL:
		return refuse(r, TM_E_STATE, attempt, "%s", err->msg);
	default:
		return refuse(r, TM_E_IO, attempt, "%s", err->msg);
	}
}

/* A full store refuses every frame: one line per ten seconds says so. */
static struct tm_log_limit full_limit = TM_LOG_LIMIT(1, 10);

static void log_refusal(struct tm_conn *c, const struct refusal *r, uint16_t about, const char *who)
{
	unsigned int dropped = 0;

	if (r->code == TM_E_FULL && !tm_log_allowed(&full_limit, &dropped))
		return;
	tm_log(TM_LOG_WARNING, "%s%s%s refused %s (%s): %s", tm_conn_name(c),
		*who ? " machine " : "", who, about ? tm_msg_name(about) : "connection",
		tm_refusal_name(r->code), r->text);
}

void refusal_send(struct tm_conn *c, const struct refusal *r, uint16_t about, const char *who)
{
	struct tm_msg_error m = {
		.code = r->code, .fatal = r->fatal, .about = about, .attempt = r->attempt};
	struct tm_out out;
	struct tm_err err;

	log_refusal(c, r, about, who);
	if (tm_build_error(&out, &m, r->text, &err) == 0)
		tm_conn_send_msg(c, &out, &err); /* the peer may be gone: nothing to add */
}
