/* SPDX-License-Identifier: Apache-2.0 */
/* agentctl's subcommands that show much. */
#ifndef TOOLS_AGENTCTL_H
#define TOOLS_AGENTCTL_H

#include "common/cli.h"

int agentctl_status(struct tm_cli *cli);
int agentctl_disks(struct tm_cli *cli);

#endif
