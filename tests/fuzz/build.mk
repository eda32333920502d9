# SPDX-License-Identifier: Apache-2.0
# make fuzz [FUZZ_SECONDS=20] [FUZZ=fuzz-msg]: every parser of what others wrote, under libFuzzer with the address and
# undefined-behaviour sanitizers. Seeds lie in tests/fuzz/corpus/NAME; what is found on the way goes to build/fuzz/corpus/NAME.
FUZZ_SECONDS ?= 20
FUZZ ?= $(basename $(notdir $(wildcard tests/fuzz/fuzz-*.c)))
FUZZ_FLAGS := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
FUZZ_COMMON := $(patsubst %.c,build/fuzz/%.o,$(wildcard common/*.c))

build/fuzz/%.o: %.c Makefile tests/fuzz/build.mk
	@mkdir -p $(@D)
	clang $(filter-out -D_FORTIFY_SOURCE=2,$(BASE)) $(WARN) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link $(PKG_CFLAGS) -MMD -MP -c $< -o $@
build/fuzz/libcommon.a: $(FUZZ_COMMON)
	@rm -f $@; ar rcs $@ $^
build/fuzz/fuzz-%: build/fuzz/tests/fuzz/fuzz-%.o build/fuzz/libcommon.a
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer -pthread -o $@ $^ $(COMMON_LIBS)

.PHONY: fuzz-build
fuzz-build: $(FUZZ:%=build/fuzz/%)
fuzz: deps
	$(MAKE) fuzz-build
	@for t in $(FUZZ); do tests/fuzz/run-one $$t $(FUZZ_SECONDS) || exit 1; done

-include $(wildcard build/fuzz/*/*.d build/fuzz/tests/fuzz/*.d)
