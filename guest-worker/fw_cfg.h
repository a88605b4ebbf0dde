/* QEMU's fw_cfg device, read by its I/O ports. The kernel's driver finds the device by ACPI, which
 * our guests do without, and a distribution's kernel cannot be told where it is; the ports are
 * always the same. Needs CAP_SYS_RAWIO, so it is for PID 1 alone. */
#pragma once

#include <stddef.h>

#include "common/error.h"

/* The content of a file, with a NUL behind it, to be freed. NULL with *err when it is there but
 * cannot be read or is larger than cap; NULL without *err when there is no device or no such file.
 */
char *fw_cfg_read(const char *name, size_t cap, size_t *ret_size, struct error **err);
