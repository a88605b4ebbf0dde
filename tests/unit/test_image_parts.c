/* What images are made of: archives, modules, recipes, and the tools that make them. */
#include "tests/unit/image_fixture.h"

#include <fcntl.h>

#include "orchestrator/cpio.h"
#include "orchestrator/image_apt.h"
#include "orchestrator/image_build.h"
#include "orchestrator/image_kernel.h"
#include "orchestrator/image_recipe.h"

/* --- cpio ------------------------------------------------------------------------------------- */

static void write_archive(const char *path, const char *file)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct cpio cpio;

	cpio_start(&cpio, fd);
	assert_int_equal(cpio_add_dir(&cpio, "dev", 0755, NULL), 0);
	assert_int_equal(cpio_add_char_device(&cpio, "dev/console", 0600, 5, 1, NULL), 0);
	assert_int_equal(cpio_add_data(&cpio, "note", 0444, "abc", 3, NULL), 0);
	assert_int_equal(cpio_add_file(&cpio, "init", 0755, file, NULL), 0);
	assert_int_equal(cpio_finish(&cpio, NULL), 0);
}

static unsigned field(const char *header, unsigned n)
{
	char text[9] = {0};

	memcpy(text, header + 6 + n * 8, 8);
	return (unsigned)strtoul(text, NULL, 16);
}

static void an_archive_holds_what_was_added(void **state)
{
	static const struct {
		const char *name, *data;
		unsigned mode, major, minor;
	} want[] = {
		{"dev", "", S_IFDIR | 0755, 0, 0},
		{"dev/console", "", S_IFCHR | 0600, 5, 1},
		{"note", "abc", S_IFREG | 0444, 0, 0},
		{"init", "12345", S_IFREG | 0755, 0, 0},
		{"TRAILER!!!", "", 0, 0, 0},
	};
	_cleanup_free_ char *file = put_text("file", "12345");
	_cleanup_free_ char *one = in_dir("one"), *two = in_dir("two");
	size_t size, size2, at = 0;

	(void)state;
	write_archive(one, file);
	write_archive(two, file);
	_cleanup_free_ char *a = read_file(one, MIB, &size, NULL);
	_cleanup_free_ char *b = read_file(two, MIB, &size2, NULL);
	assert_int_equal(size % 512, 0);
	assert_int_equal(size, size2);
	assert_memory_equal(a, b, size);
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		const char *header = a + at;
		assert_memory_equal(header, "070701", 6);
		assert_int_equal(field(header, 1), want[i].mode);
		assert_int_equal(field(header, 6), strlen(want[i].data));
		assert_int_equal(field(header, 9), want[i].major);
		assert_int_equal(field(header, 10), want[i].minor);
		assert_string_equal(header + 110, want[i].name);
		at += (110 + strlen(want[i].name) + 1 + 3) & ~(size_t)3;
		assert_memory_equal(a + at, want[i].data, strlen(want[i].data));
		at += (strlen(want[i].data) + 3) & ~(size_t)3;
	}
	while (at < size)
		assert_int_equal(a[at++], 0);
}

static void an_archive_says_what_it_cannot_hold(void **state)
{
	_cleanup_free_ char *path = in_dir("archive");
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct error *err = NULL;
	struct cpio cpio;

	(void)state;
	cpio_start(&cpio, fd);
	assert_int_equal(cpio_add_file(&cpio, "x", 0444, "/nonexistent/x", &err), -1);
	fails_with(err, ERR_NOT_FOUND, "/nonexistent/x");
	err = NULL;
	assert_int_equal(cpio_add_file(&cpio, "x", 0444, dir, &err), -1);
	fails_with(err, ERR_INVALID, "not a regular file");
	/* A full disk. */
	_cleanup_close_ int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	err = NULL;
	cpio_start(&cpio, full);
	assert_int_equal(cpio_add_dir(&cpio, "x", 0755, &err), -1);
	fails_with(err, ERR_LIMIT, "writing the archive");
}

/* --- modules ---------------------------------------------------------------------------------- */

static void put_module(const char *path, const char *depends)
{
	struct {
		Elf64_Ehdr elf;
		char info[100];
	} ko = {.elf = {.e_type = ET_REL, .e_machine = EM_X86_64}};

	memcpy(ko.elf.e_ident, ELFMAG, SELFMAG);
	ko.elf.e_ident[EI_CLASS] = ELFCLASS64;
	/* One that only looks like it comes first. */
	memcpy(ko.info, "license=GPL\0xdepends=wrong\0", 27);
	snprintf(ko.info + 27, sizeof(ko.info) - 27, "depends=%s", depends);
	free(put(path, &ko, sizeof(ko)));
}

static void modules_come_behind_what_they_need(void **state)
{
	static const struct kernel_module_wish wishes[] = {
		{"top", "the test"},
		{"low_one", NULL},
		{"built_in", "the test"},
		{"nowhere", NULL},
	};
	_cleanup_free_ char *from = in_dir("modules"), *to = in_dir("to");
	_cleanup_free_ char *order = in_dir("to/order"), *unwanted = in_dir("to/unwanted.ko");

	(void)state;
	put_module("modules/kernel/a/top.ko", "mid,low-one");
	put_module("modules/kernel/b/mid.ko", "low-one,built-in");
	put_module("modules/kernel/c/low-one.ko", "");
	put_module("modules/kernel/c/unwanted.ko", "");
	free(put_text("modules/modules.builtin", "kernel/x/built-in.ko\n"));
	assert_int_equal(
		kernel_collect_modules(&tools, from, wishes, ARRAY_SIZE(wishes), to, NULL), 0);
	_cleanup_free_ char *text = read_file(order, 4096, NULL, NULL);
	assert_string_equal(text, "low_one.ko\nmid.ko\ntop.ko\n");
	assert_int_equal(access(unwanted, F_OK), -1);
}

static void a_missing_module_is_named(void **state)
{
	static const struct kernel_module_wish wish = {"top", "vsock"};
	_cleanup_free_ char *from = in_dir("modules"), *to = in_dir("to");
	struct error *err = NULL;

	(void)state;
	put_module("modules/kernel/top.ko", "gone");
	assert_int_equal(kernel_collect_modules(&tools, from, &wish, 1, to, &err), -1);
	assert_non_null(strstr(err->text, "for vsock"));
	fails_with(err, ERR_NOT_FOUND, "no module gone");
	free(put_text("modules/kernel/top.ko", "this is no ELF file at all, however long it is...."
					       "......................................"));
	err = NULL;
	assert_int_equal(kernel_collect_modules(&tools, from, &wish, 1, to, &err), -1);
	fails_with(err, ERR_INVALID, "not a module");
}

/* --- recipes ---------------------------------------------------------------------------------- */

static void our_recipes_are_good(void **state)
{
	static const char *const names[] = {"debian", "minimal"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct error *err = NULL;
		struct recipe recipe;
		_cleanup_free_ char *path = recipe_find("vm-images/recipes", names[i], &err);
		assert_non_null(path);
		assert_int_equal(recipe_read(path, &recipe, &err), 0);
		assert_string_equal(recipe.name, names[i]);
		assert_true(recipe.n_packages > 0);
		assert_int_equal(recipe.n_users, 1);
		assert_string_equal(recipe.users[0]->name, "job");
		assert_int_equal(recipe.users[0]->uid, 1000);
		recipe_clear(&recipe);
	}
}

static void recipe_errors_have_their_place(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"nmae: x\n", "r.yaml:1:1: "},
		{"name: x\nsuite: s\nvariant: big\npackages: [a]\n", "r.yaml:3:10: "},
		{"name: x\nsuite: s\nvariant: extract\npackages:\n  - --help\n", "r.yaml:5:5: "},
		{"name: x\nsuite: s\nvariant: extract\npackages: [a-]\n", "r.yaml:4:12: "},
		{"name: ../x\nsuite: s\nvariant: extract\npackages: [a]\n", "r.yaml:1:7: "},
		{"name: x\nsuite: -s\nvariant: extract\npackages: [a]\n", "r.yaml:2:8: "},
		{"name: x\nsuite: s\nvariant: extract\npackages: [a]\nmirror: file:/x\n",
			"r.yaml:5:9: "},
		{"name: x\nsuite: s\nvariant: extract\npackages: [a]\nexclude: [b]\n",
			"r.yaml:5:11: "},
		{"name: x\nsuite: s\nvariant: extract\npackages: [a]\nusers:\n  - name: u\n"
		 "    uid: 0\n    home: /home/u\n",
			"r.yaml:7:10: "},
		{"name: x\nsuite: s\nvariant: extract\npackages: [a]\nusers:\n  - name: u\n"
		 "    uid: 1\n    home: /home/../etc\n",
			"r.yaml:8:11: "},
		{"name: x\nsuite: s\nvariant: extract\n", "packages"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error *err = NULL;
		struct recipe recipe;
		_cleanup_free_ char *path = put_text("r.yaml", cases[i].text);
		assert_int_equal(recipe_read(path, &recipe, &err), -1);
		fails_with(err, ERR_INVALID, cases[i].says);
	}
}

static void an_unknown_recipe_names_those_there(void **state)
{
	struct error *err = NULL;

	(void)state;
	free(put_text("recipes/two.yaml", ""));
	free(put_text("recipes/one.yaml", ""));
	free(put_text("recipes/not-one.txt", ""));
	_cleanup_free_ char *recipes = in_dir("recipes");
	assert_null(recipe_find(recipes, "three", &err));
	assert_null(strstr(err->text, "not-one"));
	fails_with(err, ERR_NOT_FOUND, "no recipe for \"three\"; there are: one, two");
}

/* --- tools ------------------------------------------------------------------------------------ */

static void a_missing_tool_names_its_package(void **state)
{
	static const char *const need[] = {"sh", "mkfs.erofs", "newuidmap"};
	_cleanup_free_ char *path = xstrdup(getenv("PATH")), *empty = in_dir("bin");
	struct error *err = NULL;

	(void)state;
	assert_int_equal(image_tools_need(need, 1, NULL), 0);
	setenv("PATH", empty, 1);
	int r = image_tools_need(need + 1, 2, &err);
	setenv("PATH", path, 1);
	assert_int_equal(r, -1);
	fails_with(err, ERR_NOT_FOUND,
		"not installed: mkfs.erofs, newuidmap (apt-get install erofs-utils uidmap)");
}

static int run_script(const char *script, int timeout_ms, struct error **err)
{
	_cleanup_free_ char *path = put_text("tool", script);
	char *argv[] = {path, NULL};

	assert_int_equal(chmod(path, 0755), 0);
	return image_tools_run(&tools, "testing", argv, -1, -1, timeout_ms, err);
}

static void a_failing_tool_shows_its_last_lines(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_int_equal(run_script("#!/bin/sh\necho before\n", 60000, NULL), 0);
	assert_int_equal(run_script("#!/bin/sh\necho one; printf 'two\\033[2J\\n' >&2; exit 3\n",
				 60000, &err),
		-1);
	assert_non_null(strstr(err->text, "tool failed (exit code 3)"));
	assert_non_null(strstr(err->text, tools.log_path));
	assert_null(strstr(err->text, "before"));
	fails_with(err, ERR_UNKNOWN, "\n  one\n  two\\x1b[2J");
	err = NULL;
	assert_int_equal(
		run_script("#!/bin/sh\necho 'x: No space left on device'; exit 1\n", 60000, &err),
		-1);
	fails_with(err, ERR_LIMIT, "the disk is full");
	err = NULL;
	assert_int_equal(
		run_script("#!/bin/sh\necho \"Temporary failure resolving 'x'\"; exit 100\n", 60000,
			&err),
		-1);
	fails_with(err, ERR_UNAVAILABLE, "no network");
	err = NULL;
	assert_int_equal(run_script("#!/bin/sh\nexec sleep 600\n", 50, &err), -1);
	fails_with(err, ERR_TIMEOUT, "did not end");
}

static void answers_are_remembered_until_apt_changes(void **state)
{
	_cleanup_free_ char *cache = in_dir("cache");
	_cleanup_free_ char *script = put_text("apt", "#!/bin/sh\necho x >>\"$2/runs\"\n"
						      "cat \"$2/runs\"\n");
	_cleanup_free_ char *lists = in_dir("cache/apt/lists/index");
	struct image_apt apt = {.tools = &tools, .script = script, .cache = cache};
	struct arg_list args = {0};

	(void)state;
	assert_int_equal(chmod(script, 0755), 0);
	assert_int_equal(make_dirs(cache, 0755, NULL), 0);
	arg_add(&args, "resolve");
	arg_add(&args, "bookworm");
	for (unsigned i = 0; i < 2; i++) {
		_cleanup_free_ char *answer = image_apt_ask(&apt, "asking", &args, NULL);
		assert_string_equal(answer, "x\n");
	}
	free(put_text("cache/apt/lists/index", "new"));
	assert_int_equal(access(lists, F_OK), 0);
	_cleanup_free_ char *again = image_apt_ask(&apt, "asking", &args, NULL);
	assert_string_equal(again, "x\nx\n");
	arg_add(&args, "package");
	_cleanup_free_ char *other = image_apt_ask(&apt, "asking", &args, NULL);
	assert_string_equal(other, "x\nx\nx\n");
	arg_clear(&args);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_archive_holds_what_was_added),
		TEST(an_archive_says_what_it_cannot_hold),
		TEST(modules_come_behind_what_they_need),
		TEST(a_missing_module_is_named),
		TEST(our_recipes_are_good),
		TEST(recipe_errors_have_their_place),
		TEST(an_unknown_recipe_names_those_there),
		TEST(a_missing_tool_names_its_package),
		TEST(a_failing_tool_shows_its_last_lines),
		TEST(answers_are_remembered_until_apt_changes),
	};
	return cmocka_run_group_tests_name("image_parts", tests, NULL, NULL);
}
