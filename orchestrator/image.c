#include "orchestrator/image.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/image_manifest.h"

#define SYSTEM_IMAGE_DIR "/var/lib/orchestrator/images"
#define SEARCH_DIRS	 3

bool image_name_valid(const char *name)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	static const char more[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t n = strlen(name);

	return n >= 1 && n <= LIMIT_NAME && strchr(first, name[0]) && strspn(name, more) == n;
}

/* In the order in which they are searched; the same directory may appear twice. */
static void search_dirs(const struct config *config, char *dirs[static SEARCH_DIRS])
{
	_cleanup_free_ char *prefix = install_prefix();

	dirs[0] = xstrdup(config->image_dir);
	dirs[1] = xstrdup(SYSTEM_IMAGE_DIR);
	dirs[2] = str_printf("%s/share/orchestrator/images", prefix);
}

static void free_dirs(char *dirs[static SEARCH_DIRS])
{
	for (size_t i = 0; i < SEARCH_DIRS; i++)
		free(dirs[i]);
}

void image_free(struct image *image)
{
	if (!image)
		return;
	free(image->name);
	free(image->dir);
	free(image->kernel);
	free(image->initramfs);
	free(image->root);
	free(image->root_type);
	free(image->kernel_kind);
	free(image->kernel_release);
	free(image->cmdline);
	free(image->digest);
	free(image->created);
	free(image);
}

/* The path of one of the bundle's files, if it is as the manifest says. */
static char *check_file(
	const char *dir, const struct image_manifest *m, enum image_file which, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, m->files[which].name);
	struct stat st;

	if (stat(path, &st) < 0) {
		if (errno == ENOENT)
			error_set(err, ERR_NOT_FOUND, "its %s is missing: there is no %s",
				image_file_key(which), path);
		else
			error_errno(err, errno, "%s", path);
		return NULL;
	}
	if (!S_ISREG(st.st_mode)) {
		error_set(err, ERR_INVALID, "%s is not a regular file", path);
		return NULL;
	}
	if ((uint64_t)st.st_size != m->files[which].size) {
		error_set(err, ERR_DATA_LOSS, "%s has %llu bytes where %llu were built", path,
			(unsigned long long)st.st_size, (unsigned long long)m->files[which].size);
		return NULL;
	}
	return steal_ptr(path);
}

static int read_manifest(const char *dir, struct image_manifest *ret, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/manifest.json", dir);
	_cleanup_free_ char *text = NULL;
	size_t size;

	text = read_file(path, LIMIT_MANIFEST, &size, err);
	if (!text)
		return -1;
	if (image_manifest_parse(text, size, ret, err) < 0)
		return error_wrap(err, "%s", path);
	return 0;
}

static int load(const char *dir, struct image *image, struct error **err)
{
	struct image_manifest m;
	int r = -1;

	if (read_manifest(dir, &m, err) < 0)
		return -1;
	image->kernel = check_file(dir, &m, IMAGE_KERNEL, err);
	if (!image->kernel)
		goto out;
	image->initramfs = check_file(dir, &m, IMAGE_INITRAMFS, err);
	if (!image->initramfs)
		goto out;
	image->root = check_file(dir, &m, IMAGE_ROOT, err);
	if (!image->root)
		goto out;
	image->digest = image_manifest_digest(&m);
	image->root_type = steal_ptr(m.root_type);
	image->kernel_kind = steal_ptr(m.kernel_kind);
	image->kernel_release = steal_ptr(m.kernel_release);
	image->created = steal_ptr(m.created);
	image->cmdline = steal_ptr(m.cmdline);
	image->root_size = m.files[IMAGE_ROOT].size;
	for (size_t i = 0; i < IMAGE_FILES; i++)
		if (__builtin_add_overflow(image->size, m.files[i].size, &image->size))
			image->size = UINT64_MAX;
	r = 0;
out:
	image_manifest_clear(&m);
	return r;
}

struct image *image_load(const char *dir, const char *name, struct error **err)
{
	struct image *image = xcalloc(1, sizeof(*image));

	image->name = xstrdup(name);
	image->dir = xstrdup(dir);
	if (load(dir, image, err) < 0) {
		error_wrap(err,
			"image \"%s\" is broken (make it again: orchestrator image build %s)", name,
			name);
		image_free(image);
		return NULL;
	}
	return image;
}

static bool is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

struct found {
	char *name;
	char *dir;
};

struct found_list {
	struct found *items;
	size_t n;
};

static void found_add(struct found_list *list, const char *parent, const char *name)
{
	for (size_t i = 0; i < list->n; i++)
		if (str_eq(list->items[i].name, name))
			return;
	list->items = xreallocarray(list->items, list->n + 1, sizeof(*list->items));
	list->items[list->n++] =
		(struct found){.name = xstrdup(name), .dir = str_printf("%s/%s", parent, name)};
}

static void found_clear(struct found_list *list)
{
	for (size_t i = 0; i < list->n; i++) {
		free(list->items[i].name);
		free(list->items[i].dir);
	}
	free(list->items);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->name, ((const struct found *)b)->name);
}

/* Every directory that may be a bundle, complete or not; of one name the first in the path. */
static void find_all(const struct config *config, struct found_list *ret)
{
	char *dirs[SEARCH_DIRS];

	search_dirs(config, dirs);
	for (size_t i = 0; i < SEARCH_DIRS; i++) {
		DIR *d = opendir(dirs[i]);
		struct dirent *entry;

		while (d && (entry = readdir(d))) {
			_cleanup_free_ char *path = str_printf("%s/%s", dirs[i], entry->d_name);
			if (image_name_valid(entry->d_name) && is_dir(path))
				found_add(ret, dirs[i], entry->d_name);
		}
		if (d)
			closedir(d);
	}
	free_dirs(dirs);
	if (ret->n)
		qsort(ret->items, ret->n, sizeof(*ret->items), by_name);
}

static int not_found(const struct config *config, const char *name, struct error **err)
{
	_cleanup_free_ char *shown = str_escape(name, strlen(name), false);
	_cleanup_free_ char *names = xstrdup("");
	struct found_list list = {0};

	find_all(config, &list);
	for (size_t i = 0; i < list.n; i++) {
		char *longer = str_printf("%s%s%s", names, i ? ", " : "", list.items[i].name);
		free(names);
		names = longer;
	}
	bool none = list.n == 0;
	found_clear(&list);
	if (!image_name_valid(name))
		return error_set(err, ERR_INVALID,
			"\"%s\" cannot be an image's name: lower-case letters, digits and . _ - "
			"only",
			shown);
	if (none)
		return error_set(err, ERR_NOT_FOUND,
			"no image \"%s\", and no other yet: orchestrator image build %s", shown,
			shown);
	return error_set(err, ERR_NOT_FOUND,
		"no image \"%s\"; there are: %s (to make one: orchestrator image build %s)", shown,
		names, shown);
}

struct image *image_find(const struct config *config, const char *name, struct error **err)
{
	struct image *image = NULL;
	char *dirs[SEARCH_DIRS];

	if (!image_name_valid(name)) {
		not_found(config, name, err);
		return NULL;
	}
	search_dirs(config, dirs);
	for (size_t i = 0; i < SEARCH_DIRS; i++) {
		_cleanup_free_ char *dir = str_printf("%s/%s", dirs[i], name);
		if (!is_dir(dir))
			continue;
		image = image_load(dir, name, err);
		free_dirs(dirs);
		return image;
	}
	free_dirs(dirs);
	not_found(config, name, err);
	return NULL;
}

int image_list(const struct config *config, struct image ***ret, size_t *ret_n,
	void (*on_broken)(const char *name, const char *why), struct error **err)
{
	struct found_list list = {0};

	(void)err; /* a directory that cannot be read is an empty one */
	find_all(config, &list);
	*ret = xcalloc(list.n, sizeof(**ret));
	*ret_n = 0;
	for (size_t i = 0; i < list.n; i++) {
		_cleanup_error_ struct error *why = NULL;
		struct image *image = image_load(list.items[i].dir, list.items[i].name, &why);
		if (image)
			(*ret)[(*ret_n)++] = image;
		else if (on_broken)
			on_broken(list.items[i].name, why->text);
	}
	found_clear(&list);
	return 0;
}

int image_verify(const struct image *image, struct error **err)
{
	const char *const paths[IMAGE_FILES] = {image->kernel, image->initramfs, image->root};
	struct image_manifest m;
	int r = 0;

	if (read_manifest(image->dir, &m, err) < 0)
		return -1;
	for (size_t i = 0; i < IMAGE_FILES && r == 0; i++) {
		char hex[65];
		r = file_sha256(paths[i], hex, NULL, err);
		if (r == 0 && !str_eq(hex, m.files[i].sha256))
			r = error_set(err, ERR_DATA_LOSS,
				"%s is not what was built: its SHA-256 is %s, the manifest says %s",
				paths[i], hex, m.files[i].sha256);
	}
	image_manifest_clear(&m);
	return r;
}
