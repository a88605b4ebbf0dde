#include "orchestrator/vsock-device/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/util.h"

int memory_add(struct memory *memory, uint64_t guest, uint64_t user, uint64_t size, uint64_t offset,
	int fd, struct error **err)
{
	uint64_t end, ignored;
	struct stat st;

	if (memory->n == MEMORY_REGIONS_MAX)
		return error_set(err, ERR_LIMIT, "more than %d memory regions", MEMORY_REGIONS_MAX);
	if (!size || __builtin_add_overflow(guest, size, &ignored) ||
		__builtin_add_overflow(user, size, &ignored) ||
		__builtin_add_overflow(offset, size, &end) || end > SIZE_MAX / 2)
		return error_set(err, ERR_INVALID,
			"memory region of %" PRIu64 " bytes at %#" PRIx64 " wraps", size, guest);
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "fstat of guest memory");
	/* A byte behind the file's end would be a SIGBUS later. */
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size < end)
		return error_set(err, ERR_INVALID,
			"the file of a memory region has %lld bytes, not %" PRIu64,
			(long long)st.st_size, end);

	/* From 0 and in whole (maybe huge) pages: an offset need not be aligned to them. */
	uint64_t page = st.st_blksize > 0 ? (uint64_t)st.st_blksize : 4096;
	size_t map_size = (size_t)((end + page - 1) / page * page);
	void *map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (map == MAP_FAILED)
		return error_errno(err, errno, "mapping %zu bytes of guest memory", map_size);
	memory->regions[memory->n++] = (struct memory_region){
		.guest = guest,
		.user = user,
		.size = size,
		.host = (uint8_t *)map + offset,
		.map = map,
		.map_size = map_size,
	};
	return 0;
}

void memory_clear(struct memory *memory)
{
	for (unsigned i = 0; i < memory->n; i++)
		if (memory->regions[i].map)
			munmap(memory->regions[i].map, memory->regions[i].map_size);
	memory->n = 0;
}

void *memory_at_guest(const struct memory *memory, uint64_t guest, uint64_t size)
{
	for (unsigned i = 0; i < memory->n; i++) {
		const struct memory_region *r = &memory->regions[i];
		/* One subtraction and two comparisons, none of which can wrap. */
		if (guest >= r->guest && guest - r->guest < r->size &&
			size <= r->size - (guest - r->guest))
			return r->host + (guest - r->guest);
	}
	return NULL;
}

void *memory_at_user(const struct memory *memory, uint64_t user, uint64_t size)
{
	for (unsigned i = 0; i < memory->n; i++) {
		const struct memory_region *r = &memory->regions[i];
		if (user >= r->user && user - r->user < r->size &&
			size <= r->size - (user - r->user))
			return r->host + (user - r->user);
	}
	return NULL;
}

static const struct memory_region *region_of(const struct memory *memory, uint64_t guest)
{
	for (unsigned i = 0; i < memory->n; i++) {
		const struct memory_region *r = &memory->regions[i];
		if (guest >= r->guest && guest - r->guest < r->size)
			return r;
	}
	return NULL;
}

int memory_iov(
	const struct memory *memory, uint64_t guest, uint64_t size, struct iovec *ret, unsigned max)
{
	unsigned n = 0;

	while (size) {
		const struct memory_region *r = region_of(memory, guest);
		if (!r || n == max)
			return -1;
		uint64_t part = MIN(size, r->size - (guest - r->guest));
		ret[n].iov_base = r->host + (guest - r->guest);
		ret[n++].iov_len = (size_t)part;
		/* Regions do not wrap, so neither does this while there is something left. */
		guest += part;
		size -= part;
	}
	return (int)n;
}
