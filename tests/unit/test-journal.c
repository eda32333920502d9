// SPDX-License-Identifier: Apache-2.0
/* The journal's native protocol, with a socket of our own in its place. */
static char journal_path[64];
#define JOURNAL journal_path
#include "common/log.c"

#include <criterion/criterion.h>

static int sink;

static void begin(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 30};
	char stream[64];
	struct stat st;

	snprintf(journal_path, sizeof(journal_path), "/tmp/tm-journal-%d", getpid());
	strcpy(sa.sun_path, journal_path);
	unlink(JOURNAL);
	sink = socket(AF_UNIX, SOCK_DGRAM, 0);
	cr_assert_eq(bind(sink, (struct sockaddr *)&sa, sizeof(sa)), 0);
	cr_assert_eq(setsockopt(sink, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
	cr_assert_eq(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
		(unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	tm_log_init("tidemark-agent", TM_LOG_INFO);
}

static void end(void)
{
	unlink(JOURNAL);
}

TestSuite(journal, .init = begin, .fini = end);

static const char *entry(void)
{
	static char buf[8192];
	ssize_t n = recv(sink, buf, sizeof(buf) - 1, 0);

	cr_assert_gt(n, 0);
	buf[n] = 0;
	return buf;
}

Test(journal, entries_have_priority_name_and_fields)
{
	tm_log_with(TM_LOG_WARNING,
		TM_LOG_FIELDS({"MACHINE", "web-1\nPRIORITY=0"}, {"DISK", NULL}, {"PEER", "x"}),
		"refused\nMESSAGE=%s", "forged");
	cr_assert_str_eq(entry(), "PRIORITY=4\nMESSAGE=refused MESSAGE=forged\n"
				  "SYSLOG_IDENTIFIER=tidemark-agent\n"
				  "MACHINE=web-1 PRIORITY=0\nPEER=x\n");
}

Test(journal, lines_say_which_machine_and_disk_they_are_about)
{
	tm_log_of(TM_LOG_INFO, "m1", "sda", "whole");
	cr_assert_str_eq(entry(), "PRIORITY=6\nMESSAGE=whole\nSYSLOG_IDENTIFIER=tidemark-agent\n"
				  "TIDEMARK_MACHINE=m1\nTIDEMARK_DISK=sda\n");
	tm_log_machine("m2");
	tm_log(TM_LOG_INFO, "connected");
	cr_assert_str_eq(entry(),
		"PRIORITY=6\nMESSAGE=connected\nSYSLOG_IDENTIFIER=tidemark-agent\n"
		"TIDEMARK_MACHINE=m2\n");
	tm_log_of(TM_LOG_INFO, NULL, "/dev/sda\nPRIORITY=0", "resync");
	cr_assert_str_eq(entry(), "PRIORITY=6\nMESSAGE=resync\nSYSLOG_IDENTIFIER=tidemark-agent\n"
				  "TIDEMARK_MACHINE=m2\nTIDEMARK_DISK=/dev/sda PRIORITY=0\n");
	tm_log_machine("");
	tm_log_of(TM_LOG_INFO, NULL, NULL, "nothing");
	cr_assert_str_eq(
		entry(), "PRIORITY=6\nMESSAGE=nothing\nSYSLOG_IDENTIFIER=tidemark-agent\n");
}

Test(journal, what_is_too_long_is_left_out_as_a_whole)
{
	char big[5000];
	const char *got;

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	tm_log_with(TM_LOG_INFO,
		TM_LOG_FIELDS({"A", big}, {"B", big}, {"C", big}, {"D", big}, {"E", "e"}), "%s",
		big);
	got = entry();
	cr_assert_eq(got[strlen(got) - 1], '\n');
	cr_assert(strstr(got, "\nA=xxx"));
	cr_assert(strstr(got, "\nE=e\n"));
}

Test(journal, without_a_journal_lines_go_to_stderr)
{
	int fd[2];
	char line[100] = "";

	close(sink);
	unlink(JOURNAL);
	cr_assert_eq(pipe(fd), 0);
	cr_assert_eq(dup2(fd[1], STDERR_FILENO), STDERR_FILENO);
	tm_log(TM_LOG_INFO, "still here");
	cr_assert_gt(read(fd[0], line, sizeof(line) - 1), 0);
	cr_assert_str_eq(line, "<6>tidemark-agent: still here\n");
}
