// SPDX-License-Identifier: Apache-2.0
/* A connection's bytes: between the socket and the SSL object. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/conn-int.h"

#define ROUNDS 64 /* without a look at the clock */

/* The SSL object's ends: plain copies from and to our buffers, under ssl_lock. */
static int bio_read(BIO *b, char *buf, int len)
{
	struct tm_conn *c = BIO_get_data(b);
	size_t n = c->in_end - c->in_at;

	BIO_clear_retry_flags(b);
	if (!n) {
		BIO_set_retry_read(b);
		return -1;
	}
	if (n > (size_t)len)
		n = (size_t)len;
	memcpy(buf, c->in + c->in_at, n);
	c->in_at += n;
	return (int)n;
}

static int bio_write(BIO *b, const char *buf, int len)
{
	struct tm_conn *c = BIO_get_data(b);

	BIO_clear_retry_flags(b);
	/* Records are only made when there is room. What does not fit are answers to a flood of key updates. */
	if (c->out_len + (size_t)len > CONN_OUT)
		return -1;
	memcpy(c->out + c->out_len, buf, (size_t)len);
	c->out_len += (size_t)len;
	return len;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	return cmd == BIO_CTRL_FLUSH;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static BIO_METHOD *method;

static void make_method(void)
{
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tidemark");
	if (!method)
		return;
	BIO_meth_set_read(method, bio_read);
	BIO_meth_set_write(method, bio_write);
	BIO_meth_set_ctrl(method, bio_ctrl);
}

int conn_bio_init(struct tm_conn *c)
{
	BIO *b;

	pthread_once(&once, make_method);
	b = method ? BIO_new(method) : NULL;
	if (!b)
		return -ENOMEM;
	BIO_set_data(b, c);
	BIO_set_init(b, 1);
	SSL_set_bio(c->ssl, b, b);
	return 0;
}

int conn_break(struct tm_conn *c, struct tm_err *err)
{
	LOCK_SCOPE(&c->turn_lock);

	if (!c->broken.code) {
		c->broken = *err;
		shutdown(c->fd, SHUT_RDWR);
		pthread_cond_broadcast(&c->turn_next);
	}
	*err = c->broken;
	return -err->code;
}

static int broken(struct tm_conn *c, struct tm_err *err)
{
	LOCK_SCOPE(&c->turn_lock);

	*err = c->broken;
	return -err->code;
}

/*
 * Fills `in` from the socket. 1; 0 = time is up (no failure yet); negative errno. The socket is read outside of ssl_lock: bytes past in_end
 * are nobody's but ours.
 */
static int fill(struct tm_conn *c, uint64_t deadline, struct tm_err *err)
{
	size_t room;
	ssize_t n;

	{
		LOCK_SCOPE(&c->ssl_lock);
		memmove(c->in, c->in + c->in_at, c->in_end - c->in_at);
		c->in_end -= c->in_at;
		c->in_at = 0;
		room = CONN_IN - c->in_end;
	}
	for (;;) {
		n = recv(c->fd, c->in + c->in_end, room, 0);
		if (n > 0)
			break;
		if (n == 0) {
			if (broken(c, err))
				return -err->code;
			return tm_fail(err, EPIPE, "%s closed the connection", c->name);
		}
		if (errno == EAGAIN) {
			int r = net_poll(c->fd, POLLIN, deadline);

			if (r == 0)
				return 0;
			if (r > 0)
				continue;
			errno = -r;
		}
		if (errno == EINTR)
			continue;
		tm_fail_errno(err, "receive from %s", c->name);
		return conn_break(c, err);
	}
	atomic_fetch_add_explicit(&c->received, (uint64_t)n, memory_order_relaxed);
	LOCK_SCOPE(&c->ssl_lock);
	c->in_end += (size_t)n;
	return 1;
}

/* Exchanges out for spare and sends it. The caller has the turn, or the connection for itself. */
int conn_flush(struct tm_conn *c, uint64_t deadline, struct tm_err *err)
{
	size_t len, at = 0;
	uint8_t *buf;

	{
		LOCK_SCOPE(&c->ssl_lock);
		buf = c->out;
		len = c->out_len;
		c->out = c->spare;
		c->spare = buf;
		c->out_len = 0;
	}
	while (at < len) {
		ssize_t n = send(c->fd, buf + at, len - at, MSG_NOSIGNAL);
		int r;

		if (n >= 0) {
			at += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN) {
			r = net_poll(c->fd, POLLOUT, deadline);
			if (r > 0)
				continue;
			errno = r < 0 ? -r : ETIMEDOUT;
		}
		if (errno == ETIMEDOUT)
			tm_fail(err, ETIMEDOUT, "%s does not take what we send", c->name);
		else
			tm_fail_errno(err, "send to %s", c->name);
		return conn_break(c, err);
	}
	atomic_fetch_add_explicit(&c->sent, (uint64_t)len, memory_order_relaxed);
	return 0;
}

/* One line for what OpenSSL says, in the words of an operator. Clears its queue. */
static int explain(struct tm_conn *c, const char *doing, struct tm_err *err)
{
	unsigned long e = ERR_peek_last_error();
	long verify = SSL_get_verify_result(c->ssl);
	const char *why = NULL;
	int code = EACCES;

	switch (ERR_GET_REASON(e)) {
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_VERSION_TOO_LOW:
	case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
		why = "no TLS 1.3 on both sides";
		break;
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_HTTP_REQUEST:
	case SSL_R_HTTPS_PROXY_REQUEST:
	case SSL_R_UNEXPECTED_MESSAGE:
	case SSL_R_BAD_RECORD_TYPE:
		why = "the peer does not speak TLS";
		code = EPROTO;
		break;
	case SSL_R_NO_APPLICATION_PROTOCOL:
	case SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL:
		why = "the peer does not speak tidemark/1";
		break;
	case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
	case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
	case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
	case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
	case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
		why = "the peer refuses our certificate";
		break;
	case SSL_R_CERTIFICATE_VERIFY_FAILED:
		ERR_clear_error();
		return tm_fail(err, EACCES, "%s %s: certificate refused: %s", doing, c->name,
			X509_verify_cert_error_string(verify));
	}
	if (!why) {
		char what[200];

		snprintf(what, sizeof(what), "%s %s", doing, c->name);
		return tm_fail_ssl(err, EPROTO, what);
	}
	ERR_clear_error();
	return tm_fail(err, code, "%s %s: %s", doing, c->name, why);
}

int conn_handshake(struct tm_conn *c, uint64_t deadline, struct tm_err *err)
{
	for (;;) {
		struct tm_err why = {0};
		int r, e;

		ERR_clear_error();
		r = SSL_do_handshake(c->ssl);
		e = SSL_get_error(c->ssl, r);
		if (r != 1 && e != SSL_ERROR_WANT_READ)
			explain(c, "TLS handshake with", &why);
		/* Also when it failed: the peer is told by an alert. */
		if (conn_flush(c, deadline, err) < 0)
			return why.code ? (*err = why, conn_break(c, err)) : -err->code;
		if (r == 1)
			return 0;
		if (why.code) {
			*err = why;
			return -err->code;
		}
		r = fill(c, deadline, err);
		if (r == 0)
			tm_fail(err, ETIMEDOUT, "%s does not complete the TLS handshake", c->name);
		if (r <= 0)
			return r == -EPIPE ? tm_fail(err, ECONNRESET,
						     "%s closed during the TLS handshake", c->name)
					   : conn_break(c, err);
	}
}

/* Answers that reading made (key updates) go out at once. */
static int flush_answers(struct tm_conn *c, struct tm_err *err)
{
	int r = conn_turn_begin(c, err);

	if (r < 0)
		return r;
	r = conn_flush(c, tm_mono_ns() + c->opts.send_ms * TM_MS, err);
	conn_turn_end(c);
	return r;
}

/* > 0 bytes; 0 = more is needed, *begun tells whether part of a record is here; negative errno. */
static ssize_t decrypt(
	struct tm_conn *c, void *buf, size_t len, bool *begun, bool *answers, struct tm_err *err)
{
	LOCK_SCOPE(&c->ssl_lock);
	size_t had = c->out_len, n = 0;
	int r, e;

	ERR_clear_error();
	r = SSL_read_ex(c->ssl, buf, len, &n);
	*answers = c->out_len != had;
	if (r == 1)
		return (ssize_t)n;
	e = SSL_get_error(c->ssl, r);
	*begun = c->in_at != c->in_end || SSL_has_pending(c->ssl);
	if (e == SSL_ERROR_WANT_READ)
		return 0;
	if (e == SSL_ERROR_ZERO_RETURN)
		return tm_fail(err, EPIPE, "%s closed the connection", c->name);
	return explain(c, "receive from", err);
}

ssize_t conn_read(struct tm_conn *c, void *buf, size_t len, uint64_t idle, uint64_t span,
	uint64_t *deadline, struct tm_err *err)
{
	for (unsigned round = 0;; round++) {
		bool begun = false, answers = false;
		ssize_t n = decrypt(c, buf, len, &begun, &answers, err);

		if (n < 0 && n != -EPIPE)
			return conn_break(c, err);
		if (n >= 0 && answers && flush_answers(c, err) < 0)
			return -err->code;
		if (n > 0 && !*deadline)
			*deadline = tm_mono_ns() + span;
		if (n)
			return n;
		if (begun && !*deadline)
			*deadline = tm_mono_ns() + span;
		n = 0;
		/* Waiting is not all that takes time: records without contents could come for ever. */
		if (round < ROUNDS || tm_mono_ns() < (*deadline ? *deadline : idle))
			n = fill(c, *deadline ? *deadline : idle, err);
		if (n == -EPIPE && begun)
			return tm_fail(err, ECONNRESET, "%s closed within a record", c->name);
		if (n < 0)
			return n;
		if (n == 0 && !*deadline)
			return tm_fail(err, EAGAIN, "nothing came from %s", c->name);
		if (n == 0) {
			tm_fail(err, ETIMEDOUT, "%s began a frame and did not end it in time",
				c->name);
			return conn_break(c, err);
		}
	}
}

/* Makes records while there is room for them. Returns the bytes taken, or a negative errno. */
static ssize_t encrypt(struct tm_conn *c, const uint8_t *p, size_t len, struct tm_err *err)
{
	LOCK_SCOPE(&c->ssl_lock);
	size_t done = 0;

	while (done < len && c->out_len + CONN_RECORD + 2 * CONN_SLACK <= CONN_OUT) {
		size_t part = len - done < CONN_RECORD ? len - done : CONN_RECORD, n = 0;

		ERR_clear_error();
		if (++c->records >= CONN_REKEY) {
			c->records = 0;
			SSL_key_update(c->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
		}
		if (SSL_write_ex(c->ssl, p + done, part, &n) != 1 || n != part)
			return explain(c, "send to", err);
		done += part;
	}
	return (ssize_t)done;
}

int conn_write(
	struct tm_conn *c, const void *buf, size_t len, uint64_t deadline, struct tm_err *err)
{
	const uint8_t *p = buf;

	while (len) {
		ssize_t n = encrypt(c, p, len, err);

		if (n < 0)
			return conn_break(c, err);
		p += n;
		len -= (size_t)n;
		if (len && conn_flush(c, deadline, err) < 0)
			return -err->code;
	}
	return 0;
}

int conn_turn_begin(struct tm_conn *c, struct tm_err *err)
{
	LOCK_SCOPE(&c->turn_lock);
	uint64_t mine = c->turn_drawn++;

	/* Whoever has the turn is bounded by its deadline, and breaks the connection when that passes. */
	while (c->turn_now != mine && !c->broken.code)
		pthread_cond_wait(&c->turn_next, &c->turn_lock);
	if (!c->broken.code)
		return 0;
	*err = c->broken;
	return -err->code;
}

void conn_turn_end(struct tm_conn *c)
{
	LOCK_SCOPE(&c->turn_lock);

	c->turn_now++;
	pthread_cond_broadcast(&c->turn_next);
}
