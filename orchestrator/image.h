/* Image bundles: a directory NAME/ with manifest.json, kernel, initramfs and root, found by name.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "orchestrator/config.h"

struct image {
	char *name;
	char *dir;	   /* absolute */
	char *kernel;	   /* absolute path; uncompressed vmlinux with a PVH entry */
	char *initramfs;   /* absolute path; the worker is /init */
	char *root;	   /* absolute path of the read-only root filesystem */
	char *root_type;   /* "erofs", "ext4", "squashfs" */
	char *kernel_kind; /* "tuned" (ours), "stock", "custom" */
	char *kernel_release;
	char *cmdline; /* what this kernel needs besides what the domain decides; may be "" */
	char *digest;  /* "sha256:..." over the manifest's file digests */
	char *created; /* RFC 3339 */
	uint64_t size; /* bytes of all files */
	uint64_t root_size;
};

/* Look NAME up in the search path. ERR_NOT_FOUND names the images that are there and how to build;
 * an incomplete bundle (no kernel, ...) says which file of which directory is missing. */
struct image *image_find(const struct config *config, const char *name, struct error **err);
/* The bundle in dir, called name: its manifest is read, each file must be there in its stated size.
 */
struct image *image_load(const char *dir, const char *name, struct error **err);
/* Read all of the bundle and compare digests: ERR_DATA_LOSS names the file that is wrong. */
int image_verify(const struct image *image, struct error **err);
void image_free(struct image *image);
/* May an image be called so? Lower-case letters, digits, and . _ - behind the first. */
bool image_name_valid(const char *name);
/* All complete images, sorted by name; a broken bundle is skipped and reported by on_broken. */
int image_list(const struct config *config, struct image ***ret, size_t *ret_n,
	void (*on_broken)(const char *name, const char *why), struct error **err);
