// SPDX-License-Identifier: Apache-2.0
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"

#define LINE_MAX_LEN 2048
#define NAME_ROOM    64
#ifndef JOURNAL /* a test has its own */
#define JOURNAL "/run/systemd/journal/socket"
#endif

static _Atomic int max_level = TM_LOG_INFO;
static const char *program;
static _Atomic int journal = -1;

/* $JOURNAL_STREAM is "device:inode" of the stderr that the service manager gave us. */
static bool stderr_is_journal(void)
{
	const char *env = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return env && sscanf(env, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       st.st_dev == dev && st.st_ino == ino;
}

static int journal_open(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", JOURNAL);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

void tm_log_init(const char *name, enum tm_log_level max)
{
	program = name;
	atomic_store(&max_level, (int)max);
	if (atomic_load(&journal) < 0 && stderr_is_journal())
		atomic_store(&journal, journal_open());
}

void tm_log_set_level(enum tm_log_level max)
{
	atomic_store(&max_level, (int)max);
}

static struct {
	pthread_mutex_t lock;
	char name[NAME_ROOM];
} whose = {.lock = PTHREAD_MUTEX_INITIALIZER};

void tm_log_machine(const char *name)
{
	LOCK_SCOPE(&whose.lock);
	snprintf(whose.name, sizeof(whose.name), "%s", name);
}

static void get_machine(char name[NAME_ROOM])
{
	LOCK_SCOPE(&whose.lock);
	memcpy(name, whose.name, NAME_ROOM);
}

/* What a line is about; only the journal is told. */
struct about {
	const char *machine, *disk;
};

struct text {
	char *at;
	size_t room; /* bytes left, one kept for the NUL */
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->at, t->room, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= t->room)
		n = (int)t->room - 1;
	t->at += n;
	t->room -= (size_t)n;
}

static void one_line(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			*s = ' ';
}

/* Adds NAME=value, in one line, if there is room. */
static void add_field(struct text *t, const char *name, const char *value)
{
	char line[512];

	if (!value || !value[0])
		return;
	snprintf(line, sizeof(line), "%s", value);
	one_line(line);
	if (t->room > strlen(name) + strlen(line) + 3)
		add(t, "%s=%s\n", name, line);
}

/* A datagram of NAME=value lines; values hold no newline, so the simple form is enough. */
static bool to_journal(
	int fd, int level, const struct tm_log_field *f, const struct about *of, const char *msg)
{
	char buf[LINE_MAX_LEN + 1024], name[NAME_ROOM];
	struct text t = {buf, sizeof(buf)};

	add(&t, "PRIORITY=%d\nMESSAGE=%s\n", level, msg);
	if (program)
		add(&t, "SYSLOG_IDENTIFIER=%s\n", program);
	get_machine(name);
	add_field(&t, "TIDEMARK_MACHINE", of->machine ? of->machine : name);
	add_field(&t, "TIDEMARK_DISK", of->disk);
	for (; f && f->name; f++)
		add_field(&t, f->name, f->value);
	return send(fd, buf, (size_t)(t.at - buf), MSG_NOSIGNAL) >= 0;
}

static void to_stderr(int level, const struct tm_log_field *f, const char *msg)
{
	char buf[LINE_MAX_LEN + 1024];
	struct text t = {buf, sizeof(buf) - 1};
	ssize_t n;

	add(&t, "<%d>%s%s%s", level, program ? program : "", program ? ": " : "", msg);
	for (; f && f->name; f++) {
		if (!f->value)
			continue;
		add(&t, " ");
		for (const char *p = f->name; *p; p++)
			add(&t, "%c", *p >= 'A' && *p <= 'Z' ? *p - 'A' + 'a' : *p);
		add(&t, "=%s", f->value);
	}
	one_line(buf);
	*t.at++ = '\n';
	/* One write, so that lines of several threads don't mix. */
	do
		n = write(STDERR_FILENO, buf, (size_t)(t.at - buf));
	while (n < 0 && errno == EINTR);
}

static void emit(int level, const struct tm_log_field *f, const struct about *of, const char *fmt,
	va_list ap)
{
	char msg[LINE_MAX_LEN];
	int keep = errno, fd = atomic_load(&journal);

	vsnprintf(msg, sizeof(msg), fmt, ap);
	one_line(msg);
	if (fd < 0 || !to_journal(fd, level, f, of, msg))
		to_stderr(level, f, msg);
	errno = keep;
}

void tm_log(enum tm_log_level level, const char *fmt, ...)
{
	va_list ap;

	if ((int)level > atomic_load(&max_level))
		return;
	va_start(ap, fmt);
	emit(level, NULL, &(struct about){0}, fmt, ap);
	va_end(ap);
}

void tm_log_with(enum tm_log_level level, const struct tm_log_field *fields, const char *fmt, ...)
{
	va_list ap;

	if ((int)level > atomic_load(&max_level))
		return;
	va_start(ap, fmt);
	emit(level, fields, &(struct about){0}, fmt, ap);
	va_end(ap);
}

void tm_log_of(enum tm_log_level level, const char *machine, const char *disk, const char *fmt, ...)
{
	va_list ap;

	if ((int)level > atomic_load(&max_level))
		return;
	va_start(ap, fmt);
	emit(level, NULL, &(struct about){machine, disk}, fmt, ap);
	va_end(ap);
}

bool tm_log_allowed(struct tm_log_limit *l, unsigned *dropped)
{
	uint64_t now = tm_mono_ns();
	LOCK_SCOPE(&l->lock);

	if (!l->since || now - l->since >= l->interval_ns) {
		l->since = now;
		l->passed = 0;
	}
	if (l->passed >= l->burst) {
		l->dropped++;
		return false;
	}
	l->passed++;
	*dropped = l->dropped;
	l->dropped = 0;
	return true;
}
