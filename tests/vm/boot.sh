# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by test-agent-boot-SUITE with the list of what to do: a protected root disk across real boots.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
T=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-test.XXXXXX") || exit 2
trap 'umount "$T/m" 2>/dev/null; rm -rf --one-file-system "$T"' EXIT
trap 'exit 130' INT TERM HUP
. tests/vm/rootdisk.sh
[ "$(id -u)" = 0 ] || { echo "needs root"; exit 77; }
t0=$SECONDS
step() { echo "== $* (after $((SECONDS - t0)) s)"; }
# stage INITRD STAGE...: one boot.
stage() {
	step "$*"
	boot_root "$T/$1" tests/vm/guest-boot "${@:2}" >"$T/out" 2>&1 || { cat "$T/out"; echo "FAIL: $*"; exit 1; }
}
first_boot() {
	root_disk "$T/root.img" && truncate -s 256M "$T/store.img" && truncate -s 64M "$T/data.img" && initramfs "$T/plain" || exit 1
	stage plain first
	sed -n 's/^conf: //p' "$T/out" >"$T/boot.conf"
	grep -q '^extent' "$T/boot.conf" || { cat "$T/out"; echo "FAIL: no place of the maps"; exit 1; }
	initramfs "$T/hooked" "$T/boot.conf" || exit 1
}
