# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced after build.sh where the suite is "debug": bookworm with a kernel of its own, Debian's linux-source with the small
# configuration debug.config: KASAN, lockdep, kmemleak, checks of atomic context, objects and lists, and fault injection. The
# kernel is built inside the suite's root tree and is a part of its image, cached as the others are. What differs from other
# suites takes the place of build.sh's functions from here: any change of build.sh would make every suite's image anew.

image_key() {
	{
		debian_sources bookworm
		cat "$here/build.sh" "$here/debian.sh" "$here/guest/init" "$here/debug.sh" "$here/debug.config"
	} | sha256sum | cut -c 1-12
}

package_list() {
	local p list=linux-source-6.1,flex,bison,bc,libelf-dev,libssl-dev,xz-utils
	for p in $packages; do
		case $p in linux-*) ;; *) list+=,$p ;; esac
	done
	echo "$list"
}

build_image() {
	local suite=$1 dir=$2 lock=$3 new=$2.new t0=$SECONDS kver old
	echo "vm: building the image of $suite"
	rm -rf --one-file-system "build/vm/$suite/"*.new
	mkdir -p "$new" || return 1
	if ! debian_root bookworm "$new/root" --include="$(package_list)" >"$new/log" 2>&1 {lock}>&-; then
		tail -n 20 "$new/log"
		return 1
	fi
	debug_kernel "$new/root" {lock}>&- || return 1
	kver=$(basename "$(echo "$new/root/lib/modules/"*)")
	echo "$kver" >"$new/kver"
	# Packed: the kernel's entry for QEMU (PVH) is instrumented by KASAN, and runs before there is anything to check with.
	cp "$new/root/boot/vmlinuz-$kver" "$new/kernel" || return 1
	build_initrd "$new" "$kver" || return 1
	build_base "$new" "$kver" >>"$new/log" 2>&1 || { tail -n 20 "$new/log"; return 1; }
	for old in "build/vm/$suite/"*/; do
		[ -e "$old/used" ] && [ -n "$(find "$old/used" -mmin +1440)" ] && rm -rf --one-file-system "$old"
	done
	mv "$new" "$dir" || return 1
	echo "vm: image of $suite ($kver) built in $((SECONDS - t0)) s"
}

# debug_kernel ROOT: builds and installs it there.
debug_kernel() {
	local root=$1 log=${1%/*}/log.kernel t0=$SECONDS
	echo "vm: building the debug kernel, which takes a while"
	cp "$here/debug.config" "$root/usr/src/" || return 1
	unshare --mount --propagation private bash -c '
		mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
			exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 chroot "$1" bash -euc "$2"
	' debug_kernel "$root" "$debug_steps" >"$log" 2>&1 || { tail -n 30 "$log"; return 1; }
	echo "vm: debug kernel built in $((SECONDS - t0)) s"
}

# In the root tree. What is needed to build modules stays, without the sources of the kernel itself. Fault injection by call
# chain is off on x86-64 in 6.1, where the unwinder that is the default cannot be relied on; this one has frame pointers.
debug_steps='
cd /usr/src
tar -xf linux-source-6.1.tar.xz
cd linux-source-6.1
sed -i "/^config FAULT_INJECTION_STACKTRACE_FILTER/,/help/{/depends on !X86_64/d}" lib/Kconfig.debug
make -s KCONFIG_ALLCONFIG=../debug.config allnoconfig
grep "^CONFIG_" ../debug.config >wanted
lost=$(grep -v -x -F -f .config wanted || true)
[ -z "$lost" ] || { echo "lost from the configuration: $lost"; exit 1; }
make -s -j"$(nproc)" bzImage modules
make -s INSTALL_MOD_STRIP=1 modules_install
kver=$(make -s kernelrelease)
cp arch/x86/boot/bzImage "/boot/vmlinuz-$kver"
cp .config "/boot/config-$kver"
cp System.map "/boot/System.map-$kver"
ln -sfn /usr/src/linux-source-6.1 "/lib/modules/$kver/build"
ln -sfn /usr/src/linux-source-6.1 "/lib/modules/$kver/source"
depmod "$kver"
find . -path ./scripts -prune -o -path ./tools -prune -o -path ./include -prune -o -type f \
	\( -name "*.[cSo]" -o -name "*.cmd" -o -name "*.a" -o -name "*.ko" \) -print0 | xargs -0 rm -f
rm -rf Documentation drivers sound samples vmlinux vmlinux.* arch/x86/boot/bzImage arch/x86/boot/compressed ../linux-source-6.1.tar.xz
'
