#include "orchestrator/vsock-device/conn.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/util.h"
#include "orchestrator/vsock-device/conn_impl.h"

struct conns *conns_new(int epoll_fd, const char *path, uint64_t guest_cid, unsigned max)
{
	struct conns *conns = xcalloc(1, sizeof(*conns));

	conns->epoll_fd = epoll_fd;
	snprintf(conns->path, sizeof(conns->path), "%s", path);
	conns->guest_cid = guest_cid;
	conns->max = max;
	conns->next_expiry = UINT64_MAX;
	/* A guest's socket lingers for seconds after its end, and answers a REQUEST with its old
	 * port by RST. A random start keeps a new device process out of its predecessor's way. */
	random_bytes(&conns->next_port, sizeof(conns->next_port));
	LIST_INIT(&conns->all);
	LIST_INIT(&conns->dead);
	TAILQ_INIT(&conns->turns);
	return conns;
}

void conns_free(struct conns *conns)
{
	struct conn *conn;

	if (!conns)
		return;
	while ((conn = LIST_FIRST(&conns->all)))
		conn_end(conn);
	conns_bury(conns);
	free(conns);
}

void conns_set_live(struct conns *conns, bool live)
{
	conns->live = live;
}

unsigned conns_count(const struct conns *conns)
{
	return conns->count;
}

unsigned conns_draining(const struct conns *conns)
{
	return conns->draining;
}

static struct conn_list *bucket_of(struct conns *conns, uint32_t host_port, uint32_t guest_port)
{
	uint32_t h = host_port * 0x9e3779b1u ^ guest_port * 0x85ebca6bu;

	return &conns->buckets[(h >> 16) % CONN_BUCKETS];
}

struct conn *conn_find(struct conns *conns, uint32_t host_port, uint32_t guest_port)
{
	struct conn *conn;

	LIST_FOREACH (conn, bucket_of(conns, host_port, guest_port), bucket)
		if (conn->host_port == host_port && conn->guest_port == guest_port)
			return conn;
	return NULL;
}

void conn_enter(struct conn *conn, uint32_t host_port, uint32_t guest_port)
{
	conn->host_port = host_port;
	conn->guest_port = guest_port;
	LIST_INSERT_HEAD(bucket_of(conn->conns, host_port, guest_port), conn, bucket);
	conn->in_bucket = true;
}

/* A connection's share of the budget: an eighth of what is left, so that the first ones run at full
 * speed and however many follow there is something for each. It never shrinks afterwards: a guest
 * may have it all under way. */
static uint32_t buffer_share(const struct conns *conns)
{
	uint64_t left = CONN_BUFFER_BUDGET - MIN(conns->buffers, (uint64_t)CONN_BUFFER_BUDGET);

	return (uint32_t)MAX(MIN(left / 8, (uint64_t)CONN_BUFFER_MOST), CONN_BUFFER_LEAST);
}

struct conn *conn_new(struct conns *conns, int fd, bool by_guest)
{
	_cleanup_close_ int owned = fd;

	/* The rest is the host's, so that a guest cannot shut it out. */
	if (conns->count >= conns->max ||
		(by_guest && conns->by_guest >= conns->max - conns->max / 4))
		return NULL;
	struct conn *conn = xcalloc(1, sizeof(*conn));
	conn->conns = conns;
	conn->fd = steal_fd(owned);
	conn->by_guest = by_guest;
	conn->deadline = conn->retry = UINT64_MAX;
	conn->buf_alloc = buffer_share(conns);
	conns->buffers += conn->buf_alloc;
	conns->count++;
	conns->by_guest += by_guest;
	LIST_INSERT_HEAD(&conns->all, conn, all);
	return conn;
}

void conn_set_deadline(struct conn *conn, uint64_t at)
{
	conn->deadline = at;
	conn->conns->next_expiry = MIN(conn->conns->next_expiry, at);
}

static void leave_table(struct conn *conn)
{
	if (conn->in_bucket)
		LIST_REMOVE(conn, bucket);
	conn->in_bucket = false;
	if (conn->in_turn)
		TAILQ_REMOVE(&conn->conns->turns, conn, turn);
	conn->in_turn = false;
	conn->pending = 0;
}

static void drop_buffer(struct conn *conn)
{
	free(conn->buffer);
	conn->buffer = NULL;
	conn->buffer_used = 0;
}

void conn_end(struct conn *conn)
{
	struct conns *conns = conn->conns;

	if (conn->state == CONN_DEAD)
		return;
	leave_table(conn);
	close_fd(&conn->fd);
	drop_buffer(conn);
	conns->draining -= conn->state == CONN_DRAINING;
	conns->buffers -= conn->buf_alloc;
	conns->count--;
	conns->by_guest -= conn->by_guest;
	conn->state = CONN_DEAD;
	LIST_REMOVE(conn, all);
	LIST_INSERT_HEAD(&conns->dead, conn, all);
}

void conns_bury(struct conns *conns)
{
	struct conn *conn;

	while ((conn = LIST_FIRST(&conns->dead))) {
		LIST_REMOVE(conn, all);
		free(conn);
	}
}

void conn_reset(struct conn *conn)
{
	close_fd(&conn->fd);
	drop_buffer(conn);
	conn->state = CONN_RESETTING;
	conn->deadline = conn->retry = UINT64_MAX;
	conn->pending = 0;
	conn_send(conn, PENDING_RST);
}

void conn_gone(struct conn *conn)
{
	if (!conn->buffer_used || conn->state != CONN_OPEN) {
		conn_end(conn);
		return;
	}
	/* What the guest sent before it ended is the host's, however slowly it reads. */
	leave_table(conn);
	conn->state = CONN_DRAINING;
	conn->conns->draining++;
}

void conns_reset(struct conns *conns)
{
	struct conn *conn, *next;

	for (conn = LIST_FIRST(&conns->all); conn; conn = next) {
		next = LIST_NEXT(conn, all);
		/* A HANDSHAKE has not reached the guest yet: it may find the new one. */
		if (conn->state != CONN_DRAINING && conn->state != CONN_HANDSHAKE)
			conn_gone(conn);
	}
	conns->orphan_count = 0;
}

uint32_t conn_credit(const struct conn *conn)
{
	uint32_t under_way = conn->sent - conn->guest_fwd_cnt;

	/* A guest may make its buffer smaller than what is under way. */
	return under_way < conn->guest_buf_alloc ? conn->guest_buf_alloc - under_way : 0;
}

bool conn_wants_turn(const struct conn *conn)
{
	if (conn->pending)
		return true;
	/* The end itself needs no credit. */
	return conn->state == CONN_OPEN && conn->readable && !conn->eof &&
	       !(conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) &&
	       (conn_credit(conn) || (conn->rdhup && !conn->held));
}

static void queue_turn(struct conn *conn)
{
	if (conn->in_turn || !conn_wants_turn(conn))
		return;
	TAILQ_INSERT_TAIL(&conn->conns->turns, conn, turn);
	conn->in_turn = true;
}

void conn_send(struct conn *conn, unsigned pending)
{
	conn->pending |= pending;
	queue_turn(conn);
}

void conn_settle(struct conn *conn)
{
	if (conn->state != CONN_OPEN)
		return;
	bool through = !conn->buffer_used; /* the host has all that the guest sent */

	if ((conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) && through && !conn->write_shut) {
		shutdown(conn->fd, SHUT_WR);
		conn->write_shut = true;
	}
	if (conn->guest_shut == PACKET_SHUT_BOTH) {
		/* The guest waits for our RST to let its port go. */
		if (through) {
			conn_reset(conn);
		} else {
			conns_orphan(conn->conns, conn->host_port, conn->guest_port,
				VIRTIO_VSOCK_TYPE_STREAM);
			conn_gone(conn);
		}
		return;
	}
	if (conn->deaf) {
		conn->shut |= VIRTIO_VSOCK_SHUTDOWN_RCV;
		/* Nothing may be said any more either way. */
		if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
			conn->shut = PACKET_SHUT_BOTH;
	}
	if (conn->eof)
		conn->shut |= conn->write_shut ? PACKET_SHUT_BOTH : VIRTIO_VSOCK_SHUTDOWN_SEND;
	if (conn->shut & ~conn->shut_sent)
		conn_send(conn, PENDING_SHUTDOWN);
	queue_turn(conn);
}

void conns_orphan(struct conns *conns, uint32_t host_port, uint32_t guest_port, uint16_t type)
{
	/* The caller asks conns_may_receive() before a packet, and a packet makes one at most. */
	if (conns->orphan_count == CONN_ORPHANS)
		return;
	unsigned i = (conns->orphan_first + conns->orphan_count++) % CONN_ORPHANS;
	conns->orphans[i] = (struct orphan){host_port, guest_port, type};
}

static void expire_one(struct conn *conn, uint64_t now)
{
	if (conn->state == CONN_DIALLING && conn->retry <= now && conn->deadline > now)
		conn_dial(conn, now);
	if (conn->deadline > now)
		return;
	if (conn->state == CONN_HANDSHAKE || (conn->pending & PENDING_REQUEST))
		conn_end(conn);
	else
		conn_reset(conn);
}

uint64_t conns_expire(struct conns *conns, uint64_t now)
{
	struct conn *conn, *next;

	if (conns->next_expiry > now)
		return conns->next_expiry;
	conns->next_expiry = UINT64_MAX;
	for (conn = LIST_FIRST(&conns->all); conn; conn = next) {
		next = LIST_NEXT(conn, all);
		expire_one(conn, now);
		if (conn->state == CONN_DEAD)
			continue;
		uint64_t due = MIN(conn->deadline, conn->retry);
		conns->next_expiry = MIN(conns->next_expiry, due);
	}
	return conns->next_expiry;
}
