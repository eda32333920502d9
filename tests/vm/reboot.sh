#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/vm/reboot.sh SUITE: the maps of the module across real reboots of a guest.
set -u
cd "$(dirname "$0")/../.." || exit 125
suite=$1
T=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-test.XXXXXX") || exit 125
trap 'rm -rf "$T"' EXIT
trap 'exit 130' INT TERM HUP
truncate -s 32M "$T/disk"
# One processor: the harness cannot begin anew what stumbled in the emulator when a disk is kept from boot to boot.
guest() { tests/vm/vm run "$suite" --image "$T/disk" --smp 1 --timeout 300 -- tests/crash/guest-reboot "$1"; }
tests/vm/vm run "$suite" --disk 32M --smp 1 --timeout 600 -- tests/crash/guest-reboot doubts || exit 1
guest leave && guest return || exit 1
guest leave && guest foreign || exit 1
