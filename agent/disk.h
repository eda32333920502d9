/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's disks: what there is, what is on it, whether it can be protected, and which disk is which.
 *
 * A disk is known again by what stays with it (serial number or WWN; partition-table UUID; filesystem UUID; for a loop
 * device its file), never by its name: names change at reboots, and a new disk under an old name is another disk.
 */
#ifndef AGENT_DISK_H
#define AGENT_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

#define DISK_TEXT 256

/* What stays with a disk. Empty strings: not known. */
struct disk_ident {
	char serial
		[DISK_TEXT]; /* serial number; "wwn:..." where there is only that; "file:DEV:INODE" of a loop */
	char table[64]; /* UUID of the partition table */
	char fs[64];    /* UUID of a filesystem on the whole disk */
	uint64_t size;  /* bytes */
};

struct disk_info {
	char name[64];           /* "sda" */
	char path[80];           /* "/dev/sda" */
	char model[DISK_TEXT];   /* may be empty */
	char content[DISK_TEXT]; /* "gpt: vfat /boot/efi, ext4 /" */
	char why_not[DISK_TEXT]; /* empty: can be protected */
	struct disk_ident ident;
	uint32_t sector; /* logical sector size */
	uint64_t seq;    /* the kernel's disk sequence number; 0 = none */
	unsigned major, minor;
};

/* All candidates (no CD-ROMs, RAM disks, empty loops), by name. The list is malloc'ed. */
int disk_list(struct disk_info **list, size_t *n, struct tm_err *err);

/* One whole disk by path or name; -ENOENT if there is none, -EINVAL for a partition. */
int disk_get(const char *path, struct disk_info *info, struct tm_err *err);

/* Size now, 0 if the disk is gone. */
uint64_t disk_size(const char *path);

/*
 * Is the disk found the disk remembered? A serial number known on both sides decides; else the partition table's UUID, else the
 * filesystem's; with nothing known at all the answer is yes. On no, *why says what differs.
 */
bool disk_same(const struct disk_ident *was, const struct disk_ident *is, char *why, size_t room);

/* Finds the remembered disk, first at `path`, then anywhere. -ENOENT: it is not there (err says what is at path instead). */
int disk_find(
	const struct disk_ident *was, const char *path, struct disk_info *info, struct tm_err *err);

/*
 * Device numbers of a disk, its partitions, and all that lies on them (LVM, md, crypt), each once. Returns how many; at most max.
 */
size_t disk_devices(const char *name, dev_t *devs, size_t max);

/*
 * The plain disk below a filesystem's device, its size in sectors of 512 bytes, and where on it the device begins, in bytes. -EOPNOTSUPP: there is
 * none, or LVM, md or a loop device lies between.
 */
int disk_below(dev_t dev, dev_t *disk, uint64_t *sectors, uint64_t *start, struct tm_err *err);

/* Reads a small file of sysfs; trims spaces; the empty string if it cannot be read. Returns out. */
char *disk_sys_read(char *out, size_t room, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* One string that describes the hardware (DMI UUID, serials of the real disks), for HELLO; cut at room. */
void disk_hardware(char *out, size_t room);

#endif
