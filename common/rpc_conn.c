/* A server's connections, from adoption to on_close().
 *
 * Each connection has a grpc_server of its own, since nothing else can end one connection. gRPC
 * does not tell when a connection is lost that has no call on it. So the keeper watches a
 * duplicate of the socket for the peer's hang-up: gRPC calls shutdown(2) on a socket before it
 * closes it, for whatever reason (the peer's end, a keepalive unanswered, a broken protocol), and
 * both that and the peer's own end wake the duplicate, which is closed at once. It therefore never
 * keeps a connection alive. An event of the dead socket that gRPC's own poll set may still see in
 * between is to it a spurious wake-up.
 *
 * The end of a connection:   hang-up, or rpc_server_free()
 *	-> closing: no further calls
 *	-> told, when there are no calls any more: gRPC is told to shut down
 *	-> forced: what still runs is cancelled (at once after a hang-up, else after the grace)
 *	-> shut, nothing accepting, no calls: gRPC's server destroyed, on_close(), freed
 *
 * gRPC is told so late because of what its goodbye proves. It says GOAWAY, waits for the answer to
 * a ping, and closes when no stream is left. Told while calls run, it would ask its ping too early
 * and close behind the last call's status, which the client may not have read yet: if that writes
 * anything more, it finds a broken pipe and drops what it has not read. Told after the calls, the
 * answer to the ping says that all of them has been read.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>

#include "common/rpc_internal.h"
#include "common/util.h"

void rpc_server_wake(struct rpc_server *server)
{
	uint64_t one = 1;

	if (write(server->wake, &one, sizeof(one)) < 0)
		return; /* the counter is full: awake already */
}

static struct rpc_conn *conn_of_accept(struct rpc_op *op)
{
	return (struct rpc_conn *)(void *)((char *)op - offsetof(struct rpc_conn, accept_op));
}

static struct rpc_conn *conn_of_shutdown(struct rpc_op *op)
{
	return (struct rpc_conn *)(void *)((char *)op - offsetof(struct rpc_conn, shutdown_op));
}

static void end_done(struct rpc_op *op, bool ok)
{
	(void)ok;
	pthread_mutex_lock(&op->call->lock);
	op->call->ended = true;
	rpc_call_op_done(op->call);
}

/* The call that gRPC has accepted on conn, as one of ours. */
static struct rpc_call *take_call(struct rpc_conn *conn)
{
	const struct rpc_service *service = rpc_server_find(conn->server, conn->details.method);
	struct rpc_call *call =
		rpc_call_new(RPC_SERVER, service ? service->method : NULL, &conn->server->limits);
	grpc_op op = {
		.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
		.data.recv_close_on_server.cancelled = &call->peer_cancelled,
	};

	call->end_op = (struct rpc_op){.done = end_done, .call = call};
	call->grpc = steal_ptr(conn->accepted);
	call->conn = conn;
	call->service = service;
	if (rpc_server_quick(conn->server, service)) {
		call->received = rpc_server_run_quick;
		call->received_arg = call;
	}
	pthread_mutex_lock(&call->lock);
	rpc_call_start(call, &op, 1, &call->end_op);
	/* At once, so that the handler finds its first message there. */
	rpc_call_arm(call);
	pthread_mutex_unlock(&call->lock);
	return call;
}

static void accept_done(struct rpc_op *op, bool ok)
{
	struct rpc_conn *conn = conn_of_accept(op);
	struct rpc_server *server = conn->server;
	struct rpc_call *call = ok ? take_call(conn) : NULL;

	pthread_mutex_lock(&server->lock);
	conn->accepting = false;
	grpc_call_details_destroy(&conn->details);
	grpc_metadata_array_destroy(&conn->metadata);
	if (call) {
		conn->calls++;
		/* Those that wait for their request are as many as the limit on streams lets in. */
		if (rpc_server_quick(server, call->service))
			rpc_conn_accept(conn);
		else
			rpc_server_push(server, call);
	} else {
		rpc_server_wake(server);
	}
	pthread_mutex_unlock(&server->lock);
}

static void shutdown_done(struct rpc_op *op, bool ok)
{
	struct rpc_conn *conn = conn_of_shutdown(op);
	struct rpc_server *server = conn->server;

	(void)ok;
	pthread_mutex_lock(&server->lock);
	conn->shut = true;
	rpc_server_wake(server);
	pthread_mutex_unlock(&server->lock);
}

void rpc_conn_accept(struct rpc_conn *conn)
{
	if (conn->accepting || conn->closing)
		return;
	grpc_call_details_init(&conn->details);
	grpc_metadata_array_init(&conn->metadata);
	rpc_op_hand_over(&conn->accept_op);
	conn->accepting = grpc_server_request_call(conn->grpc, &conn->accepted, &conn->details,
				  &conn->metadata, rpc_queue(), rpc_queue(),
				  &conn->accept_op) == GRPC_CALL_OK;
}

int rpc_server_add(struct rpc_server *server, int fd, void *owner, void (*on_close)(void *owner),
	struct error **err)
{
	_cleanup_close_ int owned = fd;
	_cleanup_close_ int watch = -1;
	grpc_arg args[RPC_ARGS_MAX];
	grpc_channel_args list;

	if (rpc_prepare_fd(owned, err) < 0)
		return -1;
	watch = fcntl(owned, F_DUPFD_CLOEXEC, 0);
	if (watch < 0)
		return error_errno(err, errno, "socket for RPC");
	rpc_channel_args(&server->limits, RPC_SERVER, args, &list);
	struct rpc_conn *conn = xcalloc(1, sizeof(*conn));
	conn->server = server;
	conn->owner = owner;
	conn->on_close = on_close;
	conn->accept_op.done = accept_done;
	conn->shutdown_op.done = shutdown_done;
	conn->watch = watch;
	struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = conn};

	pthread_mutex_lock(&server->lock);
	if (server->closing || epoll_ctl(server->epoll, EPOLL_CTL_ADD, watch, &event) < 0) {
		int saved = errno;
		bool closing = server->closing;
		pthread_mutex_unlock(&server->lock);
		free(conn);
		return closing ? error_set(err, ERR_UNAVAILABLE, "the server is closing")
			       : error_errno(err, saved, "socket for RPC");
	}
	watch = -1; /* conn's */
	conn->grpc = grpc_server_create(&list, NULL);
	grpc_server_register_completion_queue(conn->grpc, rpc_queue(), NULL);
	grpc_server_start(conn->grpc);
	grpc_server_credentials *plain = grpc_insecure_server_credentials_create();
	grpc_server_add_channel_from_fd(conn->grpc, steal_fd(owned), plain);
	grpc_server_credentials_release(plain);
	conn->next = server->conns;
	server->conns = conn;
	rpc_conn_accept(conn);
	pthread_mutex_unlock(&server->lock);
	return 0;
}

/* Begin the connection's end, or with force, hasten it. Under the lock; the keeper's thread. */
static void conn_close(struct rpc_conn *conn, bool force)
{
	conn->closing = true;
	if (!conn->told && (force || !conn->calls)) {
		conn->told = true;
		close_fd(&conn->watch); /* leaves the epoll set with it: no events any more */
		rpc_op_hand_over(&conn->shutdown_op);
		grpc_server_shutdown_and_notify(conn->grpc, rpc_queue(), &conn->shutdown_op);
	}
	if (force && !conn->forced) {
		conn->forced = true;
		grpc_server_cancel_all_calls(conn->grpc);
	}
}

/* Take a connection that has come to its end out of the list. Under the lock. */
static struct rpc_conn *next_ended(struct rpc_server *server)
{
	for (struct rpc_conn **p = &server->conns; *p; p = &(*p)->next) {
		struct rpc_conn *conn = *p;
		if (conn->shut && !conn->accepting && !conn->calls) {
			*p = conn->next;
			return conn;
		}
	}
	return NULL;
}

static void conn_free(struct rpc_conn *conn)
{
	grpc_server_destroy(conn->grpc);
	if (conn->on_close)
		conn->on_close(conn->owner);
	free(conn);
}

/* Milliseconds until the grace ends, -1 if there is nothing to wait for but events. Under the lock.
 */
static int keeper_timeout(const struct rpc_server *server, bool forced)
{
	uint64_t now = now_mono_usec();

	if (!server->closing || forced)
		return -1;
	return now >= server->grace_end ? 0 : (int)((server->grace_end - now + 999) / 1000);
}

void *rpc_conn_keep(void *arg)
{
	struct rpc_server *server = arg;
	bool forced = false;

	pthread_mutex_lock(&server->lock);
	while (!server->closing || server->conns) {
		struct epoll_event events[16];
		struct rpc_conn *ended;
		uint64_t count;
		int timeout = keeper_timeout(server, forced);

		pthread_mutex_unlock(&server->lock);
		int n = epoll_wait(server->epoll, events, ARRAY_SIZE(events), timeout);
		pthread_mutex_lock(&server->lock);
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr)
				conn_close(events[i].data.ptr, true);
			else if (read(server->wake, &count, sizeof(count)) < 0)
				continue; /* a second look at the same wake-up */
		}
		if (server->closing) {
			forced = now_mono_usec() >= server->grace_end;
			for (struct rpc_conn *conn = server->conns; conn; conn = conn->next)
				conn_close(conn, forced);
		}
		while ((ended = next_ended(server))) {
			pthread_mutex_unlock(&server->lock);
			conn_free(ended);
			pthread_mutex_lock(&server->lock);
		}
	}
	pthread_mutex_unlock(&server->lock);
	return NULL;
}
