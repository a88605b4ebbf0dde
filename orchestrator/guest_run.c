/* Programs in the guest: begun, followed to their end, taken up again. */
#include <limits.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/limits.h"
#include "common/util.h"
#include "common/worker_api.h"
#include "orchestrator/guest_private.h"

#define STOP_TIMEOUT_MS 10000
/* After its time limit and its grace the worker itself should have ended the program. */
#define RUN_MARGIN_MS	     30000
#define REHEARSAL_TIMEOUT_MS 20000
/* What comes before it is acknowledged: a part of what the worker can hold, so that the job does
 * not wait for us, and enough that acknowledging costs nothing. */
#define ACK_BYTES (256 * KIB)

static uint64_t run_time_limit(const Job__V1__Spec *spec)
{
	return (spec->has_timeout_ms ? spec->timeout_ms : DEFAULT_TIMEOUT_MS) +
	       (spec->has_stop_grace_period_ms ? spec->stop_grace_period_ms : DEFAULT_GRACE_MS) +
	       RUN_MARGIN_MS;
}

/* The same for the call, as a last resort, in milliseconds that fit an int. */
static int run_call_limit(const Job__V1__Spec *spec)
{
	return (int)MIN(run_time_limit(spec) + RUN_MARGIN_MS, (uint64_t)INT_MAX);
}

/* detached_ms: how long it outlives its stream. */
static int send_start(struct rpc_call *call, const char *id, const Job__V1__Spec *spec,
	uint64_t detached_ms, struct error **err)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *name = xstrdup(id);

	start.id = name;
	start.n_argv = spec->n_argv;
	start.argv = spec->argv;
	start.script = spec->script;
	start.n_env = spec->n_env;
	start.env = spec->env;
	start.working_dir = spec->working_dir;
	start.user = spec->user;
	start.has_timeout_ms = spec->has_timeout_ms;
	start.timeout_ms = spec->timeout_ms;
	start.has_stop_grace_period_ms = spec->has_stop_grace_period_ms;
	start.stop_grace_period_ms = spec->stop_grace_period_ms;
	start.has_output_bytes = spec->limits && spec->limits->has_output_bytes;
	start.output_bytes = start.has_output_bytes ? spec->limits->output_bytes : 0;
	start.has_detached_ms = detached_ms != 0;
	start.detached_ms = detached_ms;
	start.has_together = start.together = true;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_START;
	request.start = &start;
	return rpc_send(call, &request.base, err);
}

static int send_stop(struct rpc_call *call, const Job__V1__Spec *spec, struct error **err)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStop stop = WORKER__V1__RUN_STOP__INIT;

	stop.has_grace_ms = true;
	stop.grace_ms =
		spec->has_stop_grace_period_ms ? spec->stop_grace_period_ms : DEFAULT_GRACE_MS;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_STOP;
	request.stop = &stop;
	/* A worker that has not even read what to run must not hold up the end. */
	return rpc_send_within(call, &request.base, STOP_TIMEOUT_MS, err);
}

/* A program that is followed. */
struct following {
	struct guest *guest;
	struct rpc_call *call;
	const Job__V1__Spec *spec;
	const struct guest_sink *sink;
	uint64_t at[2]; /* bytes that the sink has, by enum guest_stream */
	uint64_t unacked;
	bool started;
};

static int send_attach(const struct following *f, const char *id, struct error **err)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunAttach attach = WORKER__V1__RUN_ATTACH__INIT;
	_cleanup_free_ char *name = xstrdup(id);

	attach.id = name;
	attach.stdout_offset = f->at[GUEST_STDOUT];
	attach.stderr_offset = f->at[GUEST_STDERR];
	attach.has_together = attach.together = true;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ATTACH;
	request.attach = &attach;
	return rpc_send(f->call, &request.base, err);
}

static int send_ack(struct following *f, struct error **err)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunAck ack = WORKER__V1__RUN_ACK__INIT;

	f->unacked = 0;
	ack.stdout_offset = f->at[GUEST_STDOUT];
	ack.stderr_offset = f->at[GUEST_STDERR];
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ACK;
	request.ack = &ack;
	return rpc_send_within(f->call, &request.base, STOP_TIMEOUT_MS, err);
}

static int take_output(struct following *f, enum guest_stream stream,
	const ProtobufCBinaryData *bytes, struct error **err)
{
	_cleanup_error_ struct error *failed = NULL;

	if (f->sink->output(f->sink->arg, stream, bytes->data, bytes->len, err) < 0)
		return -1;
	f->at[stream] += bytes->len;
	f->unacked += bytes->len;
	/* Where the stream is broken, receiving says how and why; the exit may be waiting there. */
	FAILPOINT("output.taken");
	if (f->unacked >= ACK_BYTES) {
		FAILPOINT("output.ack");
		send_ack(f, &failed);
		FAILPOINT("output.acked");
	}
	return 0;
}

static int take_started(struct following *f, struct error **err)
{
	/* Each is news to all who watch: a flood of them would be work for the daemon. */
	if (f->started)
		return error_set(err, ERR_DATA_LOSS, "the worker started the program twice");
	f->started = true;
	f->sink->started(f->sink->arg);
	return 0;
}

/* 1: that was the end, *ret_exit is set (taken out of the message). */
static int take_reply(struct following *f, Worker__V1__RunReply *reply,
	Worker__V1__RunExit **ret_exit, struct error **err)
{
	if (!reply->started && !reply->has_out && !reply->has_err && !reply->exit)
		return error_set(err, ERR_DATA_LOSS, "the worker sent an empty message");
	if (reply->started && take_started(f, err) < 0)
		return -1;
	if (reply->has_out && take_output(f, GUEST_STDOUT, &reply->out, err) < 0)
		return -1;
	if (reply->has_err && take_output(f, GUEST_STDERR, &reply->err, err) < 0)
		return -1;
	*ret_exit = steal_ptr(reply->exit);
	return *ret_exit ? 1 : 0;
}

static int follow(struct following *f, Worker__V1__RunExit **ret_exit, struct error **err)
{
	const Job__V1__Spec *spec = f->spec;
	uint64_t end = now_mono_usec() + run_time_limit(spec) * 1000;
	bool stopping = false;

	for (;;) {
		_cleanup_error_ struct error *failed = NULL;
		ProtobufCMessage *message = NULL;
		uint64_t now = now_mono_usec();

		if (guest_is_interrupted(f->guest) && !stopping) {
			stopping = true;
			end = MIN(end, now + (spec->stop_grace_period_ms + RUN_MARGIN_MS) * 1000);
			if (f->sink->stopping)
				f->sink->stopping(f->sink->arg);
			FAILPOINT("run.stopping");
			if (send_stop(f->call, spec, err) < 0)
				return -1;
			FAILPOINT("run.stop-sent");
		}
		if (now >= end)
			return error_set(
				err, ERR_TIMEOUT, "the worker did not end the program in time");
		/* One hour at most, to keep the milliseconds in an int. */
		int wait_ms = (int)MIN((end - now) / 1000 + 1, UINT64_C(3600000));
		bool over = rpc_call_cancelled(f->call);
		int r = rpc_recv(f->call, wait_ms, &message, &failed);
		/* Woken, or time to look at the clock; but the peer may send these codes too. */
		if (r < 0 && !over && (failed->code == ERR_TIMEOUT || failed->code == ERR_ABORTED))
			continue;
		if (r < 0)
			return error_move(err, steal_ptr(failed));
		if (r == 0)
			return error_set(err, ERR_DATA_LOSS,
				"the worker ended the stream without saying how the program ended");
		r = take_reply(f, (Worker__V1__RunReply *)message, ret_exit, err);
		rpc_message_free(message);
		if (r != 0)
			return r < 0 ? -1 : 0;
	}
}

static int run(struct guest *guest, const char *id, const Job__V1__Spec *spec, uint64_t detached_ms,
	const struct guest_sink *sink, Worker__V1__RunExit **ret_exit, struct error **err)
{
	struct following f = {.guest = guest, .spec = spec, .sink = sink};

	*ret_exit = NULL;
	f.call = guest_call_open(guest, &worker_run, run_call_limit(spec), err);
	if (!f.call)
		return -1;
	int r = send_start(f.call, id, spec, detached_ms, err);
	FAILPOINT("run.sent");
	if (r == 0)
		r = follow(&f, ret_exit, err);
	guest_call_close(guest, f.call);
	return r;
}

int guest_run(struct guest *guest, const char *id, const Job__V1__Spec *spec,
	const struct guest_sink *sink, Worker__V1__RunExit **ret_exit, struct error **err)
{
	/* A daemon that comes back later than that finds a job that is over anyway. */
	return run(guest, id, spec, run_time_limit(spec), sink, ret_exit, err);
}

static void rehearsal_started(void *arg)
{
	(void)arg;
}

static int rehearsal_output(
	void *arg, enum guest_stream stream, const void *data, size_t n, struct error **err)
{
	(void)arg;
	(void)stream;
	(void)data;
	(void)n;
	(void)err;
	return 0;
}

int guest_rehearse(struct guest *guest, struct error **err)
{
	static const struct guest_sink nobody = {
		.started = rehearsal_started, .output = rehearsal_output};
	char shell[] = "/bin/sh", option[] = "-c", command[] = "echo";
	char *argv[] = {shell, option, command};
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	Worker__V1__RunExit *exit = NULL;

	spec.argv = argv;
	spec.n_argv = ARRAY_SIZE(argv);
	spec.has_timeout_ms = spec.has_stop_grace_period_ms = true;
	spec.timeout_ms = REHEARSAL_TIMEOUT_MS;
	spec.stop_grace_period_ms = 1000;
	if (run(guest, "rehearsal", &spec, 0, &nobody, &exit, err) < 0)
		return error_wrap(err, "a first program");
	worker__v1__run_exit__free_unpacked(exit, NULL);
	return 0;
}

int guest_attach(struct guest *guest, const char *id, const Job__V1__Spec *spec,
	uint64_t stdout_bytes, uint64_t stderr_bytes, const struct guest_sink *sink,
	Worker__V1__RunExit **ret_exit, struct error **err)
{
	struct following f = {.guest = guest,
		.spec = spec,
		.sink = sink,
		.at = {[GUEST_STDOUT] = stdout_bytes, [GUEST_STDERR] = stderr_bytes}};

	*ret_exit = NULL;
	f.call = guest_call_open(guest, &worker_run, run_call_limit(spec), err);
	if (!f.call)
		return -1;
	int r = send_attach(&f, id, err);
	if (r == 0)
		r = follow(&f, ret_exit, err);
	guest_call_close(guest, f.call);
	return r;
}
