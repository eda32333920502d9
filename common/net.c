// SPDX-License-Identifier: Apache-2.0
/* TCP: dialling, listening, options. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/conn-int.h"

int net_poll(int fd, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		uint64_t now = tm_mono_ns(), left = deadline > now ? deadline - now : 0;
		struct timespec ts = tm_timespec(left);
		int n = ppoll(&p, 1, deadline == UINT64_MAX ? NULL : &ts, NULL);

		if (n >= 0)
			return n;
		if (errno != EINTR)
			return -errno;
	}
}

/* Options make things better; none is needed, so failures are not errors. */
void net_options(int fd, unsigned tcp_ms)
{
	int one = 1, idle = (int)(tcp_ms / 2000 + 1), interval = (int)(tcp_ms / 6000 + 1),
	    count = 3;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &tcp_ms, sizeof(tcp_ms));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static void format_name(const struct sockaddr_storage *sa, char *name, size_t room)
{
	char host[INET6_ADDRSTRLEN] = "?";
	const struct sockaddr_in *v4 = (const void *)sa;
	const struct sockaddr_in6 *v6 = (const void *)sa;

	if (sa->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
		inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, host, sizeof(host));
		snprintf(name, room, "%s:%u", host, ntohs(v6->sin6_port));
	} else if (sa->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		snprintf(name, room, "[%s]:%u", host, ntohs(v6->sin6_port));
	} else if (sa->ss_family == AF_INET) {
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
		snprintf(name, room, "%s:%u", host, ntohs(v4->sin_port));
	} else {
		snprintf(name, room, "local");
	}
}

void net_peer_name(int fd, char *name, size_t room)
{
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);

	if (getpeername(fd, (struct sockaddr *)&sa, &len) < 0)
		snprintf(name, room, "unknown");
	else
		format_name(&sa, name, room);
}

/* fd, or a negative errno. */
static int dial_one(const struct addrinfo *ai, uint64_t deadline)
{
	CLEANUP_CLOSE int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r, code = 0;
	socklen_t len = sizeof(code);

	if (fd < 0)
		return -errno;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
		if (errno != EINPROGRESS && errno != EINTR)
			return -errno;
		r = net_poll(fd, POLLOUT, deadline);
		if (r <= 0)
			return r < 0 ? r : -ETIMEDOUT;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
			return -errno;
		if (code)
			return -code;
	}
	r = fd;
	fd = -1;
	return r;
}

int net_dial(const char *host, uint16_t port, unsigned timeout_ms, struct tm_err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list;
	char service[8];
	int r, fd = -EHOSTUNREACH;

	snprintf(service, sizeof(service), "%u", port);
	r = getaddrinfo(host, service, &hints, &list);
	if (r == EAI_NONAME || r == EAI_ADDRFAMILY) {
		/* ADDRCONFIG hides loopback addresses on a machine that has no other. */
		hints.ai_flags = 0;
		r = getaddrinfo(host, service, &hints, &list);
	}
	if (r)
		return tm_fail(err, r == EAI_SYSTEM ? errno : EHOSTUNREACH, "look up server %s: %s",
			host, gai_strerror(r));
	for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = dial_one(ai, tm_mono_ns() + timeout_ms * TM_MS);
	freeaddrinfo(list);
	if (fd < 0)
		return tm_fail(err, -fd, "connect to %s port %u: %s", host, port, strerror(-fd));
	return fd;
}

static int listen_one(const struct addrinfo *ai, struct tm_err *err)
{
	CLEANUP_CLOSE int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, zero = 0, r;

	if (fd < 0)
		return tm_fail_errno(err, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0)
		return tm_fail_errno(err, "bind");
	if (listen(fd, 512) < 0)
		return tm_fail_errno(err, "listen");
	r = fd;
	fd = -1;
	return r;
}

int tm_listen(const char *host, uint16_t port, int *fd, uint16_t *actual, struct tm_err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	char service[8];
	int r, s = -1;

	snprintf(service, sizeof(service), "%u", port);
	r = getaddrinfo(host ? host : "::", service, &hints, &list);
	if (r)
		return tm_fail(err, EADDRNOTAVAIL, "listen at %s: %s",
			host ? host : "::", gai_strerror(r));
	s = listen_one(list, err);
	freeaddrinfo(list);
	if (s < 0 && !host && (err->code == EAFNOSUPPORT || err->code == EADDRNOTAVAIL))
		return tm_listen("0.0.0.0", port, fd, actual, err);
	if (s < 0)
		return tm_wrap(err, "listen at %s port %u", host ? host : "all addresses", port);
	if (actual && getsockname(s, (struct sockaddr *)&sa, &len) == 0)
		*actual = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
							 : ((struct sockaddr_in *)&sa)->sin_port);
	*fd = s;
	return 0;
}
