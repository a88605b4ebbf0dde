#include "orchestrator/vsock-device/device.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/vsock-device/conn.h"
#include "orchestrator/vsock-device/packet.h"
#include "orchestrator/vsock-device/vhost_user.h"

#define TX_BUDGET	  256 /* packets from the guest before events are looked at again */
#define RX_BUFFERS	  32  /* of the guest's, offered to the host's sockets at once */
#define RX_ROUNDS	  8
#define EVENTS		  64
#define ACCEPTS		  16
#define ACCEPT_PAUSE_USEC 100000
#define DRAIN_USEC	  1000000
#define WARNINGS_MAX	  16

/* What is in epoll_data.u64; anything larger is the address of a conn. */
enum source { SOURCE_QEMU, SOURCE_LISTENER, SOURCE_STOP, SOURCE_RX_KICK, SOURCE_TX_KICK, SOURCES };

struct device {
	int epoll_fd;
	int uds_fd; /* borrowed */
	bool attached;
	bool stopped;
	bool busy;		/* a budget ran out: there is more to do */
	uint64_t accept_paused; /* until then; 0: not */
	unsigned warnings;
	struct vhost_user vu;
	struct conns *conns; /* owned */
	struct vring_chain tx_chain, rx_chains[RX_BUFFERS];
};

/* The guest can cause these at will, so there is an end to them. */
static void warn(struct device *device, const char *what, const char *why)
{
	if (device->warnings++ < WARNINGS_MAX)
		log_warn("vsock-device", "%s: %s", what, why);
}

static int watch(struct device *device, int fd, enum source source, uint32_t events)
{
	struct epoll_event ev = {.events = events};

	ev.data.u64 = source;
	return epoll_ctl(device->epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

/* --- rings --------------------------------------------------------------------------------------
 */

static bool rings_live(const struct device *device)
{
	return vhost_ring_is_live(&device->vu.rings[VHOST_RING_RX]) &&
	       vhost_ring_is_live(&device->vu.rings[VHOST_RING_TX]);
}

static int ring_live(void *arg, unsigned index, struct error **err)
{
	struct device *device = arg;

	/* Edge-triggered, so that a kick need not be read. */
	if (watch(device, device->vu.rings[index].kick,
		    index == VHOST_RING_RX ? SOURCE_RX_KICK : SOURCE_TX_KICK,
		    EPOLLIN | EPOLLET) < 0)
		return error_errno(err, errno, "watching ring %u", index);
	conns_set_live(device->conns, rings_live(device));
	device->busy = true; /* what came before the kick fd did */
	return 0;
}

static void ring_dead(void *arg, unsigned index)
{
	struct device *device = arg;

	/* Other processes have the kick fd too, so closing it would not end the watch. */
	epoll_ctl(device->epoll_fd, EPOLL_CTL_DEL, device->vu.rings[index].kick, NULL);
	conns_set_live(device->conns, false);
}

static void reset(void *arg)
{
	struct device *device = arg;

	conns_reset(device->conns);
}

static const struct vhost_user_ops ops = {ring_live, ring_dead, reset};

/* The guest has broken a rule of the ring: its vsock is dead until its driver starts anew. */
static void ring_broken(struct device *device, unsigned index)
{
	const struct vhost_ring *ring = &device->vu.rings[index];

	warn(device, index == VHOST_RING_RX ? "guest's rx ring" : "guest's tx ring",
		ring->vring.broken);
	vhost_ring_error(ring);
	conns_set_live(device->conns, false);
	conns_reset(device->conns);
}

/* Packets from the guest. */
static void move_tx(struct device *device, uint64_t now)
{
	struct vhost_ring *ring = &device->vu.rings[VHOST_RING_TX];
	struct vring_chain *chain = &device->tx_chain;
	unsigned n = 0;
	int r = 0;

	vring_disarm(&ring->vring);
	for (;;) {
		if (n == TX_BUDGET) {
			device->busy = true;
			break;
		}
		/* Answers that the guest makes no room for: it waits, not we. The kick for its rx
		 * ring brings us back. */
		if (!conns_may_receive(device->conns))
			break;
		r = vring_pop(&ring->vring, &device->vu.memory, VRING_FROM_GUEST, chain);
		if (r == 0 && vring_arm(&ring->vring))
			continue;
		if (r <= 0)
			break;
		conns_receive(device->conns, chain->iov, chain->n, now);
		vring_push(&ring->vring, chain->head, 0);
		n++;
	}
	if (n && vring_publish(&ring->vring))
		vhost_ring_call(ring);
	if (ring->vring.broken)
		ring_broken(device, VHOST_RING_TX);
}

/* Take up to RX_BUFFERS receive buffers. */
static unsigned pop_rx(struct device *device)
{
	struct vring *ring = &device->vu.rings[VHOST_RING_RX].vring;
	unsigned n = 0;

	while (n < RX_BUFFERS) {
		struct vring_chain *chain = &device->rx_chains[n];
		int r = vring_pop(ring, &device->vu.memory, VRING_TO_GUEST, chain);
		if (r == 0 && n == 0 && vring_arm(ring))
			continue;
		if (r <= 0)
			break;
		if (chain->size <= PACKET_HEADER_BYTES) {
			ring->broken = "a receive buffer is too small for a packet";
			break;
		}
		n++;
	}
	return n;
}

/* Packets to the guest. */
static void move_rx(struct device *device, uint64_t now)
{
	struct vhost_ring *ring = &device->vu.rings[VHOST_RING_RX];
	uint32_t written[RX_BUFFERS];
	unsigned round;

	vring_disarm(&ring->vring);
	for (round = 0; round < RX_ROUNDS && conns_want(device->conns); round++) {
		unsigned n = pop_rx(device);
		if (!n || ring->vring.broken)
			break; /* the kick for new buffers brings us back */
		unsigned used = conns_fill(device->conns, device->rx_chains, n, written, now);
		for (unsigned i = 0; i < used; i++)
			vring_push(&ring->vring, device->rx_chains[i].head, written[i]);
		vring_unpop(&ring->vring, n - used);
	}
	if (round == RX_ROUNDS)
		device->busy = true;
	if (vring_publish(&ring->vring))
		vhost_ring_call(ring);
	if (ring->vring.broken)
		ring_broken(device, VHOST_RING_RX);
}

static void move(struct device *device, uint64_t now)
{
	device->busy = false;
	if (!rings_live(device))
		return;
	move_tx(device, now);
	bool held = !conns_may_receive(device->conns);
	if (rings_live(device))
		move_rx(device, now);
	/* tx was stopped for want of rx buffers, and some have come. */
	if (held && conns_may_receive(device->conns))
		device->busy = true;
}

/* --- events -------------------------------------------------------------------------------------
 */

static void accept_some(struct device *device, uint64_t now)
{
	for (unsigned i = 0; i < ACCEPTS; i++) {
		int fd = accept4(device->uds_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			conns_accept(device->conns, fd, now);
			continue;
		}
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		/* Out of fds, probably the whole host is: do not spin. */
		warn(device, "accept", errno == EMFILE ? "too many open files" : "failed");
		epoll_ctl(device->epoll_fd, EPOLL_CTL_DEL, device->uds_fd, NULL);
		device->accept_paused = now + ACCEPT_PAUSE_USEC;
		return;
	}
}

static int resume_accept(struct device *device, uint64_t now)
{
	if (!device->accept_paused || device->accept_paused > now)
		return 0;
	device->accept_paused = 0;
	return watch(device, device->uds_fd, SOURCE_LISTENER, EPOLLIN);
}

static int handle(
	struct device *device, const struct epoll_event *ev, uint64_t now, struct error **err)
{
	switch (ev->data.u64) {
	case SOURCE_QEMU:
		return vhost_user_read(&device->vu, err);
	case SOURCE_LISTENER:
		accept_some(device, now);
		break;
	case SOURCE_STOP:
		device->stopped = true;
		return 0;
	case SOURCE_RX_KICK:
	case SOURCE_TX_KICK:
		break; /* each turn looks at the rings anyway */
	default:
		/* Ended conns stay until the end of the turn, so this address is one. */
		conns_event((struct conn *)(uintptr_t)ev->data.u64, ev->events, now);
	}
	return 1;
}

/* Milliseconds until `at`, rounded up, at most timeout_ms (-1: no limit). */
static int shorten(int timeout_ms, uint64_t at, uint64_t now)
{
	if (at == UINT64_MAX)
		return timeout_ms;
	uint64_t ms = at > now ? (at - now + 999) / 1000 : 0;

	return timeout_ms < 0 || ms < (uint64_t)timeout_ms ? (int)MIN(ms, (uint64_t)60000)
							   : timeout_ms;
}

int device_turn(struct device *device, int timeout_ms, struct error **err)
{
	struct epoll_event events[EVENTS];
	uint64_t now = now_mono_usec();
	int result = 1;

	timeout_ms = shorten(timeout_ms, conns_expire(device->conns, now), now);
	if (device->accept_paused)
		timeout_ms = shorten(timeout_ms, device->accept_paused, now);
	if (device->busy)
		timeout_ms = 0;
	int n = epoll_wait(device->epoll_fd, events, EVENTS, timeout_ms);
	if (n < 0 && errno != EINTR)
		return error_errno(err, errno, "epoll_wait");

	now = now_mono_usec();
	for (int i = 0; i < n && result == 1; i++)
		result = handle(device, &events[i], now, err);
	if (result == 1) {
		conns_expire(device->conns, now);
		move(device, now);
		if (resume_accept(device, now) < 0)
			result = error_errno(err, errno, "watching the listening socket");
	}
	conns_bury(device->conns);
	return result;
}

/* --- life ---------------------------------------------------------------------------------------
 */

struct device *device_new(const char *path, int uds_fd, uint64_t guest_cid, unsigned max)
{
	struct device *device = xcalloc(1, sizeof(*device));

	device->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	device->uds_fd = uds_fd;
	device->conns = conns_new(device->epoll_fd, path, guest_cid, max);
	vhost_user_init(&device->vu, -1, guest_cid, &ops, device);
	return device;
}

void device_free(struct device *device)
{
	if (!device)
		return;
	vhost_user_clear(&device->vu);
	conns_free(device->conns);
	close_fd(&device->epoll_fd);
	free(device);
}

int device_attach(struct device *device, int qemu_fd, struct error **err)
{
	device->vu.fd = qemu_fd;
	device->attached = true;
	if (device->epoll_fd < 0 || watch(device, qemu_fd, SOURCE_QEMU, EPOLLIN) < 0 ||
		watch(device, device->uds_fd, SOURCE_LISTENER, EPOLLIN) < 0)
		return error_errno(err, errno, "setting up epoll");
	return 0;
}

/* The VM is gone. What it sent before that, and its readers have not taken, gets a moment more. */
static void drain(struct device *device)
{
	uint64_t end = now_mono_usec() + DRAIN_USEC;

	vhost_user_clear(&device->vu);
	epoll_ctl(device->epoll_fd, EPOLL_CTL_DEL, device->uds_fd, NULL);
	conns_reset(device->conns);
	while (conns_draining(device->conns) && !device->stopped) {
		uint64_t now = now_mono_usec();
		if (now >= end || device_turn(device, shorten(-1, end, now), NULL) < 0)
			break;
	}
}

int device_run(struct device *device, int qemu_fd, int stop_fd, struct error **err)
{
	int r = device_attach(device, qemu_fd, err);

	if (r == 0 && stop_fd >= 0 && watch(device, stop_fd, SOURCE_STOP, EPOLLIN) < 0)
		r = error_errno(err, errno, "setting up epoll");
	if (r < 0)
		return -1;
	do {
		r = device_turn(device, -1, err);
	} while (r == 1);
	drain(device);
	return r;
}
