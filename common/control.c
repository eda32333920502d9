// SPDX-License-Identifier: Apache-2.0
/* The control socket, server's side. */
#include "common/control.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/control-int.h"

struct client {
	struct tm_control *control;
	struct client *next;
	pthread_t thread;
	int fd;
	bool done; /* the lock: the thread only has to be joined */
};

struct tm_control {
	int fd, wake;
	char *path;
	dev_t dev; /* of the socket file that is ours */
	ino_t ino;
	const struct tm_control_cmd *table;
	void *ctx;
	pthread_t thread;
	pthread_mutex_t lock;
	struct client *clients; /* lock */
	unsigned n;             /* lock */
	bool stopping;          /* lock */
};

static const struct tm_control_cmd *lookup(const struct tm_control_cmd *table, const char *name)
{
	for (; table->name; table++)
		if (strcmp(table->name, name) == 0)
			return table;
	return NULL;
}

/* The answer's line; takes result over. */
static int answer(int fd, int r, int exit_code, cJSON *result, const struct tm_err *err)
{
	cJSON *doc = cJSON_CreateObject();
	const char *code = strerrorname_np(err->code);

	if (!doc) {
		cJSON_Delete(result);
		return -ENOMEM;
	}
	cJSON_AddBoolToObject(doc, "ok", r == 0);
	if (r == 0) {
		cJSON_AddItemToObject(doc, "result", result ? result : cJSON_CreateObject());
	} else {
		cJSON_Delete(result);
		cJSON_AddStringToObject(doc, "code", code ? code : "EIO");
		cJSON_AddNumberToObject(doc, "exit", exit_code);
		cJSON_AddStringToObject(doc, "error", err->msg);
	}
	r = control_send(fd, doc, CONTROL_SEND_MS);
	cJSON_Delete(doc);
	return r;
}

static int dispatch(struct tm_control_call *call, const struct tm_control_cmd *table,
	const cJSON *rq, cJSON **result, struct tm_err *err)
{
	const cJSON *cmd = cJSON_GetObjectItemCaseSensitive(rq, "cmd");
	const cJSON *args = cJSON_GetObjectItemCaseSensitive(rq, "args");
	const struct tm_control_cmd *c;
	cJSON *none;
	int r;

	if (!cJSON_IsString(cmd) || (args && !cJSON_IsObject(args)))
		return tm_fail(err, EINVAL, "a request needs \"cmd\" and may have \"args\"");
	c = lookup(table, cmd->valuestring);
	if (!c)
		return tm_fail(err, EOPNOTSUPP, "this daemon does not know the command %.60s",
			cmd->valuestring);
	none = args ? NULL : cJSON_CreateObject();
	if (!args && !none)
		return tm_fail(err, ENOMEM, "out of memory");
	r = c->fn(call, args ? args : none, result, err);
	cJSON_Delete(none);
	return r;
}

/* One request; negative ends the connection. */
static int serve(struct client *cl, struct control_reader *rd, struct tm_control_call *call)
{
	struct tm_err err = {0};
	cJSON *result = NULL, *rq;
	char *line;
	int r = control_line(rd, cl->fd, TM_CONTROL_LINE, -1, &line, &err);

	if (r == -EMSGSIZE) {
		answer(cl->fd, r, 1, NULL, &err);
		return r;
	}
	if (r < 0)
		return r;
	call->exit = 1;
	rq = cJSON_ParseWithOpts(line, NULL, true);
	if (rq)
		r = dispatch(call, cl->control->table, rq, &result, &err);
	else
		r = tm_fail(&err, EINVAL, "the request is not JSON");
	cJSON_Delete(rq);
	return answer(cl->fd, r, call->exit, result, &err);
}

static void *client_main(void *arg)
{
	struct client *cl = arg;
	struct tm_control *ctl = cl->control;
	struct control_reader rd = {0};
	struct ucred cred = {.uid = (uid_t)-1, .gid = (gid_t)-1};
	socklen_t len = sizeof(cred);
	struct tm_control_call call = {.ctx = ctl->ctx, .fd = cl->fd};

	getsockopt(cl->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	call.uid = cred.uid;
	call.gid = cred.gid;
	call.pid = cred.pid;
	while (serve(cl, &rd, &call) == 0)
		;
	free(rd.buf);
	LOCK_SCOPE(&ctl->lock);
	/* The descriptor stays until the thread is joined: tm_control_stop() may shut it down. */
	shutdown(cl->fd, SHUT_RDWR);
	cl->done = true;
	return NULL;
}

/* Joins the clients that have gone; all of them if `wait`. */
static void reap(struct tm_control *ctl, bool wait)
{
	struct client *gone = NULL, **at, *cl;

	pthread_mutex_lock(&ctl->lock);
	for (at = &ctl->clients; (cl = *at);) {
		if (!cl->done && !wait) {
			at = &cl->next;
			continue;
		}
		*at = cl->next;
		cl->next = gone;
		gone = cl;
		ctl->n--;
	}
	pthread_mutex_unlock(&ctl->lock);
	while ((cl = gone)) {
		gone = cl->next;
		pthread_join(cl->thread, NULL);
		close(cl->fd);
		free(cl);
	}
}

static void turn_away(int fd)
{
	struct tm_err err = {0};

	tm_fail(&err, EBUSY, "too many clients on the control socket: try again");
	answer(fd, -EBUSY, 1, NULL, &err);
	close(fd);
}

static void admit(struct tm_control *ctl, int fd)
{
	struct client *cl = NULL;

	reap(ctl, false);
	LOCK_SCOPE(&ctl->lock);
	if (ctl->n < TM_CONTROL_CLIENTS && !ctl->stopping)
		cl = calloc(1, sizeof(*cl));
	if (!cl) {
		turn_away(fd);
		return;
	}
	cl->control = ctl;
	cl->fd = fd;
	if (pthread_create(&cl->thread, NULL, client_main, cl)) {
		free(cl);
		turn_away(fd);
		return;
	}
	cl->next = ctl->clients;
	ctl->clients = cl;
	ctl->n++;
}

static void *listen_main(void *arg)
{
	struct tm_control *ctl = arg;
	struct pollfd p[2] = {
		{.fd = ctl->fd, .events = POLLIN}, {.fd = ctl->wake, .events = POLLIN}};

	for (;;) {
		int fd;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].revents)
			return NULL;
		fd = accept4(ctl->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			admit(ctl, fd);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			poll(&p[1], 1, 100); /* until something is closed */
	}
}

/* A socket that nobody listens on is a dead daemon's: it is removed. */
static int clear_stale(const struct sockaddr_un *sa, struct tm_err *err)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat st;

	if (lstat(sa->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : tm_fail_errno(err, "control socket %s", sa->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return tm_fail(err, EEXIST, "%s is there and is not a socket", sa->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return tm_fail_errno(err, "control socket");
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0 || errno != ECONNREFUSED)
		return tm_fail(err, EADDRINUSE, "another daemon answers at %s", sa->sun_path);
	if (unlink(sa->sun_path) < 0 && errno != ENOENT)
		return tm_fail_errno(err, "remove the old socket %s", sa->sun_path);
	return 0;
}

static int bind_socket(struct tm_control *ctl, const char *path, mode_t mode, struct tm_err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;
	mode_t old;
	int r;

	if (strlen(path) >= sizeof(sa.sun_path))
		return tm_fail(
			err, ENAMETOOLONG, "the path of the control socket is too long: %s", path);
	strcpy(sa.sun_path, path);
	if (clear_stale(&sa, err) < 0)
		return -err->code;
	ctl->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (ctl->fd < 0)
		return tm_fail_errno(err, "control socket");
	/* Nobody may connect before the mode is set. */
	old = umask(0177);
	r = bind(ctl->fd, (struct sockaddr *)&sa, sizeof(sa));
	umask(old);
	if (r < 0)
		return tm_fail_errno(err, "control socket %s", path);
	ctl->path = strdup(path);
	if (!ctl->path || stat(path, &st) < 0 || chmod(path, mode) < 0 || listen(ctl->fd, 64) < 0)
		return tm_fail_errno(err, "control socket %s", path);
	ctl->dev = st.st_dev;
	ctl->ino = st.st_ino;
	return 0;
}

/* Only our own: a successor may have put its socket in place already. */
static void remove_socket(struct tm_control *ctl)
{
	struct stat st;

	if (ctl->path && lstat(ctl->path, &st) == 0 && st.st_dev == ctl->dev &&
		st.st_ino == ctl->ino)
		unlink(ctl->path);
}

static void destroy(struct tm_control *ctl)
{
	remove_socket(ctl);
	if (ctl->fd >= 0)
		close(ctl->fd);
	if (ctl->wake >= 0)
		close(ctl->wake);
	pthread_mutex_destroy(&ctl->lock);
	free(ctl->path);
	free(ctl);
}

int tm_control_start(const char *path, mode_t mode, const struct tm_control_cmd *table, void *ctx,
	struct tm_control **control, struct tm_err *err)
{
	struct tm_control *ctl = calloc(1, sizeof(*ctl));
	int r;

	if (!ctl)
		return tm_fail(err, ENOMEM, "control socket: out of memory");
	ctl->fd = -1;
	ctl->table = table;
	ctl->ctx = ctx;
	pthread_mutex_init(&ctl->lock, NULL);
	ctl->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ctl->wake < 0)
		r = tm_fail_errno(err, "control socket");
	else
		r = bind_socket(ctl, path, mode, err);
	if (r == 0 && (r = -pthread_create(&ctl->thread, NULL, listen_main, ctl)))
		tm_fail(err, -r, "control socket: %s", strerror(-r));
	if (r < 0) {
		destroy(ctl);
		return r;
	}
	*control = ctl;
	return 0;
}

void tm_control_stop(struct tm_control *ctl)
{
	uint64_t one = 1;

	if (!ctl)
		return;
	if (write(ctl->wake, &one, sizeof(one)) < 0)
		abort(); /* a fresh eventfd takes a one */
	pthread_join(ctl->thread, NULL);
	pthread_mutex_lock(&ctl->lock);
	ctl->stopping = true;
	for (struct client *cl = ctl->clients; cl; cl = cl->next)
		shutdown(cl->fd, SHUT_RDWR);
	pthread_mutex_unlock(&ctl->lock);
	reap(ctl, true);
	destroy(ctl);
}

int tm_control_progress(struct tm_control_call *call, cJSON *progress)
{
	cJSON *doc = cJSON_CreateObject();
	int r;

	if (!doc || !progress) {
		cJSON_Delete(doc);
		cJSON_Delete(progress);
		return -ENOMEM;
	}
	cJSON_AddItemToObject(doc, "progress", progress);
	r = control_send(call->fd, doc, CONTROL_SEND_MS);
	cJSON_Delete(doc);
	return r;
}

bool tm_control_gone(struct tm_control_call *call)
{
	struct pollfd p = {.fd = call->fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

int tm_control_no_such(struct tm_control_call *call, struct tm_err *err, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	call->exit = 3;
	return tm_fail(err, ENOENT, "%s", text);
}

int tm_control_refused(struct tm_control_call *call, struct tm_err *err, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	call->exit = 4;
	return tm_fail(err, EBUSY, "%s", text);
}
