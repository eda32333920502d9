#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dracut: the same as the hook for initramfs-tools. Called by dracut, which defines inst_* and moddir.
conf=/var/lib/tidemark-agent/boot.conf

check() {
	# 255: only when asked for; without the file nothing is protected on this machine.
	[ -s "$conf" ] && return 0
	return 255
}

depends() {
	return 0
}

installkernel() {
	# Not for lack of the driver in use: in a host-only initramfs too.
	hostonly='' instmods tidemark
}

install() {
	[ -s "$conf" ] || return 0
	inst_simple "$conf" /etc/tidemark/boot.conf
	inst_simple @PREFIX@/lib/tidemark/tidemark-boot /sbin/tidemark-boot
	# pre-mount: all that the root needs is there, and neither its check nor its mount has begun.
	inst_hook pre-mount 00 "$moddir/tidemark-pre-mount.sh"
}
