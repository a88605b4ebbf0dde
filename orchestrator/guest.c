#include "orchestrator/guest.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/file_tree.h"
#include "common/failpoint.h"
#include "common/limits.h"
#include "common/rpc.h"
#include "common/worker_api.h"
#include "common/worker_proof.h"

#define UNARY_TIMEOUT_MS 20000
/* What a transfer may take: a fixed part, and a part for its size at a rate no guest that works
 * falls below, even emulated on a busy host. */
#define TRANSFER_BASE_MS    60000
#define TRANSFER_BYTES_A_MS 1024
/* How long a worker may leave one message of ours unread. */
#define READ_TIMEOUT_MS 60000
#define STOP_TIMEOUT_MS 10000
/* After its time limit and its grace the worker itself should have ended the program. */
#define RUN_MARGIN_MS	     30000
#define REHEARSAL_TIMEOUT_MS 20000
/* What comes before it is acknowledged: a part of what the worker can hold, so that the job does
 * not wait for us, and enough that acknowledging costs nothing. */
#define ACK_BYTES (256 * KIB)

struct guest {
	struct rpc_peer *peer;
	pthread_mutex_t lock;  /* below: */
	struct rpc_call *call; /* the one under way; borrowed */
	bool call_is_run;
	bool interrupted;
};

struct guest *guest_new(int fd, const char *name, struct error **err)
{
	struct rpc_peer *peer = rpc_peer_new(fd, name, &rpc_limits_guest, err);

	if (!peer)
		return NULL;
	struct guest *guest = xcalloc(1, sizeof(*guest));
	guest->peer = peer;
	pthread_mutex_init(&guest->lock, NULL);
	return guest;
}

void guest_free(struct guest *guest)
{
	if (!guest)
		return;
	rpc_peer_free(guest->peer);
	pthread_mutex_destroy(&guest->lock);
	free(guest);
}

/* One call at a time is registered, so that guest_interrupt() finds it. */
static struct rpc_call *call_open(
	struct guest *guest, const struct rpc_method *method, int timeout_ms, struct error **err)
{
	struct rpc_call *call = rpc_open(guest->peer, method, timeout_ms, err);

	if (!call)
		return NULL;
	pthread_mutex_lock(&guest->lock);
	bool interrupted = guest->interrupted;
	if (!interrupted) {
		guest->call = call;
		guest->call_is_run = method == &worker_run;
	}
	pthread_mutex_unlock(&guest->lock);
	if (interrupted) {
		rpc_close(call);
		error_set(err, ERR_CANCELLED, "cancelled");
		return NULL;
	}
	return call;
}

static void call_close(struct guest *guest, struct rpc_call *call)
{
	pthread_mutex_lock(&guest->lock);
	guest->call = NULL;
	pthread_mutex_unlock(&guest->lock);
	rpc_close(call);
}

void guest_interrupt(struct guest *guest)
{
	pthread_mutex_lock(&guest->lock);
	guest->interrupted = true;
	if (guest->call) {
		if (guest->call_is_run)
			rpc_wake(guest->call);
		else
			rpc_cancel(guest->call);
	} else {
		rpc_peer_cancel(guest->peer); /* one without a stream */
	}
	pthread_mutex_unlock(&guest->lock);
}

static bool is_interrupted(struct guest *guest)
{
	pthread_mutex_lock(&guest->lock);
	bool interrupted = guest->interrupted;
	pthread_mutex_unlock(&guest->lock);
	return interrupted;
}

/* Hello. -----------------------------------------------------------------------------------------
 */

static void copy_escaped(char *to, size_t size, const char *from)
{
	_cleanup_free_ char *safe = str_escape(from, strnlen(from, 200), false);

	snprintf(to, size, "%s", safe);
}

static int check_hello(const Worker__V1__HelloReply *reply, const uint8_t *secret,
	const uint8_t *host_nonce, struct error **err)
{
	if (reply->protocol != WORKER_PROTOCOL)
		return error_set(err, ERR_STATE,
			"the image's worker speaks protocol %u, this host speaks %u: rebuild the "
			"image "
			"(orchestrator image build)",
			reply->protocol, WORKER_PROTOCOL);
	if (!reply->has_proof || reply->guest_nonce.len != PROOF_NONCE_BYTES)
		return error_set(err, ERR_UNAUTHENTICATED,
			"what answers in the guest does not prove that it is the worker");
	if (!worker_proof_check(secret, PROOF_GUEST, host_nonce, reply->guest_nonce.data,
		    reply->proof.data, reply->proof.len))
		return error_set(err, ERR_UNAUTHENTICATED,
			"what answers in the guest does not know this boot's secret");
	return 0;
}

/* A call with one message each way. */
static int ask_within(struct guest *guest, const struct rpc_method *method, int timeout_ms,
	const ProtobufCMessage *request, ProtobufCMessage **ret_reply, struct error **err)
{
	*ret_reply = NULL;
	if (!is_interrupted(guest) &&
		rpc_unary(guest->peer, method, request, timeout_ms, ret_reply, err) == 0)
		return 0;
	return is_interrupted(guest) ? error_set(err, ERR_CANCELLED, "cancelled") : -1;
}

static int ask(struct guest *guest, const struct rpc_method *method,
	const ProtobufCMessage *request, ProtobufCMessage **ret_reply, struct error **err)
{
	return ask_within(guest, method, UNARY_TIMEOUT_MS, request, ret_reply, err);
}

int guest_hello(struct guest *guest, const uint8_t *secret, struct guest_hello *ret_hello,
	struct error **err)
{
	Worker__V1__HelloRequest request = WORKER__V1__HELLO_REQUEST__INIT;
	Worker__V1__ProveRequest prove = WORKER__V1__PROVE_REQUEST__INIT;
	uint8_t nonce[PROOF_NONCE_BYTES], proof[PROOF_BYTES];
	ProtobufCMessage *message = NULL;
	char version[] = ORCHESTRATOR_VERSION;

	memset(ret_hello, 0, sizeof(*ret_hello));
	random_bytes(nonce, sizeof(nonce));
	request.protocol = WORKER_PROTOCOL;
	request.host_version = version;
	request.host_nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
	if (ask(guest, &worker_hello, &request.base, &message, err) < 0)
		return error_wrap(err, "hello");
	const Worker__V1__HelloReply *reply = (const Worker__V1__HelloReply *)message;
	int r = check_hello(reply, secret, nonce, err);
	if (r == 0) {
		worker_proof_make(secret, PROOF_HOST, nonce, reply->guest_nonce.data, proof);
		copy_escaped(ret_hello->version, sizeof(ret_hello->version), reply->worker_version);
		copy_escaped(ret_hello->kernel, sizeof(ret_hello->kernel), reply->kernel);
		ret_hello->kernel_usec = reply->kernel_usec;
		ret_hello->ready_usec = reply->ready_usec;
	}
	rpc_message_free(message);
	if (r < 0)
		return -1;
	prove.proof = (ProtobufCBinaryData){sizeof(proof), proof};
	if (ask(guest, &worker_prove, &prove.base, &message, err) < 0)
		return error_wrap(err, "proving to be the host");
	rpc_message_free(message);
	return 0;
}

struct rpc_peer *guest_peer(const struct guest *guest)
{
	return guest->peer;
}

int guest_ping(struct guest *guest, int timeout_ms, struct error **err)
{
	Worker__V1__AdditionRequest request = WORKER__V1__ADDITION_REQUEST__INIT;
	ProtobufCMessage *message;

	if (ask_within(guest, &worker_addition, timeout_ms, &request.base, &message, err) < 0)
		return -1;
	rpc_message_free(message);
	return 0;
}

int guest_add(struct guest *guest, int64_t a, int64_t b, int64_t *ret_sum, struct error **err)
{
	Worker__V1__AdditionRequest request = WORKER__V1__ADDITION_REQUEST__INIT;
	ProtobufCMessage *message;

	request.a = a;
	request.b = b;
	if (ask(guest, &worker_addition, &request.base, &message, err) < 0)
		return -1;
	*ret_sum = ((const Worker__V1__AdditionReply *)message)->c;
	rpc_message_free(message);
	return 0;
}

/* Inputs. ----------------------------------------------------------------------------------------
 */

struct put {
	struct rpc_call *call;
	const char *user; /* until it was sent */
	const char *dest; /* where the input's records go */
	size_t prefix;	  /* length of their own name */
};

static int put_record(void *arg, const Job__V1__FileRecord *record, struct error **err)
{
	struct put *put = arg;
	Worker__V1__PutRequest request = WORKER__V1__PUT_REQUEST__INIT;
	Job__V1__FileRecord copy = *record;
	Job__V1__FileHead head = JOB__V1__FILE_HEAD__INIT;
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *user = xstrdup(put->user);

	if (record->part_case == JOB__V1__FILE_RECORD__PART_MISSING)
		return error_set(
			err, ERR_NOT_FOUND, "input %s: %s", put->dest, record->missing->reason);
	if (record->part_case == JOB__V1__FILE_RECORD__PART_HEAD) {
		head = *record->head;
		path = str_printf("%s%s", put->dest, record->head->path + put->prefix);
		head.path = path;
		copy.head = &head;
	}
	FAILPOINT("inputs.record");
	request.record = &copy;
	request.user = user;
	put->user = NULL;
	return rpc_send_within(put->call, &request.base, READ_TIMEOUT_MS, err);
}

static int put_all(
	struct put *put, const Job__V1__Spec *spec, const char *inputs_dir, struct error **err)
{
	struct tree_totals totals = {0};

	for (size_t i = 0; i < spec->n_inputs; i++) {
		char name[24];
		_cleanup_free_ char *path = str_printf("%s/%zu", inputs_dir, i);
		snprintf(name, sizeof(name), "%zu", i);
		put->dest = spec->inputs[i]->dest;
		put->prefix = strlen(name);
		if (tree_send(AT_FDCWD, path, name, &tree_limits_default, put_record, put, &totals,
			    err) < 0)
			return -1;
	}
	return 0;
}

int guest_put_inputs(
	struct guest *guest, const Job__V1__Spec *spec, const char *inputs_dir, struct error **err)
{
	struct put put = {.user = spec->user};
	_cleanup_error_ struct error *sending = NULL;
	ProtobufCMessage *message = NULL;
	int timeout = (int)(TRANSFER_BASE_MS + LIMIT_ARTIFACTS / TRANSFER_BYTES_A_MS);

	if (!spec->n_inputs)
		return 0;
	put.call = call_open(guest, &worker_put, timeout, err);
	if (!put.call)
		return -1;
	int r = put_all(&put, spec, inputs_dir, &sending);
	bool ours = r < 0 && sending->code == ERR_NOT_FOUND;
	if (r == 0)
		r = rpc_close_send(put.call, &sending);
	if (ours)
		error_move(err, steal_ptr(sending));
	else if (rpc_recv(put.call, TRANSFER_BASE_MS, &message, err) != 1) {
		/* The worker's own words say more than that it stopped reading. */
		if (err && !*err)
			error_set(err, ERR_DATA_LOSS, "the worker did not confirm the inputs");
		r = -1;
	}
	if (message)
		rpc_message_free(message);
	call_close(guest, put.call);
	return r < 0 ? error_wrap(err, "sending inputs") : 0;
}

/* Running. ---------------------------------------------------------------------------------------
 */

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

/* 1: that was the end, *ret_exit is set (taken out of the message). */
static int take_reply(struct following *f, Worker__V1__RunReply *reply,
	Worker__V1__RunExit **ret_exit, struct error **err)
{
	switch (reply->part_case) {
	case WORKER__V1__RUN_REPLY__PART_STARTED:
		/* Each is news to all who watch: a flood of them would be work for the daemon. */
		if (f->started)
			return error_set(
				err, ERR_DATA_LOSS, "the worker started the program twice");
		f->started = true;
		f->sink->started(f->sink->arg);
		return 0;
	case WORKER__V1__RUN_REPLY__PART_OUT:
		return take_output(f, GUEST_STDOUT, &reply->out, err);
	case WORKER__V1__RUN_REPLY__PART_ERR:
		return take_output(f, GUEST_STDERR, &reply->err, err);
	case WORKER__V1__RUN_REPLY__PART_EXIT:
		*ret_exit = steal_ptr(reply->exit);
		reply->part_case = WORKER__V1__RUN_REPLY__PART__NOT_SET;
		return 1;
	default:
		return error_set(err, ERR_DATA_LOSS, "the worker sent an empty message");
	}
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

		if (is_interrupted(f->guest) && !stopping) {
			stopping = true;
			end = MIN(end, now + (spec->stop_grace_period_ms + RUN_MARGIN_MS) * 1000);
			if (send_stop(f->call, spec, err) < 0)
				return -1;
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
	f.call = call_open(guest, &worker_run, run_call_limit(spec), err);
	if (!f.call)
		return -1;
	int r = send_start(f.call, id, spec, detached_ms, err);
	FAILPOINT("run.sent");
	if (r == 0)
		r = follow(&f, ret_exit, err);
	call_close(guest, f.call);
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
	f.call = call_open(guest, &worker_run, run_call_limit(spec), err);
	if (!f.call)
		return -1;
	int r = send_attach(&f, id, err);
	if (r == 0)
		r = follow(&f, ret_exit, err);
	call_close(guest, f.call);
	return r;
}

/* Outputs. ---------------------------------------------------------------------------------------
 */

int guest_get_outputs(struct guest *guest, const Job__V1__Spec *spec,
	int (*take)(void *arg, const Job__V1__FileRecord *record, struct error **err), void *arg,
	struct error **err)
{
	Worker__V1__GetRequest request = WORKER__V1__GET_REQUEST__INIT;
	_cleanup_free_ char **paths = xcalloc(spec->n_outputs, sizeof(*paths));
	uint64_t bytes = spec->limits && spec->limits->has_artifact_bytes
				 ? spec->limits->artifact_bytes
				 : DEFAULT_ARTIFACTS;

	if (!spec->n_outputs)
		return 0;
	for (size_t i = 0; i < spec->n_outputs; i++)
		paths[i] = spec->outputs[i]->path;
	request.n_paths = spec->n_outputs;
	request.paths = paths;
	request.working_dir = spec->working_dir;
	request.user = spec->user;
	request.has_max_bytes = request.has_max_files = true;
	request.max_bytes = bytes;
	request.max_files = LIMIT_TREE_FILES;
	int timeout = (int)(TRANSFER_BASE_MS + bytes / TRANSFER_BYTES_A_MS);
	struct rpc_call *call = call_open(guest, &worker_get, timeout, err);
	if (!call)
		return -1;
	int r = rpc_send(call, &request.base, err);
	if (r == 0)
		r = rpc_close_send(call, err);
	while (r == 0) {
		ProtobufCMessage *message = NULL;
		int got = rpc_recv(call, TRANSFER_BASE_MS, &message, err);
		if (got == 0)
			break;
		r = got < 0 ? -1 : take(arg, (const Job__V1__FileRecord *)message, err);
		if (message)
			rpc_message_free(message);
	}
	call_close(guest, call);
	return r;
}
