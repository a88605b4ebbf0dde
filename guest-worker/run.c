/* Run: a stream that looks at one execution.
 *
 * The handler's thread waits for the host's messages; what happens in the execution wakes it
 * (rpc_wake). So one thread does it all: a host that reads slowly holds rpc_send(), then the ring
 * fills, then the job waits. Its deadlines are kept by the execution's own thread meanwhile. When
 * the stream ends, for whatever reason, the execution is left to another (executor.h).
 */
#include "common/failpoint.h"
#include "common/limits.h"
#include "common/util.h"
#include "guest-worker/output.h"
#include "guest-worker/service_internal.h"

#define FIRST_MESSAGE_MS 30000
#define HALF_CLOSED_MS	 200

static void wake_call(void *call)
{
	rpc_wake(call);
}

/* A reply in the making, and where its parts are. */
struct parts {
	bool together; /* the host takes several in one */
	Worker__V1__RunReply reply;
	Worker__V1__RunStarted started;
	Worker__V1__RunExit exit;
	char *out, *err, *next; /* owned; of OUTPUT_CHUNK bytes; next: of none */
};

static void parts_free(struct parts *parts)
{
	free(parts->out);
	free(parts->err);
	free(parts->next);
}
#define _cleanup_parts_ __attribute__((cleanup(parts_free)))

static void add_started(struct parts *parts, const struct execution_event *event)
{
	worker__v1__run_started__init(&parts->started);
	parts->started.pid = event->pid;
	parts->started.uptime_usec = event->uptime_usec;
	parts->reply.started = &parts->started;
}

static void add_exit(struct parts *parts, const struct execution_exit *from)
{
	Worker__V1__RunExit *exit = &parts->exit;

	worker__v1__run_exit__init(exit);
	exit->reason = from->reason;
	exit->has_code = from->has_code;
	exit->code = from->code;
	exit->error = (char *)(uintptr_t)from->error; /* read only; the execution's */
	exit->stdout_bytes = from->stdout_bytes;
	exit->stderr_bytes = from->stderr_bytes;
	exit->stdout_truncated = from->stdout_truncated;
	exit->stderr_truncated = from->stderr_truncated;
	exit->user_usec = from->user_usec;
	exit->system_usec = from->system_usec;
	exit->max_rss_bytes = from->max_rss_bytes;
	exit->wall_usec = from->wall_usec;
	parts->reply.exit = exit;
}

/* Would an event of this type come after all that the reply has? */
static bool comes_last(const struct parts *parts, enum execution_event_type type)
{
	const Worker__V1__RunReply *reply = &parts->reply;

	switch (type) {
	case EXECUTION_STARTED:
		return false;
	case EXECUTION_OUT:
		return !reply->has_out && !reply->has_err;
	case EXECUTION_ERR:
		return !reply->has_err;
	default:
		return true;
	}
}

static bool is_empty(const struct parts *parts)
{
	const Worker__V1__RunReply *reply = &parts->reply;

	return !reply->started && !reply->has_out && !reply->has_err && !reply->exit;
}

/* Send what the reply has, if anything. */
static int flush(struct rpc_call *call, struct parts *parts, struct error **err)
{
	if (is_empty(parts))
		return 0;
	bool output = parts->reply.has_out || parts->reply.has_err;
	int r = rpc_send(call, &parts->reply.base, err);
	worker__v1__run_reply__init(&parts->reply);
	if (output)
		FAILPOINT("worker.output");
	return r;
}

/* Bytes that were read into `next`. */
static ProtobufCBinaryData keep_bytes(struct parts *parts, char **to, size_t size)
{
	char *bytes = parts->next;

	parts->next = *to;
	*to = bytes;
	return (ProtobufCBinaryData){size, (uint8_t *)bytes};
}

static void add_event(struct parts *parts, const struct execution_event *event)
{
	Worker__V1__RunReply *reply = &parts->reply;

	if (event->type == EXECUTION_STARTED)
		add_started(parts, event);
	if (event->type == EXECUTION_EXIT)
		add_exit(parts, &event->exit);
	if (event->type == EXECUTION_OUT) {
		reply->has_out = true;
		reply->out = keep_bytes(parts, &parts->out, event->size);
	}
	if (event->type == EXECUTION_ERR) {
		reply->has_err = true;
		reply->err = keep_bytes(parts, &parts->err, event->size);
	}
}

/* Send what there is, waiting for the first of it at most wait_ms. 1 after the exit, 0 when there
 * is nothing more now. */
static int send_events(struct rpc_call *call, struct execution *ex, int wait_ms,
	struct parts *parts, struct error **err)
{
	for (;; wait_ms = 0) {
		struct execution_event event;

		execution_next(ex, wait_ms, parts->next, OUTPUT_CHUNK, &event);
		if (event.type == EXECUTION_NOTHING)
			return flush(call, parts, err);
		if (event.type == EXECUTION_TAKEN_OVER)
			return error_set(err, ERR_ABORTED, "another stream follows it now");
		if ((!parts->together || !comes_last(parts, event.type)) &&
			flush(call, parts, err) < 0)
			return -1;
		add_event(parts, &event);
		if (event.type == EXECUTION_EXIT)
			return flush(call, parts, err) < 0 ? -1 : 1;
	}
}

/* A message that is not the first. */
static int handle_message(
	const Worker__V1__RunRequest *request, struct execution *ex, struct error **err)
{
	switch (request->part_case) {
	case WORKER__V1__RUN_REQUEST__PART_STOP:
		execution_stop(ex,
			request->stop->has_grace_ms ? request->stop->grace_ms : DEFAULT_GRACE_MS);
		return 0;
	case WORKER__V1__RUN_REQUEST__PART_ACK:
		execution_ack(ex, request->ack->stdout_offset, request->ack->stderr_offset);
		return 0;
	case WORKER__V1__RUN_REQUEST__PART_INPUT:
		return error_set(err, ERR_UNSUPPORTED, "a job's standard input is /dev/null");
	default:
		return error_set(err, ERR_INVALID, "unexpected message in a running stream");
	}
}

/* The next message, or the execution's call. *listening: the host may say more. */
static int hear(struct rpc_call *call, struct execution *ex, bool *listening, struct error **err)
{
	_cleanup_error_ struct error *why = NULL;
	ProtobufCMessage *message = NULL;
	int r = rpc_recv(call, -1, &message, &why);

	if (r == 1) {
		r = handle_message((const Worker__V1__RunRequest *)message, ex, err);
		rpc_message_free(message);
		return r;
	}
	if (r == 0)
		*listening = false;
	else if (why->code != ERR_ABORTED)
		return error_move(err, steal_ptr(why));
	return 0;
}

static int follow(struct rpc_call *call, struct execution *ex, bool together, struct error **err)
{
	_cleanup_parts_ struct parts parts = {.together = together,
		.reply = WORKER__V1__RUN_REPLY__INIT,
		.out = xmalloc(OUTPUT_CHUNK),
		.err = xmalloc(OUTPUT_CHUNK),
		.next = xmalloc(OUTPUT_CHUNK)};
	bool listening = true;

	for (;;) {
		/* A host that has closed its half cannot wake us; then its going away shows here.
		 */
		int r = send_events(call, ex, listening ? 0 : HALF_CLOSED_MS, &parts, err);
		if (r != 0)
			return r < 0 ? -1 : 0;
		if (listening && hear(call, ex, &listening, err) < 0)
			return -1;
		if (!listening && rpc_call_cancelled(call))
			return error_set(err, ERR_CANCELLED, "the caller went away");
	}
}

static struct execution *begin(const Worker__V1__RunRequest *request, struct worker *worker,
	bool *ret_together, struct error **err)
{
	switch (request->part_case) {
	case WORKER__V1__RUN_REQUEST__PART_START:
		*ret_together = request->start->together;
		return executor_start(worker->executor, request->start, err);
	case WORKER__V1__RUN_REQUEST__PART_ATTACH:
		*ret_together = request->attach->together;
		return executor_attach(worker->executor, request->attach->id,
			request->attach->stdout_offset, request->attach->stderr_offset, err);
	default:
		error_set(err, ERR_INVALID, "Run begins with start or attach");
		return NULL;
	}
}

int worker_handle_run(struct rpc_call *call, void *server_arg, struct error **err)
{
	ProtobufCMessage *message = NULL;
	bool together = false;

	if (worker_require_proof(call, err) < 0)
		return -1;
	int r = rpc_recv(call, FIRST_MESSAGE_MS, &message, err);
	if (r <= 0)
		return r < 0 ? -1 : error_set(err, ERR_INVALID, "Run begins with start or attach");
	struct execution *ex =
		begin((const Worker__V1__RunRequest *)message, server_arg, &together, err);
	rpc_message_free(message);
	if (!ex)
		return -1;

	execution_listen(ex, wake_call, call);
	r = follow(call, ex, together, err);
	execution_listen(ex, NULL, NULL);
	execution_detach(ex);
	return r;
}
