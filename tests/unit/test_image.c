#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "orchestrator/image.h"
#include "orchestrator/image_manifest.h"

static char dir[64];
static struct config config;

static char *path_of(const char *image, const char *file)
{
	return str_printf("%s/%s/%s", dir, image, file);
}

static void put(const char *image, const char *file, const char *text)
{
	_cleanup_free_ char *path = path_of(image, file);

	assert_int_equal(write_file(path, text, strlen(text), 0644, false, NULL), 0);
}

static void describe(const char *image, struct image_manifest *m)
{
	static const char *const names[] = {"kernel", "initramfs", "root.erofs"};

	*m = (struct image_manifest){.name = xstrdup(image),
		.created = xstrdup("2024-01-01T00:00:00Z"),
		.kernel_kind = xstrdup("tuned"),
		.kernel_release = xstrdup("6.1.0"),
		.cmdline = xstrdup("a=b"),
		.root_type = xstrdup("erofs")};
	for (size_t i = 0; i < IMAGE_FILES; i++) {
		_cleanup_free_ char *path = path_of(image, names[i]);
		m->files[i].name = xstrdup(names[i]);
		assert_int_equal(file_sha256(path, m->files[i].sha256, &m->files[i].size, NULL), 0);
	}
	image_manifest_add_package(m, "libc6", "2.36-9");
}

/* A whole bundle. */
static void make_image(const char *image)
{
	_cleanup_free_ char *sub = str_printf("%s/%s", dir, image);
	struct image_manifest m;

	assert_int_equal(make_dirs(sub, 0755, NULL), 0);
	put(image, "kernel", "the kernel");
	put(image, "initramfs", "the worker");
	put(image, "root.erofs", "the root file system");
	describe(image, &m);
	_cleanup_free_ char *text = image_manifest_format(&m);
	put(image, "manifest.json", text);
	image_manifest_clear(&m);
}

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_image.XXXXXX");
	config.image_dir = dir;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return remove_tree(dir, NULL);
}

static void fails_with(struct error *err, enum err_code code, const char *part)
{
	assert_non_null(err);
	if (!strstr(err->text, part))
		fail_msg("\"%s\" does not say \"%s\"", err->text, part);
	assert_int_equal(err->code, code);
	error_free(err);
}

static void a_whole_image_is_found(void **state)
{
	struct error *err = NULL;

	(void)state;
	make_image("debian");
	struct image *image = image_find(&config, "debian", &err);
	assert_non_null(image);
	_cleanup_free_ char *kernel = path_of("debian", "kernel");
	assert_string_equal(image->kernel, kernel);
	assert_string_equal(image->kernel_kind, "tuned");
	assert_string_equal(image->kernel_release, "6.1.0");
	assert_string_equal(image->cmdline, "a=b");
	assert_string_equal(image->root_type, "erofs");
	assert_int_equal(image->root_size, 20);
	assert_int_equal(image->size, 40);
	assert_true(str_starts(image->digest, "sha256:"));
	assert_int_equal(image_verify(image, &err), 0);
	image_free(image);
}

static void an_unknown_image_names_those_there(void **state)
{
	struct error *err = NULL;

	(void)state;
	make_image("beta");
	make_image("alpha");
	assert_null(image_find(&config, "gamma", &err));
	assert_non_null(strstr(err->text, "no image \"gamma\""));
	assert_non_null(strstr(err->text, "orchestrator image build gamma"));
	assert_non_null(strstr(err->text, "alpha, beta"));
	fails_with(err, ERR_NOT_FOUND, "gamma");
}

static void a_name_is_never_a_path(void **state)
{
	static const char *const bad[] = {"", ".", "..", "../etc", "a/b", "/etc", ".hidden",
		"Upper", "a b", "a\n", "-x",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error *err = NULL;
		assert_null(image_find(&config, bad[i], &err));
		fails_with(err, ERR_INVALID, "cannot be an image's name");
	}
	assert_true(image_name_valid("debian-12.1_x"));
}

static void a_missing_file_is_named(void **state)
{
	static const char *const files[] = {"kernel", "initramfs", "root.erofs"};
	static const char *const texts[] = {
		"its kernel is missing", "its initramfs is missing", "its root is missing"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		struct error *err = NULL;
		make_image("debian");
		_cleanup_free_ char *path = path_of("debian", files[i]);
		unlink(path);
		assert_null(image_find(&config, "debian", &err));
		assert_non_null(strstr(err->text, path));
		assert_non_null(strstr(err->text, "orchestrator image build debian"));
		fails_with(err, ERR_NOT_FOUND, texts[i]);
	}
}

static void a_cut_file_is_noticed(void **state)
{
	struct error *err = NULL;

	(void)state;
	make_image("debian");
	put("debian", "root.erofs", "the root");
	assert_null(image_find(&config, "debian", &err));
	fails_with(err, ERR_DATA_LOSS, "8 bytes where 20 were built");
	/* A directory in place of a file. */
	_cleanup_free_ char *path = path_of("debian", "root.erofs");
	unlink(path);
	assert_int_equal(mkdir(path, 0755), 0);
	err = NULL;
	assert_null(image_find(&config, "debian", &err));
	fails_with(err, ERR_INVALID, "not a regular file");
}

static void changed_bytes_are_found_by_verify(void **state)
{
	struct error *err = NULL;

	(void)state;
	make_image("debian");
	put("debian", "root.erofs", "the root file systeM");
	struct image *image = image_find(&config, "debian", &err);
	assert_non_null(image);
	assert_int_equal(image_verify(image, &err), -1);
	image_free(image);
	fails_with(err, ERR_DATA_LOSS, "root.erofs is not what was built");
}

static unsigned n_broken;
static void count_broken(const char *name, const char *why)
{
	assert_string_equal(name, "broken");
	assert_non_null(strstr(why, "its kernel is missing"));
	n_broken++;
}

static void the_list_is_sorted_and_skips_the_broken(void **state)
{
	struct image **images;
	size_t n, ours = 0;

	(void)state;
	make_image("zeta");
	make_image("eta");
	make_image("broken");
	_cleanup_free_ char *kernel = path_of("broken", "kernel");
	unlink(kernel);
	/* Builds under way are no images. */
	_cleanup_free_ char *building = path_of(".eta.new", "x");
	assert_int_equal(make_dirs(building, 0755, NULL), 0);
	n_broken = 0;
	assert_int_equal(image_list(&config, &images, &n, count_broken, NULL), 0);
	assert_int_equal(n_broken, 1);
	for (size_t i = 0; i < n; i++) {
		if (i)
			assert_true(strcmp(images[i - 1]->name, images[i]->name) < 0);
		ours += str_eq(images[i]->name, "eta") || str_eq(images[i]->name, "zeta");
	}
	for (size_t i = 0; i < n; i++)
		image_free(images[i]);
	free(images);
	assert_int_equal(ours, 2);
}

static char *replaced(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);

	assert_non_null(at);
	return str_printf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void a_manifest_is_believed_in_nothing(void **state)
{
	static const struct {
		const char *from, *to;
		enum err_code code;
		const char *says;
	} cases[] = {
		{"{", "", ERR_INVALID, "no JSON"},
		{"\"format\": 1", "\"format\": 2", ERR_UNSUPPORTED, "format 2"},
		{"\"format\": 1", "\"format\": \"1\"", ERR_INVALID, "format is missing"},
		{"\"format\": 1", "\"format\": 1, \"format\": 1", ERR_INVALID, "no JSON"},
		{"\"kind\": \"tuned\"", "\"kind\": 5", ERR_INVALID, "kernel.kind is not a text"},
		{"\"kind\": \"tuned\"", "\"kind\": \"x\"", ERR_INVALID, "kernel.kind \"x\""},
		{"\"cmdline\": \"a=b\"", "\"cmdline\": \"a\\n\"", ERR_INVALID, "control character"},
		{"\"cmdline\": \"a=b\"", "\"cmdline\": \"a\\u009b\"", ERR_INVALID,
			"control character"},
		{"\"cmdline\": \"a=b\"", "\"cmdline\": \"a\\u0000\"", ERR_INVALID, "JSON"},
		{"\"cmdline\": \"a=b\"", "\"cmdline\": \"init=/x\"", ERR_DATA_LOSS, "digest"},
		{"\"cmdline\"", "\"cmdlime\"", ERR_INVALID, "kernel.cmdline is missing"},
		{"\"root_type\": \"erofs\"", "\"root_type\": \"vfat\"", ERR_INVALID, "root_type"},
		{"\"name\": \"kernel\"", "\"name\": \"../kernel\"", ERR_INVALID, "not the name"},
		{"\"name\": \"kernel\"", "\"name\": \"/etc/passwd\"", ERR_INVALID, "not the name"},
		{"\"name\": \"kernel\"", "\"name\": \"\"", ERR_INVALID, "not the name"},
		{"\"name\": \"kernel\"", "\"name\": \"..\"", ERR_INVALID, "not the name"},
		{"\"size\": 10", "\"size\": -10", ERR_INVALID, "files.kernel.size"},
		{"\"size\": 10", "\"size\": 1e99", ERR_INVALID, "files.kernel.size"},
		{"\"size\": 10", "\"size\": 11", ERR_DATA_LOSS, "digest"},
		{"\"sha256\": \"", "\"sha256\": \"zz", ERR_INVALID, "no SHA-256"},
		{"\"initramfs\"", "\"initrd\"", ERR_INVALID, "files.initramfs is missing"},
		{"\"libc6\": \"2.36-9\"", "\"libc6\": 2", ERR_INVALID, "packages"},
		{"\"digest\": \"sha256:", "\"digest\": \"sha256:0", ERR_DATA_LOSS, "digest"},
	};
	struct image_manifest m;

	(void)state;
	make_image("debian");
	describe("debian", &m);
	_cleanup_free_ char *text = image_manifest_format(&m);
	image_manifest_clear(&m);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error *err = NULL;
		_cleanup_free_ char *bad = replaced(text, cases[i].from, cases[i].to);
		assert_int_equal(image_manifest_parse(bad, strlen(bad), &m, &err), -1);
		fails_with(err, cases[i].code, cases[i].says);
	}
	/* Cut anywhere, it is an error and nothing worse. */
	for (size_t n = 0; n + 2 < strlen(text); n++) {
		struct error *err = NULL;
		_cleanup_free_ char *cut = xmemdup(text, n + 1);
		assert_int_equal(image_manifest_parse(cut, n, &m, &err), -1);
		error_free(err);
	}
	assert_int_equal(image_manifest_parse(text, strlen(text), &m, NULL), 0);
	assert_int_equal(m.n_packages, 1);
	assert_string_equal(m.packages[0].version, "2.36-9");
	image_manifest_clear(&m);
}

static void the_digest_is_of_what_boots(void **state)
{
	struct image_manifest m;

	(void)state;
	make_image("debian");
	describe("debian", &m);
	_cleanup_free_ char *digest = image_manifest_digest(&m);
	free(m.created);
	m.created = xstrdup("2030-01-01T00:00:00Z");
	_cleanup_free_ char *later = image_manifest_digest(&m);
	assert_string_equal(digest, later);
	m.files[IMAGE_ROOT].sha256[0] ^= 1;
	_cleanup_free_ char *other = image_manifest_digest(&m);
	assert_string_not_equal(digest, other);
	image_manifest_clear(&m);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_whole_image_is_found),
		TEST(an_unknown_image_names_those_there),
		TEST(a_name_is_never_a_path),
		TEST(a_missing_file_is_named),
		TEST(a_cut_file_is_noticed),
		TEST(changed_bytes_are_found_by_verify),
		TEST(the_list_is_sorted_and_skips_the_broken),
		TEST(a_manifest_is_believed_in_nothing),
		TEST(the_digest_is_of_what_boots),
	};
	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
