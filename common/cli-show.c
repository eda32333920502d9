// SPDX-License-Identifier: Apache-2.0
/* What tools show: tables and progress. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/cli.h"
#include "common/clock.h"
#include "common/units.h"

struct tm_table {
	const char *const *headers;
	size_t columns, cells, room;
	char **cell;
};

static void *need(void *p)
{
	if (!p) {
		fprintf(stderr, "out of memory\n");
		abort();
	}
	return p;
}

struct tm_table *tm_table_new(const char *const *headers, int n)
{
	struct tm_table *t = need(calloc(1, sizeof(*t)));

	t->headers = headers;
	t->columns = (size_t)n;
	return t;
}

void tm_table_cell(struct tm_table *t, const char *fmt, ...)
{
	va_list ap;

	if (t->cells == t->room) {
		t->room = t->room ? 2 * t->room : 64;
		t->cell = need(realloc(t->cell, t->room * sizeof(t->cell[0])));
	}
	va_start(ap, fmt);
	if (vasprintf(&t->cell[t->cells], fmt, ap) < 0)
		need(NULL);
	va_end(ap);
	t->cells++;
}

/* Columns of a terminal that the text takes, near enough: one per UTF-8 character. */
static int width(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += (*s & 0xc0) != 0x80;
	return n;
}

static void print_cell(FILE *out, const char *text, int wide, bool right, bool last)
{
	int pad = wide - width(text);

	if (right)
		fprintf(out, "%*s%s", pad, "", text);
	else if (last)
		fputs(text, out);
	else
		fprintf(out, "%s%*s", text, pad, "");
	fputs(last ? "\n" : "  ", out);
}

void tm_table_free(struct tm_table *t)
{
	for (size_t i = 0; i < t->cells; i++)
		free(t->cell[i]);
	free(t->cell);
	free(t);
}

void tm_table_print(struct tm_table *t, FILE *out)
{
	int *wide = need(calloc(t->columns, sizeof(*wide)));

	for (size_t i = 0; i < t->columns; i++)
		wide[i] = width(t->headers[i] + 1);
	for (size_t i = 0; i < t->cells; i++)
		if (width(t->cell[i]) > wide[i % t->columns])
			wide[i % t->columns] = width(t->cell[i]);
	for (size_t i = 0; i < t->columns; i++)
		print_cell(out, t->headers[i] + 1, wide[i], t->headers[i][0] == '>',
			i + 1 == t->columns);
	for (size_t i = 0; i < t->cells; i++) {
		size_t c = i % t->columns;

		print_cell(out, t->cell[i], wide[c], t->headers[c][0] == '>', c + 1 == t->columns);
	}
	free(wide);
	tm_table_free(t);
}

#define SHOW_AFTER (2 * TM_SEC)
#define REDRAW     (TM_SEC / 5)
#define LINE_EVERY (10 * TM_SEC)

void tm_progress_begin(struct tm_progress *p, const char *label)
{
	*p = (struct tm_progress){
		.label = label, .started = tm_mono_ns(), .terminal = isatty(STDERR_FILENO)};
}

static int terminal_columns(void)
{
	struct winsize w;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
}

static void bar(const char *text, const char *amount, unsigned percent)
{
	int room = terminal_columns() - (int)strlen(amount) - 10, wide = room / 2;
	char fill[64];

	wide = wide > 40 ? 40 : wide < 5 ? 5 : wide;
	memset(fill, '.', (size_t)wide);
	memset(fill, '#', (size_t)wide * percent / 100);
	fill[wide] = 0;
	fprintf(stderr, "\r\033[K[%s] %3u%% %s %.*s", fill, percent, amount,
		room > wide ? room - wide : 0, text);
	fflush(stderr);
}

void tm_progress_show(struct tm_progress *p, const char *text, uint64_t done, uint64_t total)
{
	uint64_t now = tm_mono_ns();
	char d[TM_TEXT_ROOM], t[TM_TEXT_ROOM], amount[100] = "";
	unsigned percent = total ? (unsigned)((double)done * 100 / (double)total) : 0;

	if (now - p->started < SHOW_AFTER ||
		(p->shown && now - p->shown < (p->terminal ? REDRAW : LINE_EVERY)))
		return;
	p->shown = now;
	if (!*text)
		text = p->label;
	if (percent > 100)
		percent = 100;
	if (total)
		snprintf(amount, sizeof(amount), "%s of %s", tm_size_format(done, d),
			tm_size_format(total, t));
	if (p->terminal && total)
		bar(text, amount, percent);
	else if (p->terminal)
		fprintf(stderr, "\r\033[K%s", text);
	else if (total)
		fprintf(stderr, "%s: %u%%, %s\n", text, percent, amount);
	else
		fprintf(stderr, "%s\n", text);
	p->visible = p->terminal;
}

void tm_progress_end(struct tm_progress *p)
{
	if (p->visible)
		fprintf(stderr, "\r\033[K");
	p->visible = false;
}
