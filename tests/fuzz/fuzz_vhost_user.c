/* QEMU's side of the vhost-user connection, hostile, with memory and rings full of the input, and
 * the whole device behind it. */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/log.h"
#include "orchestrator/vsock-device/device.h"
#include "orchestrator/vsock-device/vhost_user.h"

#define MEMORY_BYTES 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int memory_fd = -1, event_fd, small_fd;
static uint8_t *memory;

static void set_up(void)
{
	if (memory_fd >= 0)
		return;
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	memory_fd = memfd_create("ram", MFD_CLOEXEC);
	small_fd = memfd_create("small", MFD_CLOEXEC);
	event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (memory_fd < 0 || small_fd < 0 || event_fd < 0 || ftruncate(memory_fd, MEMORY_BYTES) < 0)
		abort();
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	if (memory == MAP_FAILED)
		abort();
}

static void send_bytes(int fd, const void *p, size_t n, int pass, unsigned n_fds)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * 9)];
	} control;
	struct iovec iov = {(void *)(uintptr_t)p, n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		for (unsigned i = 0; i < n_fds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &pass, sizeof(int));
	}
	if (sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

static void send_message(
	int fd, uint32_t request, const void *payload, uint32_t size, int pass, unsigned n_fds)
{
	struct vhost_message m = {.header = {request, 1, size}};

	memcpy(m.payload.bytes, payload, size);
	send_bytes(fd, &m, sizeof(m.header) + size, pass, n_fds);
}

/* What QEMU sends for a driver that starts, with both rings in the memory. */
static void start(int fd, uint8_t how)
{
	const uint64_t features =
		UINT64_C(1) << 32 | UINT64_C(1) << 30 | 1u << 28 | (uint64_t)(how & 1) << 29;
	const uint64_t table[] = {1, 0, MEMORY_BYTES, 0x7f0000000000, 0};

	send_message(fd, 2, &features, 8, -1, 0);
	send_message(fd, 5, table, sizeof(table), memory_fd, 1);
	for (uint64_t ring = 0; ring < 2; ring++) {
		const uint32_t num[] = {(uint32_t)ring, 16}, base[] = {(uint32_t)ring, how >> 4},
			       enable[] = {(uint32_t)ring, 1};
		const uint64_t at = 0x7f0000000000 + ring * 1024;
		const uint64_t addr[] = {ring, at, at + 512, at + 256, 0};
		send_message(fd, 8, num, 8, -1, 0);
		send_message(fd, 10, base, 8, -1, 0);
		send_message(fd, 9, addr, sizeof(addr), -1, 0);
		send_message(fd, 13, &ring, 8, event_fd, 1);
		send_message(fd, 12, &ring, 8, event_fd, 1);
		send_message(fd, 18, enable, 8, -1, 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *end = data + size;
	int pair[2], uds = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	set_up();
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	memset(memory, 0, MEMORY_BYTES);
	struct device *device = device_new("/nonexistent/vsock", uds, 42, 16);
	int r = device_attach(device, pair[1], NULL) < 0 ? -1 : 1;

	for (unsigned steps = 0; data + 4 < end && r == 1 && steps < 64; steps++) {
		const uint8_t *head = data;
		data += 4;
		size_t left = (size_t)(end - data), n = head[1] < left ? head[1] : left;
		int pass = head[2] & 1 ? event_fd : head[2] & 2 ? small_fd : memory_fd;
		switch (head[0] & 3) {
		case 0: /* into memory, so that rings come to life */
			memcpy(memory + (size_t)head[3] * 64, data, n);
			data += n;
			break;
		case 1: { /* a well-framed message */
			send_message(pair[0], head[3] & 31, data, (uint32_t)n, pass,
				head[2] >> 4 > 9 ? 9 : head[2] >> 4);
			data += n;
			break;
		}
		case 2: /* any bytes */
			send_bytes(pair[0], data, n, pass, head[2] >> 7);
			data += n;
			break;
		default:
			start(pair[0], head[1]);
		}
		uint64_t drop;
		while (recv(pair[0], &drop, sizeof(drop), MSG_DONTWAIT) > 0)
			;
		r = device_turn(device, 0, NULL);
	}
	device_free(device);
	close(pair[0]);
	close(uds);
	return 0;
}
