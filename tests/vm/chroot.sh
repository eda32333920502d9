# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by vm: commands in a suite's root tree on this machine's kernel.

# in_chroot SUITE [--bind DIR]... -- COMMAND...: COMMAND in a throw-away overlay of the suite's root, in a mount
# namespace of its own, so that nothing stays mounted whatever happens. DIRs are seen at the same path.
in_chroot() {
	local suite=$1 dir binds=()
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		--bind) binds+=("$(realpath "$2")"); shift 2 ;;
		--) shift; break ;;
		*) break ;;
		esac
	done
	dir=$(realpath "$(image "$suite")") || return 1
	unshare --mount --propagation private bash -c '
		set -e
		dir=$1 n=$2; shift 2
		mount -t tmpfs -o size=80% tmpfs /mnt
		mkdir /mnt/up /mnt/work /mnt/root
		mount -t overlay overlay -o "lowerdir=$dir/root,upperdir=/mnt/up,workdir=/mnt/work" /mnt/root
		mount -t proc proc /mnt/root/proc
		mount --rbind /dev /mnt/root/dev
		for ((; n > 0; n--)); do
			mkdir -p "/mnt/root$1"
			mount --bind "$1" "/mnt/root$1"
			shift
		done
		exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 chroot /mnt/root "$@"
	' in_chroot "$dir" "${#binds[@]}" "${binds[@]}" "$@"
}
