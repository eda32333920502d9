// SPDX-License-Identifier: Apache-2.0
#include "server/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/units.h"
#include "server/session.h"

#define STACK (512u << 10)

/* One connection; in listener->list until its thread ends. */
struct link {
	struct link *next;
	struct listener *l;
	int fd;               /* before the handshake */
	int probe;            /* the same socket, for TCP_INFO and to break the handshake */
	struct tm_conn *conn; /* server->lock */
};

struct listener {
	struct server *s;
	int fd, stop;
	pthread_t thread;
	pthread_attr_t attr;
	struct link *list; /* server->lock */
};

static struct tm_log_limit full_limit = TM_LOG_LIMIT(5, 10);

static void link_remove(struct link *k)
{
	struct listener *l = k->l;
	struct server *s = l->s;
	struct link **p;

	pthread_mutex_lock(&s->lock);
	for (p = &l->list; *p != k; p = &(*p)->next)
		;
	*p = k->next;
	s->threads--;
	s->strangers--;
	close(k->probe);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	free(k);
}

static void *serve(void *arg)
{
	struct link *k = arg;
	struct server *s = k->l->s;
	struct tm_conn *c = NULL;
	unsigned int patience = (unsigned int)(s->conf.patience / TM_MS);
	struct tm_conn_opts opts = {.send_ms = patience,
		.frame_ms = patience,
		.handshake_ms = patience < 10000 ? patience : 10000};
	struct tm_err err;
	bool stopping;

	if (tm_conn_accept(s->tls, k->fd, &opts, &c, &err)) {
		tm_log(TM_LOG_WARNING, "refused connection: %s", err.msg);
		link_remove(k);
		return NULL;
	}
	pthread_mutex_lock(&s->lock);
	k->conn = c;
	stopping = __atomic_load_n(&s->stopping, __ATOMIC_ACQUIRE);
	pthread_mutex_unlock(&s->lock);
	if (!stopping)
		session_serve(s, c, k->probe);
	pthread_mutex_lock(&s->lock);
	k->conn = NULL;
	pthread_mutex_unlock(&s->lock);
	tm_conn_put(c);
	link_remove(k);
	return NULL;
}

static void address(const struct sockaddr_storage *a, char *out, size_t room)
{
	char ip[INET6_ADDRSTRLEN] = "?";
	const void *p = a->ss_family == AF_INET6
				? (const void *)&((const struct sockaddr_in6 *)a)->sin6_addr
				: (const void *)&((const struct sockaddr_in *)a)->sin_addr;

	inet_ntop(a->ss_family, p, ip, sizeof(ip));
	snprintf(out, room, "%s", ip);
}

/* Counts it in, or says why not. */
static const char *admit(struct listener *l, struct link *k)
{
	struct server *s = l->s;
	LOCK_SCOPE(&s->lock);

	if (s->threads >= s->conf.connections)
		return "too many connections";
	if (s->strangers >= s->conf.strangers)
		return "too many connections that have not identified themselves";
	s->threads++;
	s->strangers++;
	k->next = l->list;
	l->list = k;
	return NULL;
}

static void take(struct listener *l, int fd, const struct sockaddr_storage *from)
{
	struct link *k = calloc(1, sizeof(*k));
	const char *why = "out of memory or descriptors";
	unsigned int dropped;
	pthread_t thread;
	char name[INET6_ADDRSTRLEN];

	if (k) {
		k->l = l;
		k->fd = fd;
		k->probe = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		why = k->probe < 0 ? why : admit(l, k);
	}
	if (!why) {
		if (pthread_create(&thread, &l->attr, serve, k) == 0)
			return;
		close(fd);
		link_remove(k);
		why = "no thread";
	} else {
		if (k && k->probe >= 0)
			close(k->probe);
		free(k);
		close(fd);
	}
	address(from, name, sizeof(name));
	if (tm_log_allowed(&full_limit, &dropped))
		tm_log(TM_LOG_WARNING, "%s refused connection: %s", name, why);
}

static void *accept_loop(void *arg)
{
	struct listener *l = arg;
	struct pollfd p[2] = {{l->fd, POLLIN, 0}, {l->stop, POLLIN, 0}};

	while (!__atomic_load_n(&l->s->stopping, __ATOMIC_ACQUIRE)) {
		struct sockaddr_storage from;
		socklen_t len = sizeof(from);
		int fd;

		if (poll(p, 2, -1) < 0 || !p[0].revents)
			continue;
		fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);
		if (fd >= 0)
			take(l, fd, &from);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			poll(p + 1, 1, 100); /* until some connection ends */
	}
	return NULL;
}

int listener_start(struct server *s, struct listener **out, uint16_t *port, struct tm_err *err)
{
	struct listener *l = calloc(1, sizeof(*l));
	char host[256];
	uint16_t want;
	int rc;

	if (!l)
		return tm_fail(err, ENOMEM, "out of memory");
	l->s = s;
	l->fd = -1;
	l->stop = eventfd(0, EFD_CLOEXEC);
	rc = l->stop < 0 ? tm_fail_errno(err, "eventfd")
			 : tm_addr_parse(s->conf.listen, TM_PORT, host, sizeof(host), &want, err);
	if (!rc)
		rc = tm_listen(*host && strcmp(host, "*") ? host : NULL, want, &l->fd, port, err);
	if (rc) {
		if (l->stop >= 0)
			close(l->stop);
		free(l);
		return rc;
	}
	pthread_attr_init(&l->attr);
	pthread_attr_setstacksize(&l->attr, STACK);
	pthread_attr_setdetachstate(&l->attr, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&l->thread, NULL, accept_loop, l);
	if (rc) {
		close(l->fd);
		close(l->stop);
		free(l);
		return tm_fail(err, rc, "no thread: %s", strerror(rc));
	}
	*out = l;
	return 0;
}

void listener_stop(struct listener *l)
{
	struct server *s;
	uint64_t one = 1;

	if (!l)
		return;
	s = l->s;
	__atomic_store_n(&s->stopping, true, __ATOMIC_RELEASE);
	if (write(l->stop, &one, sizeof(one)) < 0)
		tm_log(TM_LOG_ERR, "eventfd: %s", strerror(errno));
	pthread_join(l->thread, NULL);
	pthread_mutex_lock(&s->lock);
	while (s->threads) {
		struct timespec ts = tm_timespec(tm_mono_ns() + TM_SEC);

		for (struct link *k = l->list; k; k = k->next) {
			if (k->conn)
				tm_conn_cancel(k->conn);
			else
				shutdown(k->probe, SHUT_RDWR); /* in its handshake */
		}
		pthread_cond_clockwait(&s->changed, &s->lock, CLOCK_MONOTONIC, &ts);
	}
	pthread_mutex_unlock(&s->lock);
	pthread_attr_destroy(&l->attr);
	close(l->fd);
	close(l->stop);
	free(l);
}
