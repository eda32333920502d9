/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command-line tools with subcommands, from a table. Every subcommand has --help and --json; exit codes are 0 done, 1 failed (one
 * line on stderr), 2 usage, 3 no such thing, 4 refused by state.
 *
 * Long options take "--name VALUE" or "--name=VALUE" and may stand before, between and after the arguments; "--" ends them.
 */
#ifndef TM_CLI_H
#define TM_CLI_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/err.h"

enum tm_exit { TM_EXIT_OK, TM_EXIT_FAILED, TM_EXIT_USAGE, TM_EXIT_NO_SUCH, TM_EXIT_REFUSED };

struct tm_cli_opt {
	const char *name; /* without dashes; NULL ends the list */
	const char *arg;  /* "SIZE": takes a value; NULL: a switch */
	const char *help; /* one line */
};

struct tm_cli;

struct tm_cli_cmd {
	const char *name;               /* NULL ends the table */
	const char *args;               /* "MACHINE", "DISK...", "" */
	const char *summary;            /* one line */
	const char *text;               /* more for --help; may be NULL */
	const struct tm_cli_opt *opts;  /* may be NULL */
	int min, max;                   /* arguments; max -1 = any number */
	int (*run)(struct tm_cli *cli); /* returns the exit code (enum tm_exit) */
};

struct tm_cli_program {
	const char *name, *summary;
	const char *socket;     /* default path of the control socket */
	const char *socket_env; /* environment variable that replaces it; may be NULL */
	const struct tm_cli_cmd *cmds;
};

#define TM_CLI_OPTS 24

struct tm_cli {
	const struct tm_cli_program *program;
	const struct tm_cli_cmd *cmd;
	bool json;          /* --json */
	const char *socket; /* --socket PATH, environment or default */
	int argc;
	char **argv; /* the arguments, without options */
	struct {
		const char *name, *value;
	} opt[TM_CLI_OPTS]; /* internal: tm_cli_value() */
	int nopts;
};

/* Parses, runs, and returns the exit code for main(). "--version" and "--help" are handled. */
int tm_cli_main(const struct tm_cli_program *program, int argc, char **argv);

/* The value of an option, "" for a switch; NULL if it was not given. The last one given counts. */
const char *tm_cli_value(const struct tm_cli *cli, const char *name);

/* Prints "program: message" to stderr and returns the code. */
int tm_cli_fail(const struct tm_cli *cli, enum tm_exit code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int tm_cli_usage(const struct tm_cli *cli, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * One request to the daemon: args are taken over. Shows {"progress": {"text", "done", "total"}} as a bar on a terminal once two
 * seconds have passed, else as plain lines to stderr, at most one per ten seconds. TM_EXIT_OK with *result (the caller's), else the exit code,
 * and the error is printed already. timeout_s: longest silence; 0 = 60 s, -1 = for ever.
 */
int tm_cli_request(struct tm_cli *cli, const char *cmd, cJSON *args, int timeout_s, cJSON **result);

/* Prints the document and a newline to stdout; TM_EXIT_OK, or FAILED if stdout does. */
int tm_cli_print_json(const cJSON *doc);

/* Strings and numbers out of an answer, for printing: "" and 0 if missing. Strings belong to the object. */
const char *tm_json_str(const cJSON *object, const char *name);
uint64_t tm_json_num(const cJSON *object, const char *name);

/* A table: columns as wide as they need; the last one is not padded. Headers "<NAME" left, ">NAME" right. */
struct tm_table;
struct tm_table *tm_table_new(const char *const *headers, int n); /* aborts without memory */
void tm_table_cell(struct tm_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tm_table_print(struct tm_table *t, FILE *out); /* and frees it */
void tm_table_free(struct tm_table *t);             /* without printing it */

/* A progress display of its own, for tools that work by themselves (export). */
struct tm_progress {
	const char *label;
	uint64_t started, shown; /* monotonic ns */
	bool terminal, visible;
};
void tm_progress_begin(struct tm_progress *p, const char *label);
void tm_progress_show(struct tm_progress *p, const char *text, uint64_t done, uint64_t total);
void tm_progress_end(struct tm_progress *p);

#endif
