/* A ring whose every byte is the input: whatever it says, popping touches nothing outside of the
 * guest's memory, ends, and the pieces of a chain lie within. */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/vsock-device/vring.h"

#define MEMORY_BYTES 8192
#define GUEST_BASE   0x10000u
#define ENTRIES	     16u
#define AVAIL_AT     512u
#define USED_AT	     1024u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct memory *memory, const struct vring_chain *chain)
{
	size_t total = 0;

	if (chain->n > VRING_CHAIN_MAX)
		abort();
	for (unsigned i = 0; i < chain->n; i++) {
		const uint8_t *p = chain->iov[i].iov_base;
		bool inside = false;
		for (unsigned r = 0; r < memory->n; r++)
			inside |= p >= memory->regions[r].host &&
				  p + chain->iov[i].iov_len <=
					  memory->regions[r].host + memory->regions[r].size;
		if (!inside)
			abort();
		total += chain->iov[i].iov_len;
	}
	if (total != chain->size)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 4)
		return 0;
	/* Two allocations that are neighbours for the guest only. */
	uint8_t *low = aligned_alloc(16, MEMORY_BYTES), *high = aligned_alloc(16, MEMORY_BYTES);
	struct memory memory = {.n = 2,
		.regions = {{.guest = GUEST_BASE, .size = MEMORY_BYTES, .host = low},
			{.guest = GUEST_BASE + MEMORY_BYTES, .size = MEMORY_BYTES, .host = high}}};
	struct vring ring;
	struct vring_chain chain;
	enum vring_kind kind = data[0] & 1 ? VRING_TO_GUEST : VRING_FROM_GUEST;
	uint16_t base = (uint16_t)(data[1] | data[2] << 8);

	memset(low, 0, MEMORY_BYTES);
	memset(high, 0, MEMORY_BYTES);
	vring_start(&ring, ENTRIES, low, low + AVAIL_AT, low + USED_AT, base, data[0] & 2);
	memcpy(low, data + 3, size - 3 < MEMORY_BYTES ? size - 3 : MEMORY_BYTES);
	for (unsigned round = 0; round < 4; round++) {
		unsigned popped = 0;
		while (popped <= ENTRIES && vring_pop(&ring, &memory, kind, &chain) == 1) {
			check(&memory, &chain);
			if (kind == VRING_TO_GUEST)
				for (unsigned i = 0; i < chain.n; i++)
					memset(chain.iov[i].iov_base, (int)i, chain.iov[i].iov_len);
			popped++;
			if (popped == 3 && (data[0] & 4))
				vring_unpop(&ring, 1);
			else
				vring_push(&ring, chain.head, (uint32_t)chain.size);
		}
		vring_publish(&ring);
		vring_disarm(&ring);
		vring_arm(&ring);
	}
	free(low);
	free(high);
	return 0;
}
