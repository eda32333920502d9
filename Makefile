# SPDX-License-Identifier: Apache-2.0
# Tidemark. `make` builds; `make check` tests everything; `make demo` shows the main job; see README.md.
#
# Variants live side by side: `make VARIANT=asan` builds into build/asan (also: tsan, clang).
# A folder's sources are found by name: a new .c file in common/, agent/, server/ or server/store/ needs no line here.

PREFIX  ?= /usr
DESTDIR ?=
VARIANT ?= release
B       := build/$(VARIANT)
VERSION := 0.1.0

WARN     = -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
           -Wno-unused-parameter
CFLAGS  ?= -O2 -g
BASE     = -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DTM_VERSION='"$(VERSION)"' -I. -fPIC -pthread \
           -fstack-protector-strong -fno-strict-aliasing
LDFLAGS += -pthread -Wl,-z,relro,-z,now

ifeq ($(VARIANT),asan)
  CFLAGS = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
  LDFLAGS += -fsanitize=address,undefined
else ifeq ($(VARIANT),tsan)
  CFLAGS = -O1 -g -fsanitize=thread
  BASE += -Itests/unit/tsan
  LDFLAGS += -fsanitize=thread
else ifeq ($(VARIANT),clang)
  CC = clang
else
  BASE += -D_FORTIFY_SOURCE=2
endif

DEPS_PKG := openssl liblz4 libxxhash uuid libcjson inih
PKG_CFLAGS := $(shell pkg-config --cflags $(DEPS_PKG) 2>/dev/null)
COMMON_LIBS := $(shell pkg-config --libs $(DEPS_PKG) 2>/dev/null)
AGENT_LIBS   = -luring -laio -lblkid -lmount $(COMMON_LIBS)
STORE_LIBS   = -lrocksdb $(COMMON_LIBS)
SERVER_LIBS  = $(STORE_LIBS) -lsqlite3

objs = $(patsubst %.c,$(B)/%.o,$(1))
COMMON := $(call objs,$(wildcard common/*.c))
STORE  := $(call objs,$(wildcard server/store/*.c))
AGENT  := $(call objs,$(filter-out agent/main.c,$(wildcard agent/*.c)))
SERVER := $(call objs,$(filter-out server/main.c,$(wildcard server/*.c)))
AGENTCTL  := $(call objs,$(wildcard tools/agentctl*.c))
SERVERCTL := $(call objs,$(wildcard tools/serverctl*.c))
UNIT   := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/test-*.c))
HELPERS := $(patsubst tests/tools/%.c,$(B)/tests/tools/%,$(wildcard tests/tools/*.c))

PROGS := $(if $(wildcard agent/main.c),$(B)/tidemark-agent) $(if $(wildcard server/main.c),$(B)/tidemark-server) \
         $(if $(AGENTCTL),$(B)/agentctl) $(if $(SERVERCTL),$(B)/serverctl) \
         $(if $(wildcard tools/nbdkit-*.c),$(B)/nbdkit-tidemark-plugin.so)

.PHONY: all progs unit helpers kmod check check-quick soak demo demo-disks bench bench-kmod lint fuzz deps install clean
all: progs
progs: $(PROGS)
unit: $(UNIT)
helpers: $(HELPERS)

$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(BASE) $(WARN) $(CFLAGS) $(PKG_CFLAGS) -MMD -MP -c $< -o $@

$(B)/libcommon.a: $(COMMON)
	@rm -f $@; $(AR) rcs $@ $^
$(B)/libstore.a: $(STORE)
	@rm -f $@; $(AR) rcs $@ $^
$(B)/libagent.a: $(AGENT)
	@rm -f $@; $(AR) rcs $@ $^
$(B)/libserver.a: $(SERVER)
	@rm -f $@; $(AR) rcs $@ $^

$(B)/tidemark-agent: $(B)/agent/main.o $(B)/libagent.a $(B)/libcommon.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(AGENT_LIBS)
$(B)/tidemark-server: $(B)/server/main.o $(B)/libserver.a $(B)/libstore.a $(B)/libcommon.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(SERVER_LIBS)
$(B)/agentctl: $(AGENTCTL) $(B)/libcommon.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(COMMON_LIBS)
$(B)/serverctl: $(SERVERCTL) $(B)/libcommon.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(COMMON_LIBS)
$(B)/nbdkit-tidemark-plugin.so: $(call objs,$(wildcard tools/nbdkit-*.c)) $(B)/libstore.a $(B)/libcommon.a
	$(CC) $(CFLAGS) $(LDFLAGS) -shared -o $@ $^ $(STORE_LIBS)

# Unit tests (Criterion) may use every library; the linker takes what each needs.
ALL_LIBS := $(if $(AGENT),$(B)/libagent.a) $(if $(SERVER),$(B)/libserver.a) $(if $(STORE),$(B)/libstore.a) $(B)/libcommon.a
$(B)/tests/unit/%: $(B)/tests/unit/%.o $(ALL_LIBS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ALL_LIBS) -Wl,--end-group -lcriterion -lrocksdb -lsqlite3 -luring -laio -lblkid -lmount $(COMMON_LIBS)
# Helpers of the tests: plain programs, one .c each.
$(B)/tests/tools/%: $(B)/tests/tools/%.o $(ALL_LIBS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< -Wl,--start-group $(ALL_LIBS) -Wl,--end-group -lrocksdb -lsqlite3 -luring -laio -lblkid -lmount $(COMMON_LIBS)

deps:
	tests/deps
check: deps
	tests/check
check-quick: deps
	tests/check --quick
demo: deps
	@$(MAKE) -s progs helpers
	tests/demo/live
demo-disks: deps
	@$(MAKE) -s progs helpers
	tests/demo/run
bench:
	tests/deps
	-tests/deps restic borgbackup
	$(MAKE) progs helpers
	tests/bench/run
lint: deps
	tests/lint

clean:
	rm -rf build/release build/asan build/tsan build/clang

-include $(wildcard */build.mk)
.SECONDARY:
-include $(shell find $(B) -name '*.d' 2>/dev/null)
