/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file in which the kernel module saves its maps at a shutdown ("maps", in the state's folder or where
 * the configuration says), and what the next boot is told of it
 * (STATE/boot.conf, which goes into the initramfs). The file never moves or grows: the module writes past the
 * filesystem, to blocks that hold the file's own marks and to no others.
 */
#ifndef AGENT_BOOTMAP_H
#define AGENT_BOOTMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "common/tidemark_abi.h"

struct bootmap {
	dev_t disk;       /* on which the file lies, as a whole disk */
	uint64_t sectors; /* of that disk */
	uint8_t id[16];
	struct bootmap_run {
		struct tmk_extent on_disk;
		uint64_t at; /* byte in the file */
	} * runs;            /* by place on the disk */
	uint32_t nruns;
};

/*
 * Makes the file DIR/maps, or finds it whole, and writes CONF_DIR/boot.conf if it says something else. Not possible everywhere
 * (-EOPNOTSUPP, err says why): the disks are then compared after each boot. The runs are malloc'ed.
 */
int bootmap_prepare(const char *dir, const char *conf_dir, struct bootmap *map, struct tm_err *err);
void bootmap_free(struct bootmap *map);

/* Tells the module of the file; disk: the module's number of the disk on which it lies. */
int bootmap_register(int kmod_fd, uint32_t disk, const struct bootmap *map, struct tm_err *err);

/* Tells the module where systems that use the disk leave their traces; name as in sysfs; disk_fd: open for direct reads. */
int bootmap_witness(int kmod_fd, uint32_t disk, const char *name, int disk_fd, struct tm_err *err);

/* What was found at this boot, malloc'ed; NULL: no report. It is read once: it tells nothing of what comes later. */
char *bootmap_report(void);
/* Why this disk's map did not come back; false if the report does not tell. */
bool bootmap_reason(const char *report, unsigned major, unsigned minor, char *reason, size_t room);
/* Did its map come back? True once. */
bool bootmap_restored(char *report, unsigned major, unsigned minor);

#endif
