# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by mkserver and mklive: a disk that a PC's firmware can boot from. In sectors of 512 bytes:
grub_start=2048 root_start=4096

# u64 N: eight bytes, lowest first.
u64() {
	local i
	for i in 0 8 16 24 32 40 48 56; do printf "\\x$(printf %02x $(($1 >> i & 255)))"; done
}

# boot_loader ROOT IMAGE UUID: GRUB into the master boot record and the BIOS boot partition, as grub-install does; the core
# image finds the root filesystem by its UUID. Each stage holds the sector of the next (GRUB's boot.S and diskboot.S).
boot_loader() {
	local root=$1 img=$2
	printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$3" >"$root/early.cfg"
	chroot "$root" grub-mkimage -O i386-pc -o /core.img -c /early.cfg -p /boot/grub \
		biosdisk part_gpt ext2 search_fs_uuid normal linux serial terminal configfile
	[ "$(stat -c %s "$root/core.img")" -le $(((root_start - grub_start) * 512)) ]
	u64 $((grub_start + 1)) | dd of="$root/core.img" bs=1 seek=500 conv=notrunc status=none
	dd if="$root/usr/lib/grub/i386-pc/boot.img" of="$img" bs=440 count=1 conv=notrunc status=none
	u64 $grub_start | dd of="$img" bs=1 seek=92 conv=notrunc status=none
	dd if="$root/core.img" of="$img" bs=512 seek=$grub_start conv=notrunc status=none
	rm "$root/core.img" "$root/early.cfg"
}

# root_disk ROOT IMAGE MIB UUID: a GPT disk with the boot loader and, as its second partition, an ext4 filesystem of ROOT.
root_disk() {
	local root=$1 img=$2 mib=$3 uuid=$4
	truncate -s "${mib}M" "$img"
	sfdisk --quiet "$img" <<-END
		label: gpt
		start=$grub_start, size=$((root_start - grub_start)), type=21686148-6449-6E6F-744E-656564454649
		start=$root_start, type=linux
	END
	boot_loader "$root" "$img" "$uuid"
	mke2fs -q -t ext4 -U "$uuid" -L root -d "$root" -E offset=$((root_start * 512)) "$img" \
		$(((mib - 1) * 1024 - root_start / 2))k
}
