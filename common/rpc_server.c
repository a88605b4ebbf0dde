/* The called side: the pool of handler threads, and a call's way through it. Connections are in
 * rpc_conn.c.
 *
 * A connection has at most one accepted call in the queue; the next is accepted when a thread took
 * that one. Others wait inside gRPC, as many as HTTP/2's limit on streams lets in.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/log.h"
#include "common/rpc_internal.h"
#include "common/util.h"

#define HANDLER_STACK (256 * KIB)

const struct rpc_service *rpc_server_find(const struct rpc_server *server, grpc_slice path)
{
	for (size_t i = 0; i < server->n_services; i++)
		if (grpc_slice_str_cmp(path, server->services[i].method->path) == 0)
			return &server->services[i];
	return NULL;
}

void rpc_server_set_quick(
	struct rpc_server *server, const struct rpc_method *method, rpc_handler quick)
{
	for (size_t i = 0; i < server->n_services; i++)
		if (server->services[i].method == method)
			server->quick[i] = quick ? quick : server->services[i].handler;
}

rpc_handler rpc_server_quick(const struct rpc_server *server, const struct rpc_service *service)
{
	return service ? server->quick[service - server->services] : NULL;
}

void rpc_server_call_over(struct rpc_call *call)
{
	struct rpc_conn *conn = call->conn;
	struct rpc_server *server = conn->server;

	bool was_at_work = call->at_work;
	rpc_call_free(call);
	pthread_mutex_lock(&server->lock);
	conn->calls--;
	server->at_work -= was_at_work;
	if (conn->closing)
		rpc_server_wake(server);
	pthread_mutex_unlock(&server->lock);
}

/* Answer the call: err (may be NULL) is its status. Nothing of the call may be touched after. */
static void answer(struct rpc_call *call, const struct error *err)
{
	grpc_metadata mark = {
		.key = grpc_slice_from_static_string(RPC_HANDLER_KEY),
		.value = grpc_slice_from_static_string("handler"),
	};
	grpc_slice text = rpc_status_text_out(err ? err->text : "", call->limits);
	grpc_op ops[3] = {0};
	size_t n = 0;

	pthread_mutex_lock(&call->lock);
	if (!call->head_sent)
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (!err && call->out && !call->method->replies) {
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = call->out;
	}
	ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	if (err) {
		ops[n].data.send_status_from_server.status = (grpc_status_code)err->code;
		ops[n].data.send_status_from_server.status_details = &text;
		ops[n].data.send_status_from_server.trailing_metadata = &mark;
		ops[n].data.send_status_from_server.trailing_metadata_count = 1;
	}
	n++;
	call->handled = true;
	rpc_call_start(call, ops, n, &call->aux_op);
	pthread_mutex_unlock(&call->lock);
	grpc_slice_unref(text);
}

/* What the handler returned becomes the answer. */
static void handled(struct rpc_call *call, int r, struct error *err)
{
	_cleanup_error_ struct error *owned = err;

	if (r < 0 && !owned)
		error_set(&owned, ERR_UNKNOWN, "failed without saying why");
	else if (r >= 0 && !call->method->replies && !call->out)
		error_set(&owned, ERR_INTERNAL, "no reply was made");
	answer(call, owned);
}

static void handle(struct rpc_call *call, bool refuse)
{
	struct error *err = NULL;
	int r = -1;

	if (refuse)
		error_set(&err, ERR_UNAVAILABLE, "closing");
	else if (!call->service)
		error_set(&err, ERR_UNSUPPORTED, "no such method");
	else
		r = call->service->handler(call, call->conn->server->arg, &err);
	if (r != RPC_LATER)
		handled(call, r, err);
}

void rpc_server_run_quick(void *arg)
{
	struct rpc_call *call = arg;
	struct rpc_server *server = call->conn->server;
	rpc_handler quick = rpc_server_quick(server, call->service);
	struct error *err = NULL;

	pthread_mutex_lock(&server->lock);
	bool pool = call->conn->closing || server->at_work >= server->limits.calls;
	/* Before it runs, for the call may be gone when it has. */
	call->at_work = !pool;
	server->at_work += !pool;
	pthread_mutex_unlock(&server->lock);
	int r = pool ? RPC_POOL : quick(call, server->arg, &err);
	if (r == RPC_LATER)
		return;
	if (r != RPC_POOL) {
		handled(call, r, err);
		return;
	}
	pthread_mutex_lock(&server->lock);
	server->at_work -= call->at_work;
	call->at_work = false;
	rpc_server_push(server, call);
	pthread_mutex_unlock(&server->lock);
}

void rpc_server_answer_done(struct rpc_op *op, bool ok)
{
	struct rpc_call *call = op->call;
	_cleanup_error_ struct error *error = steal_ptr(call->error);

	(void)ok;
	answer(call, error);
	pthread_mutex_lock(&call->lock);
	rpc_call_op_done(call);
}

/* On the thread that polls, for which the answers of a commit are one wake-up, and which would be
 * woken by each one's completion if it were sent from here: an empty batch completes at once. */
void rpc_answer(struct rpc_call *call, const ProtobufCMessage *reply, struct error *error)
{
	grpc_byte_buffer *out =
		reply && !error ? rpc_message_pack(reply, call->limits, &error) : NULL;

	if (!error && !out && !call->method->replies)
		error_set(&error, ERR_INTERNAL, "no reply was made");
	pthread_mutex_lock(&call->lock);
	if (out)
		call->out = out;
	call->error = error;
	rpc_call_start(call, NULL, 0, &call->answer_op);
	pthread_mutex_unlock(&call->lock);
}

static void *serve(void *arg)
{
	struct rpc_server *server = arg;

	pthread_mutex_lock(&server->lock);
	for (;;) {
		server->idle++;
		while (!server->queue && !server->quit)
			pthread_cond_wait(&server->work, &server->lock);
		server->idle--;
		struct rpc_call *call = server->queue;
		if (!call)
			break;
		server->queue = call->queue_next;
		if (!server->queue)
			server->queue_end = &server->queue;
		server->queued--;
		bool refuse = call->conn->closing;
		rpc_conn_accept(call->conn);
		pthread_mutex_unlock(&server->lock);
		handle(call, refuse);
		pthread_mutex_lock(&server->lock);
	}
	pthread_mutex_unlock(&server->lock);
	return NULL;
}

/* One thread more, if the limit lets. Under the lock, or before there are others. */
static int add_thread(struct rpc_server *server)
{
	if (server->n_threads == server->limits.calls)
		return 0;
	int r = rpc_thread_start(&server->threads[server->n_threads], HANDLER_STACK, serve, server);
	if (r == 0)
		server->n_threads++;
	return r;
}

void rpc_server_push(struct rpc_server *server, struct rpc_call *call)
{
	*server->queue_end = call;
	server->queue_end = &call->queue_next;
	/* If no thread can be had, those there are will come to it. */
	if (++server->queued > server->idle && add_thread(server) != 0)
		log_warn("rpc", "cannot start a thread");
	pthread_cond_signal(&server->work);
}

static void server_destroy(struct rpc_server *server)
{
	rpc_poll_serve(false);
	close_fd(&server->epoll);
	close_fd(&server->wake);
	pthread_cond_destroy(&server->work);
	pthread_mutex_destroy(&server->lock);
	free(server->threads);
	free(server->services);
	free(server->quick);
	free(server);
}

static void join_threads(struct rpc_server *server)
{
	pthread_mutex_lock(&server->lock);
	server->quit = true;
	pthread_cond_broadcast(&server->work);
	pthread_mutex_unlock(&server->lock);
	for (unsigned i = 0; i < server->n_threads; i++)
		pthread_join(server->threads[i], NULL);
}

struct rpc_server *rpc_server_new(const struct rpc_service *services, size_t n_services, void *arg,
	const struct rpc_limits *limits, struct error **err)
{
	struct rpc_server *server = xcalloc(1, sizeof(*server));
	struct epoll_event event = {.events = EPOLLIN};
	int r;

	rpc_poll_serve(true);
	server->services = xmemdup(services, n_services * sizeof(*services));
	server->quick = xcalloc(n_services, sizeof(*server->quick));
	server->n_services = n_services;
	server->arg = arg;
	server->limits = *limits;
	server->threads = xcalloc(limits->calls, sizeof(*server->threads));
	server->queue_end = &server->queue;
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->work, NULL);
	server->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	server->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (server->wake < 0 || server->epoll < 0 ||
		epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->wake, &event) < 0) {
		error_errno(err, errno, "RPC server");
		server_destroy(server);
		return NULL;
	}
	/* The first thread now, so that there is one when memory is short later. */
	r = add_thread(server);
	if (r == 0)
		r = rpc_thread_start(&server->keeper, 0, rpc_conn_keep, server);
	if (r != 0) {
		join_threads(server);
		error_errno(err, r, "RPC server");
		server_destroy(server);
		return NULL;
	}
	return server;
}

void rpc_server_free(struct rpc_server *server, int grace_ms)
{
	if (!server)
		return;
	pthread_mutex_lock(&server->lock);
	server->closing = true;
	server->grace_end = now_mono_usec() + (uint64_t)MAX(grace_ms, 0) * 1000;
	rpc_server_wake(server);
	pthread_mutex_unlock(&server->lock);
	/* The keeper leaves when the last call of the last connection is gone. */
	pthread_join(server->keeper, NULL);
	join_threads(server);
	server_destroy(server);
}

void *rpc_call_conn(struct rpc_call *call)
{
	return call->conn->owner;
}
