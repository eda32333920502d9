// SPDX-License-Identifier: Apache-2.0
/*
 * netwire NETNS-A NETNS-B FIFO: a cable between two network namespaces whose faults tests choose.
 *
 * Makes a TUN device "wire" in each namespace (the caller gives them addresses) and carries packets between them. Lines
 * written to FIFO: "delay MS", "loss PERMILLE", "rate BYTES_PER_SECOND" (0 = none), "cut a|b|both" (what a, b or both
 * send is lost), "reset" (A's next big TCP packet is lost, and its connection reset: one connection of several ends),
 * "mend", "quit". Prints "ready" once both devices exist. Ends with "quit" or a signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PACKET_MAX 65536
#define QUEUE_MAX \
	(16u << 20) /* bytes that one direction may hold; more is dropped, as a switch would */

struct packet {
	struct packet *next;
	uint64_t due; /* ns, CLOCK_MONOTONIC */
	size_t len;
	char data[];
};

struct side {
	int fd;        /* TUN: what this side sends is read here */
	int cut;       /* 1: what this side sends is lost */
	uint64_t idle; /* ns at which the last packet has left under the rate */
	size_t held;
	struct packet *first, **last;
};

static struct side sides[2];
static uint64_t delay_ns, rate;
static unsigned int loss;
static unsigned int seed = 1;
static unsigned int resets; /* connections of side 0 still to be reset */

static void die(const char *what)
{
	fprintf(stderr, "netwire: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Opens the TUN device of a namespace; the process stays in that namespace, which does not matter to it. */
static int open_tun(const char *netns)
{
	struct ifreq req = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	char path[256];
	int ns, fd;

	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET))
		die(path);
	close(ns);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		die("/dev/net/tun");
	snprintf(req.ifr_name, sizeof(req.ifr_name), "wire");
	if (ioctl(fd, TUNSETIFF, &req))
		die("TUNSETIFF");
	return fd;
}

static void queue(struct side *s, const char *data, size_t len)
{
	uint64_t now = now_ns();
	struct packet *p;

	if (s->cut || (loss && (unsigned int)rand_r(&seed) % 1000 < loss) ||
		s->held + len > QUEUE_MAX)
		return;
	p = malloc(sizeof(*p) + len);
	if (!p)
		return;
	if (s->idle < now)
		s->idle = now;
	if (rate)
		s->idle += len * 1000000000u / rate;
	p->due = s->idle + delay_ns;
	p->len = len;
	p->next = NULL;
	memcpy(p->data, data, len);
	*s->last = p;
	s->last = &p->next;
	s->held += len;
}

#define BIG_PACKET 1000u

static uint32_t sum16(const void *data, size_t len, uint32_t sum)
{
	const uint8_t *p = data;

	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)p[i] << 8 | p[i + 1];
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/* Answers a big TCP packet with a reset, as if its receiver had sent it. 1: done; the packet is to be forgotten. */
static int reset(const struct side *s, const char *data, size_t len)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} r = {0};
	struct tcphdr tcp;

	memcpy(&r.ip, data, sizeof(r.ip));
	if (len < BIG_PACKET || r.ip.version != 4 || r.ip.ihl != 5 || r.ip.protocol != IPPROTO_TCP)
		return 0;
	memcpy(&tcp, data + sizeof(r.ip), sizeof(tcp));
	r.ip = (struct iphdr){.version = 4,
		.ihl = 5,
		.ttl = 64,
		.protocol = IPPROTO_TCP,
		.tot_len = htons(sizeof(r)),
		.saddr = r.ip.daddr,
		.daddr = r.ip.saddr};
	r.ip.check = fold(sum16(&r.ip, sizeof(r.ip), 0));
	r.tcp.source = tcp.dest;
	r.tcp.dest = tcp.source;
	r.tcp.seq = tcp.ack_seq;
	r.tcp.doff = 5;
	r.tcp.rst = 1;
	r.tcp.check = fold(
		sum16(&r.tcp, sizeof(r.tcp), sum16(&r.ip.saddr, 8, IPPROTO_TCP + sizeof(r.tcp))));
	return write(s->fd, &r, sizeof(r)) == (ssize_t)sizeof(r);
}

/* Delivers what is due; returns the milliseconds until the next packet is, -1 if none waits. */
static int deliver(struct side *from, struct side *to)
{
	struct packet *p;
	uint64_t now = now_ns();

	while ((p = from->first)) {
		if (p->due > now)
			return (int)((p->due - now) / 1000000u) + 1;
		if (write(to->fd, p->data, p->len) < 0 && errno == EAGAIN)
			return 1;
		from->first = p->next;
		if (!p->next)
			from->last = &from->first;
		from->held -= p->len;
		free(p);
	}
	return -1;
}

static void command(char *line)
{
	unsigned long long n = 0;
	char word[16] = "", arg[16] = "";

	if (sscanf(line, "%15s %15s", word, arg) == 2)
		n = strtoull(arg, NULL, 10);
	if (!strcmp(word, "delay")) {
		delay_ns = n * 1000000u;
	} else if (!strcmp(word, "loss")) {
		loss = (unsigned int)n;
	} else if (!strcmp(word, "rate")) {
		rate = n;
	} else if (!strcmp(word, "cut")) {
		sides[0].cut |= strcmp(arg, "b") != 0;
		sides[1].cut |= strcmp(arg, "a") != 0;
	} else if (!strcmp(word, "reset")) {
		resets++;
	} else if (!strcmp(word, "mend")) {
		sides[0].cut = sides[1].cut = 0;
	} else if (!strcmp(word, "quit")) {
		exit(0);
	} else {
		fprintf(stderr, "netwire: unknown command %s\n", word);
		exit(1);
	}
}

static void read_commands(int fd)
{
	static char buf[4096];
	static size_t have;
	ssize_t n = read(fd, buf + have, sizeof(buf) - 1 - have);
	char *line = buf, *end;

	if (n <= 0)
		return;
	have += (size_t)n;
	buf[have] = 0;
	while ((end = strchr(line, '\n'))) {
		*end = 0;
		command(line);
		line = end + 1;
	}
	have -= (size_t)(line - buf);
	memmove(buf, line, have);
}

static void receive(struct side *s)
{
	static char buf[PACKET_MAX];
	ssize_t n;

	while ((n = read(s->fd, buf, sizeof(buf))) > 0) {
		if (resets && s == &sides[0] && reset(s, buf, (size_t)n))
			resets--;
		else
			queue(s, buf, (size_t)n);
	}
}

int main(int argc, char **argv)
{
	struct pollfd fds[3] = {{.events = POLLIN}, {.events = POLLIN}, {.events = POLLIN}};
	int i, a, b;

	if (argc != 4) {
		fprintf(stderr, "usage: netwire NETNS-A NETNS-B FIFO\n");
		return 2;
	}
	fds[2].fd = open(argv[3], O_RDWR | O_NONBLOCK | O_CLOEXEC); /* O_RDWR: never at its end */
	if (fds[2].fd < 0)
		die(argv[3]);
	for (i = 0; i < 2; i++) {
		sides[i].fd = fds[i].fd = open_tun(argv[1 + i]);
		sides[i].last = &sides[i].first;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		a = deliver(&sides[0], &sides[1]);
		b = deliver(&sides[1], &sides[0]);
		if (poll(fds, 3, a < 0 ? b : b < 0 || a < b ? a : b) < 0 && errno != EINTR)
			die("poll");
		if (fds[2].revents)
			read_commands(fds[2].fd);
		for (i = 0; i < 2; i++) {
			if (fds[i].revents & POLLIN)
				receive(&sides[i]);
		}
	}
}
