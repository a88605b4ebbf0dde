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

static int send_started(
	struct rpc_call *call, const struct execution_event *event, struct error **err)
{
	Worker__V1__RunStarted started = WORKER__V1__RUN_STARTED__INIT;
	Worker__V1__RunReply reply = WORKER__V1__RUN_REPLY__INIT;

	started.pid = event->pid;
	started.uptime_usec = event->uptime_usec;
	reply.part_case = WORKER__V1__RUN_REPLY__PART_STARTED;
	reply.started = &started;
	return rpc_send(call, &reply.base, err);
}

static int send_output(struct rpc_call *call, bool out, char *data, size_t size, struct error **err)
{
	Worker__V1__RunReply reply = WORKER__V1__RUN_REPLY__INIT;
	ProtobufCBinaryData bytes = {.data = (uint8_t *)data, .len = size};

	if (out) {
		reply.part_case = WORKER__V1__RUN_REPLY__PART_OUT;
		reply.out = bytes;
	} else {
		reply.part_case = WORKER__V1__RUN_REPLY__PART_ERR;
		reply.err = bytes;
	}
	int r = rpc_send(call, &reply.base, err);
	FAILPOINT("worker.output");
	return r;
}

static int send_exit(struct rpc_call *call, const struct execution_exit *from, struct error **err)
{
	Worker__V1__RunExit exit = WORKER__V1__RUN_EXIT__INIT;
	Worker__V1__RunReply reply = WORKER__V1__RUN_REPLY__INIT;
	_cleanup_free_ char *text = xstrdup(from->error);

	exit.reason = from->reason;
	exit.has_code = from->has_code;
	exit.code = from->code;
	exit.error = text;
	exit.stdout_bytes = from->stdout_bytes;
	exit.stderr_bytes = from->stderr_bytes;
	exit.stdout_truncated = from->stdout_truncated;
	exit.stderr_truncated = from->stderr_truncated;
	exit.user_usec = from->user_usec;
	exit.system_usec = from->system_usec;
	exit.max_rss_bytes = from->max_rss_bytes;
	exit.wall_usec = from->wall_usec;
	reply.part_case = WORKER__V1__RUN_REPLY__PART_EXIT;
	reply.exit = &exit;
	return rpc_send(call, &reply.base, err);
}

/* Send what there is, waiting for the first of it at most wait_ms. 1 after the exit, 0 when there
 * is nothing more now. */
static int send_events(
	struct rpc_call *call, struct execution *ex, int wait_ms, char *buf, struct error **err)
{
	struct execution_event event;
	int r = 0;

	for (; r == 0; wait_ms = 0) {
		execution_next(ex, wait_ms, buf, OUTPUT_CHUNK, &event);
		switch (event.type) {
		case EXECUTION_NOTHING:
			return 0;
		case EXECUTION_STARTED:
			r = send_started(call, &event, err);
			break;
		case EXECUTION_OUT:
		case EXECUTION_ERR:
			r = send_output(call, event.type == EXECUTION_OUT, buf, event.size, err);
			break;
		case EXECUTION_TAKEN_OVER:
			return error_set(err, ERR_ABORTED, "another stream follows it now");
		case EXECUTION_EXIT:
			return send_exit(call, &event.exit, err) < 0 ? -1 : 1;
		}
	}
	return -1;
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

static int follow(struct rpc_call *call, struct execution *ex, struct error **err)
{
	_cleanup_free_ char *buf = xmalloc(OUTPUT_CHUNK);
	bool listening = true;

	for (;;) {
		/* A host that has closed its half cannot wake us; then its going away shows here.
		 */
		int r = send_events(call, ex, listening ? 0 : HALF_CLOSED_MS, buf, err);
		if (r != 0)
			return r < 0 ? -1 : 0;
		if (listening && hear(call, ex, &listening, err) < 0)
			return -1;
		if (!listening && rpc_call_cancelled(call))
			return error_set(err, ERR_CANCELLED, "the caller went away");
	}
}

static struct execution *begin(
	const Worker__V1__RunRequest *request, struct worker *worker, struct error **err)
{
	switch (request->part_case) {
	case WORKER__V1__RUN_REQUEST__PART_START:
		return executor_start(worker->executor, request->start, err);
	case WORKER__V1__RUN_REQUEST__PART_ATTACH:
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

	if (worker_require_proof(call, err) < 0)
		return -1;
	int r = rpc_recv(call, FIRST_MESSAGE_MS, &message, err);
	if (r <= 0)
		return r < 0 ? -1 : error_set(err, ERR_INVALID, "Run begins with start or attach");
	struct execution *ex = begin((const Worker__V1__RunRequest *)message, server_arg, err);
	rpc_message_free(message);
	if (!ex)
		return -1;

	execution_listen(ex, wake_call, call);
	r = follow(call, ex, err);
	execution_listen(ex, NULL, NULL);
	execution_detach(ex);
	return r;
}
