/* What is found out about a kernel by looking into it, and that a damaged one is harmless. */
#include "tests/unit/image_fixture.h"

#include <elf.h>
#include <fcntl.h>

#include "orchestrator/image_kernel.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_kernel_is_looked_into),
		TEST(what_is_no_kernel_is_told),
		TEST(a_damaged_kernel_is_harmless),
		TEST(a_bzimage_is_unpacked),
		TEST(a_damaged_bzimage_is_harmless),
	};
	return cmocka_run_group_tests_name("image_kernel", tests, NULL, NULL);
}
