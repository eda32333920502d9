#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# probe.sh OUTPUT KEY COMPILER FLAGS...: compiles probe/*.c for the kernel at hand and writes what it has to OUTPUT.
# Does nothing when OUTPUT was written for the same KEY. Called by Kbuild.
set -u
here=$(dirname "$0")
out=$1 key=$2
shift 2
[ -f "$out" ] && head -n 1 "$out" | grep -qxF "/* $key */" && exit 0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
compiles() {
	"$@" -Werror -Wno-unused -Wno-missing-prototypes -Wno-missing-declarations -DKBUILD_MODNAME='"probe"' \
		-DKBUILD_BASENAME='"probe"' -c -o "$tmp/o" "$probe" >"$tmp/log" 2>&1
}
probe=$here/probe/sane.c
if ! compiles "$@"; then
	echo "tidemark: the compile probes do not work here:" >&2
	cat "$tmp/log" >&2
	exit 1
fi
probe=$here/probe/insane.c
if compiles "$@"; then
	echo "tidemark: the compile probes accept anything" >&2
	exit 1
fi
echo "/* $key */" >"$tmp/config"
for probe in "$here"/probe/*.c; do
	name=$(basename "$probe" .c | tr '[:lower:]' '[:upper:]')
	if compiles "$@"; then have=1; else have=0; fi
	echo "#define HAVE_$name $have" >>"$tmp/config"
done
mv "$tmp/config" "$out"
