/* Connections, with the test as the guest (packets) and as the host's programs (sockets). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/util.h"
#include "orchestrator/vsock-device/conn.h"
#include "orchestrator/vsock-device/packet.h"

#define CID	    42
#define CAP	    8
#define BUFFERS	    8
#define BUFFER_SIZE (PACKET_HEADER_BYTES + 4096)
#define SECOND	    UINT64_C(1000000)

struct world {
	char dir[32];
	char path[48];
	int epoll_fd, listener; /* the latter on host port 7 */
	struct conns *conns;
	uint64_t now;
	/* The last packet to the guest. */
	struct packet packet;
	uint8_t data[BUFFER_SIZE];
	/* What the guest tells with each packet. */
	uint32_t buf_alloc, fwd_cnt;
};

static int set_up(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	strcpy(w->dir, "/tmp/test_vsock.XXXXXX");
	if (!mkdtemp(w->dir))
		return -1;
	snprintf(w->path, sizeof(w->path), "%s/v", w->dir);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_7", w->path);
	w->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (bind(w->listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		listen(w->listener, 1) < 0)
		return -1;
	w->epoll_fd = epoll_create1(0);
	w->conns = conns_new(w->epoll_fd, w->path, CID, CAP);
	conns_set_live(w->conns, true);
	w->now = SECOND;
	w->buf_alloc = 65536;
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	conns_free(w->conns);
	close(w->epoll_fd);
	close(w->listener);
	remove_tree(w->dir, NULL);
	free(w);
	return 0;
}

static void run_events(struct world *w)
{
	struct epoll_event ev[16];
	int n;

	while ((n = epoll_wait(w->epoll_fd, ev, 16, 0)) > 0)
		for (int i = 0; i < n; i++)
			conns_event((struct conn *)(uintptr_t)ev[i].data.u64, ev[i].events, w->now);
	conns_bury(w->conns);
}

static void guest_send_sized(struct world *w, uint16_t op, uint32_t guest_port, uint32_t host_port,
	uint32_t flags, const void *data, uint32_t len, uint32_t present)
{
	const struct packet packet = {.src_cid = CID,
		.dst_cid = PACKET_CID_HOST,
		.src_port = guest_port,
		.dst_port = host_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.flags = flags,
		.buf_alloc = w->buf_alloc,
		.fwd_cnt = w->fwd_cnt};
	struct virtio_vsock_hdr raw;
	struct iovec iov[] = {{&raw, sizeof(raw)}, {(void *)(uintptr_t)data, present}};

	packet_encode(&packet, &raw);
	assert_true(conns_may_receive(w->conns));
	conns_receive(w->conns, iov, 2, w->now);
	conns_bury(w->conns);
}

static void guest_send(struct world *w, uint16_t op, uint32_t guest_port, uint32_t host_port,
	uint32_t flags, const void *data, uint32_t len)
{
	guest_send_sized(w, op, guest_port, host_port, flags, data, len, len);
}

/* The next packet for the guest, its operation; 0: none. */
static uint16_t guest_receive(struct world *w)
{
	struct vring_chain buffer = {.n = 2, .size = BUFFER_SIZE};
	struct virtio_vsock_hdr raw;
	uint32_t written;

	run_events(w);
	/* The header lies across the pieces. */
	buffer.iov[0] = (struct iovec){w->data, 20};
	buffer.iov[1] = (struct iovec){w->data + 20, BUFFER_SIZE - 20};
	if (!conns_want(w->conns) || !conns_fill(w->conns, &buffer, 1, &written, w->now))
		return 0;
	conns_bury(w->conns);
	memcpy(&raw, w->data, sizeof(raw));
	packet_decode(&raw, &w->packet);
	assert_int_equal(written, sizeof(raw) + w->packet.len);
	assert_int_equal(w->packet.src_cid, PACKET_CID_HOST);
	assert_int_equal(w->packet.dst_cid, CID);
	return w->packet.op;
}

static void expect_op(struct world *w, uint16_t op)
{
	assert_int_equal(guest_receive(w), op);
}

static void expect_rst(struct world *w, uint32_t guest_port, uint32_t host_port)
{
	expect_op(w, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(w->packet.dst_port, guest_port);
	assert_int_equal(w->packet.src_port, host_port);
}

/* A host program connects and sends a line. */
static int host_dial(struct world *w, const char *line)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(write(pair[1], line, strlen(line)), (ssize_t)strlen(line));
	conns_accept(w->conns, pair[0], w->now);
	run_events(w);
	return pair[1];
}

static void expect_text(int fd, const char *text)
{
	char buf[64] = "";
	ssize_t n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	assert_int_equal(n, (ssize_t)strlen(text));
	assert_string_equal(buf, text);
}

static void expect_eof(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), 0);
}

/* An open connection, dialled by the host to guest port 5; the host's port in *ret_port. */
static int open_by_host(struct world *w, uint32_t *ret_port)
{
	char ok[32];
	int fd = host_dial(w, "CONNECT 5\n");

	expect_op(w, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(w->packet.dst_port, 5);
	*ret_port = w->packet.src_port;
	guest_send(w, VIRTIO_VSOCK_OP_RESPONSE, 5, *ret_port, 0, NULL, 0);
	snprintf(ok, sizeof(ok), "OK %u\n", *ret_port);
	expect_text(fd, ok);
	return fd;
}

/* An open connection, dialled by the guest from this port to host port 7. */
static int open_by_guest(struct world *w, uint32_t guest_port)
{
	guest_send(w, VIRTIO_VSOCK_OP_REQUEST, guest_port, 7, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RESPONSE);
	int fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK);
	assert_true(fd >= 0);
	return fd;
}

static void the_host_dials(void **state)
{
	struct world *w = *state;
	uint32_t port;
	_cleanup_close_ int fd = open_by_host(w, &port);

	assert_true(port >= 1u << 30);
	assert_int_equal(write(fd, "hello", 5), 5);
	expect_op(w, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(w->packet.len, 5);
	assert_memory_equal(w->data + PACKET_HEADER_BYTES, "hello", 5);
	assert_int_equal(guest_receive(w), 0);
	guest_send(w, VIRTIO_VSOCK_OP_RW, 5, port, 0, "world", 5);
	expect_text(fd, "world");
	/* Bytes sent before the OK belong to the guest too. */
	_cleanup_close_ int early = host_dial(w, "CONNECT 6\nearly");
	expect_op(w, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(guest_receive(w), 0);
	guest_send(w, VIRTIO_VSOCK_OP_RESPONSE, 6, w->packet.src_port, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RW);
	assert_memory_equal(w->data + PACKET_HEADER_BYTES, "early", 5);
}

static void nobody_listens_in_the_guest(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int fd = host_dial(w, "CONNECT 5\n");

	expect_op(w, VIRTIO_VSOCK_OP_REQUEST);
	guest_send(w, VIRTIO_VSOCK_OP_RST, 5, w->packet.src_port, 0, NULL, 0);
	expect_eof(fd);
	assert_int_equal(conns_count(w->conns), 0);
}

static void a_guest_that_does_not_answer(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int fd = host_dial(w, "CONNECT 5\n");
	char c;

	expect_op(w, VIRTIO_VSOCK_OP_REQUEST);
	uint32_t port = w->packet.src_port;
	w->now += CONN_CONNECT_USEC - 1;
	uint64_t next = conns_expire(w->conns, w->now);
	assert_int_equal(next, w->now + 1);
	assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), -1);
	w->now = next;
	assert_int_equal(conns_expire(w->conns, w->now), UINT64_MAX);
	expect_eof(fd);
	expect_rst(w, 5, port);
	assert_int_equal(conns_count(w->conns), 0);
}

static void handshakes_that_are_none(void **state)
{
	static const char *const lines[] = {"CONNECT \n", "CONNECT x\n", "CONNECT -1\n",
		"CONNECT 4294967296\n", "connect 5\n", "CONNECT 5 \n", "CONNECT  5\n", "\n",
		"GET / HTTP/1.0\r\n", "CONNECT 00000000000000000000000000000005\n"};
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		_cleanup_close_ int fd = host_dial(w, lines[i]);
		char c;
		ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
		if (n > 0 || (n < 0 && errno != ECONNRESET))
			fail_msg("not refused: %s", lines[i]);
		assert_int_equal(guest_receive(w), 0);
	}
	/* Half a line is waited for, but not for ever. */
	_cleanup_close_ int slow = host_dial(w, "CONNE");
	assert_int_equal(conns_count(w->conns), 1);
	assert_int_equal(write(slow, "CT 4294967295\n", 14), 14);
	expect_op(w, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(w->packet.dst_port, UINT32_MAX);
	_cleanup_close_ int never = host_dial(w, "CONNECT 5");
	w->now += CONN_HANDSHAKE_USEC;
	conns_expire(w->conns, w->now);
	conns_bury(w->conns);
	assert_int_equal(recv(never, (char[1]){0}, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, ECONNRESET);
	/* Nobody there yet. */
	conns_set_live(w->conns, false);
	_cleanup_close_ int soon = host_dial(w, "CONNECT 5\n");
	assert_true(recv(soon, (char[1]){0}, 1, MSG_DONTWAIT) <= 0);
	assert_int_equal(conns_count(w->conns), 1);
}

static void the_guest_dials(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int fd = open_by_guest(w, 1234);

	assert_int_equal(w->packet.src_port, 7);
	assert_int_equal(w->packet.dst_port, 1234);
	assert_true(w->packet.buf_alloc >= CONN_BUFFER_LEAST);
	guest_send(w, VIRTIO_VSOCK_OP_RW, 1234, 7, 0, "hi", 2);
	expect_text(fd, "hi");
	/* Port 8 has no listener. */
	guest_send(w, VIRTIO_VSOCK_OP_REQUEST, 1235, 8, 0, NULL, 0);
	expect_rst(w, 1235, 8);
	/* A second REQUEST for the same pair ends the first. */
	guest_send(w, VIRTIO_VSOCK_OP_REQUEST, 1234, 7, 0, NULL, 0);
	expect_rst(w, 1234, 7);
	expect_eof(fd);
	assert_int_equal(conns_count(w->conns), 0);
}

static void a_full_backlog_is_waited_for(void **state)
{
	struct world *w = *state;
	int fds[4];

	/* The listener takes two; the third waits. */
	for (uint32_t i = 0; i < 3; i++)
		guest_send(w, VIRTIO_VSOCK_OP_REQUEST, 100 + i, 7, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RESPONSE);
	expect_op(w, VIRTIO_VSOCK_OP_RESPONSE);
	assert_int_equal(guest_receive(w), 0);
	fds[0] = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK);
	w->now += SECOND;
	conns_expire(w->conns, w->now);
	expect_op(w, VIRTIO_VSOCK_OP_RESPONSE);
	assert_int_equal(w->packet.dst_port, 102);
	/* The fourth in vain. */
	guest_send(w, VIRTIO_VSOCK_OP_REQUEST, 103, 7, 0, NULL, 0);
	assert_int_equal(guest_receive(w), 0);
	w->now += CONN_DIAL_USEC;
	conns_expire(w->conns, w->now);
	expect_rst(w, 103, 7);
	assert_int_equal(conns_expire(w->conns, w->now), UINT64_MAX);
	close(fds[0]);
}

static void the_guest_s_credit_is_respected(void **state)
{
	struct world *w = *state;
	uint32_t port, total = 0;
	char big[8192] = {0};

	w->buf_alloc = 5000;
	_cleanup_close_ int fd = open_by_host(w, &port);
	assert_int_equal(write(fd, big, sizeof(big)), sizeof(big));
	while (guest_receive(w) == VIRTIO_VSOCK_OP_RW)
		total += w->packet.len;
	assert_int_equal(total, 5000);
	assert_false(conns_want(w->conns)); /* and nobody spins */
	w->fwd_cnt = 1;
	guest_send(w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 5, port, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(w->packet.len, 1);
	assert_int_equal(guest_receive(w), 0);
	/* Old and impossible counts do not move it. */
	w->fwd_cnt = 0;
	guest_send(w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 5, port, 0, NULL, 0);
	w->fwd_cnt = 5002;
	guest_send(w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 5, port, 0, NULL, 0);
	assert_int_equal(guest_receive(w), 0);
	w->fwd_cnt = 5001;
	guest_send(w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 5, port, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(w->packet.len, 8192 - 5001);
	/* The end needs no credit. */
	w->buf_alloc = 0;
	guest_send(w, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 5, port, 0, NULL, 0);
	shutdown(fd, SHUT_WR);
	expect_op(w, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(w->packet.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
}

static void a_host_that_reads_slowly(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int fd = open_by_guest(w, 1234);
	uint32_t credit = w->packet.buf_alloc, sent = 0, forwarded = 0;
	_cleanup_free_ uint8_t *pattern = xmalloc(60000), *back = xmalloc(60000);

	for (uint32_t i = 0; i < 60000; i++)
		pattern[i] = (uint8_t)(i * 7);
	/* As much as it may; then not one byte more. */
	while (forwarded + credit - sent >= 60000) {
		guest_send(w, VIRTIO_VSOCK_OP_RW, 1234, 7, 0, pattern, 60000);
		sent += 60000;
		if (guest_receive(w) == VIRTIO_VSOCK_OP_CREDIT_UPDATE)
			forwarded = w->packet.fwd_cnt;
		assert_true(sent < 64u << 20); /* the socket must fill up some time */
	}
	assert_true(forwarded < sent);
	/* The host reads all of it, unharmed, and credit comes back. */
	uint32_t seen = 0;
	while (seen < sent) {
		ssize_t n = recv(fd, back, 60000 - seen % 60000, MSG_DONTWAIT);
		if (n <= 0)
			fail_msg("%u of %u bytes", seen, sent);
		assert_memory_equal(back, pattern + seen % 60000, (size_t)n);
		seen += (uint32_t)n;
		if (guest_receive(w) == VIRTIO_VSOCK_OP_CREDIT_UPDATE)
			forwarded = w->packet.fwd_cnt;
	}
	guest_send(w, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 1234, 7, 0, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(w->packet.fwd_cnt, sent);
}

static void more_than_the_credit_is_an_offence(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int fd = open_by_guest(w, 1234);
	_cleanup_free_ uint8_t *big = xcalloc(1, 65536);
	unsigned n;

	for (n = 0; n < 1000; n++) {
		guest_send(w, VIRTIO_VSOCK_OP_RW, 1234, 7, 0, big, 65536);
		uint16_t op = guest_receive(w);
		if (op == VIRTIO_VSOCK_OP_RST)
			break;
	}
	assert_in_range(n, 3, 999);
	assert_int_equal(conns_count(w->conns), 0);
}

static void half_closes_go_both_ways(void **state)
{
	struct world *w = *state;
	uint32_t port;
	_cleanup_close_ int fd = open_by_host(w, &port);

	/* The host says no more, the guest goes on. */
	assert_int_equal(write(fd, "last", 4), 4);
	shutdown(fd, SHUT_WR);
	expect_op(w, VIRTIO_VSOCK_OP_RW);
	expect_op(w, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(w->packet.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	guest_send(w, VIRTIO_VSOCK_OP_RW, 5, port, 0, "answer", 6);
	guest_send(w, VIRTIO_VSOCK_OP_SHUTDOWN, 5, port, PACKET_SHUT_BOTH, NULL, 0);
	expect_rst(w, 5, port);
	expect_text(fd, "answer");
	expect_eof(fd);
	assert_int_equal(conns_count(w->conns), 0);

	/* And the other way round. */
	_cleanup_close_ int other = open_by_guest(w, 1234);
	guest_send(w, VIRTIO_VSOCK_OP_RW, 1234, 7, 0, "q", 1);
	guest_send(w, VIRTIO_VSOCK_OP_SHUTDOWN, 1234, 7, VIRTIO_VSOCK_SHUTDOWN_SEND, NULL, 0);
	expect_text(other, "q");
	expect_eof(other);
	assert_int_equal(write(other, "answer", 6), 6);
	expect_op(w, VIRTIO_VSOCK_OP_RW);
	close_fd(&other);
	expect_op(w, VIRTIO_VSOCK_OP_SHUTDOWN);
	if (w->packet.flags != PACKET_SHUT_BOTH) {
		expect_op(w, VIRTIO_VSOCK_OP_SHUTDOWN);
		assert_int_equal(w->packet.flags, PACKET_SHUT_BOTH);
	}
	/* A guest that does not let go. */
	w->now += CONN_CLOSE_USEC;
	conns_expire(w->conns, w->now);
	expect_rst(w, 1234, 7);
	assert_int_equal(conns_count(w->conns), 0);

	/* Data after the end is an offence. */
	_cleanup_close_ int third = open_by_guest(w, 1235);
	guest_send(w, VIRTIO_VSOCK_OP_SHUTDOWN, 1235, 7, VIRTIO_VSOCK_SHUTDOWN_SEND, NULL, 0);
	guest_send(w, VIRTIO_VSOCK_OP_RW, 1235, 7, 0, "x", 1);
	expect_rst(w, 1235, 7);
}

static void a_host_that_dies(void **state)
{
	struct world *w = *state;
	uint32_t port;
	int fd = open_by_host(w, &port);

	assert_int_equal(write(fd, "rest", 4), 4);
	close(fd);
	/* What it wrote still arrives. */
	unsigned flags = 0;
	bool rest = false;
	for (uint16_t op; (op = guest_receive(w));) {
		if (op == VIRTIO_VSOCK_OP_RW)
			rest = true;
		else
			flags |= w->packet.flags;
		guest_send(w, VIRTIO_VSOCK_OP_RW, 5, port, 0, "to nobody", 9);
	}
	assert_true(rest);
	assert_int_equal(flags, PACKET_SHUT_BOTH);
	guest_send(w, VIRTIO_VSOCK_OP_RST, 5, port, 0, NULL, 0);
	assert_int_equal(conns_count(w->conns), 0);
}

static void a_guest_that_ends_leaves_its_bytes(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int fd = open_by_guest(w, 1234);
	_cleanup_free_ char *big = xcalloc(1, 65536);
	uint32_t sent = 0;
	ssize_t n;

	/* More than a socket holds, less than socket and buffer together. */
	for (unsigned i = 0; i < 6; i++, sent += 60000)
		guest_send(w, VIRTIO_VSOCK_OP_RW, 1234, 7, 0, big, 60000);
	guest_send(w, VIRTIO_VSOCK_OP_SHUTDOWN, 1234, 7, PACKET_SHUT_BOTH, NULL, 0);
	expect_op(w, VIRTIO_VSOCK_OP_RST); /* its port is free at once */
	conns_reset(w->conns);		   /* and even if it reboots */
	assert_int_equal(conns_draining(w->conns), 1);
	while ((n = recv(fd, big, 65536, MSG_DONTWAIT)) > 0) {
		sent -= (uint32_t)n;
		run_events(w);
	}
	assert_int_equal(n, 0);
	assert_int_equal(sent, 0);
	assert_int_equal(conns_count(w->conns), 0);
}

static void strays_get_a_rst(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int fd = open_by_guest(w, 1234);

	guest_send(w, VIRTIO_VSOCK_OP_RW, 9, 9, 0, "x", 1);
	expect_rst(w, 9, 9);
	guest_send(w, VIRTIO_VSOCK_OP_RST, 9, 9, 0, NULL, 0);
	assert_int_equal(guest_receive(w), 0);
	/* A packet that lies about its length ends its connection. */
	guest_send_sized(w, VIRTIO_VSOCK_OP_RW, 1234, 7, 0, "xy", 3, 2);
	expect_rst(w, 1234, 7);
	assert_int_equal(conns_count(w->conns), 0);
	/* Answers wait for the guest's buffers, and their number has an end. */
	unsigned n;
	for (n = 0; n < 10000 && conns_may_receive(w->conns); n++)
		guest_send(w, VIRTIO_VSOCK_OP_RW, 9, 9, 0, "x", 1);
	assert_in_range(n, 16, 9999);
	expect_rst(w, 9, 9);
	assert_true(conns_may_receive(w->conns));
}

static void the_guest_cannot_shut_the_host_out(void **state)
{
	struct world *w = *state;
	int fds[CAP];
	unsigned n;
	uint32_t port;

	for (n = 0; n < CAP; n++) {
		guest_send(w, VIRTIO_VSOCK_OP_REQUEST, 100 + n, 7, 0, NULL, 0);
		if (guest_receive(w) != VIRTIO_VSOCK_OP_RESPONSE)
			break;
		fds[n] = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK);
	}
	assert_int_equal(n, CAP - CAP / 4);
	assert_int_equal(w->packet.op, VIRTIO_VSOCK_OP_RST);
	_cleanup_close_ int a = open_by_host(w, &port);
	_cleanup_close_ int b = open_by_host(w, &port);
	_cleanup_close_ int c = host_dial(w, "CONNECT 5\n");
	assert_true(recv(c, (char[1]){0}, 1, MSG_DONTWAIT) <= 0); /* that was all */
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
}

static void a_reset_device_forgets_all(void **state)
{
	struct world *w = *state;
	uint32_t port;
	_cleanup_close_ int a = open_by_host(w, &port), b = open_by_guest(w, 1234);

	guest_send(w, VIRTIO_VSOCK_OP_RW, 9, 9, 0, "x", 1);
	conns_reset(w->conns);
	conns_bury(w->conns);
	expect_eof(a);
	expect_eof(b);
	assert_int_equal(conns_count(w->conns), 0);
	assert_int_equal(guest_receive(w), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_host_dials),
		TEST(nobody_listens_in_the_guest),
		TEST(a_guest_that_does_not_answer),
		TEST(handshakes_that_are_none),
		TEST(the_guest_dials),
		TEST(a_full_backlog_is_waited_for),
		TEST(the_guest_s_credit_is_respected),
		TEST(a_host_that_reads_slowly),
		TEST(more_than_the_credit_is_an_offence),
		TEST(half_closes_go_both_ways),
		TEST(a_host_that_dies),
		TEST(a_guest_that_ends_leaves_its_bytes),
		TEST(strays_get_a_rst),
		TEST(the_guest_cannot_shut_the_host_out),
		TEST(a_reset_device_forgets_all),
	};
	return cmocka_run_group_tests_name("vsock_conn", tests, NULL, NULL);
}
