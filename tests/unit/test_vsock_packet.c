#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/vsock-device/iov.h"
#include "orchestrator/vsock-device/packet.h"

static const struct packet sample = {
	.src_cid = UINT64_C(0x1122334455667788),
	.dst_cid = 2,
	.src_port = 0xa1b2c3d4,
	.dst_port = 9999,
	.len = 0x01020304,
	.type = VIRTIO_VSOCK_TYPE_STREAM,
	.op = VIRTIO_VSOCK_OP_RW,
	.flags = 3,
	.buf_alloc = 262144,
	.fwd_cnt = 0xfffffffe,
};

static void headers_are_little_endian(void **state)
{
	static const uint8_t wire[44] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 2, 0, 0, 0,
		0, 0, 0, 0, 0xd4, 0xc3, 0xb2, 0xa1, 0x0f, 0x27, 0, 0, 4, 3, 2, 1, 1, 0, 5, 0, 3, 0,
		0, 0, 0, 0, 4, 0, 0xfe, 0xff, 0xff, 0xff};
	struct virtio_vsock_hdr raw;
	struct packet back;

	(void)state;
	packet_encode(&sample, &raw);
	assert_memory_equal(&raw, wire, sizeof(wire));
	packet_decode(&raw, &back);
	assert_int_equal(back.src_cid, sample.src_cid);
	assert_int_equal(back.fwd_cnt, sample.fwd_cnt);
	packet_encode(&back, &raw); /* and so all the others */
	assert_memory_equal(&raw, wire, sizeof(wire));
}

static void what_a_guest_may_send(void **state)
{
	static const struct {
		uint64_t src, dst;
		uint16_t type, op;
		uint32_t len;
		size_t payload;
		enum packet_verdict verdict;
	} cases[] = {
		{42, 2, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0, PACKET_OK},
		{42, 2, 1, VIRTIO_VSOCK_OP_RW, 10, 10, PACKET_OK},
		{42, 2, 1, VIRTIO_VSOCK_OP_RW, 10, 4096, PACKET_OK},
		{42, 2, 1, VIRTIO_VSOCK_OP_RW, 0, 0, PACKET_OK},
		{42, 2, 1, VIRTIO_VSOCK_OP_RST, 0, 0, PACKET_OK},
		/* more announced than there is */
		{42, 2, 1, VIRTIO_VSOCK_OP_RW, 11, 10, PACKET_RESET},
		{42, 2, 1, VIRTIO_VSOCK_OP_RW, UINT32_MAX, 65536, PACKET_RESET},
		{42, 2, 1, VIRTIO_VSOCK_OP_SHUTDOWN, 1, 1, PACKET_RESET},
		{42, 2, 1, VIRTIO_VSOCK_OP_INVALID, 0, 0, PACKET_RESET},
		{42, 2, 1, 8, 0, 0, PACKET_RESET},
		{42, 2, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_OP_REQUEST, 0, 0, PACKET_RESET},
		/* never RST for RST */
		{42, 2, VIRTIO_VSOCK_TYPE_SEQPACKET, VIRTIO_VSOCK_OP_RST, 0, 0, PACKET_DROP},
		/* somebody else's name, somebody else's mail */
		{43, 2, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0, PACKET_DROP},
		{UINT64_C(0x10000002a), 2, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0, PACKET_DROP},
		{42, 1, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0, PACKET_DROP},
		{42, 42, 1, VIRTIO_VSOCK_OP_REQUEST, 0, 0, PACKET_DROP},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct packet p = {.src_cid = cases[i].src,
			.dst_cid = cases[i].dst,
			.type = cases[i].type,
			.op = cases[i].op,
			.len = cases[i].len};
		if (packet_check(&p, 42, cases[i].payload) != cases[i].verdict)
			fail_msg("case %zu", i);
	}
}

static void scattered_memory_is_copied_and_cut(void **state)
{
	char a[3] = "abc", b[1] = "d", c[4] = "efgh", out[16] = "";
	const struct iovec iov[] = {{a, 3}, {NULL, 0}, {b, 1}, {c, 4}};
	struct iovec cut[4];

	(void)state;
	assert_int_equal(iov_total(iov, 4), 8);
	assert_int_equal(iov_read(iov, 4, 2, out, 4), 4);
	assert_memory_equal(out, "cdef", 4);
	assert_int_equal(iov_read(iov, 4, 6, out, 10), 2); /* no more is there */
	assert_int_equal(iov_read(iov, 4, 8, out, 1), 0);
	assert_int_equal(iov_write(iov, 4, 2, "XYZ", 3), 3);
	assert_memory_equal(a, "abX", 3);
	assert_memory_equal(b, "Y", 1);
	assert_memory_equal(c, "Zfgh", 4);
	assert_int_equal(iov_write(iov, 4, 7, "123", 3), 1);
	assert_int_equal(iov_slice(iov, 4, 1, 4, cut, 4), 3);
	assert_ptr_equal(cut[0].iov_base, a + 1);
	assert_int_equal(cut[0].iov_len, 2);
	assert_int_equal(cut[2].iov_len, 1);
	assert_int_equal(iov_slice(iov, 4, 0, 8, cut, 2), 2); /* room for two pieces */
	assert_int_equal(iov_slice(iov, 4, 8, 1, cut, 4), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_are_little_endian),
		cmocka_unit_test(what_a_guest_may_send),
		cmocka_unit_test(scattered_memory_is_copied_and_cut),
	};
	return cmocka_run_group_tests_name("vsock_packet", tests, NULL, NULL);
}
