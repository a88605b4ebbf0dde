/* A recipe: which Debian packages make an image's root. vm-images/recipes/ has examples. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum recipe_variant { RECIPE_EXTRACT, RECIPE_ESSENTIAL, RECIPE_MINBASE };

struct recipe_user {
	char *name;
	uint32_t uid; /* of the group of that name too */
	char *home;   /* below /home */
};

struct recipe {
	char *name;
	char *description;
	char *suite;
	char *mirror; /* NULL: the host's own apt sources */
	enum recipe_variant variant;
	char **packages;
	size_t n_packages;
	char **exclude; /* paths which packages do not get to write, with * */
	size_t n_exclude;
	struct recipe_user **users;
	size_t n_users;
};

/* Errors are "path:line:column: text", all of them. */
int recipe_read(const char *path, struct recipe *ret, struct error **err);
void recipe_clear(struct recipe *recipe);
const char *recipe_variant_name(enum recipe_variant variant);

/* dir/NAME.yaml, or ERR_NOT_FOUND that lists the recipes in dir. To be freed. */
char *recipe_find(const char *dir, const char *name, struct error **err);
