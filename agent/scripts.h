/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripts that make applications quiet before an application-consistent point and let them go on after it.
 *
 * Executable files of a folder, owned by root and writable by nobody else, in the order of their names: each is run with the argument
 * "pre" before the filesystems are frozen, and with "post" afterwards, whatever happened in between.
 */
#ifndef AGENT_SCRIPTS_H
#define AGENT_SCRIPTS_H

#include <stdint.h>

#include "common/err.h"

/* Runs all, each for limit_ns at most (then it and its children are killed); goes on after a failure and returns the first one. No folder, or nothing in it, is no error. */
int scripts_run(const char *folder, const char *phase, uint64_t limit_ns, struct tm_err *err);

#endif
