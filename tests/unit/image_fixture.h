/* A directory and a set of tools for one test of making images. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "orchestrator/image_root.h"
#include "orchestrator/image_tools.h"

static char dir[64];
static struct image_tools tools;

static inline int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_image_build.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	_cleanup_free_ char *log = str_printf("%s/log", dir);
	return image_tools_start(&tools, log, -1, NULL);
}

static inline int remove_dir(void **state)
{
	(void)state;
	int r = image_root_remove(&tools, dir, NULL);
	image_tools_stop(&tools);
	return r;
}

static inline char *in_dir(const char *name)
{
	return str_printf("%s/%s", dir, name);
}

static inline char *put(const char *name, const void *data, size_t n)
{
	char *path = in_dir(name);
	_cleanup_free_ char *parent = xstrndup(path, (size_t)(strrchr(path, '/') - path));

	assert_int_equal(make_dirs(parent, 0755, NULL), 0);
	assert_int_equal(write_file(path, data, n, 0644, false, NULL), 0);
	return path;
}

static inline char *put_text(const char *name, const char *text)
{
	return put(name, text, strlen(text));
}

static inline void fails_with(struct error *err, enum err_code code, const char *part)
{
	assert_non_null(err);
	if (!strstr(err->text, part))
		fail_msg("\"%s\" does not say \"%s\"", err->text, part);
	assert_int_equal(err->code, code);
	error_free(err);
}

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

static inline struct small_kernel small_kernel(void)
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

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
