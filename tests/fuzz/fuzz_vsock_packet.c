/* Packets, host sockets and time in any order, against the connection table. The input is a list of
 * actions. Besides crashes: no packet to the guest exceeds its credit or its buffer, and the counts
 * come back to zero. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "orchestrator/vsock-device/conn.h"
#include "orchestrator/vsock-device/packet.h"

#define CID	42
#define SOCKETS 16
#define BUFFERS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p, *end;
};

static char dir[] = "/tmp/fuzz-vsock.XXXXXX", path[64], listening[80];
static int listener = -1;

static void remove_dir(void)
{
	unlink(listening);
	rmdir(dir);
}

/* Host port 1 has a listener, the others do not. */
static void set_up(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (listener >= 0)
		return;
	if (!mkdtemp(dir))
		abort();
	snprintf(path, sizeof(path), "%s/v", dir);
	snprintf(listening, sizeof(listening), "%s_1", path);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", listening);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listener, 4) < 0)
		abort();
	atexit(remove_dir);
}

static uint8_t byte(struct input *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

static void add_socket(int *sockets, int fd)
{
	for (unsigned i = 0; i < SOCKETS; i++) {
		if (sockets[i] < 0) {
			sockets[i] = fd;
			return;
		}
	}
	close(fd);
}

static void host_dials(struct conns *conns, struct input *in, int *sockets, uint64_t now)
{
	int pair[2];
	char line[32];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0)
		return;
	uint8_t how = byte(in);
	int n = snprintf(
		line, sizeof(line), how & 0x80 ? "CONNEC%u\nxx" : "CONNECT %u\nxx", how & 3);
	if (send(pair[1], line, (size_t)n - (how & 0x40 ? 3 : 0), MSG_NOSIGNAL) < 0)
		abort();
	add_socket(sockets, pair[1]);
	conns_accept(conns, pair[0], now);
}

static void host_acts(struct input *in, int *sockets)
{
	static char buf[65536];
	uint8_t what = byte(in);
	int *fd = &sockets[what % SOCKETS];

	switch (what >> 4 & 7) {
	case 0:
	case 1:
		if (*fd >= 0)
			send(*fd, buf, (size_t)byte(in) << 8 | 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 2:
	case 3:
		if (*fd >= 0)
			recv(*fd, buf, sizeof(buf), MSG_DONTWAIT);
		break;
	case 4:
		shutdown(*fd, SHUT_WR);
		break;
	case 5:
		shutdown(*fd, SHUT_RD);
		break;
	case 6:
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		break;
	default: {
		int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
		if (accepted >= 0)
			add_socket(sockets, accepted);
	}
	}
}

/* The ports the table gave to connections it began, as a guest would know them. */
static uint32_t known_ports[4];

static void guest_sends(struct conns *conns, struct input *in, uint64_t now)
{
	static uint8_t payload[65536];
	struct virtio_vsock_hdr raw;
	uint8_t how = byte(in), ports = byte(in), amount = byte(in);
	uint32_t present = (uint32_t)amount << 8;
	const struct packet packet = {
		.src_cid = how == 0xff ? 9 : CID,
		.dst_cid = PACKET_CID_HOST,
		.src_port = ports & 3,
		.dst_port = ports & 0x40 ? known_ports[ports >> 4 & 3] : ports >> 4 & 3,
		.len = (how & 15) == VIRTIO_VSOCK_OP_RW ? present + (how >> 7 && amount == 7) : 0,
		.type = how == 0xfe ? 2 : VIRTIO_VSOCK_TYPE_STREAM,
		.op = how & 15,
		.flags = amount,
		.buf_alloc = (uint32_t)byte(in) << 10,
		.fwd_cnt = (uint32_t)byte(in) << 9,
	};
	packet_encode(&packet, &raw);
	struct iovec iov[3] = {
		{&raw, 20}, {(char *)&raw + 20, sizeof(raw) - 20}, {payload, present}};
	conns_receive(conns, iov, 3, now);
}

static void to_guest(struct conns *conns, struct input *in, uint64_t now)
{
	uint8_t sizes = byte(in);
	struct vring_chain chains[BUFFERS];
	uint32_t written[BUFFERS];
	unsigned n = 1 + sizes % BUFFERS;
	size_t size = PACKET_HEADER_BYTES + 1 + (size_t)sizes * 16;

	for (unsigned i = 0; i < n; i++) {
		char *p = malloc(size);
		chains[i].n = 2;
		chains[i].size = size;
		chains[i].iov[0] = (struct iovec){p, 7};
		chains[i].iov[1] = (struct iovec){p + 7, size - 7};
	}
	unsigned used = conns_fill(conns, chains, n, written, now);
	for (unsigned i = 0; i < n; i++) {
		struct virtio_vsock_hdr raw;
		struct packet packet;
		if (i < used) {
			memcpy(&raw, chains[i].iov[0].iov_base, sizeof(raw));
			packet_decode(&raw, &packet);
			if (written[i] > size || written[i] != sizeof(raw) + packet.len ||
				packet.src_cid != PACKET_CID_HOST || packet.dst_cid != CID)
				abort();
			if (packet.op == VIRTIO_VSOCK_OP_REQUEST)
				known_ports[packet.src_port & 3] = packet.src_port;
		}
		free(chains[i].iov[0].iov_base);
	}
	if (used > n)
		abort();
}

static void events(struct conns *conns, int epoll_fd, uint64_t now)
{
	struct epoll_event ev[SOCKETS];
	int n = epoll_wait(epoll_fd, ev, SOCKETS, 0);

	(void)conns;
	for (int i = 0; i < n; i++)
		conns_event((struct conn *)(uintptr_t)ev[i].data.u64, ev[i].events, now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	int sockets[SOCKETS], epoll_fd = epoll_create1(0);
	uint64_t now = 1;

	set_up();
	memset(sockets, -1, sizeof(sockets));
	memset(known_ports, 0, sizeof(known_ports));
	struct conns *conns = conns_new(epoll_fd, path, CID, 8);
	conns_set_live(conns, true);
	for (unsigned steps = 0; in.p < in.end && steps < 256; steps++) {
		switch (byte(&in) & 7) {
		case 0:
			host_dials(conns, &in, sockets, now);
			break;
		case 1:
			host_acts(&in, sockets);
			break;
		case 2:
		case 3:
			if (conns_may_receive(conns))
				guest_sends(conns, &in, now);
			break;
		case 4:
		case 5:
			to_guest(conns, &in, now);
			break;
		case 6:
			now += (uint64_t)byte(&in) << 16;
			conns_expire(conns, now);
			break;
		default:
			if (byte(&in) == 0xee)
				conns_reset(conns);
		}
		events(conns, epoll_fd, now);
		conns_bury(conns);
		if (conns_count(conns) > 8 || conns_draining(conns) > conns_count(conns))
			abort();
	}
	for (unsigned i = 0; i < SOCKETS; i++)
		if (sockets[i] >= 0)
			close(sockets[i]);
	/* With every host socket gone and the guest silent, time ends all that is left. */
	for (unsigned i = 0; i < 64 && conns_count(conns); i++) {
		now += 10 * 1000000;
		events(conns, epoll_fd, now);
		conns_expire(conns, now);
		for (unsigned fills = 0; conns_want(conns); fills++) {
			const uint8_t large = 0xff;
			in = (struct input){&large, &large + 1};
			to_guest(conns, &in, now);
			if (fills > 4096)
				abort();
		}
		conns_bury(conns);
		int accepted;
		while ((accepted = accept4(listener, NULL, NULL, 0)) >= 0)
			close(accepted);
	}
	if (conns_count(conns))
		abort();
	conns_free(conns);
	close(epoll_fd);
	return 0;
}
