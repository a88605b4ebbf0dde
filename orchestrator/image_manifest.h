/* manifest.json of an image bundle: what the files are, and what they were made from.
 *
 * The bundle's digest is the SHA-256 over the canonical lines of what decides how a VM behaves: the
 * files' digests, the kernel's command line and the root's type. Times and names are not in it, so
 * that two builds from the same inputs have the same digest. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define MANIFEST_FORMAT 1
#define LIMIT_MANIFEST	(4 * MIB)

enum image_file { IMAGE_KERNEL, IMAGE_INITRAMFS, IMAGE_ROOT, IMAGE_FILES };

/* What a part was made from, to know later whether it has to be made again. */
enum image_input { INPUT_KERNEL, INPUT_INITRAMFS, INPUT_ROOT, IMAGE_INPUTS };

struct image_package {
	char *name;
	char *version;
};

/* Strings are owned. */
struct image_manifest {
	char *name;
	char *created;	      /* RFC 3339 */
	char *kernel_kind;    /* "tuned", "stock", "custom" */
	char *kernel_release; /* "" if the kernel does not say */
	char *cmdline;
	char *root_type;
	struct {
		char *name; /* a plain name in the bundle's directory */
		uint64_t size;
		char sha256[65]; /* hex */
	} files[IMAGE_FILES];
	char *inputs[IMAGE_INPUTS]; /* hex digests; NULL: not known */
	struct image_package *packages;
	size_t n_packages;
};

/* Read a manifest's text. Everything is checked: types, lengths, that file names are plain names,
 * that the digest it states is the one of its content. Errors say which member is wrong. */
int image_manifest_parse(
	const char *text, size_t size, struct image_manifest *ret, struct error **err);
/* The JSON text; owned by the caller. */
char *image_manifest_format(const struct image_manifest *manifest);
/* "sha256:..."; owned by the caller. */
char *image_manifest_digest(const struct image_manifest *manifest);
void image_manifest_clear(struct image_manifest *manifest);

void image_manifest_add_package(
	struct image_manifest *manifest, const char *name, const char *version);
const char *image_file_key(enum image_file file); /* "kernel", "initramfs", "root" */

/* SHA-256 of a file as hex (65 bytes with NUL), and its size. */
int file_sha256(const char *path, char ret_hex[static 65], uint64_t *ret_size, struct error **err);
