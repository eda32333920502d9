// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/config.h"
#include "common/file.h"

static char dir[] = "/tmp/tm-file-XXXXXX";
static struct tm_err err;

static char *in(const char *name)
{
	static char path[4][128];
	static int i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void begin(void)
{
	cr_assert(mkdtemp(dir));
}

static void end(void)
{
	char cmd[64];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	cr_assert_eq(system(cmd), 0);
}

TestSuite(file, .init = begin, .fini = end);
TestSuite(config, .init = begin, .fini = end);

static int files(void)
{
	DIR *d = opendir(dir);
	int n = -2;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

Test(file, is_replaced_as_a_whole_with_its_mode)
{
	CLEANUP_FREE char *data = NULL;
	struct stat st;
	size_t len;

	umask(077);
	cr_assert_eq(tm_file_write(in("a"), "one", 3, 0600, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_file_write(in("a"), "second", 6, 0644, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_file_read(in("a"), 6, &data, &len, &err), 0, "%s", err.msg);
	cr_assert_eq(len, 6);
	cr_assert_str_eq(data, "second");
	cr_assert_eq(stat(in("a"), &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0644);
	cr_assert_eq(files(), 1);
}

Test(file, create_never_replaces)
{
	CLEANUP_FREE char *data = NULL;
	size_t len;

	cr_assert_eq(tm_file_create(in("a"), "one", 3, 0600, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_file_create(in("a"), "two", 3, 0600, &err), -EEXIST);
	cr_assert_eq(tm_file_read(in("a"), 10, &data, &len, &err), 0);
	cr_assert_str_eq(data, "one");
	cr_assert_eq(files(), 1);
}

Test(file, failures_say_what_and_leave_nothing)
{
	char *data;
	size_t len;

	cr_assert_eq(tm_file_read(in("none"), 10, &data, &len, &err), -ENOENT);
	cr_assert(strstr(err.msg, "none: No such file"), "%s", err.msg);
	cr_assert_eq(tm_file_read(dir, 10, &data, &len, &err), -EINVAL);
	cr_assert_eq(tm_file_write(in("a"), "four", 4, 0600, &err), 0);
	cr_assert_eq(tm_file_read(in("a"), 3, &data, &len, &err), -EFBIG);
	cr_assert_eq(mkdir(in("d"), 0700), 0);
	cr_assert_eq(tm_file_write(in("d"), "x", 1, 0600, &err), -EISDIR);
	cr_assert_eq(files(), 2, "no temporary file is left");
	cr_assert_eq(tm_file_write(in("no/such"), "x", 1, 0600, &err), -ENOENT);
	cr_assert_eq(tm_file_remove(in("none"), &err), 0);
	cr_assert_eq(tm_file_remove(in("a"), &err), 0);
	cr_assert_eq(files(), 1);
}

Test(file, folders_are_made_to_the_bottom)
{
	struct stat st;

	cr_assert_eq(tm_mkdirs(in("a/b/c"), 0700, &err), 0, "%s", err.msg);
	cr_assert_eq(tm_mkdirs(in("a/b/c/"), 0755, &err), 0, "%s", err.msg);
	cr_assert_eq(stat(in("a/b/c"), &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0700);
	cr_assert_eq(tm_file_write(in("f"), "x", 1, 0600, &err), 0);
	cr_assert_eq(tm_mkdirs(in("f"), 0700, &err), -ENOTDIR);
	cr_assert_lt(tm_mkdirs(in("f/g"), 0700, &err), 0);
	cr_assert_eq(tm_mkdirs("", 0700, &err), -EINVAL);
	cr_assert_eq(tm_file_rename(in("f"), in("a/f"), &err), 0, "%s", err.msg);
	cr_assert_eq(access(in("a/f"), F_OK), 0);
}

Test(file, whole_reads_and_writes)
{
	CLEANUP_CLOSE int fd = open(in("a"), O_RDWR | O_CREAT, 0600);
	char buf[6];

	cr_assert_eq(tm_pwrite_full(fd, "abcdef", 6, 10), 0);
	cr_assert_eq(tm_pread_full(fd, buf, 6, 10), 0);
	cr_assert_arr_eq(buf, "abcdef", 6);
	cr_assert_eq(tm_pread_full(fd, buf, 6, 11), -ENODATA);
	cr_assert_eq(tm_write_full(-1, buf, 6), -EBADF);
}

struct config {
	uint64_t memory, interval, workers;
	bool kmod;
	char *engine;
};

static const struct tm_setting table[] = {
	TM_SETTING("agent", "memory", TM_SET_SIZE, struct config, memory, 16 << 20, 0, "128M"),
	TM_SETTING("agent", "workers", TM_SET_INT, struct config, workers, 1, 64, "2"),
	TM_SETTING("agent", "engine", TM_SET_STRING, struct config, engine, 1, 8, "auto"),
	TM_SETTING("sync", "interval", TM_SET_DURATION, struct config, interval, 0, 0, "1s"),
	TM_SETTING("sync", "kmod", TM_SET_BOOL, struct config, kmod, 0, 0, "yes"),
	{0},
};

static int load(const char *text, struct config *c)
{
	cr_assert_eq(tm_file_write(in("x.conf"), text, strlen(text), 0600, &err), 0);
	return tm_config_load(in("x.conf"), false, table, c, &err);
}

Test(config, defaults_and_settings)
{
	struct config c;

	cr_assert_eq(tm_config_load(in("none"), true, table, &c, &err), 0, "%s", err.msg);
	cr_assert_eq(c.memory, 128u << 20);
	cr_assert_str_eq(c.engine, "auto");
	tm_config_free(table, &c);
	cr_assert_eq(tm_config_load(in("none"), false, table, &c, &err), -ENOENT);
	cr_assert_eq(
		load("# all\n[agent]\nmemory = 64M ; less\nengine=libaio\n\n[sync]\ninterval = 250ms\nkmod = "
		     "off",
			&c),
		0, "%s", err.msg);
	cr_assert_eq(c.memory, 64u << 20);
	cr_assert_eq(c.interval, 250000000);
	cr_assert_not(c.kmod);
	cr_assert_eq(c.workers, 2);
	cr_assert_str_eq(c.engine, "libaio");
	tm_config_free(table, &c);
	cr_assert_null(c.engine);
}

Test(config, mistakes_name_file_and_line)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"[agent]\nmemory = 64M\nmemroy = 1M\n",
			"x.conf:3: there is no setting [agent] memroy"},
		{"\n\n[agnet]\nmemory = 1M\n", "x.conf:4: there is no setting [agnet] memory"},
		{"[agent]\nmemory = many\n", "x.conf:2: memory = many: 'many' is not a size"},
		{"[agent]\nmemory = 1M\n", "x.conf:2: memory = 1M: out of bounds"},
		{"[agent]\nworkers = 65\n", "x.conf:2: workers = 65: out of bounds"},
		{"[agent]\nengine = something\n", "x.conf:2: engine"},
		{"[agent]\nworkers = 1\nworkers = 2\n", "x.conf:3: workers is given twice"},
		{"[agent]\nworkers\n", "x.conf:2: neither"},
		{"[agent\nworkers = 1\n", "x.conf:1: neither"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct config c;

		cr_assert_lt(load(bad[i].text, &c), 0, "%zu", i);
		cr_assert(strstr(err.msg, bad[i].says), "wanted %s in: %s", bad[i].says, err.msg);
		cr_assert_null(c.engine);
	}
}

Test(config, a_line_that_is_too_long_is_an_error)
{
	char text[6000] = "[agent]\nengine = ";
	struct config c;

	memset(text + 17, 'x', 5000);
	cr_assert_lt(load(text, &c), 0);
	cr_assert(strstr(err.msg, "x.conf:2: "), "%s", err.msg);
}
