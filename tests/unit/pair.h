/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: keys of a server and a machine in a folder of their own, and connections between the two over loopback. */
#ifndef TESTS_PAIR_H
#define TESTS_PAIR_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/conn.h"
#include "common/pki.h"
#include "common/uuid.h"

struct pair {
	char dir[32];
	uint8_t server[TM_UUID], machine[TM_UUID];
	struct tm_tls *stls, *ctls;
	int listen_fd;
	uint16_t port;
	struct tm_conn_opts opts; /* of both sides */
	struct tm_conn *c, *s;    /* client, server; NULL: failed, see the errors */
	struct tm_err cerr, serr;
};

static inline void pair_die(const char *what, const struct tm_err *err)
{
	fprintf(stderr, "%s: %s\n", what, err->msg);
	abort();
}

/* What enrolment does, without a network: dir gets a machine's certificate from the CA in ca_dir. */
static inline void pair_machine(const char *ca_dir, const char *dir, const uint8_t machine[TM_UUID])
{
	struct tm_err err;
	uint8_t fpr[TM_FPR];
	char *key = NULL;
	void *csr = NULL, *cert = NULL, *ca = NULL;
	size_t key_len = 0, csr_len, cert_len, ca_len;

	if (tm_pki_request(machine, &key, &key_len, &csr, &csr_len, &err) < 0 ||
		tm_pki_sign(ca_dir, csr, csr_len, machine, &cert, &cert_len, &ca, &ca_len, fpr,
			&err) < 0 ||
		tm_pki_ca_fpr(ca_dir, fpr, &err) < 0 ||
		tm_pki_store(dir, machine, fpr, key, key_len, cert, cert_len, ca, ca_len, &err) < 0)
		pair_die("machine", &err);
	tm_pki_wipe(key, key_len);
	free(csr);
	free(cert);
	free(ca);
}

static inline void pair_init(struct pair *p)
{
	struct tm_err err;

	memset(p, 0, sizeof(*p));
	/* Nothing here is to fail because the machine is busy. */
	p->opts.connect_ms = p->opts.handshake_ms = 60000;
	strcpy(p->dir, "/tmp/tm-pair-XXXXXX");
	if (!mkdtemp(p->dir))
		abort();
	tm_uuid_new(p->server);
	tm_uuid_new(p->machine);
	if (tm_pki_create(p->dir, p->server, &err) < 0)
		pair_die("CA", &err);
	pair_machine(p->dir, p->dir, p->machine);
	if (tm_tls_server(p->dir, &p->stls, &err) < 0 ||
		tm_tls_client(p->dir, p->server, &p->ctls, &err) < 0)
		pair_die("TLS", &err);
	if (tm_listen("127.0.0.1", 0, &p->listen_fd, &p->port, &err) < 0)
		pair_die("listen", &err);
	fcntl(p->listen_fd, F_SETFL, 0); /* accept() may wait */
}

static inline void *pair_accept(void *arg)
{
	struct pair *p = arg;
	int fd = accept(p->listen_fd, NULL, NULL);

	if (fd >= 0)
		tm_conn_accept(p->stls, fd, &p->opts, &p->s, &p->serr);
	return NULL;
}

/* A connection of the two contexts, or the errors. */
static inline void pair_meet(struct pair *p)
{
	pthread_t t;

	p->c = p->s = NULL;
	memset(&p->cerr, 0, sizeof(p->cerr));
	memset(&p->serr, 0, sizeof(p->serr));
	if (pthread_create(&t, NULL, pair_accept, p))
		abort();
	tm_conn_connect(p->ctls, "127.0.0.1", p->port, &p->opts, &p->c, &p->cerr);
	pthread_join(t, NULL);
}

static inline void pair_part(struct pair *p)
{
	tm_conn_put(p->c);
	tm_conn_put(p->s);
	p->c = p->s = NULL;
}

static inline void pair_exit(struct pair *p)
{
	static const char *const names[] = {
		"ca.key", "ca.crt", "server.key", "server.crt", "machine.key", "machine.crt"};
	char path[64];

	pair_part(p);
	tm_tls_put(p->stls);
	tm_tls_put(p->ctls);
	close(p->listen_fd);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", p->dir, names[i]);
		unlink(path);
	}
	rmdir(p->dir);
}

#endif
