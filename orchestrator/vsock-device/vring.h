/* A split virtqueue, from the device's side.
 *
 * The rings are the guest's memory, and the guest may change them at any moment. So every field is
 * read exactly once, into private memory, before it is checked and used; the device's own indices
 * are kept here and only ever written out. A ring that breaks a rule is broken: it is not touched
 * again until it is set up anew.
 *
 * Use: pop chains, fill or read their buffers, push each (in the order of popping, which is all
 * this device needs), then publish once for the batch. Popped chains that were not needed go back
 * by vring_unpop().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "orchestrator/vsock-device/memory.h"

#define VRING_SIZE_MAX 1024
#define VRING_CHAIN_MAX                                                                            \
	64 /* pieces of one chain; Linux uses 2, at most 19 with zero-copy sends                   \
	    */

struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct vring {
	/* Guest memory, bounds checked when the ring was set up. NULL: not set up. */
	struct vring_desc *desc;
	uint16_t *avail; /* flags, idx, ring[size], used_event */
	uint16_t *used;	 /* flags, idx, ring[size] of {u32 id, len}, avail_event */
	uint16_t size;	 /* a power of two */
	bool event_idx;

	uint16_t next_avail; /* the next entry to be popped */
	uint16_t next_used;  /* the next entry to be pushed */
	uint16_t published;  /* used idx as the guest sees it */
	uint16_t avail_idx;  /* the guest's, as last read */
	const char *broken;  /* why; static; NULL: not broken */
};

struct vring_chain {
	uint16_t head;
	uint16_t n;
	size_t size; /* of all pieces */
	struct iovec iov[VRING_CHAIN_MAX];
};

/* Which way the buffers of a queue go; a chain with a buffer of the other kind breaks the ring. */
enum vring_kind { VRING_FROM_GUEST, VRING_TO_GUEST };

/* Bytes of the three parts of a ring with so many entries. */
size_t vring_desc_bytes(unsigned size);
size_t vring_avail_bytes(unsigned size);
size_t vring_used_bytes(unsigned size);

/* The pointers have been checked for these sizes and for alignment (16, 2, 4); base is the index of
 * the first entry to be popped. */
void vring_start(struct vring *ring, unsigned size, void *desc, void *avail, void *used,
	uint16_t base, bool event_idx);

/* 1: *ret is the next chain. 0: there is none. -1: the ring is broken. */
int vring_pop(struct vring *ring, const struct memory *memory, enum vring_kind kind,
	struct vring_chain *ret);
/* Give the last n popped chains back. */
void vring_unpop(struct vring *ring, unsigned n);
/* Done with a chain, into which so many bytes were written. */
void vring_push(struct vring *ring, uint16_t head, uint32_t written);
/* Show the guest what was pushed. True: it wants to be interrupted. */
bool vring_publish(struct vring *ring);

/* Ask for a kick when the guest adds a chain. True: there is one already, no kick may come. */
bool vring_arm(struct vring *ring);
/* No kicks wanted; some may come all the same. */
void vring_disarm(struct vring *ring);
