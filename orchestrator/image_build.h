/* Building an image: recipe or root, kernel and worker in, bundle out.
 *
 * The bundle is made in a directory beside its place and put there whole, so an interrupted build
 * leaves the image that was there. What its parts were made from stands in the manifest: parts
 * whose inputs did not change are kept. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

enum image_kernel_choice {
	KERNEL_BEST, /* the project's own if it has been built, else the distribution's */
	KERNEL_STOCK,
	KERNEL_FILE,
};

/* Everything is borrowed. */
struct image_build_options {
	const char *name;
	const char *recipe; /* file; NULL: the recipe called like the image */
	const char *root;   /* directory or tarball instead of a recipe; NULL: none */
	enum image_kernel_choice kernel_choice;
	const char *kernel; /* KERNEL_FILE: vmlinux or bzImage */
	const char *image_dir;
	const char *cache_dir; /* downloads, unpacked kernels */
	const char *prefix;    /* PREFIX/libexec and PREFIX/share/orchestrator are ours */
	bool force;	       /* make everything again */
	/* A step begins: text is one line for a person. May be NULL. */
	void (*on_step)(void *arg, unsigned step, unsigned of, const char *text);
	void *arg;
};

struct image_build_result {
	bool up_to_date; /* nothing was made */
	char *dir;	 /* owned, as all texts here */
	char *digest;
	char *kernel_kind;
	char *kernel_release;
	uint64_t size;
};

int image_build(const struct image_build_options *options, struct image_build_result *ret,
	struct error **err);
void image_build_result_clear(struct image_build_result *result);

/* Where downloads and unpacked kernels are kept: $ORCHESTRATOR_CACHE_DIR, PREFIX/cache if there is
 * one (a build tree), /var/cache/orchestrator for root, else $XDG_CACHE_HOME/orchestrator. To be
 * freed. */
char *image_cache_dir(const char *prefix);
