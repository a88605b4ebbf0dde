#include "orchestrator/vsock-device/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <linux/virtio_vsock.h>
#include <string.h>
#include <sys/socket.h>

#include "common/util.h"

#define FLAG_VERSION	1u
#define FLAG_REPLY	4u
#define FLAG_NEED_REPLY 8u

#define F_INDIRECT_DESC	    (UINT64_C(1) << 28)
#define F_EVENT_IDX	    (UINT64_C(1) << 29)
#define F_PROTOCOL_FEATURES (UINT64_C(1) << 30)
#define F_VERSION_1	    (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define FEATURES	    (F_INDIRECT_DESC | F_EVENT_IDX | F_PROTOCOL_FEATURES | F_VERSION_1)

#define PF_REPLY_ACK	  (UINT64_C(1) << 3)
#define PF_CONFIG	  (UINT64_C(1) << 9)
#define PROTOCOL_FEATURES (PF_REPLY_ACK | PF_CONFIG)

#define VRING_INDEX_MASK 0xffu
#define VRING_NO_FD	 0x100u
#define CONFIG_HEADER	 12u

#define MESSAGES_AT_ONCE 64

enum vhost_request {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	RESET_OWNER = 4,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	SET_VRING_ERR = 14,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	SET_VRING_ENABLE = 18,
	GET_CONFIG = 24,
};

_Static_assert(sizeof(struct vhost_header) == 12, "the wire says so");
_Static_assert(sizeof(((struct vhost_message *)NULL)->payload) == VHOST_USER_PAYLOAD_MAX,
	"every message fits");

void vhost_user_init(struct vhost_user *vu, int fd, uint64_t guest_cid,
	const struct vhost_user_ops *ops, void *arg)
{
	*vu = (struct vhost_user){.ops = ops, .arg = arg, .guest_cid = guest_cid, .fd = fd};
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		vu->rings[i].kick = vu->rings[i].call = vu->rings[i].err = -1;
}

static void drop_fds(struct vhost_user *vu)
{
	for (unsigned i = 0; i < vu->in_n_fds; i++)
		close_fd(&vu->in_fds[i]);
	vu->in_n_fds = 0;
}

bool vhost_ring_is_live(const struct vhost_ring *ring)
{
	return ring->started && ring->enabled && !ring->vring.broken;
}

static void signal_fd(int fd)
{
	const uint64_t one = 1;

	/* An eventfd takes it, or is so full that its reader is awake anyway. */
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return;
}

void vhost_ring_call(const struct vhost_ring *ring)
{
	signal_fd(ring->call);
}

void vhost_ring_error(const struct vhost_ring *ring)
{
	signal_fd(ring->err);
}

/* --- rings --------------------------------------------------------------------------------------
 */

/* Find the ring's three parts in memory. */
static int locate(struct vhost_user *vu, struct vhost_ring *ring, void **ret_desc, void **ret_avail,
	void **ret_used, struct error **err)
{
	*ret_desc = memory_at_user(&vu->memory, ring->desc, vring_desc_bytes(ring->num));
	*ret_avail = memory_at_user(&vu->memory, ring->avail, vring_avail_bytes(ring->num));
	*ret_used = memory_at_user(&vu->memory, ring->used, vring_used_bytes(ring->num));
	if (!*ret_desc || !*ret_avail || !*ret_used)
		return error_set(err, ERR_INVALID, "a ring is not in the guest's memory");
	if ((uintptr_t)*ret_desc % 16 || (uintptr_t)*ret_avail % 2 || (uintptr_t)*ret_used % 4)
		return error_set(err, ERR_INVALID, "a ring is not aligned");
	return 0;
}

static int start_ring(struct vhost_user *vu, unsigned index, struct error **err)
{
	struct vhost_ring *ring = &vu->rings[index];
	void *desc, *avail, *used;

	if (!ring->num || !ring->has_addr || !vu->has_features)
		return error_set(err, ERR_STATE, "ring %u is kicked before it is set up", index);
	if (locate(vu, ring, &desc, &avail, &used, err) < 0)
		return -1;
	vring_start(
		&ring->vring, ring->num, desc, avail, used, ring->base, vu->features & F_EVENT_IDX);
	ring->started = true;
	return ring->enabled ? vu->ops->ring_live(vu->arg, index, err) : 0;
}

static void stop_ring(struct vhost_user *vu, unsigned index)
{
	struct vhost_ring *ring = &vu->rings[index];

	if (!ring->started)
		return;
	if (ring->enabled)
		vu->ops->ring_dead(vu->arg, index);
	ring->started = false;
	ring->base = ring->vring.next_avail;
	close_fd(&ring->kick);
}

static int enable_ring(struct vhost_user *vu, unsigned index, bool on, struct error **err)
{
	struct vhost_ring *ring = &vu->rings[index];

	if (ring->enabled == on)
		return 0;
	if (!on && ring->started)
		vu->ops->ring_dead(vu->arg, index);
	ring->enabled = on;
	return on && ring->started ? vu->ops->ring_live(vu->arg, index, err) : 0;
}

/* --- messages ------------------------------------------------------------------------------------
 */

static int reply(struct vhost_user *vu, const struct vhost_message *to, const void *payload,
	uint32_t size, struct error **err)
{
	struct vhost_header header = {to->header.request, FLAG_VERSION | FLAG_REPLY, size};
	struct iovec iov[] = {{&header, sizeof(header)}, {(void *)(uintptr_t)payload, size}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t n = sendmsg(vu->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	/* QEMU waits for each reply before it asks again, so there is room; if not, it is not QEMU.
	 */
	if (n < 0)
		return error_errno(err, errno, "replying to QEMU");
	if ((size_t)n != sizeof(header) + size)
		return error_set(err, ERR_UNAVAILABLE, "QEMU does not read replies");
	return 0;
}

static int reply_u64(
	struct vhost_user *vu, const struct vhost_message *to, uint64_t value, struct error **err)
{
	return reply(vu, to, &value, sizeof(value), err);
}

static int set_features(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	uint64_t features = m->payload.u64;

	if (features & ~FEATURES)
		return error_set(err, ERR_INVALID, "features that were not offered");
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		if (vu->rings[i].started && features != vu->features)
			return error_set(err, ERR_STATE, "features change under a running ring");
		/* Without this feature there is no ENABLE. */
		if (!(features & F_PROTOCOL_FEATURES) && enable_ring(vu, i, true, err) < 0)
			return -1;
	}
	vu->features = features;
	vu->has_features = true;
	return 0;
}

static int set_mem_table(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	uint32_t n = m->payload.memory.n;

	if (n > MEMORY_REGIONS_MAX || n != vu->in_n_fds || m->header.size != 8 + 32 * n)
		return error_set(err, ERR_INVALID, "%u regions, %u fds, %u bytes", n, vu->in_n_fds,
			m->header.size);
	memory_clear(&vu->memory);
	for (uint32_t i = 0; i < n; i++)
		if (memory_add(&vu->memory, m->payload.memory.regions[i].guest,
			    m->payload.memory.regions[i].user, m->payload.memory.regions[i].size,
			    m->payload.memory.regions[i].offset, vu->in_fds[i], err) < 0)
			return -1;
	/* Memory was plugged in under running rings: they are elsewhere now. */
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		struct vring *ring = &vu->rings[i].vring;
		void *desc, *avail, *used;
		if (!vu->rings[i].started)
			continue;
		if (locate(vu, &vu->rings[i], &desc, &avail, &used, err) < 0)
			return -1;
		ring->desc = desc;
		ring->avail = avail;
		ring->used = used;
	}
	return 0;
}

/* The ring that a message is about; all but GET_VRING_BASE and ENABLE want it stopped. */
static struct vhost_ring *ring_of(
	struct vhost_user *vu, uint32_t index, bool stopped, struct error **err)
{
	if (index >= VHOST_RINGS) {
		error_set(err, ERR_INVALID, "there is no ring %u", index);
		return NULL;
	}
	if (stopped && vu->rings[index].started) {
		error_set(err, ERR_STATE, "ring %u is running", index);
		return NULL;
	}
	return &vu->rings[index];
}

static int set_vring_num(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	struct vhost_ring *ring = ring_of(vu, m->payload.state.index, true, err);
	uint32_t num = m->payload.state.num;

	if (!ring)
		return -1;
	if (!num || num > VRING_SIZE_MAX || (num & (num - 1)))
		return error_set(err, ERR_INVALID, "a ring of %u entries", num);
	ring->num = num;
	return 0;
}

static int set_vring_base(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	struct vhost_ring *ring = ring_of(vu, m->payload.state.index, true, err);

	if (!ring)
		return -1;
	if (m->payload.state.num > UINT16_MAX)
		return error_set(err, ERR_INVALID, "ring base %u", m->payload.state.num);
	/* A paused VM comes back with the base we gave; 0 is a driver that starts from scratch. */
	if (!m->payload.state.num && ring->base)
		vu->ops->reset(vu->arg);
	ring->base = (uint16_t)m->payload.state.num;
	return 0;
}

static int get_vring_base(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	uint32_t index = m->payload.state.index;
	struct vhost_ring *ring = ring_of(vu, index, false, err);

	if (!ring)
		return -1;
	stop_ring(vu, index);
	const uint32_t state[2] = {index, ring->base};
	return reply(vu, m, state, sizeof(state), err);
}

static int set_vring_addr(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	struct vhost_ring *ring = ring_of(vu, m->payload.addr.index, true, err);

	if (!ring)
		return -1;
	if (m->payload.addr.flags)
		return error_set(err, ERR_UNSUPPORTED, "logging of a ring was not offered");
	ring->desc = m->payload.addr.desc;
	ring->avail = m->payload.addr.avail;
	ring->used = m->payload.addr.used;
	ring->has_addr = true;
	return 0;
}

/* KICK, CALL and ERR: one fd, or the flag that says there is none. */
static int set_vring_fd(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	uint64_t value = m->payload.u64;
	uint32_t index = value & VRING_INDEX_MASK;
	bool none = value & VRING_NO_FD;
	struct vhost_ring *ring = ring_of(vu, index, m->header.request == SET_VRING_KICK, err);

	if (!ring)
		return -1;
	if (value & ~(uint64_t)(VRING_INDEX_MASK | VRING_NO_FD) || vu->in_n_fds != !none)
		return error_set(
			err, ERR_INVALID, "an fd for ring %u is missing or too much", index);
	if (none && m->header.request == SET_VRING_KICK)
		return error_set(err, ERR_UNSUPPORTED, "ring %u without a kick fd", index);

	int *fd = m->header.request == SET_VRING_KICK	? &ring->kick
		  : m->header.request == SET_VRING_CALL ? &ring->call
							: &ring->err;
	close_fd(fd);
	if (none)
		return 0;
	*fd = steal_fd(vu->in_fds[0]);
	if (fd_set_nonblock(*fd, true) < 0)
		return error_errno(err, errno, "fd of ring %u", index);
	if (m->header.request == SET_VRING_KICK)
		return start_ring(vu, index, err);
	/* What was signalled on the old one may have been lost. */
	if (m->header.request == SET_VRING_CALL && vhost_ring_is_live(ring))
		vhost_ring_call(ring);
	return 0;
}

static int get_config(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	struct vhost_message out = *m;
	struct virtio_vsock_config config = {.guest_cid = vu->guest_cid};
	uint32_t offset = m->payload.config.offset, size = m->payload.config.size;

	if (m->header.size < CONFIG_HEADER || size > sizeof(out.payload.config.data) ||
		m->header.size != CONFIG_HEADER + size)
		return error_set(err, ERR_INVALID, "GET_CONFIG of %u bytes", m->header.size);
	memset(out.payload.config.data, 0, sizeof(out.payload.config.data));
	if (offset < sizeof(config))
		memcpy(out.payload.config.data, (const char *)&config + offset,
			MIN((size_t)size, sizeof(config) - offset));
	return reply(vu, m, &out.payload, CONFIG_HEADER + size, err);
}

static int set_protocol_features(
	struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	if (m->payload.u64 & ~PROTOCOL_FEATURES)
		return error_set(err, ERR_INVALID, "protocol features that were not offered");
	vu->protocol_features = m->payload.u64;
	return 0;
}

static int get_features(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	return reply_u64(vu, m, FEATURES, err);
}

static int get_protocol_features(
	struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	return reply_u64(vu, m, PROTOCOL_FEATURES, err);
}

static int set_owner(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	(void)vu;
	(void)m;
	(void)err;
	return 0;
}

static int reset_owner(struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	(void)m;
	(void)err;
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		stop_ring(vu, i);
	return 0;
}

static int set_vring_enable(
	struct vhost_user *vu, const struct vhost_message *m, struct error **err)
{
	uint32_t index = m->payload.state.index;

	if (!ring_of(vu, index, false, err))
		return -1;
	if (m->payload.state.num > 1)
		return error_set(err, ERR_INVALID, "ENABLE %u", m->payload.state.num);
	return enable_ring(vu, index, m->payload.state.num, err);
}

#define VARIABLE UINT32_MAX

static const struct {
	int (*handle)(struct vhost_user *, const struct vhost_message *, struct error **);
	uint32_t size; /* of the payload */
	uint8_t fds;   /* at most */
	bool replies;  /* by itself */
} requests[] = {
	[GET_FEATURES] = {get_features, 0, 0, true},
	[SET_FEATURES] = {set_features, 8, 0, false},
	[SET_OWNER] = {set_owner, 0, 0, false},
	[RESET_OWNER] = {reset_owner, 0, 0, false},
	[SET_MEM_TABLE] = {set_mem_table, VARIABLE, MEMORY_REGIONS_MAX, false},
	[SET_VRING_NUM] = {set_vring_num, 8, 0, false},
	[SET_VRING_ADDR] = {set_vring_addr, 40, 0, false},
	[SET_VRING_BASE] = {set_vring_base, 8, 0, false},
	[GET_VRING_BASE] = {get_vring_base, 8, 0, true},
	[SET_VRING_KICK] = {set_vring_fd, 8, 1, false},
	[SET_VRING_CALL] = {set_vring_fd, 8, 1, false},
	[SET_VRING_ERR] = {set_vring_fd, 8, 1, false},
	[GET_PROTOCOL_FEATURES] = {get_protocol_features, 0, 0, true},
	[SET_PROTOCOL_FEATURES] = {set_protocol_features, 8, 0, false},
	[SET_VRING_ENABLE] = {set_vring_enable, 8, 0, false},
	[GET_CONFIG] = {get_config, VARIABLE, 0, true},
};

static int dispatch(struct vhost_user *vu, struct error **err)
{
	const struct vhost_message *m = &vu->in;
	uint32_t request = m->header.request;

	if (request >= ARRAY_SIZE(requests) || !requests[request].handle)
		return error_set(err, ERR_UNSUPPORTED, "vhost-user request %u", request);
	if ((requests[request].size != VARIABLE && m->header.size != requests[request].size) ||
		vu->in_n_fds > requests[request].fds)
		return error_set(err, ERR_INVALID, "vhost-user request %u of %u bytes and %u fds",
			request, m->header.size, vu->in_n_fds);
	if (requests[request].handle(vu, m, err) < 0)
		return error_wrap(err, "vhost-user request %u", request);
	if (!requests[request].replies && (m->header.flags & FLAG_NEED_REPLY) &&
		(vu->protocol_features & PF_REPLY_ACK))
		return reply_u64(vu, m, 0, err);
	return 0;
}

/* --- receiving -----------------------------------------------------------------------------------
 */

/* Keep the fds that came along. */
static int take_fds(struct vhost_user *vu, struct msghdr *msg, struct error **err)
{
	bool too_many = msg->msg_flags & MSG_CTRUNC;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (vu->in_n_fds < ARRAY_SIZE(vu->in_fds)) {
				vu->in_fds[vu->in_n_fds++] = fd;
			} else {
				close(fd);
				too_many = true;
			}
		}
	}
	if (too_many)
		return error_set(err, ERR_LIMIT, "a vhost-user message with too many fds");
	return 0;
}

/* Receive up to size bytes of the message. As vhost_user_read(), and 2: nothing more is there. */
static int receive(struct vhost_user *vu, size_t size, struct error **err)
{
	struct iovec iov = {(uint8_t *)&vu->in + vu->in_size, size - vu->in_size};
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * MEMORY_REGIONS_MAX)];
	} control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(vu->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 2;
	if (n < 0 && errno != ECONNRESET)
		return error_errno(err, errno, "reading from QEMU");
	if (n <= 0)
		return 0;
	vu->in_size += (size_t)n;
	return take_fds(vu, &msg, err) < 0 ? -1 : 1;
}

int vhost_user_read(struct vhost_user *vu, struct error **err)
{
	const struct vhost_header *header = &vu->in.header;

	for (unsigned handled = 0; handled < MESSAGES_AT_ONCE;) {
		size_t size = sizeof(*header);
		if (vu->in_size >= sizeof(*header)) {
			if ((header->flags & 3) != FLAG_VERSION || (header->flags & FLAG_REPLY) ||
				header->size > VHOST_USER_PAYLOAD_MAX)
				return error_set(err, ERR_INVALID,
					"not a vhost-user message: flags %#x, %u bytes",
					header->flags, header->size);
			size += header->size;
		}
		if (vu->in_size < size) {
			int r = receive(vu, size, err);
			if (r == 0 && vu->in_size)
				return error_set(err, ERR_DATA_LOSS,
					"QEMU's connection ended within a message");
			if (r != 1)
				return r == 2 ? 1 : r;
			continue;
		}
		int r = dispatch(vu, err);
		drop_fds(vu);
		vu->in_size = 0;
		memset(&vu->in, 0, sizeof(vu->in));
		if (r < 0)
			return -1;
		handled++;
	}
	return 1;
}

void vhost_user_clear(struct vhost_user *vu)
{
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		stop_ring(vu, i);
		close_fd(&vu->rings[i].kick);
		close_fd(&vu->rings[i].call);
		close_fd(&vu->rings[i].err);
	}
	drop_fds(vu);
	memory_clear(&vu->memory);
	close_fd(&vu->fd);
}
