# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by tests that boot a guest from a root disk of its own by a real initramfs (initramfs-tools) with what
# `make install` puts there; $suite and $T are set.

# root_disk FILE: GPT, and in its one partition an ext4 whose first process is guest/root-init.
root_start=2048 root_mib=96
root_disk() {
	local tree=$T/tree image
	image=$(tests/vm/vm build "$suite" >&2; . tests/vm/debian.sh; . tests/vm/build.sh; here=tests/vm image "$suite") || return 1
	mkdir -p "$tree"/{bin,dev,proc,sys,run,mnt,var/lib/tidemark-agent} || return 1
	cp "$image/root/bin/busybox" "$tree/bin/" && cp tests/vm/guest/root-init "$tree/init" || return 1
	chmod 700 "$tree/var/lib/tidemark-agent"
	truncate -s $((root_mib + 2))M "$1" || return 1
	echo "start=$root_start, size=$((root_mib * 2048)), type=linux" | sfdisk --quiet --label gpt "$1" || return 1
	mke2fs -q -t ext4 -b 4096 -L root -d "$tree" -E "offset=$((root_start * 512)),root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0" \
		"$1" $((root_mib * 256)) 2>/dev/null
}

# in_root_disk FILE COMMAND...: on this machine, with the root filesystem mounted at $T/m.
in_root_disk() {
	local rc
	mkdir -p "$T/m"
	mount -o "loop,offset=$((root_start * 512)),sizelimit=$((root_mib << 20))" "$1" "$T/m" || return 1
	shift
	"$@"
	rc=$?
	umount "$T/m" || return 1
	return $rc
}

# initramfs TARGET [BOOT.CONF]: made by the suite's initramfs-tools with our hook; without boot.conf it holds nothing of ours.
initramfs() {
	local target=$1 conf=${2:-} dir=$T/initramfs
	rm -rf "$dir" && mkdir -p "$dir" || return 1
	make -s install "DESTDIR=$dir/inst" PREFIX=/usr >"$dir/log" 2>&1 || { cat "$dir/log"; return 1; }
	tests/vm/vm kmod "$suite" && cp -r "build/kmod/$suite/lib" "$dir/" || return 1
	[ -z "$conf" ] || cp "$conf" "$dir/boot.conf" || return 1
	cat >"$dir/make" <<-'END'
		set -e
		dir=$1
		kver=$(basename "$(echo /lib/modules/*)")
		mkdir -p /usr/lib/tidemark /var/lib/tidemark-agent
		cp -r "$dir/lib/." "/lib/modules/$kver/"
		cp "$dir/inst/usr/lib/tidemark/tidemark-boot" /usr/lib/tidemark/
		cp -r "$dir/inst/usr/share/initramfs-tools/." /usr/share/initramfs-tools/
		[ ! -e "$dir/boot.conf" ] || cp "$dir/boot.conf" /var/lib/tidemark-agent/
		printf '%s\n' MODULES=list COMPRESS=gzip >/etc/initramfs-tools/conf.d/test
		printf '%s\n' virtio_pci virtio_blk virtio_console virtio_rng squashfs overlay ext4 >/etc/initramfs-tools/modules
		rm -f /usr/share/initramfs-tools/hooks/fsck # no fsck.ext4 of a root that is not this one
		mkinitramfs -o "$dir/initrd" "$kver"
		lsinitramfs "$dir/initrd" >"$dir/list"
	END
	tests/vm/vm chroot "$suite" --bind "$dir" -- bash "$dir/make" "$dir" >"$dir/log" 2>&1 || { cat "$dir/log"; return 1; }
	mv "$dir/initrd" "$target"
	cp "$dir/list" "$target.list"
}

# dracut_initramfs TARGET BOOT.CONF: the same made by dracut, this machine's, which is bookworm's as the suite has to be. Needs
# initramfs() before it.
dracut_initramfs() {
	local target=$1 conf=$2 dir=$T/initramfs f
	cp "$conf" "$dir/boot.conf" || return 1
	dpkg -L dracut-core | while read -r f; do [ -d "$f" ] || echo "$f"; done | tar -C / -cf "$dir/dracut.tar" -P -T - || return 1
	cat >"$dir/make" <<-'END'
		set -e
		dir=$1
		kver=$(basename "$(echo /lib/modules/*)")
		tar -C / -xPf "$dir/dracut.tar"
		mkdir -p /usr/lib/tidemark /var/lib/tidemark-agent
		cp -r "$dir/lib/." "/lib/modules/$kver/"
		cp "$dir/inst/usr/lib/tidemark/tidemark-boot" /usr/lib/tidemark/
		cp -r "$dir/inst/usr/lib/dracut/." /usr/lib/dracut/
		cp "$dir/boot.conf" /var/lib/tidemark-agent/
		dracut --force --no-hostonly --gzip --kver "$kver" --modules 'base udev-rules rootfs-block tidemark' \
			--drivers 'virtio_pci virtio_blk virtio_console virtio_rng squashfs overlay ext4' "$dir/initrd"
		lsinitrd "$dir/initrd" >"$dir/list"
	END
	tests/vm/vm chroot "$suite" --bind "$dir" -- bash "$dir/make" "$dir" >"$dir/log" 2>&1 || { cat "$dir/log"; return 1; }
	for f in etc/tidemark/boot.conf usr/sbin/tidemark-boot 'updates/tidemark\.ko' 'hooks/pre-mount/00-tidemark-pre-mount\.sh'; do
		grep -q "$f" "$dir/list" || { cat "$dir/log" "$dir/list"; echo "FAIL: no $f in dracut's initramfs"; return 1; }
	done
	mv "$dir/initrd" "$target"
}

# boot_root INITRD COMMAND...: of the guest, on $T/root.img (vda), $T/store.img (vdb) and $T/data.img (vdc). One processor: see reboot.sh.
boot_root() {
	local initrd=$1
	shift
	tests/vm/vm run "$suite" --initrd "$initrd" --image "$T/root.img" --image "$T/store.img" --image "$T/data.img" --mem 1200 --smp 1 --timeout 500 \
		--append "root=/dev/vda1 ro init=/init" -- "$@"
}
