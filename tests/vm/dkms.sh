# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by test-dkms-SUITE: DKMS builds and installs the module in the suite, and removes it again; the module it
# installed is loaded and unloaded two hundred times under load in a guest.
set -u
suite=${0##*test-dkms-}
cd "$(dirname "$0")/../.." || exit 2
[ -f kmod/Kbuild ] || { echo "no kernel module in this tree"; exit 77; }
dir=$(mktemp -d /tmp/test-dkms.XXXXXX) || exit 2
child=''
finish() {
	trap - EXIT
	[ -z "$child" ] || kill "$child" 2>/dev/null
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 143' TERM INT

mkdir -p "$dir/source/common" "$dir/module/lib"
cp -r kmod dkms.conf "$dir/source/"
cp common/tidemark_abi.h "$dir/source/common/"
version=$(sed -n 's,^VERSION *:= *,,p' Makefile)

cat >"$dir/install" <<'END'
set -eu
dir=$1 version=$2
kver=$(basename "$(echo /lib/modules/*)")
cp -r "$dir/source" "/usr/src/tidemark-$version"
sed -i "s/@VERSION@/$version/g" "/usr/src/tidemark-$version/dkms.conf"
dkms add -m tidemark -v "$version"
dkms build -m tidemark -v "$version" -k "$kver" || { cat /var/lib/dkms/tidemark/*/build/make.log; exit 1; }
log=$(echo /var/lib/dkms/tidemark/"$version/$kver"/*/log/make.log)
! grep -i warning: "$log"
dkms install -m tidemark -v "$version" -k "$kver"
dkms status
dkms status | grep -q 'tidemark.*installed'
modinfo -k "$kver" tidemark
ko=$(modinfo -k "$kver" -n tidemark)
mkdir -p "$dir/module/lib/$(dirname "${ko#/lib/modules/$kver/}")"
cp "$ko" "$dir/module/lib/${ko#/lib/modules/$kver/}"
cp /lib/modules/"$kver"/modules.* "$dir/module/lib/"
case $ko in
*.xz) xz -dc "$ko" >"$dir/module/tidemark.ko" ;;
*.zst) zstd -qdc "$ko" >"$dir/module/tidemark.ko" ;;
*) cp "$ko" "$dir/module/tidemark.ko" ;;
esac
dkms remove -m tidemark -v "$version" --all
! modinfo -k "$kver" -n tidemark 2>/dev/null
END
tests/vm/vm chroot "$suite" --bind "$dir" -- bash "$dir/install" "$dir" "$version" ||
	{ echo "FAILED: DKMS in $suite"; exit 1; }

tests/vm/vm run "$suite" --module "$dir/module" --disk 256M --timeout 500 -- tests/vm/guest/reload 200 &
child=$!
wait $child
rc=$?
child=''
exit $rc
