/* The calling side: connections to peers, unary calls, the start and end of streaming ones. */
#include <string.h>

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>

#include "common/rpc_internal.h"
#include "common/util.h"

/* Calls outlive their peer until their owners close them, so it is counted. */
struct rpc_peer {
	char *name; /* owned */
	struct rpc_limits limits;
	grpc_channel *channel; /* owned until rpc_peer_free() */

	pthread_mutex_t lock; /* taken before a call's, if both */
	unsigned refs;
	struct rpc_call *calls;
};

struct rpc_peer *rpc_peer_new(
	int fd, const char *name, const struct rpc_limits *limits, struct error **err)
{
	_cleanup_close_ int owned = fd;
	grpc_arg args[RPC_ARGS_MAX];
	grpc_channel_args list;

	if (rpc_prepare_fd(owned, err) < 0) {
		error_wrap(err, "%s", name);
		return NULL;
	}
	rpc_channel_args(limits, RPC_CLIENT, args, &list);
	struct rpc_peer *peer = xcalloc(1, sizeof(*peer));
	peer->name = xstrdup(name);
	peer->limits = *limits;
	peer->refs = 1;
	pthread_mutex_init(&peer->lock, NULL);
	grpc_channel_credentials *plain = grpc_insecure_credentials_create();
	peer->channel = grpc_channel_create_from_fd("peer", steal_fd(owned), plain, &list);
	grpc_channel_credentials_release(plain);
	return peer;
}

static void peer_unref(struct rpc_peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	bool last = --peer->refs == 0;
	pthread_mutex_unlock(&peer->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&peer->lock);
	free(peer->name);
	free(peer);
}

void rpc_peer_cancel(struct rpc_peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	for (struct rpc_call *call = peer->calls; call; call = call->next)
		grpc_call_cancel_with_status(
			call->grpc, GRPC_STATUS_UNAVAILABLE, "the connection was closed", NULL);
	pthread_mutex_unlock(&peer->lock);
}

void rpc_peer_free(struct rpc_peer *peer)
{
	if (!peer)
		return;
	/* Cancelled first: a call whose channel is destroyed would end in UNKNOWN. */
	rpc_peer_cancel(peer);
	grpc_channel_destroy(steal_ptr(peer->channel));
	peer_unref(peer);
}

static void end_done(struct rpc_op *op, bool ok)
{
	(void)ok; /* always: the status says it */
	pthread_mutex_lock(&op->call->lock);
	op->call->ended = true;
	rpc_call_op_done(op->call);
}

static struct rpc_call *call_new(
	struct rpc_peer *peer, const struct rpc_method *method, int timeout_ms)
{
	struct rpc_call *call = rpc_call_new(RPC_CLIENT, method, &peer->limits);
	gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);

	if (timeout_ms >= 0)
		deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
			gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
	call->end_op = (struct rpc_op){.done = end_done, .call = call};
	call->peer = peer;
	call->grpc = grpc_channel_create_call(peer->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
		rpc_queue(), grpc_slice_from_static_string(method->path), NULL, deadline, NULL);
	pthread_mutex_lock(&peer->lock);
	peer->refs++;
	call->next = peer->calls;
	call->prev = &peer->calls;
	if (call->next)
		call->next->prev = &call->next;
	peer->calls = call;
	pthread_mutex_unlock(&peer->lock);
	return call;
}

static void call_free(struct rpc_call *call)
{
	struct rpc_peer *peer = call->peer;

	pthread_mutex_lock(&peer->lock);
	*call->prev = call->next;
	if (call->next)
		call->next->prev = call->prev;
	pthread_mutex_unlock(&peer->lock);
	rpc_call_free(call);
	peer_unref(peer);
}

static grpc_op status_op(struct rpc_call *call)
{
	return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
		.data.recv_status_on_client = {
			.trailing_metadata = &call->trailer,
			.status = &call->status,
			.status_details = &call->status_text,
		}};
}

static grpc_op head_op(struct rpc_call *call)
{
	return (grpc_op){
		.op = GRPC_OP_RECV_INITIAL_METADATA,
		.data.recv_initial_metadata.recv_initial_metadata = &call->head,
	};
}

static bool said_by_handler(const struct rpc_call *call)
{
	for (size_t i = 0; i < call->trailer.count; i++)
		if (grpc_slice_str_cmp(call->trailer.metadata[i].key, RPC_HANDLER_KEY) == 0)
			return true;
	return false;
}

int rpc_client_status(struct rpc_call *call, struct error **err)
{
	_cleanup_free_ char *text = rpc_status_text_in(call->status_text, call->limits);
	enum err_code code = (enum err_code)call->status;

	/* The number is the peer's. */
	if (call->status < GRPC_STATUS_CANCELLED || call->status > GRPC_STATUS_UNAUTHENTICATED)
		code = ERR_UNKNOWN;
	if (said_by_handler(call))
		return error_set(err, code, "%s", text);
	if (code == ERR_TIMEOUT)
		return error_set(err, code, "%s: no answer in time", call->peer->name);
	/* Nobody at this end cancelled: the other end dropped the call with its server. */
	if (code == ERR_CANCELLED && !call->cancelled)
		code = ERR_UNAVAILABLE;
	/* gRPC's word for a connection that broke at an unlucky moment. */
	if (code == ERR_UNKNOWN && str_eq(text, "Stream removed"))
		code = ERR_UNAVAILABLE;
	if (code == ERR_UNAVAILABLE)
		return error_set(err, code, "%s: lost the connection: %s", call->peer->name, text);
	return error_set(err, code, "%s: %s", call->peer->name, text);
}

int rpc_unary(struct rpc_peer *peer, const struct rpc_method *method,
	const ProtobufCMessage *request, int timeout_ms, ProtobufCMessage **ret_reply,
	struct error **err)
{
	grpc_byte_buffer *out = rpc_message_pack(request, &peer->limits, err);

	*ret_reply = NULL;
	if (!out)
		return error_wrap(err, "%s", peer->name);
	struct rpc_call *call = call_new(peer, method, timeout_ms);
	grpc_op ops[] = {
		{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = out},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		head_op(call),
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->in},
		status_op(call),
	};

	pthread_mutex_lock(&call->lock);
	rpc_call_start(call, ops, ARRAY_SIZE(ops), &call->end_op);
	pthread_mutex_unlock(&call->lock);
	rpc_poll_for(call);

	if (call->status != GRPC_STATUS_OK)
		rpc_client_status(call, err);
	else if (!call->in)
		error_set(err, ERR_INTERNAL, "%s: an answer without a reply", peer->name);
	else if (!(*ret_reply = rpc_message_unpack(call->in, method->reply, &peer->limits, err)))
		error_wrap(err, "%s: sent", peer->name);
	grpc_byte_buffer_destroy(out);
	call_free(call);
	return *ret_reply ? 0 : -1;
}

struct rpc_call *rpc_open(
	struct rpc_peer *peer, const struct rpc_method *method, int timeout_ms, struct error **err)
{
	struct rpc_call *call = call_new(peer, method, timeout_ms);
	grpc_op begin[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}, head_op(call)};
	grpc_op end = status_op(call);

	(void)err; /* a dead connection shows at the first use */
	pthread_mutex_lock(&call->lock);
	rpc_call_start(call, &end, 1, &call->end_op);
	rpc_call_start(call, begin, ARRAY_SIZE(begin), &call->aux_op);
	pthread_mutex_unlock(&call->lock);
	return call;
}

void rpc_close(struct rpc_call *call)
{
	if (!call)
		return;
	pthread_mutex_lock(&call->lock);
	if (!call->ended) {
		call->cancelled = true;
		grpc_call_cancel_with_status(call->grpc, GRPC_STATUS_CANCELLED, "closed", NULL);
	}
	/* All that is under way ends soon, since the call has. */
	while (call->pending)
		rpc_call_wait(call, 0);
	pthread_mutex_unlock(&call->lock);
	call_free(call);
}
