// SPDX-License-Identifier: Apache-2.0
/* The control socket: lines, arguments, and the client's side. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/conn-int.h"
#include "common/control-int.h"
#include "common/control.h"
#include "common/units.h"
#include "common/uuid.h"

static int make_room(struct control_reader *rd, size_t max, struct tm_err *err)
{
	size_t room;
	char *p;

	if (rd->taken) {
		memmove(rd->buf, rd->buf + rd->taken, rd->len - rd->taken);
		rd->len -= rd->taken;
		rd->taken = 0;
	}
	if (rd->len < rd->room)
		return 0;
	if (rd->room > max)
		return tm_fail(err, EMSGSIZE, "a line is longer than %zu bytes", max);
	room = rd->room ? 2 * rd->room : 4096;
	if (room > max + 2)
		room = max + 2;
	p = realloc(rd->buf, room);
	if (!p)
		return tm_fail(err, ENOMEM, "out of memory");
	rd->buf = p;
	rd->room = room;
	return 0;
}

int control_line(
	struct control_reader *rd, int fd, size_t max, int idle_ms, char **line, struct tm_err *err)
{
	uint64_t idle = idle_ms < 0 ? UINT64_MAX : tm_mono_ns() + (uint64_t)idle_ms * TM_MS;
	uint64_t deadline = 0;
	size_t seen = rd->taken; /* no newline before */

	for (;;) {
		char *end = rd->buf ? memchr(rd->buf + seen, '\n', rd->len - seen) : NULL;
		ssize_t n;

		if (end) {
			*end = 0;
			*line = rd->buf + rd->taken;
			rd->taken = (size_t)(end - rd->buf) + 1;
			return 0;
		}
		if (make_room(rd, max, err) < 0)
			return -err->code;
		seen = rd->len;
		if (rd->len && !deadline)
			deadline = tm_mono_ns() + CONTROL_LINE_MS * TM_MS;
		n = recv(fd, rd->buf + rd->len, rd->room - rd->len, 0);
		if (n > 0) {
			rd->len += (size_t)n;
			continue;
		}
		if (n == 0)
			return tm_fail(err, EPIPE, "the other side closed the control socket");
		if (errno == EAGAIN) {
			int r = net_poll(fd, POLLIN, deadline ? deadline : idle);

			if (r > 0)
				continue;
			if (r == 0)
				return tm_fail(err, deadline ? ETIMEDOUT : EAGAIN,
					"nothing came on the control socket in time");
			errno = -r;
		}
		if (errno != EINTR)
			return tm_fail_errno(err, "control socket");
	}
}

int control_send(int fd, const cJSON *doc, unsigned ms)
{
	uint64_t deadline = tm_mono_ns() + ms * TM_MS;
	CLEANUP_FREE char *text = cJSON_PrintUnformatted(doc);
	size_t len, at = 0;

	if (!text)
		return -ENOMEM;
	len = strlen(text) + 1;
	text[len - 1] = '\n';
	while (at < len) {
		ssize_t n = send(fd, text + at, len - at, MSG_NOSIGNAL);

		if (n >= 0) {
			at += (size_t)n;
		} else if (errno == EAGAIN) {
			int r = net_poll(fd, POLLOUT, deadline);

			if (r <= 0)
				return r < 0 ? r : -ETIMEDOUT;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

int tm_arg_string(const cJSON *args, const char *name, const char **out, struct tm_err *err)
{
	*out = NULL;
	if (tm_arg_string_opt(args, name, out, err) < 0)
		return -err->code;
	return *out ? 0 : tm_fail(err, EINVAL, "argument %s is missing", name);
}

int tm_arg_string_opt(const cJSON *args, const char *name, const char **out, struct tm_err *err)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(args, name);

	if (!v || cJSON_IsNull(v))
		return 0;
	if (!cJSON_IsString(v))
		return tm_fail(err, EINVAL, "argument %s is not a string", name);
	if (!tm_text_valid(v->valuestring, strlen(v->valuestring)))
		return tm_fail(err, EINVAL, "argument %s is not plain text", name);
	*out = v->valuestring;
	return 0;
}

int tm_arg_u64(const cJSON *args, const char *name, uint64_t *out, struct tm_err *err)
{
	if (!cJSON_GetObjectItemCaseSensitive(args, name))
		return tm_fail(err, EINVAL, "argument %s is missing", name);
	return tm_arg_u64_opt(args, name, out, err);
}

int tm_arg_u64_opt(const cJSON *args, const char *name, uint64_t *out, struct tm_err *err)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(args, name);

	if (!v)
		return 0;
	if (cJSON_IsString(v) && tm_u64_parse(v->valuestring, out, err) == 0)
		return 0;
	if (cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= 9007199254740992.0 &&
		v->valuedouble == (double)(uint64_t)v->valuedouble) {
		*out = (uint64_t)v->valuedouble;
		return 0;
	}
	return tm_fail(err, EINVAL, "argument %s is not a whole number", name);
}

int tm_arg_bool_opt(const cJSON *args, const char *name, bool *out, struct tm_err *err)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(args, name);

	if (v && !cJSON_IsBool(v))
		return tm_fail(err, EINVAL, "argument %s is neither true nor false", name);
	if (v)
		*out = cJSON_IsTrue(v);
	return 0;
}

bool tm_json_u64(cJSON *object, const char *name, uint64_t value)
{
	char text[24];

	if (value <= 1ull << 53)
		return cJSON_AddNumberToObject(object, name, (double)value) != NULL;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return cJSON_AddStringToObject(object, name, text) != NULL;
}

bool tm_json_time(cJSON *object, const char *name, uint64_t realtime_ns)
{
	char text[TM_TEXT_ROOM];

	if (!realtime_ns)
		return cJSON_AddNullToObject(object, name) != NULL;
	return cJSON_AddStringToObject(object, name, tm_time_format_ms(realtime_ns, text)) != NULL;
}

bool tm_json_uuid(cJSON *object, const char *name, const uint8_t uuid[16])
{
	char text[TM_UUID_TEXT];

	return cJSON_AddStringToObject(object, name, tm_uuid_format(uuid, text)) != NULL;
}

static int dial(const char *path, struct tm_err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	CLEANUP_CLOSE int fd = -1;
	int r;

	if (strlen(path) >= sizeof(sa.sun_path))
		return tm_fail(
			err, ENAMETOOLONG, "the path of the control socket is too long: %s", path);
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return tm_fail_errno(err, "control socket");
	/* A full backlog is EAGAIN on unix sockets; it passes. */
	for (int i = 0; connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0; i++) {
		if (errno == EAGAIN && i < 100)
			usleep(50000);
		else if (errno == ENOENT || errno == ECONNREFUSED)
			return tm_fail(err, errno,
				"the daemon is not running: nothing answers at %s", path);
		else if (errno == EACCES)
			return tm_fail(err, EACCES,
				"not allowed to use %s: run as root or join its group", path);
		else
			return tm_fail_errno(err, "connect to %s", path);
	}
	r = fd;
	fd = -1;
	return r;
}

static int send_request(int fd, const struct tm_control_request *rq, struct tm_err *err)
{
	cJSON *doc = cJSON_CreateObject();
	int r = -ENOMEM;

	if (doc && cJSON_AddStringToObject(doc, "cmd", rq->cmd) &&
		(!rq->args || cJSON_AddItemReferenceToObject(doc, "args", rq->args)))
		r = control_send(fd, doc, CONTROL_SEND_MS);
	cJSON_Delete(doc);
	/* It may have been turned away: then the reason waits to be read. */
	return r == 0 || r == -EPIPE ? 0 : tm_fail(err, -r, "ask the daemon: %s", strerror(-r));
}

/* A final answer: 0 with *result, or the daemon's error. */
static int final(cJSON *doc, cJSON **result, int *exit_code, struct tm_err *err)
{
	const cJSON *ok = cJSON_GetObjectItemCaseSensitive(doc, "ok");
	const cJSON *text = cJSON_GetObjectItemCaseSensitive(doc, "error");
	const cJSON *code = cJSON_GetObjectItemCaseSensitive(doc, "exit");

	if (cJSON_IsTrue(ok)) {
		*result = cJSON_DetachItemFromObjectCaseSensitive(doc, "result");
		return *result ? 0 : tm_fail(err, EPROTO, "the daemon's answer has no result");
	}
	if (!cJSON_IsFalse(ok) || !cJSON_IsString(text))
		return tm_fail(err, EPROTO, "the daemon's answer is malformed");
	if (cJSON_IsNumber(code) && code->valueint >= 1 && code->valueint <= 4)
		*exit_code = code->valueint;
	tm_fail(err,
		*exit_code == 3   ? ENOENT
		: *exit_code == 4 ? EBUSY
				  : EIO,
		"%s", text->valuestring);
	return -err->code;
}

int tm_control_request(
	const struct tm_control_request *rq, cJSON **result, int *exit_code, struct tm_err *err)
{
	CLEANUP_CLOSE int fd = dial(rq->path, err);
	struct control_reader rd = {0};
	int r = fd;

	*result = NULL;
	*exit_code = 1;
	if (fd >= 0)
		r = send_request(fd, rq, err);
	while (r >= 0) {
		char *line;
		cJSON *doc, *progress;

		r = control_line(&rd, fd, CONTROL_ANSWER, rq->timeout_ms, &line, err);
		if (r == -EPIPE)
			tm_fail(err, EPIPE, "the daemon ended before it answered");
		if (r < 0)
			break;
		doc = cJSON_Parse(line);
		progress = cJSON_GetObjectItemCaseSensitive(doc, "progress");
		if (progress) {
			if (rq->progress)
				rq->progress(rq->ctx, progress);
			cJSON_Delete(doc);
			continue;
		}
		r = final(doc, result, exit_code, err);
		cJSON_Delete(doc);
		break;
	}
	free(rd.buf);
	return r;
}
