/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of JSON over a socket, for both ends of the control socket. */
#ifndef TM_CONTROL_INT_H
#define TM_CONTROL_INT_H

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define CONTROL_SEND_MS 20000       /* a whole line; who reads slower is cut off */
#define CONTROL_LINE_MS 20000       /* a line that has begun */
#define CONTROL_ANSWER  (64u << 20) /* bytes of an answer */

struct control_reader {
	char *buf; /* malloc'ed; the caller frees */
	size_t len, room, taken;
};

/*
 * The next line, without its newline; valid until the next call. Waits up to idle_ms (-1 = for ever) for its beginning, CONTROL_LINE_MS for
 * the rest. -EPIPE: the peer closed; -EAGAIN: nothing came; -ETIMEDOUT; -EMSGSIZE.
 */
int control_line(struct control_reader *rd, int fd, size_t max, int idle_ms, char **line,
	struct tm_err *err);

/* Sends a document as a line; 0 or a negative errno. */
int control_send(int fd, const cJSON *doc, unsigned ms);

#endif
