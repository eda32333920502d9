// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

static int pipe_fd[2];
static char got[200000];

static void begin(void)
{
	unsetenv("JOURNAL_STREAM");
	cr_assert_eq(pipe(pipe_fd), 0);
	cr_assert_eq(dup2(pipe_fd[1], STDERR_FILENO), STDERR_FILENO);
	close(pipe_fd[1]);
	tm_log_init("tidemark", TM_LOG_INFO);
}

static const char *read_all(void)
{
	size_t n = 0;
	ssize_t k;

	close(STDERR_FILENO);
	while ((k = read(pipe_fd[0], got + n, sizeof(got) - 1 - n)) > 0)
		n += (size_t)k;
	got[n] = 0;
	return got;
}

TestSuite(log, .init = begin);

Test(log, one_line_per_event_with_priority_and_fields)
{
	tm_log(TM_LOG_WARNING, "refused %s\nsecond line", "x");
	tm_log(TM_LOG_DEBUG, "not shown");
	tm_log_with(TM_LOG_INFO,
		TM_LOG_FIELDS({"MACHINE", "web-1"}, {"DISK", NULL}, {"ATTEMPT", "a\nb"}), "synced");
	tm_log_set_level(TM_LOG_DEBUG);
	tm_log(TM_LOG_DEBUG, "shown");
	cr_assert_str_eq(read_all(), "<4>tidemark: refused x second line\n"
				     "<6>tidemark: synced machine=web-1 attempt=a b\n"
				     "<7>tidemark: shown\n");
}

Test(log, long_lines_are_cut)
{
	char big[10000];

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	tm_log_with(TM_LOG_ERR, TM_LOG_FIELDS({"A", big}, {"B", "b"}), "%s", big);
	cr_assert_eq(strlen(read_all()), strcspn(got, "\n") + 1);
	cr_assert_lt(strlen(got), 4000);
}

static void *many(void *arg)
{
	for (int i = 0; i < 100; i++)
		tm_log(TM_LOG_INFO, "%s", (const char *)arg);
	return NULL;
}

Test(log, lines_of_several_threads_do_not_mix)
{
	pthread_t t[3];
	static const char *const words[] = {
		"aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb", "cccccccccccccccccccc"};
	int lines = 0;

	for (int i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&t[i], NULL, many, (void *)(uintptr_t)words[i]), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	for (char *line = strtok((char *)(uintptr_t)read_all(), "\n"); line;
		line = strtok(NULL, "\n")) {
		cr_assert_eq(strlen(line), strlen("<6>tidemark: ") + 20);
		cr_assert_eq(strspn(line + 13, (char[]){line[13], 0}), 20);
		lines++;
	}
	cr_assert_eq(lines, 300);
}

Test(log, what_a_peer_can_provoke_is_limited)
{
	static struct tm_log_limit limit = TM_LOG_LIMIT(3, 3600);
	unsigned dropped, passed = 0;

	for (int i = 0; i < 10; i++)
		passed += tm_log_allowed(&limit, &dropped);
	cr_assert_eq(passed, 3);
	limit.interval_ns = 0;
	cr_assert(tm_log_allowed(&limit, &dropped));
	cr_assert_eq(dropped, 7);
	cr_assert(tm_log_allowed(&limit, &dropped));
	cr_assert_eq(dropped, 0);
}
