# SPDX-License-Identifier: Apache-2.0
# Programs that test the kernel module, inside the virtual machines: tests/crash/NAME-main.c and what they share.
CRASH := $(addprefix $(B)/tests/crash/,$(patsubst tests/crash/%-main.c,%,$(wildcard tests/crash/*-main.c)))
CRASH_LIB := $(call objs,$(filter-out %-main.c,$(wildcard tests/crash/*.c)))
.PHONY: crash
crash: $(CRASH)
$(B)/tests/crash/%: $(B)/tests/crash/%-main.o $(CRASH_LIB)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ -luring

bench-kmod: deps
	tests/bench/kmod $(firstword $(filter-out bullseye,$(SUITE)))

# The module's tests for long: 10,000 cuts and an hour of fuzzing on each kernel, the debug kernel too (or on the kernels that
# SUITE names, or less of it by TM_CUTS and TM_FUZZ_SECONDS). Only the debug kernel can keep memory from the module (starve).
TM_CUTS ?= 10000
TM_FUZZ_SECONDS ?= 3600
SOAK_SUITES = $(if $(filter file,$(origin SUITE)),$(SUITES) debug,$(SUITE))
.PHONY: soak-kmod
soak: soak-kmod
soak-kmod: deps
	@for s in $(SOAK_SUITES); do \
	themes="oracle files whole hurt"; [ $$s != debug ] || themes="$$themes starve"; \
	for t in $$themes; do echo "== $$t $$s"; \
	TM_CUTS=$(TM_CUTS) TM_FUZZ_SECONDS=$(TM_FUZZ_SECONDS) TM_LIMIT=$(or $(TM_LIMIT),40000) tests/vm/kmod.sh $$t $$s || exit 1; done; done
