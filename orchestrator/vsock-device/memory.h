/* The guest's RAM as this process sees it: the regions of vhost-user's SET_MEM_TABLE, mapped.
 *
 * Two kinds of addresses come in: guest-physical ones in descriptors (hostile), and QEMU's own
 * virtual ones for the rings. Both become pointers only here, and only when every byte of the range
 * lies in a mapped region.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/error.h"

#define MEMORY_REGIONS_MAX 8

struct memory_region {
	uint64_t guest; /* guest-physical address */
	uint64_t user;	/* QEMU's virtual address */
	uint64_t size;
	uint8_t *host; /* where its first byte is here */
	void *map;     /* owned mapping; NULL: borrowed memory (tests) */
	size_t map_size;
};

struct memory {
	struct memory_region regions[MEMORY_REGIONS_MAX];
	unsigned n;
};

/* Map one more region: size bytes at offset of the file. fd is borrowed. */
int memory_add(struct memory *memory, uint64_t guest, uint64_t user, uint64_t size, uint64_t offset,
	int fd, struct error **err);
void memory_clear(struct memory *memory);

/* size bytes at a guest-physical address (at an address of QEMU's), all in one region; or NULL. */
void *memory_at_guest(const struct memory *memory, uint64_t guest, uint64_t size);
void *memory_at_user(const struct memory *memory, uint64_t user, uint64_t size);

/* The same in pieces, for a range that crosses from one region into the next. Returns the number of
 * pieces, or -1: a byte is not there, or max pieces do not suffice. */
int memory_iov(const struct memory *memory, uint64_t guest, uint64_t size, struct iovec *ret,
	unsigned max);
