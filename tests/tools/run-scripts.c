// SPDX-License-Identifier: Apache-2.0
/* run-scripts FOLDER pre|post: runs the scripts of a folder as the agent does; exit status 1 with the reason that a point would get. */
#include <stdio.h>

#include "agent/scripts.h"
#include "common/clock.h"

int main(int argc, char **argv)
{
	struct tm_err err;

	if (argc != 3)
		return 2;
	if (scripts_run(argv[1], argv[2], 60 * TM_SEC, &err) == 0)
		return 0;
	printf("%s\n", err.msg);
	return 1;
}
