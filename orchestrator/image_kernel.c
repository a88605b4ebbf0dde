#include "orchestrator/image_kernel.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/util.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18 /* the PVH entry point */
#define UNPACK_TIMEOUT_MS	 120000

struct mapping {
	const uint8_t *data;
	size_t size;
};

static int map_file(const char *path, uint64_t cap, struct mapping *ret, struct error **err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERR_INVALID, "%s: not a regular file", path);
	if (st.st_size == 0 || (uint64_t)st.st_size > cap)
		return error_set(err, ERR_INVALID, "%s: %s", path,
			st.st_size ? "too large" : "the file is empty");
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return error_errno(err, errno, "%s", path);
	*ret = (struct mapping){.data = p, .size = (size_t)st.st_size};
	return 0;
}

static void unmap(struct mapping *m)
{
	if (m->data)
		munmap((void *)(uintptr_t)m->data, m->size);
	m->data = NULL;
}
#define _cleanup_unmap_ __attribute__((cleanup(unmap)))

static bool within(size_t size, uint64_t offset, uint64_t n)
{
	return offset <= size && n <= size - offset;
}

static bool notes_have_pvh(const uint8_t *notes, size_t size)
{
	size_t at = 0;

	while (within(size, at, sizeof(Elf64_Nhdr))) {
		Elf64_Nhdr note;
		memcpy(&note, notes + at, sizeof(note));
		at += sizeof(note);
		uint64_t name = ((uint64_t)note.n_namesz + 3) & ~UINT64_C(3);
		uint64_t desc = ((uint64_t)note.n_descsz + 3) & ~UINT64_C(3);
		if (!within(size, at, name + desc))
			return false;
		if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 &&
			memcmp(notes + at, "Xen", 4) == 0)
			return true;
		at += (size_t)(name + desc);
	}
	return false;
}

static bool has_pvh_entry(const struct mapping *m, const Elf64_Ehdr *elf)
{
	for (unsigned i = 0; i < elf->e_phnum; i++) {
		uint64_t at = elf->e_phoff + (uint64_t)i * sizeof(Elf64_Phdr);
		Elf64_Phdr header;

		if (!within(m->size, at, sizeof(header)))
			return false;
		memcpy(&header, m->data + at, sizeof(header));
		if (header.p_type == PT_NOTE && within(m->size, header.p_offset, header.p_filesz) &&
			notes_have_pvh(m->data + header.p_offset, (size_t)header.p_filesz))
			return true;
	}
	return false;
}

/* From its banner, "Linux version RELEASE (...". */
static char *find_release(const struct mapping *m)
{
	static const char banner[] = "Linux version ";
	const uint8_t *p = m->data, *end = m->data + m->size;

	while ((p = memmem(p, (size_t)(end - p), banner, sizeof(banner) - 1))) {
		const uint8_t *release = p + sizeof(banner) - 1;
		size_t n = 0;
		while (n < 128 && release + n < end && release[n] > ' ' && release[n] < 0x7f)
			n++;
		if (n > 0 && release[0] != '%' && release + n < end && release[n] == ' ')
			return xstrndup((const char *)release, n);
		p = release;
	}
	return xstrdup("");
}

static bool is_bzimage(const struct mapping *m)
{
	return m->size > 0x260 && memcmp(m->data + 0x202, "HdrS", 4) == 0;
}

int kernel_inspect(const char *path, char **ret_release, struct error **err)
{
	_cleanup_unmap_ struct mapping m = {0};
	Elf64_Ehdr elf;

	if (map_file(path, LIMIT_KERNEL, &m, err) < 0)
		return -1;
	if (is_bzimage(&m))
		return error_set(
			err, ERR_INVALID, "%s: a bzImage; the vmlinux inside is needed", path);
	if (m.size < sizeof(elf) || memcmp(m.data, ELFMAG, SELFMAG) != 0)
		return error_set(err, ERR_INVALID, "%s: not a kernel (no ELF file)", path);
	memcpy(&elf, m.data, sizeof(elf));
	if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_machine != EM_X86_64 ||
		elf.e_phentsize != sizeof(Elf64_Phdr))
		return error_set(err, ERR_INVALID, "%s: not a kernel for x86-64", path);
	if (!has_pvh_entry(&m, &elf))
		return error_set(err, ERR_INVALID,
			"%s: no PVH entry in it; build the kernel with CONFIG_PVH=y", path);
	*ret_release = find_release(&m);
	return 0;
}

static uint32_t le32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int kernel_find_payload(
	const uint8_t *image, size_t size, struct kernel_payload *ret, struct error **err)
{
	static const struct {
		const char *tool;
		uint8_t magic[6];
		uint8_t n;
		bool own_size; /* the form itself ends with the size; the others got it appended */
	} forms[] = {
		{"lz4", {0x02, 0x21, 0x4c, 0x18}, 4, false},
		{"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, false},
		{"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, false},
		{"gzip", {0x1f, 0x8b}, 2, true},
		{"bzip2", {'B', 'Z', 'h'}, 3, false},
		{"lzop", {0x89, 'L', 'Z', 'O'}, 4, false},
		{NULL, {0x7f, 'E', 'L', 'F'}, 4, true},
	};
	struct mapping m = {.data = image, .size = size};

	if (!is_bzimage(&m))
		return error_set(err, ERR_INVALID, "not a kernel");
	/* Documentation/x86/boot.rst: setup_sects, 0 for 4; the protocol's version; payload_offset
	 * and payload_length, counted from the end of the setup code. */
	unsigned sectors = image[0x1f1] ? image[0x1f1] : 4;
	if ((image[0x206] | image[0x207] << 8) < 0x0208)
		return error_set(err, ERR_INVALID, "a bzImage too old to be taken apart");
	uint64_t offset = ((uint64_t)sectors + 1) * 512 + le32(image + 0x248);
	uint64_t length = le32(image + 0x24c);
	if (length < 16 || !within(size, offset, length))
		return error_set(err, ERR_INVALID, "a damaged bzImage (its payload is cut off)");
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		if (memcmp(image + offset, forms[i].magic, forms[i].n) != 0)
			continue;
		*ret = (struct kernel_payload){.offset = (size_t)offset,
			.size = (size_t)length - (forms[i].own_size ? 0 : 4),
			.unpacked = forms[i].tool ? le32(image + offset + length - 4)
						  : (uint32_t)length,
			.tool = forms[i].tool};
		if (ret->unpacked > LIMIT_KERNEL)
			return error_set(err, ERR_LIMIT, "a bzImage that unpacks to too much");
		return 0;
	}
	return error_set(err, ERR_INVALID, "a bzImage compressed in a way that is not known");
}

/* Feed n bytes to `TOOL -dc` through a file in memory: the tools refuse what stands behind. */
static int decompress(struct image_tools *tools, const char *tool, const uint8_t *data, size_t n,
	int out, struct error **err)
{
	_cleanup_close_ int in = memfd_create("payload", MFD_CLOEXEC);
	char *argv[] = {(char *)(uintptr_t)tool, (char *)(uintptr_t) "-dc", NULL};

	if (in < 0 || write_all(in, data, n) < 0 || lseek(in, 0, SEEK_SET) < 0)
		return error_errno(err, errno, "unpacking");
	if (image_tools_need(&tool, 1, err) < 0)
		return -1;
	return image_tools_run(tools, "unpacking", argv, in, out, UNPACK_TIMEOUT_MS, err);
}

int kernel_unpack(struct image_tools *tools, const char *path, const char *to, struct error **err)
{
	_cleanup_unmap_ struct mapping m = {0};
	struct kernel_payload payload;
	struct stat st;

	if (map_file(path, LIMIT_KERNEL, &m, err) < 0)
		return -1;
	if (kernel_find_payload(m.data, m.size, &payload, err) < 0)
		return error_wrap(err, "%s", path);
	_cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (out < 0)
		return error_errno(err, errno, "%s", to);
	if (!payload.tool) {
		if (write_all(out, m.data + payload.offset, payload.size) < 0)
			return error_errno(err, errno, "%s", to);
	} else if (decompress(tools, payload.tool, m.data + payload.offset, payload.size, out,
			   err) < 0) {
		return error_wrap(err, "%s", path);
	}
	if (fstat(out, &st) < 0 || (uint64_t)st.st_size != payload.unpacked)
		return error_set(err, ERR_DATA_LOSS,
			"%s: what it unpacks to has %lld bytes instead of %u", path,
			(long long)st.st_size, payload.unpacked);
	return 0;
}
