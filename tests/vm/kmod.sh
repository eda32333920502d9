#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/vm/kmod.sh oracle|files|whole|hurt|traps|starve SUITE: tests of the kernel module in a guest, see tests/crash/guest-*.
# TM_CUTS, TM_FUZZ_SECONDS: more than usual (make soak).
set -u
cd "$(dirname "$0")/../.." || exit 125
theme=$1 suite=$2
pmem='memmap=16M!512M' # /dev/pmem0
vm() { exec tests/vm/vm run "$suite" --timeout "${TM_LIMIT:-900}" "$@"; }
case $theme in
oracle) vm --disk 32M --disk 32M --disk 32M --disk 32M,4k -- tests/crash/guest-oracle "${TM_CUTS:-500}" ;;
files) vm --disk 48M --disk 48M -- tests/crash/guest-files "${TM_CUTS:-30}" ;;
whole) vm --disk 32M --disk 32M --disk 32M,4k --disk 33555968 --disk 48M,scsi -- tests/crash/guest-whole ;;
hurt) vm --disk 32M --disk 32M --disk 32M,scsi --disk 32M,paths --append "$pmem" -- tests/crash/guest-hurt "${TM_FUZZ_SECONDS:-60}" ;;
traps) vm --disk 32M --disk 32M --append "$pmem" -- tests/crash/guest-traps ;;
# The kernel tells who found no memory; what is worth a report says more than that.
starve) vm --disk 32M --disk 32M --allow '\] Call Trace:$' -- tests/crash/guest-starve "${TM_FUZZ_SECONDS:-20}" ;;
*) echo "unknown theme $theme"; exit 125 ;;
esac
