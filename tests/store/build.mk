# SPDX-License-Identifier: Apache-2.0
# A filesystem that forgets what was not flushed, for the store's power-cut test.
$(B)/tests/store/powercut: $(B)/tests/store/powercut-main.o $(B)/tests/store/powercut-cut.o
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs fuse3)
$(B)/tests/store/powercut-main.o: PKG_CFLAGS += $(shell pkg-config --cflags fuse3)
