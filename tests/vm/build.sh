# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by vm: images of the suites.

packages="linux-image-amd64 linux-headers-amd64 dkms make gcc busybox-static initramfs-tools udev kmod
	fio e2fsprogs xfsprogs dmsetup mdadm lvm2 drbd-utils thin-provisioning-tools fdisk gdisk
	mount iproute2 procps psmisc sqlite3 jq strace xxd"
# What the initramfs needs to find and mount the guest's root.
boot_modules="virtio_pci virtio_blk virtio_console virtio_rng squashfs overlay"

package_list() {
	local p list=''
	for p in $packages; do
		case $1/$p in *-backports/linux-*) p=$p/$1 ;; esac
		list+=${list:+,}$p
	done
	echo "$list"
}

# Later suites bring the merged /usr themselves.
merged_usr() {
	[ "$1" = bullseye ] && echo --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
	return 0
}

image_key() {
	{
		echo "$1 $packages $boot_modules"
		debian_sources "$1"
		cat "$here/build.sh" "$here/debian.sh" "$here/guest/init"
	} | sha256sum | cut -c 1-12
}

# image SUITE: prints the folder of the suite's image, built first if need be.
image() {
	local suite=$1 key dir lock
	key=$(image_key "$suite")
	dir=build/vm/$suite/$key
	mkdir -p "build/vm/$suite"
	if [ ! -d "$dir" ]; then
		exec {lock}>"build/vm/$suite/lock"
		flock "$lock"
		[ -d "$dir" ] || build_image "$suite" "$dir" "$lock" >&2 || return 1
		exec {lock}>&-
	fi
	touch "$dir/used"
	echo "$dir"
}

build_image() {
	local suite=$1 dir=$2 lock=$3 new=$2.new t0=$SECONDS kver old
	echo "vm: building the image of $suite"
	rm -rf --one-file-system "build/vm/$suite/"*.new
	mkdir -p "$new" || return 1
	if ! debian_root "$suite" "$new/root" --include="$(package_list "$suite")" $(merged_usr "$suite") \
		>"$new/log" 2>&1 {lock}>&-; then
		tail -n 20 "$new/log"
		return 1
	fi
	kver=$(basename "$(echo "$new/root/lib/modules/"*)")
	echo "$kver" >"$new/kver"
	cp "$new/root/boot/vmlinuz-$kver" "$new/vmlinuz" || return 1
	build_initrd "$new" "$kver" || return 1
	build_base "$new" "$kver" >>"$new/log" 2>&1 || { tail -n 20 "$new/log"; return 1; }
	for old in "build/vm/$suite/"*/; do
		[ -e "$old/used" ] && [ -n "$(find "$old/used" -mmin +1440)" ] && rm -rf --one-file-system "$old"
	done
	mv "$new" "$dir" || return 1
	echo "vm: image of $suite ($kver) built in $((SECONDS - t0)) s"
}

# The initramfs: busybox, the modules in the order to load them, guest/init. Not compressed: unpacking is emulated.
build_initrd() {
	local dir=$1 kver=$2 ird=$1/ird m path n=0
	mkdir -p "$ird"/{bin,dev,proc,sys,mnt,modules} || return 1
	cp "$dir/root/bin/busybox" "$ird/bin/" && cp "$here/guest/init" "$ird/init" && chmod +x "$ird/init" || return 1
	for m in $boot_modules; do
		modprobe -d "$dir/root" -S "$kver" --show-depends "$m" || return 1
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$dir/modules.list"
	while read -r path; do
		n=$((n + 1))
		m=$ird/modules/$(printf '%02d' $n)-$(basename "$path")
		case $path in
		*.xz) xz -dc "$path" >"${m%.xz}" ;;
		*.zst) zstd -qdc "$path" >"${m%.zst}" ;;
		*) cp "$path" "$m" ;;
		esac || return 1
	done <"$dir/modules.list"
	(cd "$ird" && find . | cpio -o -H newc --quiet) >"$dir/initrd" || return 1
	rm -rf "$ird"
}

# What guests see of the root tree: all but compilers and drivers of hardware they lack; not compressed either.
build_base() {
	local dir=$1 kver=$2 drivers='gpu media infiniband staging iio hid isdn usb bluetooth' d out
	out=(boot 'proc/*' 'sys/*' 'dev/*' 'run/*' 'tmp/*' usr/src usr/include usr/lib/gcc 'usr/lib/linux-kbuild*'
		'usr/bin/*-lto-dump*' usr/share/doc usr/share/man usr/share/locale 'usr/share/perl*' usr/share/zoneinfo
		var/cache var/lib/apt var/lib/dpkg "usr/lib/modules/$kver/kernel/sound")
	for d in $drivers; do out+=("usr/lib/modules/$kver/kernel/drivers/$d"); done
	mksquashfs "$dir/root" "$dir/base.img" -quiet -no-progress -noI -noD -noF -noX -no-exports \
		-wildcards -e "${out[@]}"
}

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
