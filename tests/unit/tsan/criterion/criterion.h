/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands in for Criterion under the thread sanitizer, whose memory layout Criterion's process sandbox cannot live with: the same
 * tests, each in a forked child, one after the other. Only what our unit tests use.
 */
#ifndef TESTS_TSAN_CRITERION_H
#define TESTS_TSAN_CRITERION_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct cr_options {
	void (*init)(void), (*fini)(void);
	double timeout;
	int signal, exit_code;
	const char *description;
	bool disabled;
};

struct cr_test {
	const char *suite, *name; /* name NULL: options of the suite */
	void (*fn)(void);
	struct cr_options options;
	struct cr_test *next;
};

static struct cr_test *cr_tests;

#define CR_REGISTER(id, suite_, name_, fn_, ...)                                              \
	__attribute__((constructor)) static void id##_register(void)                          \
	{                                                                                     \
		static struct cr_test t = {                                                   \
			.suite = suite_, .name = name_, .fn = fn_, .options = {__VA_ARGS__}}; \
		t.next = cr_tests;                                                            \
		cr_tests = &t;                                                                \
	}

#define TestSuite(suite, ...) CR_REGISTER(suite##_suite, #suite, NULL, NULL, __VA_ARGS__)
#define Test(suite, name, ...)                                                         \
	static void suite##_##name##_impl(void);                                       \
	CR_REGISTER(suite##_##name, #suite, #name, suite##_##name##_impl, __VA_ARGS__) \
	static void suite##_##name##_impl(void)

#define CR_FAIL(what, ...)                                                        \
	do {                                                                      \
		fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, what); \
		fprintf(stderr, " " __VA_ARGS__);                                 \
		fputc('\n', stderr);                                              \
		_exit(1);                                                         \
	} while (0)
#define CR_CHECK(ok, what, ...)                     \
	do {                                        \
		if (!(ok))                          \
			CR_FAIL(what, __VA_ARGS__); \
	} while (0)

#define cr_fail(...)                CR_FAIL("cr_fail", __VA_ARGS__)
#define cr_assert(c, ...)           CR_CHECK(c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...)       CR_CHECK(!(c), "not " #c, __VA_ARGS__)
#define cr_assert_null(c, ...)      CR_CHECK(!(c), #c " is NULL", __VA_ARGS__)
#define cr_assert_not_null(c, ...)  CR_CHECK(c, #c " is not NULL", __VA_ARGS__)
#define cr_assert_eq(a, b, ...)     CR_CHECK((a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)    CR_CHECK((a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)     CR_CHECK((a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)    CR_CHECK((a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)     CR_CHECK((a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)    CR_CHECK((a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) CR_CHECK(strcmp(a, b) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) \
	CR_CHECK(strcmp(a, b) != 0, #a " differs from " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) CR_CHECK(memcmp(a, b, n) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, n, ...) \
	CR_CHECK(memcmp(a, b, n) != 0, #a " differs from " #b, __VA_ARGS__)

static void cr_run(const struct cr_test *t, const struct cr_options *suite)
{
	double limit = t->options.timeout ? t->options.timeout : suite->timeout;

	if (limit > 0)
		alarm(4 * (unsigned)limit + 1); /* the sanitizer is slow */
	if (t->options.init || suite->init)
		(t->options.init ? t->options.init : suite->init)();
	t->fn();
	if (t->options.fini || suite->fini)
		(t->options.fini ? t->options.fini : suite->fini)();
	exit(0); /* by exit(), so that the sanitizer has its say */
}

static bool cr_one(const struct cr_test *t)
{
	static const struct cr_options none;
	const struct cr_options *suite = &none;
	int status;
	pid_t pid;

	for (const struct cr_test *s = cr_tests; s; s = s->next)
		if (!s->name && strcmp(s->suite, t->suite) == 0)
			suite = &s->options;
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		cr_run(t, suite);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	if (t->options.signal ? WIFSIGNALED(status) && WTERMSIG(status) == t->options.signal
			      : WIFEXITED(status) && WEXITSTATUS(status) == t->options.exit_code)
		return true;
	fprintf(stderr, "FAIL %s::%s (wait status %x)\n", t->suite, t->name, (unsigned)status);
	return false;
}

int main(void)
{
	unsigned passed = 0, failed = 0;

	for (const struct cr_test *t = cr_tests; t; t = t->next)
		if (t->name && !t->options.disabled) {
			if (cr_one(t))
				passed++;
			else
				failed++;
		}
	printf("%u passed, %u failed under the thread sanitizer\n", passed, failed);
	return failed ? 1 : 0;
}

#endif
