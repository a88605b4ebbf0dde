/* The header of a virtio-vsock packet: from and to its little-endian form in guest memory. */
#pragma once

#include <linux/virtio_vsock.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_HEADER_BYTES sizeof(struct virtio_vsock_hdr)
#define PACKET_CID_HOST	    UINT64_C(2)
#define PACKET_SHUT_BOTH    (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

/* A private copy, in the host's byte order. */
struct packet {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len; /* of the payload */
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt; /* the sender's receive buffer, and what it took out of it */
};

void packet_decode(const struct virtio_vsock_hdr *raw, struct packet *ret);
void packet_encode(const struct packet *packet, struct virtio_vsock_hdr *ret);

enum packet_verdict {
	PACKET_OK,    /* well-formed; whether its connection likes it is another question */
	PACKET_DROP,  /* not between this guest and the host: no answer */
	PACKET_RESET, /* malformed: its sender gets a RST */
};

/* What a guest's header deserves before any connection is looked at. payload: bytes that came
 * with it. */
enum packet_verdict packet_check(const struct packet *packet, uint64_t guest_cid, size_t payload);
