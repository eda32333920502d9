# SPDX-License-Identifier: Apache-2.0
# What judges points that were made in guests; it runs here.
$(B)/tests/vm/judge: $(B)/tests/vm/judge.o $(B)/tests/crash/check.o
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs libnbd)

# Thousands of points, for about two hours; then the judge must find what a module without before-images does.
.PHONY: soak-replicate
soak: soak-replicate
soak-replicate: deps
	$(MAKE) progs helpers
	TM_POINTS=8000 TM_LIMIT=20000 tests/vm/test-replicate
	TM_LIMIT=1200 tests/vm/test-replicate 100000 "" 4
