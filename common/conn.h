/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection: frames (wire.h) over TLS over TCP.
 *
 * One thread receives; any number of threads send, whole frames at a time, in the order in which they got their turn. Every
 * operation has a deadline for the whole frame, so a peer that trickles or never reads is cut off. tm_conn_cancel() from any thread
 * wakes all. Memory per connection is bounded (below 1 MiB) and independent of what the peer claims.
 *
 * After a failure the connection is broken for good in that direction: every later call fails with the first reason. Only the idle
 * time-out of tm_conn_recv (-EAGAIN) leaves it whole.
 *
 * Error codes: -EAGAIN nothing came; -EPIPE the peer closed between frames; -ECONNRESET it closed within one, or TCP broke;
 * -ETIMEDOUT deadline passed; -EPROTO wrong magic, flags, sequence; -EBADMSG type not expected here; -EMSGSIZE length over the
 * limit; -ECANCELED; -EACCES TLS refused (certificate, version, ALPN).
 */
#ifndef TM_CONN_H
#define TM_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/err.h"
#include "common/msg.h"
#include "common/tls.h"
#include "common/wire.h"

#define TM_PORT 7340 /* where a process server listens unless told otherwise */

struct tm_conn;

/* Milliseconds. Zero means the default. */
struct tm_conn_opts {
	unsigned connect_ms;   /* TCP connect, each address: 10 s */
	unsigned handshake_ms; /* whole TLS handshake: 10 s */
	unsigned send_ms;      /* a whole frame from its turn on: 60 s */
	unsigned frame_ms;     /* the rest of a header, and again the whole payload: 60 s */
	unsigned tcp_ms;       /* TCP_USER_TIMEOUT and keepalive: 20 s */
};

struct tm_conn_stats {
	uint64_t sent, received; /* bytes on the wire, TLS included */
};

/*
 * Server: TLS handshake on an accepted socket. Takes fd over, also on failure. *err is one line that names the peer and the cause.
 */
int tm_conn_accept(struct tm_tls *tls, int fd, const struct tm_conn_opts *opts,
	struct tm_conn **conn, struct tm_err *err);

/* Client: tries the host's addresses in turn, then the handshake. */
int tm_conn_connect(struct tm_tls *tls, const char *host, uint16_t port,
	const struct tm_conn_opts *opts, struct tm_conn **conn, struct tm_err *err);

/* Listening TCP socket(s are the caller's to close); port 0 = any, *actual tells. host NULL = all addresses, both families. */
int tm_listen(const char *host, uint16_t port, int *fd, uint16_t *actual, struct tm_err *err);

/* Reference counted: the last put closes. */
void tm_conn_get(struct tm_conn *c);
void tm_conn_put(struct tm_conn *c); /* NULL is fine */

/* What may come now (msg.h); begins as TM_STAGE_NONE, nothing. Set by the receiving thread, or before it runs. */
void tm_conn_expect(struct tm_conn *c, enum tm_stage stage);

/*
 * The next frame's header, checked: magic, flags, sequence, type and length for the stage. Waits up to idle_ms for its first byte
 * (-1 = for ever). Then exactly h->length bytes must be taken with tm_conn_body(), in any number of pieces; the deadline of
 * frame_ms runs anew from the first piece on.
 */
int tm_conn_recv(struct tm_conn *c, int idle_ms, struct tm_frame *h, struct tm_err *err);
int tm_conn_body(struct tm_conn *c, void *buf, size_t len, struct tm_err *err);

/* Both in one: *body is malloc'ed (NULL if empty), h->length bytes. For small messages. */
int tm_conn_recv_msg(
	struct tm_conn *c, int idle_ms, struct tm_frame *h, void **body, struct tm_err *err);

/* Sends one frame; iov is gathered, not changed. Waits for its turn and for the socket. */
int tm_conn_send(
	struct tm_conn *c, uint16_t type, const struct iovec *iov, int n, struct tm_err *err);

/* A message built by msg.h. */
int tm_conn_send_msg(struct tm_conn *c, const struct tm_out *out, struct tm_err *err);

/* Breaks the connection at once, from any thread, any number of times. */
void tm_conn_cancel(struct tm_conn *c);

/*
 * The receiving thread's polite end: tells the peer that no more comes, then reads and drops what it still sends until it closes,
 * for at most ms, so that a last ERROR is not lost to a TCP reset. No other thread may be sending. Breaks the connection.
 */
void tm_conn_finish(struct tm_conn *c, unsigned ms);

/* "1.2.3.4:5678" */
const char *tm_conn_name(const struct tm_conn *c);

/* The peer's UUID by its certificate; false if it showed none. */
bool tm_conn_peer(const struct tm_conn *c, uint8_t uuid[TM_UUID]);

/* Fingerprint of the peer's certificate; false if it showed none. */
bool tm_conn_peer_fpr(const struct tm_conn *c, uint8_t fpr[TM_FPR]);

/* The certificate of the peer's CA as it came in the handshake (client side; for enrolment): malloc'ed DER. */
int tm_conn_peer_ca(const struct tm_conn *c, void **der, size_t *len, struct tm_err *err);

void tm_conn_stats(struct tm_conn *c, struct tm_conn_stats *stats);

#endif
