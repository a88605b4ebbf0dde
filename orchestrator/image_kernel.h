/* Kernels for images: looking into them, getting the bootable vmlinux out of a distribution's
 * bzImage, and choosing the modules that a stock kernel needs before it has a root. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "orchestrator/image_tools.h"

#define LIMIT_KERNEL (512 * MIB)
#define LIMIT_MODULE (64 * MIB)

/* Is this an x86-64 ELF kernel with a PVH entry, which QEMU can start directly? If so its release
 * ("6.1.0-56-cloud-amd64", "" if it does not say) in *ret_release. ERR_INVALID says what it is
 * instead. */
int kernel_inspect(const char *path, char **ret_release, struct error **err);

/* Where the compressed kernel lies in a bzImage, and by what it is compressed. */
struct kernel_payload {
	size_t offset, size; /* of what the decompressor is to be given */
	uint32_t unpacked;   /* its size after */
	const char *tool;    /* "lz4", "xz", ...; NULL: it is not compressed */
};
/* ERR_INVALID: no bzImage, damaged, or a compression that is not known. */
int kernel_find_payload(
	const uint8_t *image, size_t size, struct kernel_payload *ret, struct error **err);
/* The vmlinux of the bzImage at path, as `to`. */
int kernel_unpack(struct image_tools *tools, const char *path, const char *to, struct error **err);

struct kernel_module_wish {
	const char *name;
	const char *why; /* what is missing without it, for the error; NULL: it may be missing */
};
/* Copy the wished modules and all they depend on from the directory lib/modules/RELEASE to `to`,
 * uncompressed, as NAME.ko, with a file `order` that lists them in loading order. Those built into
 * the kernel are left out. */
int kernel_collect_modules(struct image_tools *tools, const char *from,
	const struct kernel_module_wish *wishes, size_t n, const char *to, struct error **err);
/* The "depends=" of a module's .modinfo: "a,b", owned by the caller; NULL: it is no module. */
char *kernel_module_depends(const uint8_t *module, size_t size);
