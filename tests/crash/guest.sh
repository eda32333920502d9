# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the guest-* scripts: they run as root in a guest, in the tree's root.
set -u
# There is no udev in guests: device-mapper's tools make the nodes themselves.
export DM_DISABLE_UDEV=1
t_begin=$SECONDS

die() { echo "FAIL: $*"; exit 1; }

# part NAME: says what comes, and how long what came before took.
part() { echo "== $* (after $((SECONDS - t_begin)) s)"; }

# absent WHAT: cannot be tested here, as no kernel but the small one made to find faults may say.
absent() { case $(uname -r) in *-debug) echo "not in this kernel: $*" ;; *) die "no $*" ;; esac; }

# load [test] [PARAMETER=VALUE]...: the module, or its test build. Emulated guests stop for long at times: a write may be held
# for a minute before it breaks an epoch, unless a test wants otherwise.
load() {
	local ko=${TM_KO:-}
	[ "${1:-}" = test ] && { ko=${TM_KO_TEST:-}; shift; }
	[ -e "$ko" ] || { echo "no module was built"; exit 77; }
	insmod "$ko" hold_ms=60000 "$@" || die "the module does not load"
	[ -c /dev/tidemark ] || die "no /dev/tidemark"
}

# unload: nothing may keep the module.
unload() {
	tmk detach || die "cannot detach"
	rmmod tidemark || die "the module does not unload"
}

# blank DISK...: zeroes where the oracle's hot area is.
blank() {
	local d
	for d; do dd if=/dev/zero of="$d" bs=1M count=8 oflag=direct status=none || die "cannot blank $d"; done
}

queue() { echo "$3" >"/sys/block/${1#/dev/}/queue/$2" || die "cannot set $2 of $1"; }

# table NAME LINE...: a device-mapper device with this table.
table() {
	local name=$1
	shift
	printf '%s\n' "$@" | dmsetup create "$name" || die "dmsetup create $name"
}

sectors() { blockdev --getsz "$1"; }

# loop_disk SIZE [OPTION...]: prints a new loop device over a file in memory.
loop_disk() {
	local size=$1 f
	shift
	modprobe loop
	f=$(mktemp /tmp/loop.XXXXXX) && truncate -s "$size" "$f" && losetup --find --show --direct-io=off "$@" "$f" ||
		die "no loop device"
}

# value KEY: of "KEY=VALUE" words or lines on standard input.
value() { tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }

# until_true SECONDS COMMAND...: TM_SLOWER times as long in the debug kernel.
until_true() {
	local end=$((SECONDS + $1 * ${TM_SLOWER:-1}))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# mkxfs DISK: newer versions make no filesystem below 300 MB, but for their own tests.
mkxfs() { TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1 mkfs.xfs -q -f "$1"; }
