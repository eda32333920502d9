# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by vm: what changes from run to run goes into a small image beside the suite's: the module, the programs, the
# tests. Programs built on this machine carry their own C library along, so that one build runs in every guest.

# build_module SUITE: kmod/ for the suite's kernel, W=1, any warning is an error, also sparse's; result in build/kmod/SUITE:
# tidemark.ko, and lib/ with what the guest's modprobe needs to know of it. Does nothing when no source is newer.
build_module() {
	local suite=$1 out=build/kmod/$1 dir kver lock rc=0
	[ -f kmod/Kbuild ] || return 0
	dir=$(image "$suite") || return 1
	kver=$(cat "$dir/kver")
	mkdir -p "$out/src"
	exec {lock}>"$out.lock"
	flock "$lock"
	if [ ! -f "$out/done" ] || [ "$(cat "$out/done")" != "$dir" ] ||
		[ -n "$(find kmod common/tidemark_abi.h dkms.conf -newer "$out/done" 2>/dev/null | head -n 1)" ]; then
		compile_module "$suite" "$out" "$kver" && echo "$dir" >"$out/done" || rc=1
	fi
	exec {lock}>&-
	return $rc
}

# compile_module SUITE OUT KVER: the module, and its test build (TM_TEST=1), which has switches that break it.
compile_module() {
	local suite=$1 out=$2 kver=$3 lib
	rm -f "$out/done" "$out/tidemark.ko" "$out/tidemark-test.ko"
	touch "$out/begun"
	compile_into "$suite" "$out" "$kver" src && cp "$out/src/kmod/tidemark.ko" "$out/" &&
		compile_into "$suite" "$out" "$kver" src-test TM_TEST=1 &&
		cp "$out/src-test/kmod/tidemark.ko" "$out/tidemark-test.ko" || return 1
	mkdir -p "$out/lib/updates"
	cp "$out/tidemark.ko" "$out/lib/updates/" || return 1
	lib=$(realpath "$out/lib")
	in_chroot "$suite" --bind "$lib" -- sh -c "
		mkdir -p /lib/modules/$kver/updates && cp $lib/updates/tidemark.ko /lib/modules/$kver/updates/ &&
		depmod $kver && cp /lib/modules/$kver/modules.* $lib/"
}

# sparse_kit DIR: this machine's sparse with its libraries, and DIR/check, which runs it in any suite. (Where it does not know the headers'
# language, as that of 7.x, the kernel's own makefile leaves it out.)
sparse_kit() {
	local dir=$1 from so
	from=$(type -P sparse) || return 1
	mkdir -p "$dir"
	cp -L "$from" "$dir/" || return 1
	while read -r so; do cp -L "$so" "$dir/" || return 1; done < <(ldd "$from" | grep -o '/[^ ]*')
	cat >"$dir/check" <<-END
		#!/bin/sh
		exec "$dir/ld-linux-x86-64.so.2" --library-path "$dir" "$dir/sparse" "\$@"
	END
	chmod +x "$dir/check"
}

# compile_into SUITE OUT KVER FOLDER [VARIABLE=VALUE]...
compile_into() {
	local suite=$1 out=$2 kver=$3 src=$2/$4 log=$2/log.$4 check
	shift 4
	mkdir -p "$src/common"
	check=$(realpath "$out")/sparse
	sparse_kit "$check" || { echo "vm: no sparse" >&2; return 1; }
	rsync -a --delete --exclude='*.o' --exclude='*.ko' --exclude='.*' --exclude='*.mod*' --exclude=Module.symvers \
		--exclude=modules.order --exclude='generated' kmod "$src/" &&
		rsync -a common/tidemark_abi.h "$src/common/" || return 1
	src=$(realpath "$src")
	if ! in_chroot "$suite" --bind "$src" --bind "$check" -- make -C "/lib/modules/$kver/build" "M=$src/kmod" W=1 C=1 \
		"CHECK=$check/check" ${KMOD_ARGS:-} "$@" modules >"$log" 2>&1; then
		grep -E -A 5 'error|Error|warning|probe' "$log" | head -n 60 >&2
		echo "vm: the module does not build for $suite ($kver): $log" >&2
		return 1
	fi
	if grep -E -i 'warning' "$log" | grep -v -E 'compiler differs' >&2; then
		echo "vm: warnings in the module's build for $suite ($kver): $log" >&2
		return 1
	fi
}

# portable SOURCE TARGET: a copy of a program that finds loader and libraries in the guest's /tidemark/build/lib.
portable() {
	local from=$1 to=$2 lib=build/guest/lib so
	[ "$to" -nt "$from" ] && return 0
	mkdir -p "$(dirname "$to")" "$lib"
	while read -r so; do
		[ "$lib/$(basename "$so")" -nt "$so" ] || cp -L "$so" "$lib/" || return 1
	done < <(ldd "$from" 2>/dev/null | sed -n -E 's,.*=> (/[^ ]+) .*,\1,p; s,^\s*(/[^ ]*ld-linux[^ ]*) .*,\1,p')
	cp "$from" "$to.new" || return 1
	readelf -d "$from" 2>/dev/null | grep -q NEEDED || { mv "$to.new" "$to"; return; }
	case $from in
	*.so) patchelf --force-rpath --set-rpath /tidemark/build/lib "$to.new" ;;
	*) patchelf --set-interpreter /tidemark/build/lib/ld-linux-x86-64.so.2 --force-rpath \
		--set-rpath /tidemark/build/lib "$to.new" ;;
	esac && mv "$to.new" "$to"
}

# programs: builds the tree's programs and test helpers, and portable copies of them in build/guest/release.
programs() {
	local lock p rc=0
	mkdir -p build/guest
	exec {lock}>build/guest/lock
	flock "$lock"
	make -s progs helpers crash >build/guest/log 2>&1 {lock}>&- || { tail -n 20 build/guest/log >&2; rc=1; }
	for p in build/release/* build/release/tests/tools/* build/release/tests/unit/* build/release/tests/crash/*; do
		[ -f "$p" ] && [ -x "$p" ] || continue
		case $p in *.o | *.a | *.d) continue ;; esac
		portable "$p" "build/guest/${p#build/}" || rc=1
	done
	exec {lock}>&-
	return $rc
}

# payload SUITE IMAGE-DIR RUN-DIR DRIVERS MODULE-DIR COMMAND...: makes RUN-DIR/payload.img.
payload() {
	local suite=$1 dir=$2 run=$3 stage=$3/stage drivers=$4 module=$5 t modules
	shift 5
	t=$stage/tidemark
	mkdir -p "$t/build/kmod" "$t/.run"
	rsync -a --exclude=/build --exclude=/.git --exclude=/.run ./ "$t/" || return 1
	[ -d build/guest/lib ] && cp -al build/guest/lib "$t/build/lib"
	[ -d build/guest/release ] && cp -al build/guest/release "$t/build/release"
	{
		echo "export TM_SUITE=$suite"
		[ "$suite" != debug ] || echo "export TM_SLOWER=$DEBUG_SLOWER"
		echo "drivers='$drivers'"
		if [ -n "$module" ]; then
			cp "$module"/tidemark*.ko "$t/build/kmod/"
			modules=$stage/$(modules_dir "$dir/root")/$(cat "$dir/kver")
			mkdir -p "$modules"
			cp -r "$module/lib/." "$modules/"
			echo "export TM_KO=/tidemark/build/kmod/tidemark.ko TM_KO_TEST=/tidemark/build/kmod/tidemark-test.ko"
		fi
	} >"$t/.run/env"
	{
		echo '#!/bin/bash'
		printf 'exec'
		printf ' %s' "${@@Q}"
		echo
	} >"$t/.run/command"
	chmod +x "$t/.run/command"
	mksquashfs "$stage" "$run/payload.img" -quiet -no-progress -noI -noD -noF -noX -no-exports -processors 1 \
		>"$run/payload.log" 2>&1 || { cat "$run/payload.log" >&2; return 1; }
	rm -rf "$stage"
}
