// SPDX-License-Identifier: Apache-2.0
#include "common/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/conn-int.h"
#include "common/uuid.h"

static unsigned or_default(unsigned ms, unsigned def)
{
	return ms ? ms : def;
}

static struct tm_conn_opts defaults(const struct tm_conn_opts *o)
{
	static const struct tm_conn_opts none;

	if (!o)
		o = &none;
	return (struct tm_conn_opts){
		.connect_ms = or_default(o->connect_ms, 10000),
		.handshake_ms = or_default(o->handshake_ms, 10000),
		.send_ms = or_default(o->send_ms, 60000),
		.frame_ms = or_default(o->frame_ms, 60000),
		.tcp_ms = or_default(o->tcp_ms, 30000),
	};
}

static void destroy(struct tm_conn *c)
{
	SSL_free(c->ssl);
	tm_tls_put(c->tls);
	close(c->fd);
	free(c->in);
	free(c->out);
	free(c->spare);
	pthread_mutex_destroy(&c->ssl_lock);
	pthread_mutex_destroy(&c->turn_lock);
	pthread_cond_destroy(&c->turn_next);
	free(c);
}

/* Takes fd over. */
static struct tm_conn *create(
	struct tm_tls *tls, int fd, const struct tm_conn_opts *opts, struct tm_err *err)
{
	struct tm_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		tm_fail(err, ENOMEM, "connection: out of memory");
		return NULL;
	}
	c->refs = 1;
	c->fd = fd;
	c->tls = tls;
	tm_tls_get(tls);
	c->opts = *opts;
	pthread_mutex_init(&c->ssl_lock, NULL);
	pthread_mutex_init(&c->turn_lock, NULL);
	pthread_cond_init(&c->turn_next, NULL);
	net_peer_name(fd, c->name, sizeof(c->name));
	net_options(fd, opts->tcp_ms);
	c->ssl = SSL_new(tls->ctx);
	c->in = malloc(CONN_IN);
	c->out = malloc(CONN_OUT);
	c->spare = malloc(CONN_OUT);
	if (!c->ssl || !c->in || !c->out || !c->spare || conn_bio_init(c) < 0 ||
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
		ERR_clear_error();
		destroy(c);
		tm_fail(err, ENOMEM, "connection: out of memory");
		return NULL;
	}
	if (tls->server)
		SSL_set_accept_state(c->ssl);
	else
		SSL_set_connect_state(c->ssl);
	return c;
}

/* What OpenSSL leaves to the application: was the protocol agreed on, who is the peer. */
static int identify(struct tm_conn *c, struct tm_err *err)
{
	X509 *cert = SSL_get0_peer_certificate(c->ssl);
	const unsigned char *proto;
	unsigned int len;

	SSL_get0_alpn_selected(c->ssl, &proto, &len);
	if (!len)
		return tm_fail(err, EACCES, "%s: the peer does not speak tidemark/1", c->name);
	if (!cert)
		return 0;
	if (tm_cert_uuid(cert, c->peer) < 0)
		return tm_fail(err, EACCES, "%s: its certificate names no machine", c->name);
	tm_cert_fpr(cert, c->peer_fpr);
	c->has_cert = true;
	if (!tm_uuid_is_zero(c->tls->peer) && !tm_uuid_equal(c->tls->peer, c->peer)) {
		char is[TM_UUID_TEXT], want[TM_UUID_TEXT];

		return tm_fail(err, EACCES,
			"%s is server %s, not %s, where this machine is enrolled", c->name,
			tm_uuid_format(c->peer, is), tm_uuid_format(c->tls->peer, want));
	}
	return 0;
}

static int start(struct tm_tls *tls, int fd, const struct tm_conn_opts *opts, struct tm_conn **conn,
	struct tm_err *err)
{
	struct tm_conn *c = create(tls, fd, opts, err);
	int r;

	if (!c)
		return -err->code;
	r = conn_handshake(c, tm_mono_ns() + opts->handshake_ms * TM_MS, err);
	if (r == 0)
		r = identify(c, err);
	if (r < 0) {
		/* Lets the alert arrive, but not for long. */
		tm_conn_finish(c, 200);
		destroy(c);
		return r;
	}
	*conn = c;
	return 0;
}

int tm_conn_accept(struct tm_tls *tls, int fd, const struct tm_conn_opts *opts,
	struct tm_conn **conn, struct tm_err *err)
{
	struct tm_conn_opts o = defaults(opts);

	return start(tls, fd, &o, conn, err);
}

int tm_conn_connect(struct tm_tls *tls, const char *host, uint16_t port,
	const struct tm_conn_opts *opts, struct tm_conn **conn, struct tm_err *err)
{
	struct tm_conn_opts o = defaults(opts);
	int fd = net_dial(host, port, o.connect_ms, err);

	return fd < 0 ? fd : start(tls, fd, &o, conn, err);
}

void tm_conn_get(struct tm_conn *c)
{
	atomic_fetch_add(&c->refs, 1);
}

void tm_conn_put(struct tm_conn *c)
{
	if (c && atomic_fetch_sub(&c->refs, 1) == 1)
		destroy(c);
}

void tm_conn_expect(struct tm_conn *c, enum tm_stage stage)
{
	c->stage = stage;
}

static int header_check(struct tm_conn *c, const struct tm_frame *h, struct tm_err *err)
{
	int64_t limit;

	if (h->magic != TM_WIRE_MAGIC)
		return tm_fail(
			err, EPROTO, "%s sent a frame of wrong magic %08x", c->name, h->magic);
	if (h->flags)
		return tm_fail(
			err, EPROTO, "%s sent a frame with unknown flags %04x", c->name, h->flags);
	if (h->seq != c->recv_seq)
		return tm_fail(err, EPROTO, "%s sent frame %u where %u is due", c->name, h->seq,
			c->recv_seq);
	limit = tm_msg_limit(c->stage, h->type);
	if (limit < 0)
		return tm_fail(err, EBADMSG, "%s sent %s (type %u), which is not expected here",
			c->name, tm_msg_name(h->type), h->type);
	if (h->length > limit)
		return tm_fail(err, EMSGSIZE, "%s sent %s of %u bytes, at most %lld are allowed",
			c->name, tm_msg_name(h->type), h->length, (long long)limit);
	return 0;
}

/* Receiving ends here; sending (a last ERROR) may go on. */
static int recv_fail(struct tm_conn *c, struct tm_err *err)
{
	if (!c->recv_failed.code)
		c->recv_failed = *err;
	return -err->code;
}

int tm_conn_recv(struct tm_conn *c, int idle_ms, struct tm_frame *h, struct tm_err *err)
{
	uint64_t idle = idle_ms < 0 ? UINT64_MAX : tm_mono_ns() + (uint64_t)idle_ms * TM_MS;
	uint64_t deadline = 0;
	size_t got = 0;

	if (c->recv_failed.code) {
		*err = c->recv_failed;
		return -err->code;
	}
	if (c->body_left) {
		tm_fail(err, EINVAL, "%u bytes of the last frame were not taken", c->body_left);
		return recv_fail(c, err);
	}
	while (got < sizeof(*h)) {
		ssize_t n = conn_read(c, (uint8_t *)h + got, sizeof(*h) - got, idle,
			c->opts.frame_ms * TM_MS, &deadline, err);

		if (n == -EAGAIN)
			return (int)n;
		if (n == -EPIPE && got)
			tm_fail(err, ECONNRESET, "%s closed within a frame", c->name);
		if (n < 0)
			return recv_fail(c, err);
		got += (size_t)n;
	}
	if (header_check(c, h, err) < 0)
		return recv_fail(c, err);
	c->recv_seq++;
	c->body_left = h->length;
	c->body_deadline = 0;
	return 0;
}

int tm_conn_body(struct tm_conn *c, void *buf, size_t len, struct tm_err *err)
{
	uint8_t *p = buf;

	if (c->recv_failed.code) {
		*err = c->recv_failed;
		return -err->code;
	}
	if (len > c->body_left) {
		tm_fail(err, EINVAL, "more was asked for than the frame has");
		return recv_fail(c, err);
	}
	if (!c->body_deadline)
		c->body_deadline = tm_mono_ns() + c->opts.frame_ms * TM_MS;
	while (len) {
		ssize_t n = conn_read(c, p, len, 0, 0, &c->body_deadline, err);

		if (n == -EPIPE)
			tm_fail(err, ECONNRESET, "%s closed within a frame", c->name);
		if (n < 0)
			return recv_fail(c, err);
		p += n;
		len -= (size_t)n;
		c->body_left -= (uint32_t)n;
	}
	return 0;
}

int tm_conn_recv_msg(
	struct tm_conn *c, int idle_ms, struct tm_frame *h, void **body, struct tm_err *err)
{
	CLEANUP_FREE void *buf = NULL;

	*body = NULL;
	if (tm_conn_recv(c, idle_ms, h, err) < 0)
		return -err->code;
	if (!h->length)
		return 0;
	buf = malloc(h->length);
	if (!buf) {
		tm_fail(err, ENOMEM, "receive from %s: out of memory", c->name);
		return recv_fail(c, err);
	}
	if (tm_conn_body(c, buf, h->length, err) < 0)
		return -err->code;
	*body = tm_take(buf);
	return 0;
}

/* Header and small parts are put together into one record; from there on records are made from the caller's memory. */
static int send_parts(struct tm_conn *c, const struct tm_frame *h, const struct iovec *iov, int n,
	uint64_t deadline, struct tm_err *err)
{
	uint8_t first[CONN_RECORD];
	size_t len = sizeof(*h), at = 0;
	int i = 0;

	memcpy(first, h, sizeof(*h));
	for (; i < n && len < sizeof(first); i++) {
		size_t room = sizeof(first) - len;

		at = iov[i].iov_len < room ? iov[i].iov_len : room;
		if (at)
			memcpy(first + len, iov[i].iov_base, at);
		len += at;
		if (at < iov[i].iov_len)
			break;
		at = 0;
	}
	if (conn_write(c, first, len, deadline, err) < 0)
		return -err->code;
	for (; i < n; i++, at = 0)
		if (conn_write(c, (const uint8_t *)iov[i].iov_base + at, iov[i].iov_len - at,
			    deadline, err) < 0)
			return -err->code;
	return conn_flush(c, deadline, err);
}

int tm_conn_send(
	struct tm_conn *c, uint16_t type, const struct iovec *iov, int n, struct tm_err *err)
{
	struct tm_frame h = {.magic = TM_WIRE_MAGIC, .type = type};
	uint64_t length = 0;
	int r;

	for (int i = 0; i < n; i++)
		length += iov[i].iov_len;
	if (length > TM_FRAME_MAX)
		return tm_fail(err, EMSGSIZE, "%s of %llu bytes is too long to send",
			tm_msg_name(type), (unsigned long long)length);
	h.length = (uint32_t)length;
	if (conn_turn_begin(c, err) < 0)
		return -err->code;
	h.seq = c->send_seq++;
	r = send_parts(c, &h, iov, n, tm_mono_ns() + c->opts.send_ms * TM_MS, err);
	conn_turn_end(c);
	return r;
}

int tm_conn_send_msg(struct tm_conn *c, const struct tm_out *out, struct tm_err *err)
{
	struct iovec iov[TM_ARRAY_SIZE(out->iov)];

	memcpy(iov, out->iov, sizeof(iov));
	/* The struct may have been copied since it was built. */
	if (out->niov)
		iov[0].iov_base = (void *)(uintptr_t)out->fixed;
	return tm_conn_send(c, out->type, iov, out->niov, err);
}

void tm_conn_cancel(struct tm_conn *c)
{
	struct tm_err err = {0};

	tm_fail(&err, ECANCELED, "the connection to %s was ended here", c->name);
	conn_break(c, &err);
}

void tm_conn_finish(struct tm_conn *c, unsigned ms)
{
	uint64_t deadline = tm_mono_ns() + ms * TM_MS;
	struct tm_err err = {0};
	ssize_t n;

	if (conn_turn_begin(c, &err) < 0)
		return;
	pthread_mutex_lock(&c->ssl_lock);
	ERR_clear_error();
	SSL_shutdown(c->ssl);
	ERR_clear_error();
	pthread_mutex_unlock(&c->ssl_lock);
	conn_flush(c, deadline, &err);
	conn_turn_end(c);
	shutdown(c->fd, SHUT_WR);
	do
		n = recv(c->fd, c->spare, CONN_OUT, 0);
	while (n > 0 ? tm_mono_ns() < deadline
		     : n < 0 && (errno == EINTR || (errno == EAGAIN &&
							   net_poll(c->fd, POLLIN, deadline) > 0)));
	tm_conn_cancel(c);
}

const char *tm_conn_name(const struct tm_conn *c)
{
	return c->name;
}

bool tm_conn_peer(const struct tm_conn *c, uint8_t uuid[TM_UUID])
{
	if (c->has_cert)
		memcpy(uuid, c->peer, TM_UUID);
	return c->has_cert;
}

bool tm_conn_peer_fpr(const struct tm_conn *c, uint8_t fpr[TM_FPR])
{
	if (c->has_cert)
		memcpy(fpr, c->peer_fpr, TM_FPR);
	return c->has_cert;
}

int tm_conn_peer_ca(const struct tm_conn *c, void **der, size_t *len, struct tm_err *err)
{
	STACK_OF(X509) *chain = SSL_get0_verified_chain(c->ssl);
	int n = sk_X509_num(chain);
	unsigned char *out = NULL;

	n = n > 0 ? i2d_X509(sk_X509_value(chain, n - 1), &out) : -1;
	if (n <= 0)
		return tm_fail_ssl(err, EPROTO, "the server's CA");
	*der = malloc((size_t)n);
	if (*der)
		memcpy(*der, out, (size_t)n);
	OPENSSL_free(out);
	if (!*der)
		return tm_fail(err, ENOMEM, "out of memory");
	*len = (size_t)n;
	return 0;
}

void tm_conn_stats(struct tm_conn *c, struct tm_conn_stats *stats)
{
	stats->sent = atomic_load_explicit(&c->sent, memory_order_relaxed);
	stats->received = atomic_load_explicit(&c->received, memory_order_relaxed);
}
