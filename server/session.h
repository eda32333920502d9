/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session: one agent process, from its accepted HELLO until its control connection ends. One thread receives on the control
 * connection and handles its messages; a second one sends what others have queued (answers to commits, commands).
 */
#ifndef SERVER_SESSION_H
#define SERVER_SESSION_H

#include "server/machine.h"
#include "server/refusal.h"

struct session_item;

#define SESSION_DATA_MAX 16u

struct session {
	struct machine *machine;
	struct tm_conn *conn;
	int socket; /* the connection's, for TCP_INFO only */
	uint64_t id;
	uint8_t instance[TM_UUID];
	unsigned int refs; /* atomic */

	pthread_mutex_t lock; /* below; taken inside machine->lock */
	pthread_cond_t changed;
	struct session_item *queue, **queue_tail;
	unsigned int queued;
	bool dead;
	bool ending;                            /* machine->lock: no more data connections */
	struct tm_conn *data[SESSION_DATA_MAX]; /* machine->lock */
	unsigned int ndata;                     /* machine->lock: threads */
};

/*
 * A connection's whole life after the handshake, in its own thread: ENROLL, or HELLO or HELLO_DATA and then the session. The connection
 * counts as a stranger's until its HELLO is accepted.
 */
void session_serve(struct server *s, struct tm_conn *c, int socket);

/* Queues a message (copied) for the control connection. Never blocks. Dropped if the session is dead. */
void session_post(struct session *s, const struct tm_out *out);
void session_post_refusal(struct session *s, const struct refusal *r, uint16_t about);

void session_get(struct session *s);
void session_put(struct session *s);

/* Refuses a frame of a revoked or held machine, or a superseded session. */
int session_check(struct session *s, struct refusal *r);

/* identity.c: is this HELLO to be believed? 0: m->arriving is set, and the predecessor is gone. */
int identity_check(
	struct machine *m, struct tm_conn *c, const struct tm_in_hello *in, struct refusal *r);
/* Ends m->arriving; broadcasts. Caller holds m->lock. */
void identity_done(struct machine *m);

/* ingest.c: a data connection from its HELLO_DATA on. 0, or -1 with r if it is refused at once. */
int ingest_serve(struct server *s, struct machine *m, struct tm_conn *c,
	const struct tm_msg_hello_data *hello, struct refusal *r);

/* Handlers of the control connection: 0, or -1 with r. */
int disk_open(struct session *s, const void *body, size_t len, struct refusal *r);
int disk_close(struct session *s, const void *body, size_t len, struct refusal *r);
int attempt_begin(struct session *s, const void *body, size_t len, struct refusal *r);
int attempt_end(struct session *s, const void *body, size_t len, struct refusal *r);
int part_commit(struct session *s, const void *body, size_t len, struct refusal *r);
int epoch_commit(struct session *s, const void *body, size_t len, struct refusal *r);
int heartbeat(struct session *s, const void *body, size_t len, struct refusal *r);

#endif
