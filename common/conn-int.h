/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside a connection. Two locks, never held while waiting for the socket:
 *
 *	ssl_lock   the SSL object and both buffers. Encrypting and decrypting happen under it, system calls outside.
 *	turn_lock  whose turn it is to send, and the first failure. Taken alone or inside of nothing.
 *
 * The SSL object reads from `in` and writes to `out`. Only the receiving thread fills `in` from the socket; only the sender whose
 * turn it is empties `out`, by exchanging it for `spare` under ssl_lock and sending that.
 */
#ifndef TM_CONN_INT_H
#define TM_CONN_INT_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/conn.h"
#include "common/tls-int.h"

#define CONN_IN     (128u * 1024)
#define CONN_OUT    (64u * 1024)
#define CONN_RECORD 16384u
#define CONN_SLACK  1024u /* of out: what one record adds, and answers to the peer's key updates */

/* So many records may one key protect (AES-GCM: below 2^24.5). */
#define CONN_REKEY (1u << 23)

struct tm_conn {
	_Atomic int refs;
	int fd;
	struct tm_tls *tls;
	struct tm_conn_opts opts;
	char name[INET6_ADDRSTRLEN + 10];
	bool has_cert;
	uint8_t peer[TM_UUID], peer_fpr[TM_FPR];

	pthread_mutex_t ssl_lock;
	SSL *ssl;             /* ssl_lock */
	uint8_t *in;          /* ssl_lock; bytes past in_end: the receiving thread */
	size_t in_at, in_end; /* ssl_lock */
	uint8_t *out, *spare; /* ssl_lock; contents of spare: whose turn it is */
	size_t out_len;       /* ssl_lock */
	uint32_t records;     /* ssl_lock: sent under this key */

	pthread_mutex_t turn_lock;
	pthread_cond_t turn_next;
	uint64_t turn_drawn, turn_now; /* turn_lock */
	struct tm_err broken;          /* turn_lock: of the whole connection; code 0 = none */

	uint32_t send_seq; /* whose turn it is */

	/* The receiving thread's. */
	enum tm_stage stage;
	uint32_t recv_seq;
	uint32_t body_left;
	uint64_t body_deadline; /* 0: not begun */
	struct tm_err recv_failed;

	_Atomic uint64_t sent, received;
};

/* conn-io.c. Deadlines in monotonic ns; UINT64_MAX = none. Each fails with err set; the reason stays (conn_break). */
int conn_handshake(struct tm_conn *c, uint64_t deadline, struct tm_err *err);

/*
 * 1 to len bytes, or a negative errno (-EPIPE: the peer closed). Before anything has arrived `idle` counts (-EAGAIN), from then on `deadline`,
 * which is set to now + span at the first byte if it is 0.
 */
ssize_t conn_read(struct tm_conn *c, void *buf, size_t len, uint64_t idle, uint64_t span,
	uint64_t *deadline, struct tm_err *err);

/* Encrypts into `out`, sends when it is full. The caller has the turn. */
int conn_write(
	struct tm_conn *c, const void *buf, size_t len, uint64_t deadline, struct tm_err *err);
int conn_flush(struct tm_conn *c, uint64_t deadline, struct tm_err *err);

int conn_turn_begin(struct tm_conn *c, struct tm_err *err);
void conn_turn_end(struct tm_conn *c);

/* Notes the first reason, wakes everyone; returns -code of the first reason and copies it to *err. */
int conn_break(struct tm_conn *c, struct tm_err *err);

int conn_bio_init(struct tm_conn *c);

/* net.c */
int net_dial(const char *host, uint16_t port, unsigned timeout_ms, struct tm_err *err); /* fd */
void net_options(int fd, unsigned tcp_ms);
void net_peer_name(int fd, char *name, size_t room);

/* Waits for the events until the deadline: 1, 0 = time is up, or a negative errno. */
int net_poll(int fd, short events, uint64_t deadline);

#endif
