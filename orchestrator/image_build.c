/* Theory of operation. Under a lock, the plan says from which inputs each part (kernel, initramfs,
 * root) is to be made (image_plan.c); parts whose inputs stand in the manifest that is there are
 * kept, by hard link, the others made (image_parts.c) in .NAME.new beside the bundle's place, with
 * .NAME.work for what is not part of it. Then the new directory and the old one change places, and
 * the old one is removed. What an interrupted build left is removed by the next one. */
#include "orchestrator/image_building.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "common/util.h"
#include "orchestrator/image_root.h"

void build_step(struct image_building *b, unsigned n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	_cleanup_free_ char *text = str_vprintf(fmt, ap);
	va_end(ap);
	if (b->options->on_step)
		b->options->on_step(b->options->arg, n, IMAGE_STEPS, text);
}

char *image_cache_dir(const char *prefix)
{
	const char *given = getenv("ORCHESTRATOR_CACHE_DIR");
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	_cleanup_free_ char *tree = str_printf("%s/cache", prefix);

	if (given && given[0] == '/')
		return xstrdup(given);
	if (access(tree, W_OK) == 0)
		return steal_ptr(tree);
	if (geteuid() == 0)
		return xstrdup("/var/cache/orchestrator");
	if (xdg && xdg[0] == '/')
		return str_printf("%s/orchestrator", xdg);
	return str_printf("%s/.cache/orchestrator", home ? home : "/tmp");
}

/* One build of an image at a time. The lock is inherited by the tools. */
static int take_lock(struct image_building *b, struct error **err)
{
	_cleanup_free_ char *path =
		str_printf("%s/.%s.lock", b->options->image_dir, b->options->name);

	b->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (b->lock < 0)
		return error_errno(err, errno, "%s", path);
	if (flock(b->lock, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return error_set(err, ERR_STATE,
				"image \"%s\" is being built by another process", b->options->name);
		return error_errno(err, errno, "%s", path);
	}
	return 0;
}

/* What is there already, if it is whole. */
static void read_old(struct image_building *b)
{
	_cleanup_free_ char *path = str_printf("%s/manifest.json", b->dir);
	_cleanup_free_ char *text = NULL;
	size_t size;

	b->old = image_load(b->dir, b->options->name, NULL);
	text = b->old ? read_file(path, LIMIT_MANIFEST, &size, NULL) : NULL;
	if (!text || image_manifest_parse(text, size, &b->old_manifest, NULL) < 0) {
		image_free(b->old);
		b->old = NULL;
	}
}

static int check_space(const struct image_building *b, struct error **err)
{
	uint64_t need = 160 * MIB, there;
	struct statvfs fs;

	if (!build_unchanged(b, INPUT_ROOT))
		need = b->has_recipe && b->recipe.variant == RECIPE_EXTRACT ? 400 * MIB : GIB;
	if (statvfs(b->options->image_dir, &fs) < 0)
		return error_errno(err, errno, "%s", b->options->image_dir);
	there = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (there >= need)
		return 0;
	_cleanup_free_ char *need_text = format_size(need), *there_text = format_size(there);
	return error_set(err, ERR_LIMIT, "%s: building needs about %s of free disk, there are %s",
		b->options->image_dir, need_text, there_text);
}

static char *now_text(void)
{
	time_t now = time(NULL);
	struct tm tm;
	char text[32];

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return xstrdup(text);
}

static int write_manifest(struct image_building *b, struct error **err)
{
	const char *root_name = build_unchanged(b, INPUT_ROOT)
					? b->old_manifest.files[IMAGE_ROOT].name
					: "root.erofs";
	const char *const names[IMAGE_FILES] = {"kernel", "initramfs", root_name};
	_cleanup_free_ char *path = str_printf("%s/manifest.json", b->temp);

	build_step(b, 5, "digests and manifest");
	b->manifest.name = xstrdup(b->options->name);
	b->manifest.created = now_text();
	b->manifest.kernel_kind = xstrdup(b->kernel_kind);
	b->manifest.cmdline = xstrdup("");
	b->manifest.root_type =
		xstrdup(build_unchanged(b, INPUT_ROOT) ? b->old_manifest.root_type : "erofs");
	for (size_t i = 0; i < IMAGE_FILES; i++) {
		_cleanup_free_ char *file = str_printf("%s/%s", b->temp, names[i]);
		b->manifest.files[i].name = xstrdup(names[i]);
		if (file_sha256(
			    file, b->manifest.files[i].sha256, &b->manifest.files[i].size, err) < 0)
			return -1;
	}
	_cleanup_free_ char *text = image_manifest_format(&b->manifest);
	return write_file(path, text, strlen(text), 0444, true, err);
}

/* Put the new bundle in its place in one step, the old one (if any) where it was made. */
static int publish(struct image_building *b, struct error **err)
{
	_cleanup_free_ char *aside = str_printf("%s.old", b->temp);
	_cleanup_close_ int fd = open(b->temp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	/* All of it on the disk before it becomes the image. */
	if (fd < 0 || syncfs(fd) < 0)
		return error_errno(err, errno, "%s", b->temp);
	if (rename(b->temp, b->dir) == 0)
		return 0;
	if (renameat2(AT_FDCWD, b->temp, AT_FDCWD, b->dir, RENAME_EXCHANGE) == 0)
		return 0;
	/* A file system that cannot exchange. */
	if (rename(b->dir, aside) < 0 || rename(b->temp, b->dir) < 0) {
		error_errno(err, errno, "%s", b->dir);
		rename(aside, b->dir);
		return -1;
	}
	remove_tree(aside, NULL);
	return 0;
}

static int prepare(struct image_building *b, struct error **err)
{
	const struct image_build_options *o = b->options;
	_cleanup_free_ char *log = str_printf("%s/image-%s.log", o->cache_dir, o->name);

	if (!image_name_valid(o->name))
		return error_set(err, ERR_INVALID,
			"an image's name is lower-case letters, digits and . _ - only");
	if (make_dirs(o->image_dir, 0755, err) < 0 || make_dirs(o->cache_dir, 0755, err) < 0)
		return -1;
	b->share = str_printf("%s/share/orchestrator/vm-images", o->prefix);
	b->script = str_printf("%s/apt", b->share);
	b->pack_script = str_printf("%s/pack-root", b->share);
	b->worker = str_printf("%s/libexec/orchestrator/guest-worker", o->prefix);
	b->dir = str_printf("%s/%s", o->image_dir, o->name);
	b->temp = str_printf("%s/.%s.new", o->image_dir, o->name);
	b->work = str_printf("%s/.%s.work", o->image_dir, o->name);
	if (take_lock(b, err) < 0 || image_tools_start(&b->tools, log, b->lock, err) < 0)
		return -1;
	b->apt = (struct image_apt){.tools = &b->tools, .script = b->script, .cache = o->cache_dir};
	read_old(b);
	return image_plan(b, err);
}

static int clean(struct image_building *b, struct error **err)
{
	return image_root_remove(&b->tools, b->temp, err) < 0 ||
			       image_root_remove(&b->tools, b->work, err) < 0
		       ? -1
		       : 0;
}

static int make_bundle(struct image_building *b, struct error **err)
{
	if (check_space(b, err) < 0 || clean(b, err) < 0)
		return -1;
	if (mkdir(b->temp, 0755) < 0 || mkdir(b->work, 0755) < 0)
		return error_errno(err, errno, "%s", b->temp);
	return image_parts_make(b, err) < 0 || write_manifest(b, err) < 0 || publish(b, err) < 0
		       ? -1
		       : 0;
}

static int fill_result(struct image_building *b, struct image_build_result *ret, struct error **err)
{
	struct image *image = image_load(b->dir, b->options->name, err);

	if (!image)
		return -1;
	ret->dir = steal_ptr(image->dir);
	ret->digest = steal_ptr(image->digest);
	ret->kernel_kind = steal_ptr(image->kernel_kind);
	ret->kernel_release = steal_ptr(image->kernel_release);
	ret->size = image->size;
	image_free(image);
	return 0;
}

static void build_clear(struct image_building *b)
{
	image_tools_stop(&b->tools);
	image_free(b->old);
	image_manifest_clear(&b->old_manifest);
	image_manifest_clear(&b->manifest);
	recipe_clear(&b->recipe);
	free(b->share);
	free(b->script);
	free(b->pack_script);
	free(b->worker);
	free(b->dir);
	free(b->temp);
	free(b->work);
	free(b->sources);
	free(b->resolved);
	free(b->kernel_dir);
	free(b->kernel_file);
	close_fd(&b->lock);
}

int image_build(const struct image_build_options *options, struct image_build_result *ret,
	struct error **err)
{
	struct image_building b = {.options = options, .lock = -1, .tools = {.log = -1}};
	int r = -1;

	*ret = (struct image_build_result){0};
	if (prepare(&b, err) == 0) {
		ret->up_to_date = build_unchanged(&b, INPUT_KERNEL) &&
				  build_unchanged(&b, INPUT_INITRAMFS) &&
				  build_unchanged(&b, INPUT_ROOT);
		r = ret->up_to_date ? 0 : make_bundle(&b, err);
		if (!ret->up_to_date)
			clean(&b, NULL);
	}
	if (r == 0)
		r = fill_result(&b, ret, err);
	build_clear(&b);
	return r;
}

void image_build_result_clear(struct image_build_result *result)
{
	free(result->dir);
	free(result->digest);
	free(result->kernel_kind);
	free(result->kernel_release);
	*result = (struct image_build_result){0};
}
