#include "orchestrator/vsock-device/packet.h"

#include <endian.h>

_Static_assert(PACKET_HEADER_BYTES == 44, "the wire says so");

void packet_decode(const struct virtio_vsock_hdr *raw, struct packet *ret)
{
	*ret = (struct packet){
		.src_cid = le64toh(raw->src_cid),
		.dst_cid = le64toh(raw->dst_cid),
		.src_port = le32toh(raw->src_port),
		.dst_port = le32toh(raw->dst_port),
		.len = le32toh(raw->len),
		.type = le16toh(raw->type),
		.op = le16toh(raw->op),
		.flags = le32toh(raw->flags),
		.buf_alloc = le32toh(raw->buf_alloc),
		.fwd_cnt = le32toh(raw->fwd_cnt),
	};
}

void packet_encode(const struct packet *packet, struct virtio_vsock_hdr *ret)
{
	*ret = (struct virtio_vsock_hdr){
		.src_cid = htole64(packet->src_cid),
		.dst_cid = htole64(packet->dst_cid),
		.src_port = htole32(packet->src_port),
		.dst_port = htole32(packet->dst_port),
		.len = htole32(packet->len),
		.type = htole16(packet->type),
		.op = htole16(packet->op),
		.flags = htole32(packet->flags),
		.buf_alloc = htole32(packet->buf_alloc),
		.fwd_cnt = htole32(packet->fwd_cnt),
	};
}

enum packet_verdict packet_check(const struct packet *packet, uint64_t guest_cid, size_t payload)
{
	if (packet->src_cid != guest_cid || packet->dst_cid != PACKET_CID_HOST)
		return PACKET_DROP;
	/* A RST is never answered, or two ends could go on for ever. */
	if (packet->op == VIRTIO_VSOCK_OP_RST)
		return packet->type == VIRTIO_VSOCK_TYPE_STREAM ? PACKET_OK : PACKET_DROP;
	if (packet->type != VIRTIO_VSOCK_TYPE_STREAM)
		return PACKET_RESET;
	switch (packet->op) {
	case VIRTIO_VSOCK_OP_RW:
		return packet->len <= payload ? PACKET_OK : PACKET_RESET;
	case VIRTIO_VSOCK_OP_REQUEST:
	case VIRTIO_VSOCK_OP_RESPONSE:
	case VIRTIO_VSOCK_OP_SHUTDOWN:
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		return packet->len == 0 ? PACKET_OK : PACKET_RESET;
	default:
		return PACKET_RESET;
	}
}
