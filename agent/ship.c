// SPDX-License-Identifier: Apache-2.0
#include "agent/ship.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"

#define RETRY_NS   (30 * TM_SEC) /* without one working link for so long the session ends */
#define UNHEARD_NS (60 * TM_SEC) /* an answer outstanding for so long: the link is dead */

/* A frame or a comparison, sent or to be sent. */
struct item {
	struct item *next;
	struct frame *frame; /* or */
	struct compare_req *compare;
	size_t bytes; /* of credit */
};

struct queue {
	struct item *head, **tail;
};

struct link {
	struct ship *ship;
	unsigned index;
	pthread_t thread;
	struct tm_conn *conn; /* ship->lock; NULL while it is down */
	struct queue sent;    /* ship->lock: waiting for answers, in order */
	struct item *
		current; /* ship->lock: being sent: nobody may free it; not to be followed after that */
	uint64_t heard; /* ship->lock: monotonic ns */
	bool broken;    /* ship->lock */
};

struct ship {
	struct ship_opts opts;
	struct session *session;
	struct link *links;
	unsigned nlinks;
	pthread_mutex_t stopping; /* held by ship_stop() all the time */
	bool stopped;             /* stopping */
	pthread_mutex_t lock;
	pthread_cond_t work;         /* something to send, credit, stop */
	struct queue urgent, normal; /* lock, as all below */
	uint64_t inflight, credit;
	struct tm_conn_stats past; /* of connections that are closed */
	unsigned up;
	uint64_t last_up; /* monotonic ns at which the last link went down */
	bool stop;
};

static void queue_init(struct queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_add(struct queue *q, struct item *it)
{
	it->next = NULL;
	*q->tail = it;
	q->tail = &it->next;
}

static struct item *queue_take(struct queue *q)
{
	struct item *it = q->head;

	if (it && !(q->head = it->next))
		q->tail = &q->head;
	return it;
}

/* Puts all of `from` before what is in q. */
static void queue_prepend(struct queue *q, struct queue *from)
{
	if (!from->head)
		return;
	*from->tail = q->head;
	if (!q->head)
		q->tail = from->tail;
	q->head = from->head;
	queue_init(from);
}

static void item_lost(struct item *it, int error, const char *why)
{
	if (it->frame)
		stream_lost(it->frame, error, why);
	else
		it->compare->done(it->compare, NULL);
	free(it);
}

static void lose_all(struct queue *q, const char *why)
{
	struct item *it;

	while ((it = queue_take(q)))
		item_lost(it, -ECONNRESET, why);
}

static bool item_urgent(const struct item *it)
{
	return it->frame ? it->frame->stream->urgent : it->compare->urgent;
}

static void enqueue(struct ship *ship, struct item *it)
{
	bool stopped;

	pthread_mutex_lock(&ship->lock);
	stopped = ship->stop;
	if (!stopped) {
		queue_add(item_urgent(it) ? &ship->urgent : &ship->normal, it);
		pthread_cond_signal(&ship->work);
	}
	pthread_mutex_unlock(&ship->lock);
	if (stopped)
		item_lost(it, -ECONNRESET, "the connection to the server is lost");
}

static struct item *item_new(void)
{
	struct item *it = calloc(1, sizeof(*it));

	if (!it)
		abort(); /* 48 bytes: the machine is past help, and systemd starts us again */
	return it;
}

void ship_push(void *ctx, struct frame *f)
{
	struct item *it = item_new();

	it->frame = f;
	it->bytes = sizeof(f->head) + f->len;
	enqueue(ctx, it);
}

void ship_compare(struct ship *ship, struct compare_req *rq)
{
	struct item *it = item_new();

	it->compare = rq;
	enqueue(ship, it);
}

/* The next thing to send, put into l->sent already; NULL: the link or the ship ends. */
static struct item *next_item(struct link *l)
{
	struct ship *ship = l->ship;
	struct item *it = NULL;
	LOCK_SCOPE(&ship->lock);

	while (!l->broken && !ship->stop) {
		struct queue *q = ship->urgent.head ? &ship->urgent : &ship->normal;

		it = q->head;
		if (it && (!ship->inflight || ship->inflight + it->bytes <= ship->credit)) {
			queue_take(q);
			ship->inflight += it->bytes;
			queue_add(&l->sent, it);
			l->current = it;
			return it;
		}
		pthread_cond_wait(&ship->work, &ship->lock);
	}
	return NULL;
}

/* When it returns 0 the answer may have come already: the item is not ours any more. */
static int send_item(struct link *l, struct tm_conn *conn, struct item *it, struct tm_err *err)
{
	struct ship *ship = l->ship;
	struct tm_out out;
	int ret;

	if (it->frame)
		ret = tm_build_data(&out, &it->frame->head, it->frame->cells, it->frame->len, err);
	else
		ret = tm_build_compare(
			&out, &it->compare->m, it->compare->hashes, it->compare->n, err);
	if (ret)
		return ret;
	if (!tm_rate_wait(ship->opts.rate, tm_out_length(&out)))
		return tm_fail(err, ECANCELED, "stopped");
	ret = tm_conn_send_msg(conn, &out, err);
	LOCK_SCOPE(&ship->lock);
	l->current = NULL;
	l->heard = tm_mono_ns();
	return ret;
}

static bool acks(const struct item *it, const void *answer)
{
	const struct tm_msg_ack *ack = answer;
	const struct tm_msg_data *head = it->frame ? &it->frame->head : NULL;

	return head && head->frame == ack->frame && head->attempt == ack->attempt &&
	       head->handle == ack->handle && head->part == ack->part;
}

static bool compares(const struct item *it, const void *answer)
{
	const struct tm_msg_compared *cmp = answer;
	const struct compare_req *rq = it->compare;

	return rq && rq->m.first == cmp->first && rq->m.handle == cmp->handle &&
	       rq->m.level == cmp->level && rq->n == cmp->n;
}

/* Takes what this answer is for out of the link's list; NULL: unasked. */
static struct item *answered(
	struct link *l, bool (*is_for)(const struct item *, const void *), const void *answer)
{
	struct ship *ship = l->ship;
	LOCK_SCOPE(&ship->lock);

	l->heard = tm_mono_ns();
	for (struct item **p = &l->sent.head, *it; (it = *p); p = &it->next) {
		if (!is_for(it, answer))
			continue;
		*p = it->next;
		if (!*p)
			l->sent.tail = p;
		ship->inflight -= it->bytes;
		pthread_cond_broadcast(&ship->work);
		return it;
	}
	return NULL;
}

static int got_ack(struct link *l, const void *body, uint32_t len, struct tm_err *err)
{
	const struct tm_msg_ack *ack;
	struct item *it;

	if (tm_parse_ack(body, len, &ack, err))
		return -err->code;
	it = answered(l, acks, ack);
	if (it) /* else its attempt was refused before */
		stream_acked(it->frame);
	free(it);
	return 0;
}

static int got_compared(struct link *l, const void *body, uint32_t len, struct tm_err *err)
{
	struct tm_in_compared in;
	struct item *it;

	if (tm_parse_compared(body, len, &in, err))
		return -err->code;
	it = answered(l, compares, in.m);
	if (!it)
		return tm_fail(err, EPROTO, "the server compared what was not asked");
	it->compare->done(it->compare, in.bitmap);
	free(it);
	return 0;
}

/* A refusal of an attempt or of a comparison loses what of it is under way on this link. */
static void lose_refused(struct link *l, const struct tm_msg_error *m, const char *why)
{
	struct ship *ship = l->ship;
	struct queue rest, lost;
	struct item *it;

	queue_init(&rest);
	queue_init(&lost);
	pthread_mutex_lock(&ship->lock);
	while ((it = queue_take(&l->sent))) {
		bool hit = m->about == TM_MSG_COMPARE
				   ? it->compare && !lost.head
				   : it->frame && it->frame->head.attempt == m->attempt;

		hit = hit && it != l->current;
		if (hit)
			ship->inflight -= it->bytes;
		queue_add(hit ? &lost : &rest, it);
	}
	queue_prepend(&l->sent, &rest);
	pthread_cond_broadcast(&ship->work);
	pthread_mutex_unlock(&ship->lock);
	while ((it = queue_take(&lost)))
		item_lost(it, m->code == TM_E_FULL ? -ENOSPC : -EREMOTEIO, why);
}

/*
 * Streams whose frames are lost fail, and their owners decide. Where the connection ends, too, an attempt that was named loses its frames
 * all the same: sent again from the same memory they would be refused again, for ever; read again they may be right.
 */
static int got_error(struct link *l, const void *body, uint32_t len, struct tm_err *err)
{
	struct tm_in_error e;
	char why[160];

	if (tm_parse_error(body, len, &e, err))
		return -err->code;
	snprintf(why, sizeof(why), "the server refused: %.120s", e.text);
	if (e.m->attempt || e.m->about == TM_MSG_COMPARE)
		lose_refused(l, e.m, why);
	if (!e.m->fatal && (e.m->attempt || e.m->about == TM_MSG_COMPARE))
		return 0;
	tm_fail(err, e.m->code == TM_E_FULL ? ENOSPC : EREMOTEIO, "%s", why);
	if (e.m->code != TM_E_PROTO && e.m->code != TM_E_DAMAGED)
		session_fail(l->ship->session, err, e.m->code);
	return -err->code;
}

static int receive(struct link *l, struct tm_conn *conn, struct tm_err *err)
{
	CLEANUP_FREE void *body = NULL;
	struct tm_frame h;
	int ret;

	ret = tm_conn_recv_msg(conn, 5000, &h, &body, err);
	if (ret == -EAGAIN) {
		LOCK_SCOPE(&l->ship->lock);
		return l->sent.head && !l->current && tm_mono_ns() - l->heard > UNHEARD_NS
			       ? tm_fail(err, ETIMEDOUT, "no answer for a minute")
			       : 0;
	}
	if (ret)
		return ret;
	switch (h.type) {
	case TM_MSG_ACK:
		return got_ack(l, body, h.length, err);
	case TM_MSG_COMPARED:
		return got_compared(l, body, h.length, err);
	default:
		return got_error(l, body, h.length, err);
	}
}

static void break_link(struct link *l)
{
	LOCK_SCOPE(&l->ship->lock);

	l->broken = true;
	pthread_cond_broadcast(&l->ship->work);
}

struct receiver {
	struct link *link;
	struct tm_conn *conn;
	struct tm_err err;
};

static void *receiver(void *arg)
{
	struct receiver *r = arg;

	while (receive(r->link, r->conn, &r->err) == 0)
		;
	break_link(r->link);
	tm_conn_cancel(r->conn);
	return NULL;
}

static int open_link(struct link *l, struct tm_conn **out, struct tm_err *err)
{
	struct ship *ship = l->ship;
	const struct tm_msg_welcome *w = session_welcome(ship->session);
	struct tm_msg_hello_data m = {.session = w->session, .index = l->index};
	CLEANUP_FREE void *body = NULL;
	struct tm_conn *conn = NULL;
	struct tm_in_error e;
	struct tm_frame h;
	struct tm_out msg;
	int ret;

	memcpy(m.machine, ship->opts.machine, TM_UUID);
	ret = tm_conn_connect(
		ship->opts.to.tls, ship->opts.to.host, ship->opts.to.port, NULL, &conn, err);
	if (ret)
		return ret;
	tm_conn_expect(conn, TM_STAGE_WELCOME);
	ret = tm_build_hello_data(&msg, &m, err);
	if (!ret)
		ret = tm_conn_send_msg(conn, &msg, err);
	if (!ret)
		ret = tm_conn_recv_msg(conn, 30000, &h, &body, err);
	if (!ret && h.type == TM_MSG_ERROR && !(ret = tm_parse_error(body, h.length, &e, err))) {
		ret = tm_fail(err, EREMOTEIO, "the server refused a data connection: %s", e.text);
		session_fail(ship->session, err, e.m->code);
	}
	if (!ret && h.type != TM_MSG_OK)
		ret = tm_fail(err, EPROTO, "no OK came, but %s", tm_msg_name(h.type));
	if (ret) {
		tm_conn_put(conn);
		return ret;
	}
	tm_conn_expect(conn, TM_STAGE_AGENT_DATA);
	*out = conn;
	return 0;
}

/* The time of a link: from its first byte until it breaks. What was not acknowledged goes back into the queue. */
static void serve(struct link *l, struct tm_conn *conn, struct tm_err *err)
{
	struct ship *ship = l->ship;
	struct receiver r = {l, conn, {0}};
	struct queue again, again_urgent;
	struct tm_conn_stats st;
	struct item *it;
	pthread_t thread;

	pthread_mutex_lock(&ship->lock);
	l->broken = ship->stop;
	l->conn = conn;
	l->heard = tm_mono_ns();
	ship->up++;
	pthread_mutex_unlock(&ship->lock);
	if (pthread_create(&thread, NULL, receiver, &r) == 0) {
		while ((it = next_item(l)) && send_item(l, conn, it, err) == 0)
			;
		break_link(l);
		tm_conn_cancel(conn);
		pthread_join(thread, NULL);
		if (!err->code || err->code == ECANCELED)
			*err = r.err;
	}
	queue_init(&again);
	queue_init(&again_urgent);
	pthread_mutex_lock(&ship->lock);
	tm_conn_stats(conn, &st);
	ship->past.sent += st.sent;
	ship->past.received += st.received;
	l->conn = NULL;
	l->current = NULL;
	if (!--ship->up)
		ship->last_up = tm_mono_ns();
	while ((it = queue_take(&l->sent))) {
		ship->inflight -= it->bytes;
		queue_add(item_urgent(it) ? &again_urgent : &again, it);
	}
	queue_prepend(&ship->urgent, &again_urgent);
	queue_prepend(&ship->normal, &again);
	pthread_cond_broadcast(&ship->work);
	pthread_mutex_unlock(&ship->lock);
}

static bool wait_retry(struct ship *ship, uint64_t ns)
{
	struct timespec until = tm_timespec(tm_mono_ns() + ns);
	LOCK_SCOPE(&ship->lock);

	while (!ship->stop && pthread_cond_clockwait(&ship->work, &ship->lock, CLOCK_MONOTONIC,
				      &until) != ETIMEDOUT)
		;
	return !ship->stop;
}

static void *run(void *arg)
{
	struct link *l = arg;
	struct ship *ship = l->ship;
	uint64_t wait = 100 * TM_MS;
	bool lost;

	do {
		struct tm_err err = {0};
		struct tm_conn *conn = NULL;

		if (open_link(l, &conn, &err) == 0) {
			wait = 100 * TM_MS;
			serve(l, conn, &err);
			tm_conn_put(conn);
		}
		pthread_mutex_lock(&ship->lock);
		lost = !ship->stop && !ship->up && tm_mono_ns() - ship->last_up > RETRY_NS;
		if (!ship->stop && err.code)
			tm_log(TM_LOG_DEBUG, "data connection %u: %s", l->index, err.msg);
		pthread_mutex_unlock(&ship->lock);
		if (lost)
			session_fail(ship->session, &err, 0);
		wait = wait < 2 * TM_SEC ? wait * 2 : wait;
	} while (wait_retry(ship, wait + (uint64_t)rand() % wait));
	return NULL;
}

int ship_start(const struct ship_opts *opts, struct session *session, struct ship **out,
	struct tm_err *err)
{
	const struct tm_msg_welcome *w = session_welcome(session);
	struct ship *ship = calloc(1, sizeof(*ship));
	unsigned n = opts->connections < w->data_max ? opts->connections : w->data_max;

	n = n ? n : 1;
	if (!ship || !(ship->links = calloc(n, sizeof(*ship->links)))) {
		free(ship);
		return tm_fail(err, ENOMEM, "no memory for connections");
	}
	ship->opts = *opts;
	ship->session = session;
	ship->credit = w->credit;
	ship->last_up = tm_mono_ns();
	pthread_mutex_init(&ship->stopping, NULL);
	pthread_mutex_init(&ship->lock, NULL);
	pthread_cond_init(&ship->work, NULL);
	queue_init(&ship->urgent);
	queue_init(&ship->normal);
	tm_rate_start(opts->rate);
	for (unsigned i = 0; i < n; i++) {
		struct link *l = &ship->links[i];

		l->ship = ship;
		l->index = i;
		queue_init(&l->sent);
		if (pthread_create(&l->thread, NULL, run, l))
			break;
		ship->nlinks++;
	}
	if (!ship->nlinks) {
		ship_stop(ship);
		ship_free(ship);
		return tm_fail(err, EAGAIN, "no threads for data connections");
	}
	*out = ship;
	return 0;
}

void ship_stop(struct ship *ship)
{
	LOCK_SCOPE(&ship->stopping);

	if (ship->stopped)
		return;
	ship->stopped = true;
	pthread_mutex_lock(&ship->lock);
	ship->stop = true;
	for (unsigned i = 0; i < ship->nlinks; i++)
		if (ship->links[i].conn)
			tm_conn_cancel(ship->links[i].conn);
	pthread_cond_broadcast(&ship->work);
	pthread_mutex_unlock(&ship->lock);
	tm_rate_stop(ship->opts.rate);
	for (unsigned i = 0; i < ship->nlinks; i++)
		pthread_join(ship->links[i].thread, NULL);
	/* Nobody adds any more: enqueue() sees stop. */
	lose_all(&ship->urgent, "the connection to the server is lost");
	lose_all(&ship->normal, "the connection to the server is lost");
}

void ship_free(struct ship *ship)
{
	if (!ship)
		return;
	pthread_cond_destroy(&ship->work);
	pthread_mutex_destroy(&ship->lock);
	pthread_mutex_destroy(&ship->stopping);
	free(ship->links);
	free(ship);
}

void ship_stats(struct ship *ship, struct tm_conn_stats *stats, unsigned *links)
{
	LOCK_SCOPE(&ship->lock);
	struct tm_conn_stats st;

	*stats = ship->past;
	*links = ship->up;
	for (unsigned i = 0; i < ship->nlinks; i++) {
		if (!ship->links[i].conn)
			continue;
		tm_conn_stats(ship->links[i].conn, &st);
		stats->sent += st.sent;
		stats->received += st.received;
	}
}
