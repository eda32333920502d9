/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemons' log: one line per event, for an operator. Lines go to stderr with the priority that journald and others read
 * from it ("<4>text"); where stderr is the journal itself ($JOURNAL_STREAM) they go by its native protocol, with fields.
 * Thread safe. Never fails: a line that cannot be written is dropped.
 *
 * No function logs an error and returns it: the top level logs, once.
 */
#ifndef TM_LOG_H
#define TM_LOG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum tm_log_level {         /* as in syslog */
	TM_LOG_ERR = 3,     /* something is lost or stopped until someone acts */
	TM_LOG_WARNING = 4, /* refused, failed and tried again, alarm */
	TM_LOG_NOTICE = 5,  /* enrolled, started, failed over */
	TM_LOG_INFO = 6,    /* connected, synced, point made */
	TM_LOG_DEBUG = 7,
};

/* A list ends with {NULL, NULL}; names are capitals, digits and _ (MACHINE, DISK, ATTEMPT, PEER, ...); a NULL value is left out. */
struct tm_log_field {
	const char *name, *value;
};
#define TM_LOG_FIELDS(...) ((const struct tm_log_field[]){__VA_ARGS__, {NULL, NULL}})

/* program names the log lines' source (kept, not copied). Without this call lines carry no name. max: what is more detailed is left out. */
void tm_log_init(const char *program, enum tm_log_level max);
void tm_log_set_level(enum tm_log_level max);

void tm_log(enum tm_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Fields that are shown on a plain stderr too come as " NAME=value" at the end of the line, lower case. */
void tm_log_with(enum tm_log_level level, const struct tm_log_field *fields, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * A line that says itself which machine or disk it is about (NULL: none): on a plain stderr as tm_log(), in the journal with the fields
 * TIDEMARK_MACHINE and TIDEMARK_DISK.
 */
void tm_log_of(enum tm_log_level level, const char *machine, const char *disk, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* All lines from now on are about this machine (copied; "" = about none), unless they say otherwise. */
void tm_log_machine(const char *machine);

/* Lets `burst` events through per `interval_ns`, the rest not. For lines that a peer can provoke. Static initialisation is enough. */
struct tm_log_limit {
	uint64_t interval_ns;
	unsigned burst;
	pthread_mutex_t lock;
	uint64_t since;   /* lock */
	unsigned passed;  /* lock */
	unsigned dropped; /* lock */
};
#define TM_LOG_LIMIT(burst_, seconds)                                      \
	{                                                                  \
		.interval_ns = (seconds)*1000000000ull, .burst = (burst_), \
		.lock = PTHREAD_MUTEX_INITIALIZER                          \
	}

/* True if the event may be logged; *dropped = events held back since the last one that was. */
bool tm_log_allowed(struct tm_log_limit *limit, unsigned *dropped);

#endif
