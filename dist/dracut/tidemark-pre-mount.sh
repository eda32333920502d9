#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# dracut, sourced before the root filesystem is checked or mounted: tracking goes on where the shutdown left it.
if [ -s /etc/tidemark/boot.conf ]; then
	modprobe -q tidemark || echo "tidemark: the kernel module does not load; the disks will be compared" >/dev/kmsg
	# Also without the module: what was saved holds for one boot, and that is this one.
	/sbin/tidemark-boot /etc/tidemark/boot.conf /run/tidemark-boot
fi
