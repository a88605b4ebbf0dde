/* The host's side of connections: its sockets. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/util.h"
#include "orchestrator/vsock-device/conn_impl.h"
#include "orchestrator/vsock-device/iov.h"

#define DIAL_RETRY_USEC 5000
#define LINE_MAX_BYTES	32 /* "CONNECT 4294967295\n" has 19 */

/* Edge-triggered: an event is remembered in the conn until the socket is found empty, so a guest
 * without credit costs no wakeups and no epoll_ctl(). EPOLLOUT only while something waits for it,
 * or every read of the peer's would wake us. */
static int watch(struct conn *conn, int op, uint32_t more)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET | more};

	ev.data.u64 = (uintptr_t)conn;
	return epoll_ctl(conn->conns->epoll_fd, op, conn->fd, &ev);
}

void conns_accept(struct conns *conns, int fd, uint64_t now)
{
	struct conn *conn = conn_new(conns, fd, false);

	if (!conn)
		return;
	conn->state = CONN_HANDSHAKE;
	conn_set_deadline(conn, now + CONN_HANDSHAKE_USEC);
	if (watch(conn, EPOLL_CTL_ADD, 0) < 0)
		conn_end(conn);
}

/* "CONNECT port\n", nothing else. */
static int parse_connect(const char *line, size_t n, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	uint64_t port = 0;
	size_t i = sizeof(word) - 1;

	if (n < i + 2 || memcmp(line, word, i) != 0)
		return -1;
	for (; i < n - 1; i++) {
		if (line[i] < '0' || line[i] > '9')
			return -1;
		port = port * 10 + (uint64_t)(line[i] - '0');
		if (port > UINT32_MAX)
			return -1;
	}
	*ret_port = (uint32_t)port;
	return 0;
}

/* A port for the host's side, so that the pair is new. */
static uint32_t pick_port(struct conns *conns, uint32_t guest_port)
{
	uint32_t port;

	/* In a range of their own, far from where host services are; there are more ports in it
	 * than connections. */
	do {
		port = UINT32_C(1) << 30 | (conns->next_port++ & 0x3fffffff);
	} while (conn_find(conns, port, guest_port));
	return port;
}

static void handshake(struct conn *conn, uint64_t now)
{
	char line[LINE_MAX_BYTES];
	uint32_t port;
	ssize_t n = recv(conn->fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	const char *end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
	if (!end && n > 0 && (size_t)n < sizeof(line) && !conn->rdhup)
		return; /* the rest of the line makes another event */
	size_t size = end ? (size_t)(end - line) + 1 : 0;
	/* What follows the line is the guest's: not one byte more is taken. */
	if (!end || conn->hup || !conn->conns->live || parse_connect(line, size, &port) < 0 ||
		recv(conn->fd, line, size, MSG_DONTWAIT) != (ssize_t)size) {
		conn_end(conn);
		return;
	}
	conn_enter(conn, pick_port(conn->conns, port), port);
	conn->readable = (size_t)n > size || conn->rdhup;
	conn->state = CONN_REQUESTED;
	conn_set_deadline(conn, now + CONN_CONNECT_USEC);
	conn_send(conn, PENDING_REQUEST);
}

void conn_tell_ok(struct conn *conn)
{
	char line[LINE_MAX_BYTES];
	int n = snprintf(line, sizeof(line), "OK %u\n", conn->host_port);

	/* The first bytes in an empty socket: they fit. */
	if (send(conn->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
		conn->deaf = true;
}

void conn_dial(struct conn *conn, uint64_t now)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int n = snprintf(
		addr.sun_path, sizeof(addr.sun_path), "%s_%u", conn->conns->path, conn->host_port);

	if (conn->fd < 0)
		conn->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (n < 0 || (size_t)n >= sizeof(addr.sun_path) || conn->fd < 0) {
		conn_reset(conn);
		return;
	}
	if (connect(conn->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (errno != EAGAIN) {
			conn_reset(conn);
			return;
		}
		/* The backlog is full, and for that there is no event to wait for. */
		conn->state = CONN_DIALLING;
		conn->retry = now + DIAL_RETRY_USEC;
		if (conn->deadline == UINT64_MAX)
			conn->deadline = now + CONN_DIAL_USEC;
		conn_set_deadline(conn, conn->deadline);
		conn->conns->next_expiry = MIN(conn->conns->next_expiry, conn->retry);
		return;
	}
	conn->deadline = conn->retry = UINT64_MAX;
	if (watch(conn, EPOLL_CTL_ADD, 0) < 0) {
		conn_reset(conn);
		return;
	}
	conn->state = CONN_OPEN;
	conn_send(conn, PENDING_RESPONSE);
}

/* The host reads no more: what the guest sends is thrown away until it has heard of it. */
static void go_deaf(struct conn *conn)
{
	conn->deaf = true;
	conn->forwarded += conn->buffer_used;
	conn->buffer_used = 0;
	free(steal_ptr(conn->buffer));
}

/* Credit goes back when half of it is used up: a guest that sends steadily never runs dry, and is
 * not interrupted for each packet. Every other packet to the guest carries it too. */
static void return_credit(struct conn *conn)
{
	if (conn->forwarded - conn->announced >= conn->buf_alloc / 2)
		conn_send(conn, PENDING_CREDIT);
}

static void keep(struct conn *conn, const struct iovec *iov, size_t n, size_t offset, size_t size)
{
	if (!conn->buffer) {
		conn->buffer = xmalloc(conn->buf_alloc);
		conn->buffer_start = conn->buffer_used = 0;
		if (watch(conn, EPOLL_CTL_MOD, EPOLLOUT) < 0) {
			go_deaf(conn);
			return;
		}
	}
	if (conn->buffer_start + conn->buffer_used + size > conn->buf_alloc) {
		memmove(conn->buffer, conn->buffer + conn->buffer_start, conn->buffer_used);
		conn->buffer_start = 0;
	}
	/* It fits: the caller has checked the guest's credit. */
	uint8_t *end = conn->buffer + conn->buffer_start + conn->buffer_used;
	conn->buffer_used += (uint32_t)iov_read(iov, n, offset, end, size);
}

void conn_write(struct conn *conn, const struct iovec *iov, size_t n, size_t size)
{
	size_t done = 0;

	conn->received += (uint32_t)size;
	if (!conn->deaf && !conn->buffer_used) {
		struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n};
		ssize_t w = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (w >= 0)
			done = (size_t)w;
		else if (errno != EAGAIN && errno != EINTR)
			go_deaf(conn);
		conn->forwarded += (uint32_t)done;
	}
	if (conn->deaf)
		conn->forwarded = conn->received;
	else if (done < size)
		keep(conn, iov, n, done, size - done);
	return_credit(conn);
	if (conn->deaf)
		conn_settle(conn);
}

/* The socket has room again. */
static void flush(struct conn *conn)
{
	while (conn->buffer_used) {
		ssize_t w = send(conn->fd, conn->buffer + conn->buffer_start, conn->buffer_used,
			MSG_NOSIGNAL | MSG_DONTWAIT);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0 && errno == EAGAIN)
			break;
		if (w < 0) {
			go_deaf(conn);
			break;
		}
		conn->buffer_start += (uint32_t)w;
		conn->buffer_used -= (uint32_t)w;
		conn->forwarded += (uint32_t)w;
	}
	if (conn->buffer && !conn->buffer_used)
		free(steal_ptr(conn->buffer));
	if (!conn->buffer)
		watch(conn, EPOLL_CTL_MOD, 0);
	if (conn->state == CONN_OPEN)
		return_credit(conn);
}

static void event_open(struct conn *conn, uint32_t events, uint64_t now)
{
	if (events & EPOLLOUT)
		flush(conn);
	/* Both directions are over: by the peer's close, or by one shutdown from each end, and then
	 * there is nothing left in the buffer. */
	if (events & EPOLLHUP) {
		go_deaf(conn);
		conn_set_deadline(conn, now + CONN_STALL_USEC);
		if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
			conn->eof = true;
	}
	conn_settle(conn);
}

void conns_event(struct conn *conn, uint32_t events, uint64_t now)
{
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->rdhup = true;

	if (events & EPOLLHUP)
		conn->hup = true;

	switch (conn->state) {
	case CONN_HANDSHAKE:
		handshake(conn, now);
		break;
	case CONN_REQUESTED:
		if (!(events & EPOLLHUP))
			break;
		if (conn->pending & PENDING_REQUEST)
			conn_end(conn);
		else
			conn_reset(conn);
		break;
	case CONN_OPEN:
		event_open(conn, events, now);
		break;
	case CONN_DRAINING:
		if (!(events & EPOLLHUP))
			flush(conn);
		if ((events & EPOLLHUP) || !conn->buffer_used)
			conn_end(conn);
		break;
	case CONN_DIALLING:
	case CONN_CLOSING:
	case CONN_RESETTING:
	case CONN_DEAD:
		break; /* from before its fd was closed */
	}
}
