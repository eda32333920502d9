# SPDX-License-Identifier: Apache-2.0
# A filesystem that forgets what was not flushed, for the store's power-cut test.
$(B)/tests/store/powercut: $(B)/tests/store/powercut-main.o $(B)/tests/store/powercut-cut.o
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs fuse3)
$(B)/tests/store/powercut-main.o: PKG_CFLAGS += $(shell pkg-config --cflags fuse3)

# An hour or two: fifteen days at one point every five seconds, on a real disk (TMPDIR; 10 GB).
soak: deps
	$(MAKE) helpers
	EPOCHS=259200 timeout 8h tests/store/test-retention
	POINTS=259200 timeout 2h tests/store/test-reads
