/* The vhost-user protocol, device's side: QEMU tells about the guest's memory and rings over a Unix
 * socket.
 *
 * Order, as QEMU 7.2 has it. When the device is made: GET_FEATURES, GET/SET_PROTOCOL_FEATURES,
 * SET_OWNER, SET_VRING_CALL and _ERR for both rings, GET_CONFIG. When the guest's driver starts:
 * SET_VRING_CALL, SET_FEATURES, SET_MEM_TABLE, then for each ring NUM, BASE, ADDR, KICK, then
 * ENABLE, then CALL once more. When it stops, or the VM is paused: GET_VRING_BASE for each ring.
 *
 * QEMU is not the guest, but a guest that has taken it over speaks here: sizes, numbers of fds and
 * the order are checked, and a message that breaks a rule ends the connection.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "orchestrator/vsock-device/memory.h"
#include "orchestrator/vsock-device/vring.h"

#define VHOST_RINGS 2		       /* the third one, for events, stays with QEMU */
enum { VHOST_RING_RX, VHOST_RING_TX }; /* as the guest calls them: rx is to the guest */

#define VHOST_USER_PAYLOAD_MAX 512

struct vhost_header {
	uint32_t request, flags, size;
};

struct vhost_message {
	struct vhost_header header;
	union {
		uint8_t bytes[VHOST_USER_PAYLOAD_MAX];
		uint64_t u64;
		struct {
			uint32_t index, num;
		} state;
		struct {
			uint32_t index, flags;
			uint64_t desc, used, avail, log;
		} addr;
		struct {
			uint32_t n, padding;
			struct {
				uint64_t guest, size, user, offset;
			} regions[MEMORY_REGIONS_MAX];
		} memory;
		struct {
			uint32_t offset, size, flags;
			uint8_t data[256];
		} config;
	} __attribute__((packed)) payload;
};

struct vhost_ring {
	struct vring vring;
	uint32_t num;
	uint64_t desc, avail, used; /* QEMU's addresses */
	uint16_t base;
	bool has_addr, enabled, started;
	int kick, call, err; /* owned eventfds, -1: none */
};

struct vhost_user;

struct vhost_user_ops {
	/* A ring may be used from now on; its kick fd is there. -1: cannot be. */
	int (*ring_live)(void *arg, unsigned index, struct error **err);
	/* It may no longer; its kick fd is still open. */
	void (*ring_dead)(void *arg, unsigned index);
	/* The guest's driver begins anew. */
	void (*reset)(void *arg);
};

struct vhost_user {
	const struct vhost_user_ops *ops;
	void *arg;
	uint64_t guest_cid;
	int fd; /* owned; non-blocking */
	uint64_t features, protocol_features;
	bool has_features;
	struct memory memory;
	struct vhost_ring rings[VHOST_RINGS];

	/* The message that is being received. */
	struct vhost_message in;
	size_t in_size;
	int in_fds[MEMORY_REGIONS_MAX]; /* owned */
	unsigned in_n_fds;
};

/* fd is taken. */
void vhost_user_init(struct vhost_user *vu, int fd, uint64_t guest_cid,
	const struct vhost_user_ops *ops, void *arg);
void vhost_user_clear(struct vhost_user *vu);

/* Handle what has come in. 1: go on; 0: QEMU has closed the connection; -1: broken. */
int vhost_user_read(struct vhost_user *vu, struct error **err);

bool vhost_ring_is_live(const struct vhost_ring *ring);
/* Interrupt the guest for this ring. */
void vhost_ring_call(const struct vhost_ring *ring);
/* Tell QEMU that the ring is broken. */
void vhost_ring_error(const struct vhost_ring *ring);
