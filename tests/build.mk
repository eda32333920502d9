# SPDX-License-Identifier: Apache-2.0
# The kernel module for the kernels of the suites (make kmod SUITE=bookworm), built in their own root trees.
SUITES := bullseye bookworm trixie trixie-backports
SUITE ?= $(SUITES)

kmod:
	@for s in $(SUITE); do tests/vm/vm kmod $$s || exit 1; done

# All of the module's tests in a kernel that finds faults; not part of check, as it takes long.
.PHONY: check-debug
check-debug: deps
	@tests/check-debug

-include $(wildcard tests/*/build.mk)
