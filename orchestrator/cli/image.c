#include "orchestrator/image.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/cli/cli.h"
#include "orchestrator/image_build.h"

static void show_step(void *arg, unsigned n, unsigned of, const char *text)
{
	const struct cli *cli = arg;

	cli_note(cli, "[%u/%u] %s", n, of, text);
}

/* Paths become absolute, so that errors and the manifest name them whole. */
static char *absolute(const char *path, struct error **err)
{
	char *real = path ? realpath(path, NULL) : NULL;

	if (path && !real) {
		error_errno(err, errno, "%s", path);
		error_blame_caller(err);
	}
	return real;
}

/* The directory may not be there yet. */
static char *absolute_dir(const char *path, struct error **err)
{
	if (make_dirs(path, 0755, err) < 0)
		return NULL;
	return absolute(path, err);
}

static void print_result(
	const struct cli *cli, const char *name, const struct image_build_result *result)
{
	_cleanup_free_ char *size = format_size(result->size);

	switch (cli->output) {
	case OUTPUT_JSON:
		printf("{\"name\": \"%s\", \"digest\": \"%s\", \"kernel\": \"%s\", \"size\": %llu, "
		       "\"up_to_date\": %s}\n",
			name, result->digest, result->kernel_kind, (unsigned long long)result->size,
			result->up_to_date ? "true" : "false");
		break;
	case OUTPUT_YAML:
		printf("name: %s\ndigest: %s\nkernel: %s\nsize: %llu\nup_to_date: %s\n", name,
			result->digest, result->kernel_kind, (unsigned long long)result->size,
			result->up_to_date ? "true" : "false");
		break;
	case OUTPUT_NAME:
		puts(name);
		break;
	case OUTPUT_TABLE:
		printf("%s: %s, kernel %s (%s), %s, %s\n", name,
			result->up_to_date ? "up to date" : "built", result->kernel_release,
			result->kernel_kind, size, result->dir);
		break;
	}
}

static int build_with(const struct cli *cli, struct image_build_options *options)
{
	struct image_build_result result;
	struct error *err = NULL;

	if (image_build(options, &result, &err) < 0) {
		error_wrap(&err, "building image \"%s\"", options->name);
		return cli_fail(cli, err);
	}
	print_result(cli, options->name, &result);
	if (str_eq(result.kernel_kind, "stock"))
		cli_note(cli, "its VMs start several times faster with the project's own kernel: "
			      "\"make kernel\" builds it, then build the image again");
	image_build_result_clear(&result);
	return 0;
}

static int build(const struct cli *cli, const char *name)
{
	const char *dir = cli_value(cli, "image-dir");
	struct error *err = NULL;

	if (cli_value(cli, "kernel") && cli_flag(cli, "stock-kernel"))
		return cli_usage(cli, "--kernel and --stock-kernel exclude each other");
	if (cli_value(cli, "root") && cli_value(cli, "recipe"))
		return cli_usage(cli, "--root and --recipe exclude each other");
	_cleanup_free_ char *recipe = absolute(cli_value(cli, "recipe"), &err);
	_cleanup_free_ char *root = err ? NULL : absolute(cli_value(cli, "root"), &err);
	_cleanup_free_ char *kernel = err ? NULL : absolute(cli_value(cli, "kernel"), &err);
	_cleanup_free_ char *image_dir =
		err ? NULL : absolute_dir(dir ? dir : cli->config->image_dir, &err);
	if (err)
		return cli_fail(cli, err);
	_cleanup_free_ char *prefix = install_prefix();
	_cleanup_free_ char *cache = image_cache_dir(prefix);
	struct image_build_options options = {
		.name = name,
		.recipe = recipe,
		.root = root,
		.kernel_choice = kernel				 ? KERNEL_FILE
				 : cli_flag(cli, "stock-kernel") ? KERNEL_STOCK
								 : KERNEL_BEST,
		.kernel = kernel,
		.image_dir = image_dir,
		.cache_dir = cache,
		.prefix = prefix,
		.force = cli_flag(cli, "force"),
		.on_step = show_step,
		.arg = (void *)(uintptr_t)cli,
	};
	return build_with(cli, &options);
}

static int check(const struct cli *cli, const char *name)
{
	struct error *err = NULL;
	const char *dir = cli_value(cli, "image-dir");
	struct image *image;

	if (dir && image_name_valid(name)) {
		_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
		image = image_load(path, name, &err);
	} else {
		image = image_find(cli->config, name, &err);
	}
	if (!image)
		return cli_fail(cli, err);
	if (image_verify(image, &err) < 0) {
		error_wrap(&err, "image \"%s\" is damaged", name);
		image_free(image);
		return cli_fail(cli, err);
	}
	if (cli->output == OUTPUT_JSON)
		printf("{\"name\": \"%s\", \"digest\": \"%s\"}\n", name, image->digest);
	else if (cli->output == OUTPUT_YAML)
		printf("name: %s\ndigest: %s\n", name, image->digest);
	else if (cli->output == OUTPUT_NAME)
		puts(name);
	else
		printf("%s: whole, %s, kernel %s (%s), %s\n", name, image->digest,
			image->kernel_release, image->kernel_kind, image->dir);
	image_free(image);
	return 0;
}

int cmd_image(const struct cli *cli, int argc, char **argv)
{
	if (argc < 2)
		return cli_usage(cli, "image build or image check?");
	if (!str_eq(argv[1], "build") && !str_eq(argv[1], "check"))
		return cli_usage(cli, "\"%s\" is none of build, check", argv[1]);
	if (argc != 3)
		return cli_usage(
			cli, argc < 3 ? "which image? its name is missing" : "one image at a time");
	if (!image_name_valid(argv[2]))
		return cli_usage(cli,
			"\"%s\" cannot be an image's name: lower-case letters, "
			"digits and . _ - only",
			argv[2]);
	return str_eq(argv[1], "build") ? build(cli, argv[2]) : check(cli, argv[2]);
}

static const struct cli_option options[] = {
	{0, "recipe", "FILE", "which packages the image has; else the recipe called like it"},
	{0, "root", "PATH", "a root directory or tarball instead of a recipe"},
	{0, "kernel", "FILE", "a kernel with all drivers built in: vmlinux or bzImage"},
	{0, "stock-kernel", NULL, "Debian's cloud kernel, even if the project's own is there"},
	{0, "image-dir", "DIR", "where images are; else as configured"},
	{0, "force", NULL, "build again although nothing changed"},
	{0},
};

const struct cli_command command_image = {
	.name = "image",
	.summary = "Build and check VM images",
	.synopsis = "build NAME [OPTION]...\ncheck NAME",
	.about =
		"An image is a kernel, an initramfs with the worker, and a read-only root with "
		"the\n"
		"job's programs. build makes what is missing or out of date, and needs no root if\n"
		"the user has subordinate ids. check compares all bytes with the digests.",
	.options = options,
	.example = "orchestrator image build debian\n"
		   "orchestrator image build mine --root rootfs.tar.gz\n"
		   "orchestrator image check debian\n",
	.run = cmd_image,
};
