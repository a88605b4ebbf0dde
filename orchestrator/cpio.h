/* Writing a cpio archive in the "newc" form, which is what the kernel unpacks as its initramfs. No
 * root is needed for device nodes, and two archives of the same files are the same bytes: owners,
 * times and inode numbers are fixed. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct cpio {
	int fd;		     /* borrowed */
	uint32_t next_inode; /* from 1 */
	uint64_t size;	     /* bytes written */
};

void cpio_start(struct cpio *cpio, int fd);
/* name: without a leading slash. mode: permission bits. Parents must have been added before. */
int cpio_add_dir(struct cpio *cpio, const char *name, mode_t mode, struct error **err);
int cpio_add_char_device(struct cpio *cpio, const char *name, mode_t mode, unsigned major,
	unsigned minor, struct error **err);
int cpio_add_data(struct cpio *cpio, const char *name, mode_t mode, const void *data, size_t size,
	struct error **err);
/* The host's file at path; at most 4 GiB - 1, the form's limit. */
int cpio_add_file(
	struct cpio *cpio, const char *name, mode_t mode, const char *path, struct error **err);
/* The trailer, and zeros up to a multiple of 512. */
int cpio_finish(struct cpio *cpio, struct error **err);
