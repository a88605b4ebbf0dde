#include "orchestrator/vsock-device/vring.h"

#include <endian.h>
#include <string.h>

#include "common/util.h"

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY	   1

size_t vring_desc_bytes(unsigned size)
{
	return sizeof(struct vring_desc) * size;
}

size_t vring_avail_bytes(unsigned size)
{
	return 2 * (size_t)(2 + size + 1);
}

size_t vring_used_bytes(unsigned size)
{
	return 2 * 2 + 8 * (size_t)size + 2;
}

/* One load each: the compiler must neither repeat it nor tear it. */
static uint16_t load16(const uint16_t *p)
{
	return le16toh(__atomic_load_n(p, __ATOMIC_RELAXED));
}

static void store16(uint16_t *p, uint16_t v)
{
	__atomic_store_n(p, htole16(v), __ATOMIC_RELAXED);
}

static struct vring_desc load_desc(const struct vring_desc *p)
{
	return (struct vring_desc){
		.addr = le64toh(__atomic_load_n(&p->addr, __ATOMIC_RELAXED)),
		.len = le32toh(__atomic_load_n(&p->len, __ATOMIC_RELAXED)),
		.flags = load16(&p->flags),
		.next = load16(&p->next),
	};
}

static uint16_t *avail_event(const struct vring *ring)
{
	return ring->used + 2 + 4 * (size_t)ring->size;
}

static const uint16_t *used_event(const struct vring *ring)
{
	return ring->avail + 2 + ring->size;
}

void vring_start(struct vring *ring, unsigned size, void *desc, void *avail, void *used,
	uint16_t base, bool event_idx)
{
	*ring = (struct vring){
		.desc = desc,
		.avail = avail,
		.used = used,
		.size = (uint16_t)size,
		.event_idx = event_idx,
		.next_avail = base,
		/* Chains are used in order and at once, so there is never one under way. */
		.next_used = base,
		.published = base,
		.avail_idx = base,
	};
}

static int break_ring(struct vring *ring, const char *why)
{
	ring->broken = why;
	return -1;
}

/* Look at the guest's index. True: there is something to pop. */
static bool refresh(struct vring *ring)
{
	uint16_t idx = le16toh(__atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE));

	if ((uint16_t)(idx - ring->next_avail) > ring->size) {
		break_ring(ring, "the guest's index is further ahead than the ring is long");
		return false;
	}
	ring->avail_idx = idx;
	return idx != ring->next_avail;
}

/* Add one descriptor's buffer to the chain. */
static int add_buffer(struct vring *ring, const struct memory *memory, enum vring_kind kind,
	const struct vring_desc *desc, struct vring_chain *chain)
{
	bool writable = desc->flags & DESC_WRITE;

	if (writable != (kind == VRING_TO_GUEST))
		return break_ring(ring, "a buffer goes the wrong way");
	int n = memory_iov(memory, desc->addr, desc->len, chain->iov + chain->n,
		(unsigned)(VRING_CHAIN_MAX - chain->n));
	if (n < 0)
		return break_ring(ring, "a buffer is not in memory, or a chain has too many");
	chain->n = (uint16_t)(chain->n + n);
	chain->size += desc->len;
	return 0;
}

/* Follow the chain that begins with entry `first` of a table. Each step visits one entry, and there
 * cannot be more steps than entries: a loop is found out. */
static int walk(struct vring *ring, const struct memory *memory, enum vring_kind kind,
	const struct vring_desc *table, uint32_t entries, uint32_t first, bool indirect,
	struct vring_chain *chain)
{
	uint32_t i = first;

	for (uint32_t steps = 0; steps < entries; steps++) {
		if (i >= entries)
			return break_ring(ring, "a descriptor's number is too large");
		struct vring_desc desc = load_desc(&table[i]);
		if (desc.flags & DESC_INDIRECT) {
			if (indirect)
				return break_ring(
					ring, "indirect descriptors in an indirect table");
			if (desc.flags & DESC_NEXT)
				return break_ring(ring, "an indirect descriptor goes on");
			uint32_t n = desc.len / (uint32_t)sizeof(desc);
			if (!n || desc.len % sizeof(desc) || n > VRING_SIZE_MAX)
				return break_ring(ring, "an indirect table has a wrong size");
			const struct vring_desc *inner =
				memory_at_guest(memory, desc.addr, desc.len);
			if (!inner || (uintptr_t)inner % _Alignof(struct vring_desc))
				return break_ring(ring, "an indirect table is not in memory");
			return walk(ring, memory, kind, inner, n, 0, true, chain);
		}
		if (add_buffer(ring, memory, kind, &desc, chain) < 0)
			return -1;
		if (!(desc.flags & DESC_NEXT))
			return 0;
		i = desc.next;
	}
	return break_ring(ring, "a chain has a loop");
}

int vring_pop(struct vring *ring, const struct memory *memory, enum vring_kind kind,
	struct vring_chain *ret)
{
	if (ring->broken)
		return -1;
	if (ring->next_avail == ring->avail_idx && !refresh(ring))
		return ring->broken ? -1 : 0;

	ret->head = load16(&ring->avail[2 + (ring->next_avail & (ring->size - 1))]);
	ret->n = 0;
	ret->size = 0;
	if (walk(ring, memory, kind, ring->desc, ring->size, ret->head, false, ret) < 0)
		return -1;
	ring->next_avail++;
	return 1;
}

void vring_unpop(struct vring *ring, unsigned n)
{
	ring->next_avail = (uint16_t)(ring->next_avail - n);
}

void vring_push(struct vring *ring, uint16_t head, uint32_t written)
{
	uint16_t *entry = ring->used + 2 + 4 * (size_t)(ring->next_used & (ring->size - 1));
	const uint32_t elem[2] = {htole32(head), htole32(written)};

	memcpy(entry, elem, sizeof(elem));
	ring->next_used++;
}

bool vring_publish(struct vring *ring)
{
	uint16_t old = ring->published, new = ring->next_used;

	if (old == new)
		return false;
	__atomic_store_n(&ring->used[1], htole16(new), __ATOMIC_RELEASE);
	ring->published = new;
	/* The guest first says when it wants to be told, then looks at our index; we write the
	 * index first, then look. With a full barrier on both sides one of us sees the other. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!ring->event_idx)
		return !(load16(&ring->avail[0]) & AVAIL_NO_INTERRUPT);
	uint16_t event = load16(used_event(ring));
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

bool vring_arm(struct vring *ring)
{
	if (ring->broken)
		return false;
	if (ring->event_idx)
		store16(avail_event(ring), ring->next_avail);
	else
		store16(&ring->used[0], 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return refresh(ring);
}

void vring_disarm(struct vring *ring)
{
	/* With EVENT_IDX an index that lies behind is disarmed by itself. */
	if (!ring->event_idx && !ring->broken)
		store16(&ring->used[0], USED_NO_NOTIFY);
}
