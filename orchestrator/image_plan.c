#include "orchestrator/image_building.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

/* Counted up when a part made from the same inputs would be another one. */
#define REVISION_STOCK	   "1"
#define REVISION_INITRAMFS "1"
#define REVISION_ROOT	   "1"

static int choose_recipe(struct image_building *b, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;
	_cleanup_free_ char *dir = str_printf("%s/recipes", b->share);
	_cleanup_free_ char *path = NULL;

	if (b->options->root)
		return 0;
	path = b->options->recipe ? xstrdup(b->options->recipe)
				  : recipe_find(dir, b->options->name, &why);
	if (!path && b->old) {
		b->keep_root = true;
		return 0;
	}
	if (!path)
		return error_move(err, steal_ptr(why));
	if (recipe_read(path, &b->recipe, err) < 0)
		return -1;
	b->has_recipe = true;
	return 0;
}

static char *ask_sources(struct image_building *b, struct error **err)
{
	struct arg_list args = {0};
	_cleanup_free_ char *answer = NULL;

	arg_add(&args, "sources");
	arg_add(&args, b->recipe.suite);
	answer = image_apt_ask(&b->apt, "asking apt for its sources", &args, err);
	arg_clear(&args);
	if (!answer)
		return NULL;
	if (!b->recipe.mirror && !strstr(answer, "source deb")) {
		error_set(err, ERR_NOT_FOUND,
			"apt on this host has no source for Debian's suite %s; name one in the "
			"recipe: "
			"mirror: ADDRESS",
			b->recipe.suite);
		return NULL;
	}
	return steal_ptr(answer);
}

static char *ask_resolved(struct image_building *b, struct error **err)
{
	struct arg_list args = {0};

	/* Packages of a mirror that the host's apt does not know cannot be resolved here. */
	if (b->recipe.mirror)
		return xstrdup("");
	arg_add(&args, "resolve");
	arg_add(&args, b->recipe.suite);
	arg_add(&args, recipe_variant_name(b->recipe.variant));
	for (size_t i = 0; i < b->recipe.n_packages; i++)
		arg_add(&args, b->recipe.packages[i]);
	char *answer = image_apt_ask(&b->apt, "asking apt for the packages", &args, err);
	arg_clear(&args);
	return answer;
}

static char *recipe_digest(const struct recipe *recipe)
{
	char *digest = image_tools_digest("recipe", recipe->suite,
		recipe->mirror ? recipe->mirror : "", recipe_variant_name(recipe->variant), NULL);
	char *const *lists[] = {recipe->packages, recipe->exclude};
	const size_t counts[] = {recipe->n_packages, recipe->n_exclude};

	for (size_t l = 0; l < ARRAY_SIZE(lists); l++) {
		for (size_t i = 0; i < counts[l]; i++) {
			char *next = image_tools_digest(digest, l ? "x" : "p", lists[l][i], NULL);
			free(digest);
			digest = next;
		}
	}
	for (size_t i = 0; i < recipe->n_users; i++) {
		_cleanup_free_ char *user = str_printf("%s:%u:%s", recipe->users[i]->name,
			recipe->users[i]->uid, recipe->users[i]->home);
		char *next = image_tools_digest(digest, user, NULL);
		free(digest);
		digest = next;
	}
	return digest;
}

static int choose_root(struct image_building *b, struct error **err)
{
	char script[65];

	if (choose_recipe(b, err) < 0)
		return -1;
	if (b->keep_root) {
		b->manifest.inputs[INPUT_ROOT] = xstrdup(b->old_manifest.inputs[INPUT_ROOT]);
		return 0;
	}
	if (file_sha256(b->pack_script, script, NULL, err) < 0)
		return -1;
	if (b->options->root) {
		_cleanup_free_ char *stamp = image_stamp(b->options->root, err);
		if (!stamp)
			return -1;
		b->manifest.inputs[INPUT_ROOT] =
			image_tools_digest("root", REVISION_ROOT, script, stamp, NULL);
		return 0;
	}
	b->sources = ask_sources(b, err);
	b->resolved = b->sources ? ask_resolved(b, err) : NULL;
	if (!b->resolved)
		return -1;
	_cleanup_free_ char *digest = recipe_digest(&b->recipe);
	b->manifest.inputs[INPUT_ROOT] =
		image_tools_digest("recipe", REVISION_ROOT, script, digest, b->resolved, NULL);
	return 0;
}

/* The project's kernel, if `make kernel` made it. */
static char *tuned_kernel(const struct image_building *b)
{
	_cleanup_free_ char *installed =
		str_printf("%s/share/orchestrator/kernel/vmlinux", b->options->prefix);
	_cleanup_free_ char *cached = str_printf("%s/kernel/vmlinux", b->options->cache_dir);

	if (access(installed, R_OK) == 0)
		return steal_ptr(installed);
	if (access(cached, R_OK) == 0)
		return steal_ptr(cached);
	return NULL;
}

static int choose_stock_kernel(struct image_building *b, struct error **err)
{
	struct arg_list args = {0};
	char package[128], version[128];

	arg_add(&args, "candidate");
	arg_add(&args, IMAGE_STOCK_PACKAGE);
	_cleanup_free_ char *answer = image_apt_ask(&b->apt, "asking apt for a kernel", &args, err);
	arg_clear(&args);
	if (!answer)
		return -1;
	if (sscanf(answer, "%127s %127s", package, version) != 2 || strpbrk(version, "/"))
		return error_set(err, ERR_INTERNAL, "asking apt for a kernel: no answer");
	b->kernel_kind = "stock";
	b->kernel_dir = str_printf(
		"%s/stock-%s-%s-" REVISION_STOCK, b->options->cache_dir, package, version);
	b->kernel_file = str_printf("%s/vmlinux", b->kernel_dir);
	b->manifest.inputs[INPUT_KERNEL] =
		image_tools_digest("stock", REVISION_STOCK, package, version, NULL);
	return 0;
}

static int choose_kernel(struct image_building *b, struct error **err)
{
	char hex[65];

	if (b->options->kernel_choice == KERNEL_FILE) {
		b->kernel_kind = "custom";
		b->kernel_file = xstrdup(b->options->kernel);
	} else if (b->options->kernel_choice == KERNEL_BEST) {
		b->kernel_kind = "tuned";
		b->kernel_file = tuned_kernel(b);
	}
	if (!b->kernel_file)
		return choose_stock_kernel(b, err);
	if (file_sha256(b->kernel_file, hex, NULL, err) < 0)
		return error_wrap(err, "the kernel");
	b->manifest.inputs[INPUT_KERNEL] = image_tools_digest(b->kernel_kind, hex, NULL);
	return 0;
}

static int choose_worker(struct image_building *b, struct error **err)
{
	char hex[65];

	if (access(b->worker, R_OK) < 0)
		return error_set(err, ERR_NOT_FOUND,
			"there is no worker to put into the image: %s (make worker)", b->worker);
	if (file_sha256(b->worker, hex, NULL, err) < 0)
		return -1;
	/* A stock kernel's modules are in the initramfs too. */
	b->manifest.inputs[INPUT_INITRAMFS] = image_tools_digest(REVISION_INITRAMFS, hex,
		b->kernel_dir ? b->manifest.inputs[INPUT_KERNEL] : "", NULL);
	return 0;
}

bool build_unchanged(const struct image_building *b, enum image_input input)
{
	if (input == INPUT_ROOT && b->keep_root)
		return true;
	return b->old && !b->options->force &&
	       str_eq(b->manifest.inputs[input], b->old_manifest.inputs[input]);
}

int image_plan(struct image_building *b, struct error **err)
{
	return choose_kernel(b, err) < 0 || choose_worker(b, err) < 0 || choose_root(b, err) < 0
		       ? -1
		       : 0;
}
