# SPDX-License-Identifier: Apache-2.0
# The program for the initramfs needs nothing beside it there, so it is linked statically, in all variants alike.
progs: $(B)/tidemark-boot
$(B)/tidemark-boot: tools/tidemark-boot.c common/tidemark_abi.h
	@mkdir -p $(@D)
	$(CC) $(BASE) $(WARN) -O2 -g -static -o $@ $<
