/* One call, as both ends see it: sending, receiving, waiting, cancelling. */
#include <grpc/byte_buffer.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "common/rpc_internal.h"
#include "common/util.h"

static void send_done(struct rpc_op *op, bool ok)
{
	struct rpc_call *call = op->call;

	pthread_mutex_lock(&call->lock);
	grpc_byte_buffer_destroy(steal_ptr(call->out));
	call->sending = false;
	if (!ok)
		call->send_failed = true;
	rpc_call_op_done(call);
}

static void recv_done(struct rpc_op *op, bool ok)
{
	struct rpc_call *call = op->call;

	pthread_mutex_lock(&call->lock);
	call->receiving = false;
	call->in = steal_ptr(call->incoming);
	/* Both the proper end and a lost peer come as success without a message. */
	if (!ok || !call->in) {
		call->recv_ended = true;
		if (!ok || (call->side == RPC_SERVER &&
				   grpc_call_failed_before_recv_message(call->grpc)))
			call->recv_broken = true;
	}
	void (*received)(void *) = steal_ptr(call->received);
	void *arg = call->received_arg;
	rpc_call_op_done(call);
	/* It is not over before it is handled, and nobody else handles it. */
	if (received)
		received(arg);
}

static void aux_done(struct rpc_op *op, bool ok)
{
	(void)ok; /* a failure shows in the call's end too */
	pthread_mutex_lock(&op->call->lock);
	rpc_call_op_done(op->call);
}

struct rpc_call *rpc_call_new(
	enum rpc_side side, const struct rpc_method *method, const struct rpc_limits *limits)
{
	struct rpc_call *call = xcalloc(1, sizeof(*call));

	pthread_mutex_init(&call->lock, NULL);
	rpc_cond_init(&call->changed);
	call->side = side;
	call->method = method;
	call->limits = limits;
	call->send_op = (struct rpc_op){.done = send_done, .call = call};
	call->recv_op = (struct rpc_op){.done = recv_done, .call = call};
	call->aux_op = (struct rpc_op){.done = aux_done, .call = call};
	call->answer_op = (struct rpc_op){.done = rpc_server_answer_done, .call = call};
	call->status_text = grpc_empty_slice();
	grpc_metadata_array_init(&call->head);
	grpc_metadata_array_init(&call->trailer);
	return call;
}

void rpc_call_free(struct rpc_call *call)
{
	grpc_byte_buffer_destroy(call->in);
	grpc_byte_buffer_destroy(call->incoming);
	grpc_byte_buffer_destroy(call->out);
	rpc_message_free(call->given_back);
	grpc_metadata_array_destroy(&call->head);
	grpc_metadata_array_destroy(&call->trailer);
	grpc_slice_unref(call->status_text);
	if (call->grpc)
		grpc_call_unref(call->grpc);
	pthread_cond_destroy(&call->changed);
	pthread_mutex_destroy(&call->lock);
	free(call);
}

void rpc_call_start(struct rpc_call *call, const grpc_op *ops, size_t n, struct rpc_op *op)
{
	rpc_op_hand_over(op);
	grpc_call_error e = grpc_call_start_batch(call->grpc, ops, n, op, NULL);

	/* Only a misuse of gRPC's API fails here, never a peer. */
	if (e != GRPC_CALL_OK) {
		log_error("rpc", "%s", grpc_call_error_to_string(e));
		abort();
	}
	call->pending++;
}

void rpc_call_op_done(struct rpc_call *call)
{
	call->pending--;
	bool over = call->side == RPC_SERVER && call->handled && call->pending == 0;
	/* Now, not when they come to run: nobody need poll for them. */
	if (call->waiting) {
		rpc_poll_awaited(call->waiting);
		call->waiting = 0;
		call->round++;
		pthread_cond_broadcast(&call->changed);
	}
	pthread_mutex_unlock(&call->lock);
	/* A client's call may be gone by now: its owner waits for pending to be 0. */
	if (over)
		rpc_server_call_over(call);
}

bool rpc_call_wait(struct rpc_call *call, uint64_t deadline_usec)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(deadline_usec / 1000000),
		.tv_nsec = (long)(deadline_usec % 1000000) * 1000,
	};

	uint64_t round = call->round;
	call->waiting++;
	rpc_poll_await();
	int r = deadline_usec ? pthread_cond_timedwait(&call->changed, &call->lock, &ts)
			      : pthread_cond_wait(&call->changed, &call->lock);
	/* Unless a completion has counted it off. */
	if (round == call->round) {
		call->waiting--;
		rpc_poll_awaited(1);
	}
	return r == 0;
}

void rpc_call_arm(struct rpc_call *call)
{
	grpc_op op = {
		.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->incoming};

	if (call->receiving || call->in || call->recv_ended)
		return;
	call->receiving = true;
	rpc_call_start(call, &op, 1, &call->recv_op);
}

/* Why nothing more can be done on this call. Under the lock; waits for the client's status, which
 * is on its way or hidden behind a message that nobody has read yet. */
static int call_error(struct rpc_call *call, struct error **err)
{
	if (call->side == RPC_SERVER && !call->cancelled)
		return error_set(err, ERR_CANCELLED, "the caller went away");
	while (!call->cancelled && !call->ended && !call->in) {
		rpc_call_arm(call);
		rpc_call_wait(call, 0);
	}
	if (call->cancelled)
		return error_set(err, ERR_CANCELLED, "cancelled");
	if (call->ended && call->status != GRPC_STATUS_OK)
		return rpc_client_status(call, err);
	return error_set(err, ERR_STATE, "the other side ended the call");
}

static int send_batch(struct rpc_call *call)
{
	grpc_op ops[3] = {0};
	size_t n = 0;

	if (call->side == RPC_SERVER && !call->head_sent) {
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
		call->head_sent = true;
	}
	ops[n].op = GRPC_OP_SEND_MESSAGE;
	ops[n++].data.send_message.send_message = call->out;
	if (call->side == RPC_CLIENT && !call->method->requests) {
		ops[n++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
		call->send_closed = true;
	}
	call->sending = true;
	rpc_call_start(call, ops, n, &call->send_op);
	return 0;
}

static int send_locked(struct rpc_call *call, grpc_byte_buffer **buffer, uint64_t deadline_usec,
	struct error **err)
{
	if (call->send_closed)
		return error_set(err, ERR_STATE, "the stream to the other side was closed");
	/* A unary reply waits for the handler's word, and leaves together with the status. */
	if (call->side == RPC_SERVER && !call->method->replies) {
		call->out = steal_ptr(*buffer);
		call->send_closed = true;
		return 0;
	}
	while (call->sending && !call->cancelled && !call->ended)
		if (!rpc_call_wait(call, deadline_usec) && call->sending)
			return error_set(err, ERR_TIMEOUT, "the other side does not read");
	if (call->cancelled || call->ended || call->send_failed)
		return call_error(call, err);
	call->out = steal_ptr(*buffer);
	return send_batch(call);
}

int rpc_send(struct rpc_call *call, const ProtobufCMessage *message, struct error **err)
{
	return rpc_send_within(call, message, -1, err);
}

/* buffer is taken; NULL: why is said already. */
static int send_buffer(
	struct rpc_call *call, grpc_byte_buffer *buffer, int wait_ms, struct error **err)
{
	uint64_t deadline = wait_ms < 0 ? 0 : now_mono_usec() + (uint64_t)wait_ms * 1000;

	if (!buffer)
		return -1;
	pthread_mutex_lock(&call->lock);
	int r = send_locked(call, &buffer, deadline, err);
	pthread_mutex_unlock(&call->lock);
	grpc_byte_buffer_destroy(buffer);
	return r;
}

int rpc_send_within(
	struct rpc_call *call, const ProtobufCMessage *message, int wait_ms, struct error **err)
{
	return send_buffer(call, rpc_message_pack(message, call->limits, err), wait_ms, err);
}

int rpc_send_packed(
	struct rpc_call *call, uint8_t *data, size_t size, int wait_ms, struct error **err)
{
	return send_buffer(call, rpc_message_wrap(data, size, call->limits, err), wait_ms, err);
}

int rpc_close_send(struct rpc_call *call, struct error **err)
{
	grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
	int r = 0;

	if (call->side == RPC_SERVER)
		return error_set(err, ERR_STATE, "only the caller closes its stream");
	pthread_mutex_lock(&call->lock);
	if (call->cancelled) {
		r = call_error(call, err);
	} else if (!call->send_closed) {
		call->send_closed = true;
		rpc_call_start(call, &op, 1, &call->aux_op);
	}
	pthread_mutex_unlock(&call->lock);
	return r;
}

/* A message is there to be taken: 1; the stream has ended: 0; an error: -1. */
static int recv_wait(struct rpc_call *call, uint64_t deadline, struct error **err)
{
	/* A single reply counts only together with its status. */
	bool single = call->side == RPC_CLIENT && !call->method->replies;

	for (;;) {
		if (call->cancelled)
			return error_set(err, ERR_CANCELLED, "cancelled");
		if (call->in && (!single || (call->ended && call->status == GRPC_STATUS_OK)))
			return 1;
		if (call->side == RPC_SERVER && call->recv_ended)
			return call->recv_broken || call->peer_cancelled ? call_error(call, err)
									 : 0;
		if (call->side == RPC_CLIENT && call->ended && (call->recv_ended || single))
			return call->status == GRPC_STATUS_OK ? 0 : rpc_client_status(call, err);
		if (call->woken) {
			call->woken = false;
			return error_set(err, ERR_ABORTED, "woken");
		}
		rpc_call_arm(call);
		if (!rpc_call_wait(call, deadline))
			return error_set(err, ERR_TIMEOUT, "nothing came in time");
	}
}

int rpc_recv(struct rpc_call *call, int wait_ms, ProtobufCMessage **ret_message, struct error **err)
{
	uint64_t deadline = wait_ms < 0 ? 0 : now_mono_usec() + (uint64_t)wait_ms * 1000;
	const ProtobufCMessageDescriptor *type =
		call->side == RPC_CLIENT ? call->method->reply : call->method->request;
	bool stream = call->side == RPC_CLIENT ? call->method->replies : call->method->requests;
	grpc_byte_buffer *buffer = NULL;

	*ret_message = steal_ptr(call->given_back);
	if (*ret_message)
		return 1;
	pthread_mutex_lock(&call->lock);
	int r = recv_wait(call, deadline, err);
	if (r == 1) {
		buffer = steal_ptr(call->in);
		if (stream)
			rpc_call_arm(call); /* fetch the next while this one is being used */
		else
			call->recv_ended = true;
	}
	pthread_mutex_unlock(&call->lock);
	if (r != 1)
		return r;
	*ret_message = rpc_message_unpack(buffer, type, call->limits, err);
	grpc_byte_buffer_destroy(buffer);
	return *ret_message ? 1 : -1;
}

void rpc_unrecv(struct rpc_call *call, ProtobufCMessage *message)
{
	call->given_back = message;
}

void rpc_when_received(struct rpc_call *call, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&call->lock);
	rpc_call_arm(call);
	bool wait = call->receiving;
	if (wait) {
		call->received = fn;
		call->received_arg = arg;
	}
	pthread_mutex_unlock(&call->lock);
	if (!wait)
		fn(arg);
}

void rpc_wake(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	call->woken = true;
	pthread_cond_broadcast(&call->changed);
	pthread_mutex_unlock(&call->lock);
}

void rpc_cancel(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	call->cancelled = true;
	grpc_call_cancel_with_status(call->grpc, GRPC_STATUS_CANCELLED, "cancelled", NULL);
	pthread_cond_broadcast(&call->changed);
	pthread_mutex_unlock(&call->lock);
}

bool rpc_call_cancelled(struct rpc_call *call)
{
	pthread_mutex_lock(&call->lock);
	bool r = call->cancelled || call->ended;
	pthread_mutex_unlock(&call->lock);
	return r;
}
