# SPDX-License-Identifier: Apache-2.0
# make install DESTDIR= PREFIX=: programs, plugin, man pages, systemd units, users, source of the kernel module for DKMS,
# hooks for the initramfs. (initramfs-tools and dracut look for the latter below /usr only.)

UNITDIR     ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
MANDIR      ?= $(PREFIX)/share/man
SRCDIR      ?= $(PREFIX)/src/tidemark-$(VERSION)
INITRAMFSDIR ?= $(PREFIX)/share/initramfs-tools
DRACUTDIR   ?= $(PREFIX)/lib/dracut/modules.d/90tidemark
PUT_PREFIX   = sed 's,@PREFIX@,$(PREFIX),g'

install: progs
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/lib/tidemark \
		$(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)/etc/tidemark
	install -m 755 $(B)/agentctl $(B)/serverctl $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(B)/tidemark-agent $(B)/tidemark-server $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(B)/nbdkit-tidemark-plugin.so $(DESTDIR)$(PREFIX)/lib/tidemark/
	for u in agent server boot; do \
		$(PUT_PREFIX) dist/tidemark-$$u.service >$(DESTDIR)$(UNITDIR)/tidemark-$$u.service && \
		chmod 644 $(DESTDIR)$(UNITDIR)/tidemark-$$u.service || exit 1; \
	done
	install -m 644 dist/tidemark-boot.path $(DESTDIR)$(UNITDIR)/
	install -m 755 $(B)/tidemark-boot dist/update-boot $(DESTDIR)$(PREFIX)/lib/tidemark/
	install -d $(DESTDIR)$(INITRAMFSDIR)/hooks $(DESTDIR)$(INITRAMFSDIR)/scripts/local-top $(DESTDIR)$(DRACUTDIR)
	$(PUT_PREFIX) dist/initramfs-tools/hook >$(DESTDIR)$(INITRAMFSDIR)/hooks/tidemark
	chmod 755 $(DESTDIR)$(INITRAMFSDIR)/hooks/tidemark
	install -m 755 dist/initramfs-tools/local-top $(DESTDIR)$(INITRAMFSDIR)/scripts/local-top/tidemark
	$(PUT_PREFIX) dist/dracut/module-setup.sh >$(DESTDIR)$(DRACUTDIR)/module-setup.sh
	chmod 755 $(DESTDIR)$(DRACUTDIR)/module-setup.sh
	install -m 755 dist/dracut/tidemark-pre-mount.sh $(DESTDIR)$(DRACUTDIR)/
	install -d $(DESTDIR)/etc/tidemark/scripts $(DESTDIR)$(PREFIX)/share/tidemark/scripts
	install -m 755 dist/scripts/* $(DESTDIR)$(PREFIX)/share/tidemark/scripts/
	install -m 644 dist/tidemark.sysusers $(DESTDIR)$(SYSUSERSDIR)/tidemark.conf
	for m in docs/*.[1-8]; do \
		s=$${m##*.}; install -D -m 644 $$m $(DESTDIR)$(MANDIR)/man$$s/$${m##*/} || exit 1; \
	done
	install -d $(DESTDIR)$(SRCDIR)/common
	cp -r --no-preserve=ownership kmod dkms.conf LICENSES $(DESTDIR)$(SRCDIR)/
	install -m 644 common/tidemark_abi.h $(DESTDIR)$(SRCDIR)/common/
