/* The guest's side of connections: packets from and to it. */
#include <errno.h>
#include <sys/socket.h>

#include "common/util.h"
#include "orchestrator/vsock-device/conn_impl.h"
#include "orchestrator/vsock-device/iov.h"

#define FILL_BUFFERS 32 /* filled by one readv() */
#define FILL_PIECES  128

/* --- from the guest ------------------------------------------------------------------------------
 */

bool conns_may_receive(const struct conns *conns)
{
	return conns->orphan_count < CONN_ORPHANS;
}

static void take_credit(struct conn *conn, const struct packet *packet)
{
	conn->guest_buf_alloc = packet->buf_alloc;
	/* Counts only grow. Packets of several threads in the guest can overtake each other, so an
	 * older one is no offence; one ahead of what was sent looks the same, and is ignored too.
	 */
	if (conn->sent - packet->fwd_cnt <= conn->sent - conn->guest_fwd_cnt)
		conn->guest_fwd_cnt = packet->fwd_cnt;
}

static void receive_request(struct conns *conns, const struct packet *packet, uint64_t now)
{
	struct conn *conn = conn_new(conns, -1, true);

	if (!conn) {
		conns_orphan(conns, packet->dst_port, packet->src_port, packet->type);
		return;
	}
	conn_enter(conn, packet->dst_port, packet->src_port);
	take_credit(conn, packet);
	conn_dial(conn, now);
}

static void receive_data(
	struct conn *conn, const struct packet *packet, const struct iovec *iov, size_t n)
{
	struct iovec payload[VRING_CHAIN_MAX];

	if (!packet->len)
		return;
	if ((conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) ||
		packet->len > conn->buf_alloc - conn->buffer_used) {
		conn_reset(conn); /* it had said that this was all, or exceeds its credit */
		return;
	}
	size_t pieces =
		iov_slice(iov, n, PACKET_HEADER_BYTES, packet->len, payload, ARRAY_SIZE(payload));
	conn_write(conn, payload, pieces, packet->len);
}

static void receive_open(
	struct conn *conn, const struct packet *packet, const struct iovec *iov, size_t n)
{
	switch (packet->op) {
	case VIRTIO_VSOCK_OP_RW:
		receive_data(conn, packet, iov, n);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		conn_send(conn, PENDING_CREDIT);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		conn->guest_shut |= packet->flags & PACKET_SHUT_BOTH;
		if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
			shutdown(conn->fd, SHUT_RD); /* the host's writer learns of it */
		break;
	default:
		conn_reset(conn);
		return;
	}
	conn_settle(conn);
}

static void receive_requested(struct conn *conn, const struct packet *packet)
{
	/* An answer before the question is none. */
	if (packet->op != VIRTIO_VSOCK_OP_RESPONSE || (conn->pending & PENDING_REQUEST)) {
		conn_reset(conn);
		return;
	}
	conn->state = CONN_OPEN;
	conn->deadline = UINT64_MAX;
	conn_tell_ok(conn);
	conn_settle(conn);
}

static void receive_on(
	struct conn *conn, const struct packet *packet, const struct iovec *iov, size_t n)
{
	if (packet->op == VIRTIO_VSOCK_OP_RST) {
		conn_gone(conn);
		return;
	}
	take_credit(conn, packet);
	switch (conn->state) {
	case CONN_REQUESTED:
		receive_requested(conn, packet);
		break;
	case CONN_OPEN:
		receive_open(conn, packet, iov, n);
		break;
	case CONN_DIALLING:
		if (packet->op != VIRTIO_VSOCK_OP_CREDIT_UPDATE)
			conn_reset(conn);
		break;
	case CONN_CLOSING:
		/* What was under way when we closed is ignored; its own end is answered. */
		if (packet->op == VIRTIO_VSOCK_OP_REQUEST || packet->op == VIRTIO_VSOCK_OP_SHUTDOWN)
			conn_reset(conn);
		break;
	case CONN_HANDSHAKE:
	case CONN_RESETTING:
	case CONN_DRAINING:
	case CONN_DEAD:
		break; /* RST is on its way; the others are not in the table */
	}
}

void conns_receive(struct conns *conns, const struct iovec *iov, size_t n, uint64_t now)
{
	struct virtio_vsock_hdr raw;
	struct packet packet;

	if (iov_read(iov, n, 0, &raw, sizeof(raw)) != sizeof(raw))
		return; /* not even a header to answer to */
	packet_decode(&raw, &packet);
	enum packet_verdict verdict =
		packet_check(&packet, conns->guest_cid, iov_total(iov, n) - sizeof(raw));
	if (verdict == PACKET_DROP)
		return;
	struct conn *conn = packet.type == VIRTIO_VSOCK_TYPE_STREAM
				    ? conn_find(conns, packet.dst_port, packet.src_port)
				    : NULL;
	if (conn && verdict == PACKET_RESET)
		conn_reset(conn);
	else if (verdict == PACKET_RESET)
		conns_orphan(conns, packet.dst_port, packet.src_port, packet.type);
	else if (conn)
		receive_on(conn, &packet, iov, n);
	else if (packet.op == VIRTIO_VSOCK_OP_REQUEST)
		receive_request(conns, &packet, now);
	else if (packet.op != VIRTIO_VSOCK_OP_RST)
		conns_orphan(conns, packet.dst_port, packet.src_port, packet.type);
}

/* --- to the guest --------------------------------------------------------------------------------
 */

static void write_header(const struct vring_chain *buffer, const struct packet *packet)
{
	struct virtio_vsock_hdr raw;

	packet_encode(packet, &raw);
	iov_write(buffer->iov, buffer->n, 0, &raw, sizeof(raw));
}

/* Every packet of a conn tells the guest about its credit. */
static void write_packet(struct conn *conn, const struct vring_chain *buffer, uint16_t op,
	uint32_t len, uint32_t flags, uint32_t *ret_written)
{
	const struct packet packet = {
		.src_cid = PACKET_CID_HOST,
		.dst_cid = conn->conns->guest_cid,
		.src_port = conn->host_port,
		.dst_port = conn->guest_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.flags = flags,
		.buf_alloc = conn->buf_alloc,
		.fwd_cnt = conn->forwarded,
	};

	write_header(buffer, &packet);
	conn->announced = conn->forwarded;
	conn->pending &= ~(unsigned)PENDING_CREDIT;
	*ret_written = (uint32_t)sizeof(struct virtio_vsock_hdr) + len;
}

static void fill_orphan(
	struct conns *conns, const struct vring_chain *buffer, uint32_t *ret_written)
{
	const struct orphan *orphan = &conns->orphans[conns->orphan_first];
	const struct packet packet = {
		.src_cid = PACKET_CID_HOST,
		.dst_cid = conns->guest_cid,
		.src_port = orphan->host_port,
		.dst_port = orphan->guest_port,
		.type = orphan->type,
		.op = VIRTIO_VSOCK_OP_RST,
	};

	write_header(buffer, &packet);
	*ret_written = sizeof(struct virtio_vsock_hdr);
	conns->orphan_first = (conns->orphan_first + 1) % CONN_ORPHANS;
	conns->orphan_count--;
}

/* Without credit: has the host's stream ended? */
static void look_for_end(struct conn *conn)
{
	char c;
	ssize_t r = recv(conn->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);

	if (r < 0 && errno != EAGAIN && errno != EINTR) {
		conn_reset(conn);
		return;
	}
	conn->held = r != 0;
	conn->eof = r == 0;
	conn_settle(conn);
}

/* Read from the host's socket straight into the guest's buffers, several at once. */
static unsigned fill_data(struct conn *conn, const struct vring_chain *buffers, unsigned n,
	uint32_t *ret_written, uint64_t now)
{
	struct iovec iov[FILL_PIECES];
	size_t room[FILL_BUFFERS], pieces = 0, want = 0;
	size_t allowed = MIN(conn_credit(conn), CONN_TURN_BYTES);
	unsigned offered = 0, used = 0;

	if (!allowed) {
		look_for_end(conn);
		return 0;
	}
	while (offered < MIN(n, (unsigned)FILL_BUFFERS) && want < allowed && pieces < FILL_PIECES) {
		const struct vring_chain *b = &buffers[offered];
		size_t k = iov_slice(b->iov, b->n, PACKET_HEADER_BYTES, allowed - want,
			iov + pieces, FILL_PIECES - pieces);
		room[offered] = iov_total(iov + pieces, k);
		want += room[offered++];
		pieces += k;
	}
	ssize_t r = readv(conn->fd, iov, (int)pieces);
	if (r < 0) {
		if (errno == EAGAIN)
			conn->readable = false;
		else if (errno != EINTR)
			conn_reset(conn); /* the peer left without reading all we gave it */
		return 0;
	}
	if (r == 0) {
		conn->eof = true;
		conn_settle(conn);
		return 0;
	}
	/* Less than was asked for: empty, and new data makes a new event. But an end that has been
	 * reported already is not reported again. */
	if ((size_t)r < want && !conn->rdhup)
		conn->readable = false;
	conn->held = false;
	if (conn->hup)
		conn_set_deadline(conn, now + CONN_STALL_USEC);
	for (size_t left = (size_t)r; left; used++) {
		size_t part = MIN(room[used], left);
		conn->sent += (uint32_t)part;
		left -= part;
		write_packet(conn, &buffers[used], VIRTIO_VSOCK_OP_RW, (uint32_t)part, 0,
			&ret_written[used]);
	}
	return used;
}

static void fill_shutdown(
	struct conn *conn, const struct vring_chain *buffer, uint32_t *ret_written, uint64_t now)
{
	write_packet(conn, buffer, VIRTIO_VSOCK_OP_SHUTDOWN, 0, conn->shut, ret_written);
	conn->shut_sent = conn->shut;
	if (conn->shut_sent != PACKET_SHUT_BOTH)
		return;
	close_fd(&conn->fd);
	conn->state = CONN_CLOSING;
	conn_set_deadline(conn, now + CONN_CLOSE_USEC);
}

/* One conn's turn. Returns how many buffers it used. */
static unsigned fill_turn(struct conn *conn, const struct vring_chain *buffers, unsigned n,
	uint32_t *ret_written, uint64_t now)
{
	static const struct {
		unsigned pending;
		uint16_t op;
	} first[] = {
		{PENDING_RST, VIRTIO_VSOCK_OP_RST},
		{PENDING_REQUEST, VIRTIO_VSOCK_OP_REQUEST},
		{PENDING_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE},
	};
	unsigned used = 0;

	for (size_t i = 0; i < ARRAY_SIZE(first) && used < n; i++) {
		if (!(conn->pending & first[i].pending))
			continue;
		conn->pending &= ~first[i].pending;
		write_packet(conn, &buffers[used], first[i].op, 0, 0, &ret_written[used]);
		used++;
	}
	if (conn->state == CONN_RESETTING && !(conn->pending & PENDING_RST)) {
		conn_end(conn);
		return used;
	}
	if (used < n && (conn->pending & PENDING_SHUTDOWN)) {
		conn->pending &= ~(unsigned)PENDING_SHUTDOWN;
		fill_shutdown(conn, &buffers[used], &ret_written[used], now);
		used++;
	}
	if (used < n && (conn->pending & PENDING_CREDIT)) {
		write_packet(conn, &buffers[used], VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0,
			&ret_written[used]);
		used++;
	}
	if (used < n && conn_wants_turn(conn))
		used += fill_data(conn, buffers + used, n - used, ret_written + used, now);
	return used;
}

bool conns_want(const struct conns *conns)
{
	return conns->orphan_count || !TAILQ_EMPTY(&conns->turns);
}

unsigned conns_fill(struct conns *conns, const struct vring_chain *buffers, unsigned n,
	uint32_t *ret_written, uint64_t now)
{
	unsigned used = 0;

	while (used < n && conns->orphan_count) {
		fill_orphan(conns, &buffers[used], &ret_written[used]);
		used++;
	}
	while (used < n && !TAILQ_EMPTY(&conns->turns)) {
		struct conn *conn = TAILQ_FIRST(&conns->turns);
		TAILQ_REMOVE(&conns->turns, conn, turn);
		conn->in_turn = false;
		used += fill_turn(conn, buffers + used, n - used, ret_written + used, now);
		conn_send(conn, 0); /* to the end of the queue, if it wants another turn */
	}
	return used;
}
