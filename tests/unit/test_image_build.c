#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/util.h"
#include "orchestrator/cpio.h"
#include "orchestrator/image.h"
#include "orchestrator/image_apt.h"
#include "orchestrator/image_build.h"
#include "orchestrator/image_kernel.h"
#include "orchestrator/image_recipe.h"
#include "orchestrator/image_root.h"
#include "orchestrator/image_tools.h"

static char dir[64];
static struct image_tools tools;

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_image_build.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	_cleanup_free_ char *log = str_printf("%s/log", dir);
	return image_tools_start(&tools, log, -1, NULL);
}

static int remove_dir(void **state)
{
	(void)state;
	int r = image_root_remove(&tools, dir, NULL);
	image_tools_stop(&tools);
	return r;
}

static char *in_dir(const char *name)
{
	return str_printf("%s/%s", dir, name);
}

static char *put(const char *name, const void *data, size_t n)
{
	char *path = in_dir(name);
	_cleanup_free_ char *parent = xstrndup(path, (size_t)(strrchr(path, '/') - path));

	assert_int_equal(make_dirs(parent, 0755, NULL), 0);
	assert_int_equal(write_file(path, data, n, 0644, false, NULL), 0);
	return path;
}

static char *put_text(const char *name, const char *text)
{
	return put(name, text, strlen(text));
}

static void fails_with(struct error *err, enum err_code code, const char *part)
{
	assert_non_null(err);
	if (!strstr(err->text, part))
		fail_msg("\"%s\" does not say \"%s\"", err->text, part);
	assert_int_equal(err->code, code);
	error_free(err);
}

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

/* --- kernels ---------------------------------------------------------------------------------- */

/* An ELF file with one note segment and a banner. */
struct small_kernel {
	Elf64_Ehdr elf;
	Elf64_Phdr segment;
	Elf64_Nhdr first;
	char first_name[4], first_desc[8];
	Elf64_Nhdr note;
	char name[4];
	uint32_t entry;
	char banner[64];
};

static struct small_kernel small_kernel(void)
{
	struct small_kernel k = {
		.elf = {.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_phnum = 1,
			.e_phoff = offsetof(struct small_kernel, segment),
			.e_phentsize = sizeof(Elf64_Phdr)},
		.segment = {.p_type = PT_NOTE,
			.p_offset = offsetof(struct small_kernel, first),
			.p_filesz = offsetof(struct small_kernel, banner) -
				    offsetof(struct small_kernel, first)},
		.first = {.n_namesz = 4, .n_descsz = 6, .n_type = 6},
		.first_name = "Xen",
		.note = {.n_namesz = 4, .n_descsz = 4, .n_type = 18},
		.name = "Xen",
		.banner = "Linux version %s xLinux version 6.1.7-test (who@where)",
	};

	memcpy(k.elf.e_ident, ELFMAG, SELFMAG);
	k.elf.e_ident[EI_CLASS] = ELFCLASS64;
	return k;
}

static int inspect(const struct small_kernel *k, size_t size, char **ret, struct error **err)
{
	_cleanup_free_ char *path = put("vmlinux", k, size);

	return kernel_inspect(path, ret, err);
}

static void a_kernel_is_looked_into(void **state)
{
	struct small_kernel k = small_kernel();
	_cleanup_free_ char *release = NULL;

	(void)state;
	assert_int_equal(inspect(&k, sizeof(k), &release, NULL), 0);
	assert_string_equal(release, "6.1.7-test");
}

static void what_is_no_kernel_is_told(void **state)
{
	struct error *err = NULL;
	char *release = NULL;

	(void)state;
	struct small_kernel k = small_kernel();
	k.note.n_type = 17;
	assert_int_equal(inspect(&k, sizeof(k), &release, &err), -1);
	fails_with(err, ERR_INVALID, "CONFIG_PVH=y");
	k = small_kernel();
	k.elf.e_machine = EM_AARCH64;
	err = NULL;
	assert_int_equal(inspect(&k, sizeof(k), &release, &err), -1);
	fails_with(err, ERR_INVALID, "not a kernel for x86-64");
	err = NULL;
	assert_int_equal(inspect(&k, 3, &release, &err), -1);
	fails_with(err, ERR_INVALID, "not a kernel");
	err = NULL;
	assert_int_equal(inspect(&k, 0, &release, &err), -1);
	fails_with(err, ERR_INVALID, "empty");
	err = NULL;
	assert_int_equal(kernel_inspect("/nonexistent", &release, &err), -1);
	fails_with(err, ERR_NOT_FOUND, "/nonexistent");
	assert_null(release);
}

/* Offsets and sizes that point out of the file, and every cut of it: errors, no reads outside. */
static void a_damaged_kernel_is_harmless(void **state)
{
	static const uint64_t wild[] = {UINT64_MAX, UINT64_MAX - 60, INT64_MAX, 0x1000, 0xfffffff0};
	char *release = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wild); i++) {
		struct small_kernel k = small_kernel();
		k.elf.e_phoff = wild[i];
		assert_int_equal(inspect(&k, sizeof(k), &release, NULL), -1);
		k = small_kernel();
		k.segment.p_offset = wild[i];
		assert_int_equal(inspect(&k, sizeof(k), &release, NULL), -1);
		k = small_kernel();
		k.segment.p_filesz = wild[i];
		assert_int_equal(inspect(&k, sizeof(k), &release, NULL), -1);
		k = small_kernel();
		k.first.n_namesz = (uint32_t)wild[i];
		assert_int_equal(inspect(&k, sizeof(k), &release, NULL), -1);
		k = small_kernel();
		k.first.n_descsz = (uint32_t)wild[i];
		assert_int_equal(inspect(&k, sizeof(k), &release, NULL), -1);
	}
	struct small_kernel k = small_kernel();
	/* The entry's note, but beyond the segment's end. */
	k.segment.p_filesz =
		offsetof(struct small_kernel, name) - offsetof(struct small_kernel, first);
	assert_int_equal(inspect(&k, sizeof(k), &release, NULL), -1);
	k = small_kernel();
	for (size_t n = 1; n < offsetof(struct small_kernel, banner); n++)
		assert_int_equal(inspect(&k, n, &release, NULL), -1);
	assert_null(release);
}

static void put32(uint8_t *p, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

/* A bzImage with an LZ4 payload as the kernel's build makes it: old frame, one block of literals,
 * and the unpacked size behind. */
static size_t make_bzimage(uint8_t image[static 4096], const void *data, size_t n)
{
	uint8_t *p = image + 3 * 512 + 16, *start = p;

	memset(image, 0, 4096);
	image[0x1f1] = 2;
	memcpy(image + 0x202, "HdrS", 4);
	image[0x206] = 0x0f;
	image[0x207] = 0x02;
	put32(p, 0x184c2102);
	p += 8;
	*p++ = 0xf0;
	size_t more = n - 15;
	for (; more >= 255; more -= 255)
		*p++ = 255;
	*p++ = (uint8_t)more;
	memcpy(p, data, n);
	p += n;
	put32(start + 4, (uint32_t)(p - start - 8));
	put32(p, (uint32_t)n);
	p += 4;
	put32(image + 0x248, 16);
	put32(image + 0x24c, (uint32_t)(p - start));
	return (size_t)(p - image) + 100;
}

static void a_bzimage_is_unpacked(void **state)
{
	static const char *const lz4[] = {"lz4"};
	struct small_kernel k = small_kernel();
	_cleanup_free_ char *to = in_dir("vmlinux"), *release = NULL;
	uint8_t image[4096];
	size_t size = make_bzimage(image, &k, sizeof(k)), unpacked;
	struct error *err = NULL;

	(void)state;
	if (image_tools_need(lz4, 1, NULL) < 0)
		skip();
	_cleanup_free_ char *path = put("vmlinuz", image, size);
	assert_int_equal(kernel_inspect(path, &release, &err), -1);
	fails_with(err, ERR_INVALID, "a bzImage");
	assert_int_equal(kernel_unpack(&tools, path, to, NULL), 0);
	_cleanup_free_ char *back = read_file(to, MIB, &unpacked, NULL);
	assert_int_equal(unpacked, sizeof(k));
	assert_memory_equal(back, &k, sizeof(k));
	/* The size behind the payload is compared with what came out. */
	put32(image + 3 * 512 + 16 + (size - 100 - (3 * 512 + 16)) - 4, sizeof(k) + 1);
	_cleanup_free_ char *wrong = put("vmlinuz", image, size);
	err = NULL;
	assert_int_equal(kernel_unpack(&tools, wrong, to, &err), -1);
	fails_with(err, ERR_DATA_LOSS, "instead of");
	/* What the tool says about damage is part of the error. */
	make_bzimage(image, &k, sizeof(k));
	put32(image + 3 * 512 + 16 + 4, 17);
	_cleanup_free_ char *damaged = put("vmlinuz", image, size);
	err = NULL;
	assert_int_equal(kernel_unpack(&tools, damaged, to, &err), -1);
	assert_non_null(strstr(err->text, "lz4 failed (exit code"));
	fails_with(err, ERR_UNKNOWN, tools.log_path);
}

static void a_damaged_bzimage_is_harmless(void **state)
{
	struct small_kernel k = small_kernel();
	struct kernel_payload payload;
	struct error *err = NULL;
	uint8_t image[4096];
	size_t size = make_bzimage(image, &k, sizeof(k));

	(void)state;
	assert_int_equal(kernel_find_payload(image, size, &payload, NULL), 0);
	assert_string_equal(payload.tool, "lz4");
	for (size_t n = 0; n < size - 100; n++) {
		_cleanup_free_ uint8_t *cut = xmemdup(image, n);
		assert_int_equal(kernel_find_payload(cut, n, &payload, NULL), -1);
	}
	put32(image + 0x248, UINT32_MAX);
	assert_int_equal(kernel_find_payload(image, size, &payload, &err), -1);
	fails_with(err, ERR_INVALID, "cut off");
	size = make_bzimage(image, &k, sizeof(k));
	put32(image + 0x24c, UINT32_MAX);
	assert_int_equal(kernel_find_payload(image, size, &payload, NULL), -1);
	size = make_bzimage(image, &k, sizeof(k));
	put32(image + 3 * 512 + 16, 0x12345678);
	err = NULL;
	assert_int_equal(kernel_find_payload(image, size, &payload, &err), -1);
	fails_with(err, ERR_INVALID, "not known");
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

/* --- the whole -------------------------------------------------------------------------------- */

static unsigned n_steps;
static void count_step(void *arg, unsigned n, unsigned of, const char *text)
{
	(void)arg;
	(void)text;
	assert_true(n >= 1 && n <= of);
	n_steps++;
}

/* An installation with a worker, a kernel file and a root directory. */
static struct image_build_options installation(char *paths[static 4])
{
	struct small_kernel k = small_kernel();

	free(put_text("prefix/libexec/orchestrator/guest-worker", "worker 1"));
	free(put_text("root/bin/tool", "a program"));
	free(put_text("root/etc/os-release", "NAME=test"));
	_cleanup_free_ char *share = in_dir("prefix/share/orchestrator");
	assert_int_equal(make_dirs(share, 0755, NULL), 0);
	_cleanup_free_ char *ours = realpath("vm-images", NULL);
	_cleanup_free_ char *link = in_dir("prefix/share/orchestrator/vm-images");
	assert_non_null(ours);
	assert_int_equal(symlink(ours, link), 0);
	paths[0] = put("kernel", &k, sizeof(k));
	paths[1] = in_dir("root");
	paths[2] = in_dir("images");
	paths[3] = in_dir("prefix");
	return (struct image_build_options){.name = "mine",
		.root = paths[1],
		.kernel_choice = KERNEL_FILE,
		.kernel = paths[0],
		.image_dir = paths[2],
		.cache_dir = paths[2],
		.prefix = paths[3],
		.on_step = count_step};
}

static ino_t inode_of(const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/images/mine/%s", dir, name);
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static char *build_digest(const struct image_build_options *o, bool up_to_date)
{
	struct image_build_result result;
	struct error *err = NULL;

	n_steps = 0;
	if (image_build(o, &result, &err) < 0)
		fail_msg("%s", err->text);
	assert_int_equal(result.up_to_date, up_to_date);
	assert_int_equal(n_steps, up_to_date ? 0 : 5);
	assert_string_equal(result.kernel_release, "6.1.7-test");
	char *digest = steal_ptr(result.digest);
	image_build_result_clear(&result);
	return digest;
}

/* Namespaces may be forbidden here; then none of this can be seen. */
static bool can_build(void)
{
	char *argv[] = {(char *)(uintptr_t) "unshare", (char *)(uintptr_t) "--mount",
		(char *)(uintptr_t) "true", NULL};

	if (image_root_check(false, NULL) < 0)
		return false;
	return geteuid() != 0 || image_tools_run(&tools, "trying", argv, -1, -1, 60000, NULL) == 0;
}

static void only_what_changed_is_made_again(void **state)
{
	char *paths[4];

	(void)state;
	if (!can_build())
		skip();
	struct image_build_options o = installation(paths);
	_cleanup_free_ char *first = build_digest(&o, false);
	_cleanup_free_ char *same = build_digest(&o, true);
	assert_string_equal(first, same);
	/* The same inputs give the same bytes. */
	o.force = true;
	_cleanup_free_ char *forced = build_digest(&o, false);
	assert_string_equal(first, forced);
	o.force = false;

	ino_t root = inode_of("root.erofs"), kernel = inode_of("kernel"),
	      initramfs = inode_of("initramfs");
	free(put_text("prefix/libexec/orchestrator/guest-worker", "worker 2"));
	_cleanup_free_ char *new_worker = build_digest(&o, false);
	assert_string_not_equal(first, new_worker);
	assert_int_equal(inode_of("root.erofs"), root);
	assert_int_equal(inode_of("kernel"), kernel);
	assert_int_not_equal(inode_of("initramfs"), initramfs);

	/* Without a root or recipe named, the root stays what it is. */
	o.root = NULL;
	_cleanup_free_ char *kept = build_digest(&o, true);
	assert_string_equal(kept, new_worker);

	o.root = paths[1];
	free(put_text("root/bin/tool", "another program"));
	_cleanup_free_ char *new_root = build_digest(&o, false);
	assert_string_not_equal(new_root, new_worker);
	assert_int_not_equal(inode_of("root.erofs"), root);

	struct error *err = NULL;
	_cleanup_free_ char *image_dir = in_dir("images/mine");
	struct image *image = image_load(image_dir, "mine", &err);
	assert_non_null(image);
	assert_int_equal(image_verify(image, &err), 0);
	assert_string_equal(image->kernel_kind, "custom");
	image_free(image);
	/* Nothing is left of the making, and the user's directory is as it was. */
	_cleanup_free_ char *work = in_dir("images/.mine.work"), *temp = in_dir("images/.mine.new");
	_cleanup_free_ char *untouched = in_dir("root/etc/passwd");
	assert_int_equal(access(work, F_OK), -1);
	assert_int_equal(access(temp, F_OK), -1);
	assert_int_equal(access(untouched, F_OK), -1);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

static void a_failed_build_leaves_the_old_image(void **state)
{
	struct image_build_result result;
	struct error *err = NULL;
	char *paths[4];

	(void)state;
	if (!can_build())
		skip();
	struct image_build_options o = installation(paths);
	_cleanup_free_ char *first = build_digest(&o, false);
	/* What a killed build left is no obstacle. */
	free(put_text("images/.mine.new/kernel", "half"));
	free(put_text("images/.mine.work/tree/x", "half"));
	_cleanup_free_ char *tarball = put_text("broken.tar", "this is no tar file");
	o.root = tarball;
	assert_int_equal(image_build(&o, &result, &err), -1);
	image_build_result_clear(&result);
	assert_non_null(strstr(err->text, "image-mine.log"));
	assert_non_null(strstr(err->text, "pack-root failed"));
	fails_with(err, ERR_UNKNOWN, "making the root file system");
	o.root = paths[1];
	_cleanup_free_ char *still = build_digest(&o, true);
	assert_string_equal(first, still);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

/* Links in a foreign root lead nowhere outside it. */
static void a_hostile_root_touches_nothing_outside(void **state)
{
	static const char *const links[] = {
		"dev", "proc", "sys", "run", "tmp", "etc", "home", "var"};
	char *paths[4];

	(void)state;
	if (!can_build())
		skip();
	struct image_build_options o = installation(paths);
	_cleanup_free_ char *outside = put_text("outside/precious", "keep me");
	_cleanup_free_ char *target = in_dir("outside"), *etc = in_dir("root/etc");
	assert_int_equal(remove_tree(etc, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		_cleanup_free_ char *link = str_printf("%s/root/%s", dir, links[i]);
		assert_int_equal(symlink(target, link), 0);
	}
	_cleanup_free_ char *digest = build_digest(&o, false);
	_cleanup_free_ char *passwd = in_dir("outside/passwd"), *job = in_dir("outside/job");
	assert_int_equal(access(outside, F_OK), 0);
	assert_int_equal(access(passwd, F_OK), -1);
	assert_int_equal(access(job, F_OK), -1);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

static void wrong_orders_are_refused(void **state)
{
	struct image_build_result result;
	struct error *err = NULL;
	char *paths[4];

	(void)state;
	struct image_build_options o = installation(paths);
	o.name = "../mine";
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_INVALID, "an image's name");
	o.name = "mine";
	o.root = NULL;
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_NOT_FOUND, "there are: debian, minimal");
	o.root = "/nonexistent/root";
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_NOT_FOUND, "/nonexistent/root");
	o.root = paths[1];
	_cleanup_free_ char *text_kernel = put_text("text", "this is no kernel");
	o.kernel = text_kernel;
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_INVALID, "not a kernel");
	o.kernel = paths[0];
	/* Another build of the same image. */
	_cleanup_free_ char *lock = in_dir("images/.mine.lock");
	_cleanup_close_ int fd = open(lock, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_STATE, "being built by another process");
	close_fd(&fd);
	_cleanup_free_ char *worker = in_dir("prefix/libexec/orchestrator/guest-worker");
	unlink(worker);
	err = NULL;
	assert_int_equal(image_build(&o, &result, &err), -1);
	fails_with(err, ERR_NOT_FOUND, worker);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		free(paths[i]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_archive_holds_what_was_added),
		TEST(an_archive_says_what_it_cannot_hold),
		TEST(a_kernel_is_looked_into),
		TEST(what_is_no_kernel_is_told),
		TEST(a_damaged_kernel_is_harmless),
		TEST(a_bzimage_is_unpacked),
		TEST(a_damaged_bzimage_is_harmless),
		TEST(modules_come_behind_what_they_need),
		TEST(a_missing_module_is_named),
		TEST(our_recipes_are_good),
		TEST(recipe_errors_have_their_place),
		TEST(an_unknown_recipe_names_those_there),
		TEST(a_missing_tool_names_its_package),
		TEST(a_failing_tool_shows_its_last_lines),
		TEST(answers_are_remembered_until_apt_changes),
		TEST(only_what_changed_is_made_again),
		TEST(a_failed_build_leaves_the_old_image),
		TEST(a_hostile_root_touches_nothing_outside),
		TEST(wrong_orders_are_refused),
	};
	return cmocka_run_group_tests_name("image_build", tests, NULL, NULL);
}
