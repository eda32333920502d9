// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/tracker.h"
#include "common/cleanup.h"
#include "common/tidemark_abi.h"

int tracker_kmod_available(struct tm_err *err)
{
	CLEANUP_CLOSE int fd = open(TMK_DEVICE, O_RDWR | O_CLOEXEC);
	struct tmk_version v = {0};

	if (fd < 0)
		return tm_fail_errno(err, "%s", TMK_DEVICE);
	if (ioctl(fd, TMK_VERSION, &v) < 0)
		return tm_fail_errno(err, "the module does not tell its version");
	if (v.abi != TMK_ABI_VERSION)
		return tm_fail(err, EPROTO, "the module speaks version %u, this agent %u", v.abi,
			TMK_ABI_VERSION);
	return 0;
}
