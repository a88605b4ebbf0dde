/* Making an image's root file system, as root or, in a user namespace, as anybody. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "orchestrator/image_recipe.h"
#include "orchestrator/image_tools.h"

struct image_root {
	struct image_tools *tools; /* borrowed, like all below */
	const char *pack_script;   /* vm-images/pack-root */
	const struct recipe *recipe;
	const char *sources;  /* apt's answer: "source LINE" and "option LINE" lines */
	const char *work;     /* an empty directory */
	const char *output;   /* the file to make */
	const char *packages; /* the file to make: "NAME VERSION" lines */
};

/* Are the tools there, and may this user do it? */
int image_root_check(bool from_recipe, struct error **err);
/* mmdebstrap, into work/tree. */
int image_root_install(const struct image_root *root, struct error **err);
/* The file system, from work/tree, or from somebody else's directory or tarball (foreign). */
int image_root_pack(const struct image_root *root, const char *foreign, struct error **err);
/* rm -rf, also of what belongs to the namespace's other users. */
int image_root_remove(struct image_tools *tools, const char *path, struct error **err);
