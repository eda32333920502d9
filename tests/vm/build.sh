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

# modules_dir ROOT: where kernel modules lie; bullseye is the last suite whose /lib is not in /usr.
modules_dir() { if [ -L "$1/lib" ]; then echo usr/lib/modules; else echo lib/modules; fi; }

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
	if ! debian_root "$suite" "$new/root" --include="$(package_list "$suite")" >"$new/log" 2>&1 {lock}>&-; then
		tail -n 20 "$new/log"
		return 1
	fi
	kver=$(basename "$(echo "$new/root/lib/modules/"*)")
	echo "$kver" >"$new/kver"
	unpack_kernel "$new/root/boot/vmlinuz-$kver" "$new/kernel" || return 1
	build_initrd "$new" "$kver" || return 1
	build_base "$new" "$kver" >>"$new/log" 2>&1 || { tail -n 20 "$new/log"; return 1; }
	for old in "build/vm/$suite/"*/; do
		[ -e "$old/used" ] && [ -n "$(find "$old/used" -mmin +1440)" ] && rm -rf --one-file-system "$old"
	done
	mv "$new" "$dir" || return 1
	echo "vm: image of $suite ($kver) built in $((SECONDS - t0)) s"
}

# unpack_kernel VMLINUZ TARGET: the kernel proper, which QEMU starts by its PVH note: unpacking is slow when emulated. (The
# boot protocol's header, in Linux' Documentation/x86/boot, tells where the packed kernel lies; its last word is a size.)
unpack_kernel() {
	local from=$1 to=$2 sectors offset length
	sectors=$(od -An -tu1 -j 497 -N 1 "$from")
	offset=$(od -An -tu4 -j 584 -N 4 "$from")
	length=$(od -An -tu4 -j 588 -N 4 "$from")
	tail -c +$(((sectors + 1) * 512 + offset + 1)) "$from" | head -c $((length - 4)) >"$to.packed"
	if xz -dcq --single-stream "$to.packed" >"$to" 2>/dev/null || zstd -dcq "$to.packed" >"$to" 2>/dev/null; then
		readelf -n "$to" 2>/dev/null | grep -q -i '0x0*12)'
	else
		false
	fi || cp "$from" "$to" || return 1
	rm -f "$to.packed"
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
	local dir=$1 kver=$2 drivers='gpu media infiniband staging iio hid isdn usb bluetooth' d out modules
	modules=$(modules_dir "$dir/root")/$kver/kernel
	out=(boot 'proc/*' 'sys/*' 'dev/*' 'run/*' 'tmp/*' usr/src usr/include usr/lib/gcc 'usr/lib/linux-kbuild*'
		'usr/bin/*-lto-dump*' usr/share/doc usr/share/man usr/share/locale 'usr/share/perl*' usr/share/zoneinfo
		var/cache var/lib/apt var/lib/dpkg "$modules/sound")
	for d in $drivers; do out+=("$modules/drivers/$d"); done
	mksquashfs "$dir/root" "$dir/base.img" -quiet -no-progress -noI -noD -noF -noX -no-exports \
		-wildcards -e "${out[@]}"
}
