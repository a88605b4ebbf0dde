/* Inside of image_build: one build under way. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "orchestrator/image.h"
#include "orchestrator/image_apt.h"
#include "orchestrator/image_build.h"
#include "orchestrator/image_manifest.h"
#include "orchestrator/image_recipe.h"
#include "orchestrator/image_tools.h"

#define IMAGE_STOCK_PACKAGE "linux-image-cloud-amd64"
#define IMAGE_STEPS	    5

/* Strings are owned unless they say otherwise. */
struct image_building {
	const struct image_build_options *options;
	struct image_tools tools;
	struct image_apt apt;
	char *share;  /* PREFIX/share/orchestrator/vm-images */
	char *script; /* its apt */
	char *pack_script;
	char *worker;
	char *dir;  /* of the bundle */
	char *temp; /* the new bundle while it is made */
	char *work; /* beside it, for what is not part of it */
	int lock;

	struct image *old; /* the bundle that is there; NULL: none that is whole */
	struct image_manifest old_manifest;

	struct recipe recipe;
	bool has_recipe;
	bool keep_root; /* no recipe and no root named: only kernel and worker can change */
	char *sources;	/* apt's answers */
	char *resolved;

	char *kernel_dir; /* stock: where vmlinux and modules/ are or will be; else NULL */
	char *kernel_file;
	const char *kernel_kind;

	struct image_manifest manifest; /* of the new bundle */
};

/* image_plan.c: decide what each part is to be made from: kernel, worker, root. */
int image_plan(struct image_building *b, struct error **err);
/* Is the part there, made from the same? */
bool build_unchanged(const struct image_building *b, enum image_input input);

/* image_parts.c: make or keep the parts, in the order of the steps. */
int image_parts_make(struct image_building *b, struct error **err);

void build_step(struct image_building *b, unsigned n, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
