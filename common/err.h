/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors as the user reads them: one line saying what failed, why, and what to do.
 *
 * A function that can fail takes a `struct tm_err *` (never NULL) as its last argument, fills it once and returns a
 * negative errno; callers add context with tm_wrap() or pass it up. Only the top level logs or prints it.
 */
#ifndef TM_ERR_H
#define TM_ERR_H

struct tm_err {
	int code;      /* positive errno; 0 = no error */
	char msg[512]; /* one line, no newline at its end */
};

/* Sets the error; returns -code. A cause in errno is the caller's to name (strerror) or to leave to tm_fail_errno(). */
int tm_fail(struct tm_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with ": strerror(errno)" at the end; code is errno (EIO if that is 0). */
int tm_fail_errno(struct tm_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts context before a message that is set already ("context: message"); returns -err->code. */
int tm_wrap(struct tm_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
