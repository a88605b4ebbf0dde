/* The worker's RPC over socket pairs, in this process, with the rights that we have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "common/worker_proof.h"
#include "guest-worker/output.h"
#include "guest-worker/listener.h"
#include "tests/unit/as_nobody.h"
#include "tests/unit/worker_fixture.h"
#include "worker.pb-c.h"

static const uint8_t secret[PROOF_SECRET_BYTES] = {1, 2, 3};
static const uint8_t host_nonce[PROOF_NONCE_BYTES] = {9};

static struct job_root root;
static struct worker *open_worker;   /* without a secret */
static struct worker *secret_worker; /* with one */
static char dir[] = "/tmp/test_worker_service.XXXXXX";

static int ping(struct rpc_peer *peer)
{
	const Worker__V1__PingRequest request = WORKER__V1__PING_REQUEST__INIT;

	return call_code(peer, &worker_ping, &request.base, NULL);
}

static int hello(struct rpc_peer *peer, uint32_t protocol, Worker__V1__HelloReply **ret)
{
	Worker__V1__HelloRequest request = WORKER__V1__HELLO_REQUEST__INIT;
	uint8_t nonce[PROOF_NONCE_BYTES];
	char version[] = "test";

	memcpy(nonce, host_nonce, sizeof(nonce));
	request.protocol = protocol;
	request.host_version = version;
	request.host_nonce = (ProtobufCBinaryData){.data = nonce, .len = sizeof(nonce)};
	return call_code(peer, &worker_hello, &request.base, (ProtobufCMessage **)ret);
}

static int prove(struct rpc_peer *peer, const uint8_t *guest_nonce)
{
	Worker__V1__ProveRequest request = WORKER__V1__PROVE_REQUEST__INIT;
	uint8_t proof[PROOF_BYTES];

	worker_proof_make(secret, PROOF_HOST, host_nonce, guest_nonce, proof);
	request.proof = (ProtobufCBinaryData){.data = proof, .len = sizeof(proof)};
	return call_code(peer, &worker_prove, &request.base, NULL);
}

static void hello_says_who_we_are(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	Worker__V1__HelloReply *reply = NULL;

	(void)state;
	assert_int_equal(hello(peer, WORKER_PROTOCOL, &reply), 0);
	assert_int_equal(reply->protocol, WORKER_PROTOCOL);
	assert_string_equal(reply->worker_version, ORCHESTRATOR_VERSION);
	assert_int_equal(reply->guest_nonce.len, PROOF_NONCE_BYTES);
	assert_false(reply->has_proof);
	assert_int_equal(strlen(reply->boot_id), 36);
	assert_true(reply->cpus > 0 && reply->memory_bytes > 0);
	assert_int_equal(reply->kernel_usec, 1234);
	assert_true(reply->ready_usec > 1234);
	rpc_message_free(&reply->base);
	assert_int_equal(ping(peer), 0);
	rpc_peer_free(peer);
}

static void another_protocol_is_refused_with_advice(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	Worker__V1__HelloRequest request = WORKER__V1__HELLO_REQUEST__INIT;
	struct rpc_peer *peer = dial(open_worker);
	char version[] = "test";
	uint8_t nonce[PROOF_NONCE_BYTES] = {0};
	ProtobufCMessage *reply = NULL;

	(void)state;
	request.protocol = WORKER_PROTOCOL + 1;
	request.host_version = version;
	request.host_nonce = (ProtobufCBinaryData){.data = nonce, .len = sizeof(nonce)};
	assert_int_equal(
		rpc_unary(peer, &worker_hello, &request.base, PATIENCE_MS, &reply, &err), -1);
	assert_int_equal(err->code, ERR_STATE);
	assert_non_null(
		strstr(err->text, "worker speaks protocol 1, host speaks 2: rebuild the image with "
				  "`orchestrator image build NAME`"));
	request.protocol = WORKER_PROTOCOL;
	request.host_nonce.len = 31;
	assert_int_equal(call_code(peer, &worker_hello, &request.base, NULL), ERR_INVALID);
	rpc_peer_free(peer);
}

static void nothing_goes_before_the_proof(void **state)
{
	struct rpc_peer *peer = dial(secret_worker);
	Worker__V1__HelloReply *reply = NULL;
	const Worker__V1__ShutdownRequest shutdown = WORKER__V1__SHUTDOWN_REQUEST__INIT;
	const Worker__V1__InfoRequest info = WORKER__V1__INFO_REQUEST__INIT;
	const Worker__V1__AdditionRequest addition = WORKER__V1__ADDITION_REQUEST__INIT;
	const Worker__V1__GetRequest get = WORKER__V1__GET_REQUEST__INIT;
	const Worker__V1__PutRequest put = WORKER__V1__PUT_REQUEST__INIT;
	const Worker__V1__RunRequest run = WORKER__V1__RUN_REQUEST__INIT;
	const struct {
		const struct rpc_method *method;
		const ProtobufCMessage *request;
	} streams[] = {
		{&worker_run, &run.base}, {&worker_put, &put.base}, {&worker_get, &get.base}};
	uint8_t wrong[PROOF_NONCE_BYTES] = {0};

	(void)state;
	for (int greeted = 0; greeted < 2; greeted++) {
		assert_int_equal(ping(peer), ERR_UNAUTHENTICATED);
		assert_int_equal(call_code(peer, &worker_shutdown, &shutdown.base, NULL),
			ERR_UNAUTHENTICATED);
		assert_int_equal(
			call_code(peer, &worker_info, &info.base, NULL), ERR_UNAUTHENTICATED);
		assert_int_equal(call_code(peer, &worker_addition, &addition.base, NULL),
			ERR_UNAUTHENTICATED);
		for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
			_cleanup_error_ struct error *err = NULL;
			ProtobufCMessage *message = NULL;
			struct rpc_call *call =
				rpc_open(peer, streams[i].method, PATIENCE_MS, &err);
			assert_non_null(call);
			rpc_send(call, streams[i].request, NULL);
			assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
			assert_int_equal(err->code, ERR_UNAUTHENTICATED);
			rpc_close(call);
		}
		if (!greeted)
			assert_int_equal(hello(peer, WORKER_PROTOCOL, &reply), 0);
	}
	assert_true(reply->has_proof);
	assert_true(worker_proof_check(secret, PROOF_GUEST, host_nonce, reply->guest_nonce.data,
		reply->proof.data, reply->proof.len));
	assert_int_equal(prove(peer, wrong), ERR_UNAUTHENTICATED);
	rpc_message_free(&reply->base);

	/* One failure is forgiven, after a new Hello. */
	assert_int_equal(hello(peer, WORKER_PROTOCOL, &reply), 0);
	assert_int_equal(prove(peer, reply->guest_nonce.data), 0);
	assert_int_equal(ping(peer), 0);
	rpc_message_free(&reply->base);
	rpc_peer_free(peer);
	/* And it counts for its own connection alone. */
	peer = dial(secret_worker);
	assert_int_equal(ping(peer), ERR_UNAUTHENTICATED);
	rpc_peer_free(peer);
}

static void the_second_wrong_proof_ends_the_connection(void **state)
{
	struct rpc_peer *peer = dial(secret_worker);
	uint8_t wrong[PROOF_NONCE_BYTES] = {0};

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(hello(peer, WORKER_PROTOCOL, NULL), 0);
		assert_int_not_equal(prove(peer, wrong), 0);
	}
	int code = hello(peer, WORKER_PROTOCOL, NULL);
	assert_true(code == ERR_UNAVAILABLE || code == ERR_CANCELLED);
	rpc_peer_free(peer);
}

static struct rpc_peer *dial_proven(struct worker *worker)
{
	struct rpc_peer *peer = dial(worker);
	Worker__V1__HelloReply *reply = NULL;

	assert_int_equal(hello(peer, WORKER_PROTOCOL, &reply), 0);
	assert_int_equal(prove(peer, reply->guest_nonce.data), 0);
	rpc_message_free(&reply->base);
	return peer;
}

static void a_new_controller_replaces_the_old(void **state)
{
	struct rpc_peer *old = dial_proven(secret_worker);

	(void)state;
	assert_int_equal(ping(old), 0);
	struct rpc_peer *new = dial_proven(secret_worker);
	assert_int_equal(ping(new), 0);
	assert_int_equal(ping(old), ERR_UNAVAILABLE);
	assert_int_equal(ping(new), 0);
	rpc_peer_free(old);
	rpc_peer_free(new);
}

static void the_small_calls_answer(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	Worker__V1__AdditionRequest addition = WORKER__V1__ADDITION_REQUEST__INIT;
	const Worker__V1__InfoRequest info = WORKER__V1__INFO_REQUEST__INIT;
	const Worker__V1__ProveRequest proof = WORKER__V1__PROVE_REQUEST__INIT;
	ProtobufCMessage *reply = NULL;

	(void)state;
	addition.a = 5;
	addition.b = 7;
	assert_int_equal(call_code(peer, &worker_addition, &addition.base, &reply), 0);
	assert_int_equal(((Worker__V1__AdditionReply *)reply)->c, 12);
	rpc_message_free(reply);
	addition.a = INT64_MAX;
	assert_int_equal(call_code(peer, &worker_addition, &addition.base, NULL), ERR_RANGE);
	assert_int_equal(call_code(peer, &worker_info, &info.base, &reply), 0);
	assert_true(((Worker__V1__InfoReply *)reply)->memory_available_bytes > 0);
	assert_true(((Worker__V1__InfoReply *)reply)->root_available_bytes > 0);
	assert_int_equal(((Worker__V1__InfoReply *)reply)->executions, 0);
	rpc_message_free(reply);
	assert_int_equal(call_code(peer, &worker_prove, &proof.base, NULL), ERR_STATE);
	rpc_peer_free(peer);
}

/* Run. ------------------------------------------------------------------------------------------
 */

struct seen {
	char out[256], err[256];
	size_t out_size, err_size;
	bool started, exited;
	Worker__V1__RunExit__Reason reason;
	int code;
	uint64_t stdout_bytes;
};

static struct rpc_call *run(struct rpc_peer *peer, const char *script)
{
	_cleanup_error_ struct error *err = NULL;
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *copy = xstrdup(script);
	char id[] = "run";

	struct rpc_call *call = rpc_open(peer, &worker_run, PATIENCE_MS, &err);
	assert_non_null(call);
	start.id = id;
	start.script = copy;
	start.has_output_bytes = true;
	start.output_bytes = 100;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_START;
	request.start = &start;
	assert_int_equal(rpc_send(call, &request.base, &err), 0);
	return call;
}

static void note(char *to, size_t *size, const ProtobufCBinaryData *data)
{
	assert_true(*size + data->len < 256);
	memcpy(to + *size, data->data, data->len);
	*size += data->len;
}

/* One reply; false at the proper end of the stream. */
static bool see(struct rpc_call *call, struct seen *seen)
{
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *message = NULL;
	int r = rpc_recv(call, PATIENCE_MS, &message, &err);

	if (r < 0)
		fail_msg("%s", err->text);
	if (r == 0)
		return false;
	assert_false(seen->exited); /* the exit is last */
	const Worker__V1__RunReply *reply = (const Worker__V1__RunReply *)message;
	switch (reply->part_case) {
	case WORKER__V1__RUN_REPLY__PART_STARTED:
		assert_false(seen->started);
		seen->started = true;
		break;
	case WORKER__V1__RUN_REPLY__PART_OUT:
		note(seen->out, &seen->out_size, &reply->out);
		break;
	case WORKER__V1__RUN_REPLY__PART_ERR:
		note(seen->err, &seen->err_size, &reply->err);
		break;
	case WORKER__V1__RUN_REPLY__PART_EXIT:
		seen->exited = true;
		seen->reason = reply->exit->reason;
		seen->code = reply->exit->code;
		seen->stdout_bytes = reply->exit->stdout_bytes;
		break;
	default:
		fail_msg("a reply of no kind");
	}
	rpc_message_free(message);
	return true;
}

static void a_job_streams_and_ends(void **state)
{
	/* Once with our half of the stream open, once with it closed. */
	for (int closed = 0; closed < 2; closed++) {
		struct rpc_peer *peer = dial(open_worker);
		struct rpc_call *call =
			run(peer, "echo out; echo err >&2; head -c 200 /dev/zero; exit 3");
		struct seen seen = {0};

		(void)state;
		if (closed)
			assert_int_equal(rpc_close_send(call, NULL), 0);
		while (see(call, &seen))
			;
		rpc_close(call);
		assert_true(seen.started && seen.exited);
		assert_int_equal(seen.reason, WORKER__V1__RUN_EXIT__REASON__EXITED);
		assert_int_equal(seen.code, 3);
		assert_int_equal(seen.out_size, 100);
		assert_memory_equal(seen.out, "out\n", 4);
		assert_string_equal(seen.err, "err\n");
		assert_int_equal(seen.stdout_bytes, 204);
		rpc_peer_free(peer);
	}
}

static void a_running_job_is_stopped_on_order(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStop stop = WORKER__V1__RUN_STOP__INIT;
	struct rpc_call *call =
		run(peer, "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done");
	struct seen seen = {0};

	(void)state;
	while (!seen.out_size)
		assert_true(see(call, &seen));
	request.part_case = WORKER__V1__RUN_REQUEST__PART_STOP;
	request.stop = &stop;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	while (see(call, &seen))
		;
	rpc_close(call);
	assert_int_equal(seen.reason, WORKER__V1__RUN_EXIT__REASON__STOPPED);
	assert_string_equal(seen.out, "up\nbye\n");
	rpc_peer_free(peer);
}

static uint32_t executions(struct rpc_peer *peer)
{
	const Worker__V1__InfoRequest info = WORKER__V1__INFO_REQUEST__INIT;
	ProtobufCMessage *reply = NULL;

	assert_int_equal(call_code(peer, &worker_info, &info.base, &reply), 0);
	uint32_t n = ((Worker__V1__InfoReply *)reply)->executions;
	rpc_message_free(reply);
	return n;
}

/* The job holds a FIFO open that we see closed when it is gone. */
static void a_lost_host_takes_its_job_along(void **state)
{
	_cleanup_free_ char *fifo = str_printf("%s/fifo", dir);
	_cleanup_free_ char *script =
		str_printf("trap '' TERM; exec 5>%s; echo up; sleep 1000", fifo);

	(void)state;
	for (int closed = 0; closed < 2; closed++) {
		struct rpc_peer *peer = dial(open_worker), *other = dial(open_worker);
		struct seen seen = {0};

		assert_int_equal(mkfifo(fifo, 0666), 0);
		assert_int_equal(chmod(fifo, 0666), 0);
		_cleanup_close_ int fd = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		assert_true(fd >= 0);
		struct rpc_call *call = run(peer, script);
		if (closed)
			assert_int_equal(rpc_close_send(call, NULL), 0);
		while (!seen.out_size)
			assert_true(see(call, &seen));
		assert_int_equal(executions(other), 1);
		rpc_close(call);
		rpc_peer_free(peer);
		struct pollfd hangup = {.fd = fd};
		assert_int_equal(poll(&hangup, 1, PATIENCE_MS), 1);
		for (int i = 0; executions(other) > 0; i++) {
			assert_true(i < PATIENCE_MS / 10);
			sleep_ms(10);
		}
		rpc_peer_free(other);
		assert_int_equal(unlink(fifo), 0);
	}
}

/* A run that outlives its stream for detached_ms. */
static struct rpc_call *run_detachable(
	struct rpc_peer *peer, const char *id, const char *script, uint64_t detached_ms)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *copy = xstrdup(script), *name = xstrdup(id);
	struct rpc_call *call = rpc_open(peer, &worker_run, PATIENCE_MS, NULL);

	start.id = name;
	start.script = copy;
	start.has_detached_ms = true;
	start.detached_ms = detached_ms;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_START;
	request.start = &start;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	return call;
}

static struct rpc_call *attach(struct rpc_peer *peer, const char *id, uint64_t out, uint64_t err)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunAttach part = WORKER__V1__RUN_ATTACH__INIT;
	_cleanup_free_ char *name = xstrdup(id);
	struct rpc_call *call = rpc_open(peer, &worker_run, PATIENCE_MS, NULL);

	part.id = name;
	part.stdout_offset = out;
	part.stderr_offset = err;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ATTACH;
	request.attach = &part;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	return call;
}

static void ack(struct rpc_call *call, uint64_t out, uint64_t err)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunAck part = WORKER__V1__RUN_ACK__INIT;

	part.stdout_offset = out;
	part.stderr_offset = err;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ACK;
	request.ack = &part;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
}

static int attach_code(struct rpc_peer *peer, const char *id, uint64_t out, uint64_t err)
{
	_cleanup_error_ struct error *failed = NULL;
	ProtobufCMessage *message = NULL;
	struct rpc_call *call = attach(peer, id, out, err);
	int r = rpc_recv(call, PATIENCE_MS, &message, &failed);

	if (message)
		rpc_message_free(message);
	rpc_close(call);
	return r < 0 ? (int)failed->code : 0;
}

static void a_lost_stream_is_taken_up_where_it_was_lost(void **state)
{
	_cleanup_free_ char *go = str_printf("%s/go", dir);
	_cleanup_free_ char *script = str_printf("echo one; echo bad >&2; "
						 "while ! test -e %s; do sleep 0.02; done; "
						 "echo two; exit 5",
		go);
	struct rpc_peer *peer = dial(open_worker), *other = dial(open_worker);
	struct seen first = {0}, second = {0}, third = {0};
	struct rpc_call *call = run_detachable(peer, "lost", script, PATIENCE_MS);

	(void)state;
	while (first.out_size < 4 || first.err_size < 4)
		assert_true(see(call, &first));
	ack(call, 2, 0);
	rpc_close(call);
	rpc_peer_free(peer);

	/* The file has one byte more than was acknowledged. */
	call = attach(other, "lost", 3, 4);
	while (!second.out_size)
		assert_true(see(call, &second));
	assert_true(second.started);
	assert_string_equal(second.out, "\n");
	/* Another that comes while it is followed takes it over. */
	peer = dial(open_worker);
	struct rpc_call *next = attach(peer, "lost", 4, 4);
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *message = NULL;
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, &err), -1);
	assert_int_equal(err->code, ERR_ABORTED);
	rpc_close(call);
	assert_int_equal(close(open(go, O_CREAT | O_WRONLY | O_CLOEXEC, 0666)), 0);
	while (see(next, &third))
		;
	rpc_close(next);
	assert_string_equal(third.out, "two\n");
	assert_int_equal(third.code, 5);
	assert_int_equal(third.stdout_bytes, 8);
	/* The exit was sent, but did it arrive? It can be had again. */
	struct seen again = {0};
	next = attach(peer, "lost", 8, 4);
	while (see(next, &again))
		;
	rpc_close(next);
	assert_true(again.exited);
	assert_int_equal(again.code, 5);
	assert_int_equal(again.out_size, 0);
	assert_int_equal(attach_code(peer, "lost", 3, 4), ERR_RANGE);
	assert_int_equal(attach_code(peer, "lost", 9, 4), ERR_RANGE);
	rpc_peer_free(peer);
	rpc_peer_free(other);
	unlink(go);
}

static void what_nobody_takes_up_is_given_up(void **state)
{
	struct rpc_peer *peer = dial(open_worker), *other = dial(open_worker);
	struct seen seen = {0};
	struct rpc_call *call = run_detachable(peer, "left", "echo up; sleep 1000", 100);

	(void)state;
	while (!seen.out_size)
		assert_true(see(call, &seen));
	rpc_close(call);
	rpc_peer_free(peer);
	sleep_ms(500);
	assert_int_equal(attach_code(other, "left", 0, 0), ERR_NOT_FOUND);
	rpc_peer_free(other);
}

/* Ten times what the worker holds, of which nothing gets lost, and no more is held than that. */
static void what_is_not_acknowledged_stops_the_job(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	struct rpc_call *call =
		run_detachable(peer, "much", "head -c 10485760 /dev/zero", PATIENCE_MS);
	uint64_t size = 0, acked = 0;
	bool starved = false, exited = false;

	(void)state;
	while (!exited) {
		_cleanup_error_ struct error *err = NULL;
		ProtobufCMessage *message = NULL;
		if (rpc_recv(call, 500, &message, &err) < 0) {
			assert_int_equal(err->code, ERR_TIMEOUT);
			if (size == acked)
				continue;
			assert_int_equal(size - acked, OUTPUT_RING_HOLD);
			starved = true;
			ack(call, size, 0);
			acked = size;
			continue;
		}
		const Worker__V1__RunReply *reply = (const Worker__V1__RunReply *)message;
		if (reply->part_case == WORKER__V1__RUN_REPLY__PART_OUT)
			size += reply->out.len;
		exited = reply->part_case == WORKER__V1__RUN_REPLY__PART_EXIT;
		rpc_message_free(message);
	}
	rpc_close(call);
	rpc_peer_free(peer);
	assert_true(starved);
	assert_int_equal(size, 10 * MIB);
}

static int first_message_code(struct rpc_peer *peer, const Worker__V1__RunRequest *request)
{
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *message = NULL;
	struct rpc_call *call = rpc_open(peer, &worker_run, PATIENCE_MS, NULL);

	assert_int_equal(rpc_send(call, &request->base, NULL), 0);
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	rpc_close(call);
	return (int)err->code;
}

static void a_run_begins_with_its_start(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStop stop = WORKER__V1__RUN_STOP__INIT;
	Worker__V1__RunAttach attach = WORKER__V1__RUN_ATTACH__INIT;
	char id[] = "x";

	(void)state;
	assert_int_equal(first_message_code(peer, &request), ERR_INVALID);
	request.part_case = WORKER__V1__RUN_REQUEST__PART_STOP;
	request.stop = &stop;
	assert_int_equal(first_message_code(peer, &request), ERR_INVALID);
	attach.id = id;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ATTACH;
	request.attach = &attach;
	assert_int_equal(first_message_code(peer, &request), ERR_NOT_FOUND);
	rpc_peer_free(peer);
}

/* Who may come. ---------------------------------------------------------------------------------
 */

static void only_the_host_may_connect(void **state)
{
	int fds[2];

	(void)state;
	assert_true(listener_cid_allowed(2));
	assert_false(listener_cid_allowed(0));
	assert_false(listener_cid_allowed(1)); /* loopback */
	assert_false(listener_cid_allowed(3)); /* a guest */
	assert_false(listener_cid_allowed(UINT32_MAX));
	assert_true(listener_port_is_privileged(512));
	assert_true(listener_port_is_privileged(1023));
	assert_false(listener_port_is_privileged(1024));
	assert_false(listener_port_is_privileged(UINT32_MAX));
	/* A peer without a CID is nobody. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(listener_check_peer(fds[0], true, false, NULL), -1);
	assert_int_equal(listener_check_peer(fds[0], false, true, NULL), 0);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(listener_check_peer(-1, false, false, NULL), -1);
}

static void connections_are_limited(void **state)
{
	struct rpc_peer *peers[8];
	_cleanup_error_ struct error *err = NULL;
	int fds[2];

	(void)state;
	/* Those of earlier tests are still ending, maybe; they make place. */
	const struct worker_options options = {.root = &root};
	struct worker *worker = worker_new(&options, &err);
	assert_non_null(worker);
	for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
		peers[i] = dial(worker);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(worker_serve(worker, fds[1], &err), -1);
	assert_int_equal(err->code, ERR_LIMIT);
	close(fds[0]);
	for (size_t i = 0; i < ARRAY_SIZE(peers); i++) {
		assert_int_equal(ping(peers[i]), 0);
		rpc_peer_free(peers[i]);
	}
	worker_free(worker);
}

/* What one Bench call comes to: ERR code, or 0 with the payload bytes received, or counted there.
 */
static int bench(
	struct rpc_peer *peer, const Worker__V1__BenchRequest *request, uint64_t *ret_bytes)
{
	_cleanup_error_ struct error *err = NULL;
	struct rpc_call *call = rpc_open(peer, &worker_bench, PATIENCE_MS, NULL);
	ProtobufCMessage *message;
	int r = 0;

	*ret_bytes = 0;
	/* A call that is refused may end before it was all sent. */
	for (int i = 0; i < (request->has_send_bytes ? 1 : 3) && r == 0; i++)
		r = rpc_send(call, &request->base, NULL);
	if (r == 0)
		rpc_close_send(call, NULL);
	while ((r = rpc_recv(call, PATIENCE_MS, &message, &err)) > 0) {
		const Worker__V1__BenchReply *reply = (const Worker__V1__BenchReply *)message;
		*ret_bytes +=
			reply->has_received_bytes ? reply->received_bytes : reply->payload.len;
		rpc_message_free(message);
	}
	rpc_close(call);
	return r < 0 ? (int)err->code : 0;
}

static void bench_is_for_a_vm_that_was_made_for_it(void **state)
{
	const struct worker_options options = {.root = &root, .bench = true};
	struct worker *worker = worker_new(&options, NULL);
	struct rpc_peer *peer = dial(worker), *job_peer = dial(open_worker),
			*stranger = dial(secret_worker);
	Worker__V1__BenchRequest send = WORKER__V1__BENCH_REQUEST__INIT, count = send;
	uint8_t payload[1000] = {0};
	uint64_t bytes;

	(void)state;
	send.has_send_bytes = send.has_message_bytes = true;
	send.send_bytes = 10001;
	send.message_bytes = 100;
	count.has_payload = true;
	count.payload = (ProtobufCBinaryData){sizeof(payload), payload};
	assert_int_equal(bench(job_peer, &send, &bytes), ERR_UNSUPPORTED);
	assert_int_equal(bench(job_peer, &count, &bytes), ERR_UNSUPPORTED);
	assert_int_equal(bench(stranger, &send, &bytes), ERR_UNAUTHENTICATED);
	assert_int_equal(bench(peer, &send, &bytes), 0);
	assert_int_equal(bytes, 10001);
	assert_int_equal(bench(peer, &count, &bytes), 0);
	assert_int_equal(bytes, 3 * sizeof(payload));
	send.message_bytes = 0;
	assert_int_equal(bench(peer, &send, &bytes), ERR_INVALID);
	send.message_bytes = UINT32_MAX;
	assert_int_equal(bench(peer, &send, &bytes), ERR_INVALID);
	rpc_peer_free(peer);
	rpc_peer_free(job_peer);
	rpc_peer_free(stranger);
	worker_free(worker);
}

static void shutdown_is_told_and_ends_a_running_job(void **state)
{
	const Worker__V1__ShutdownRequest request = WORKER__V1__SHUTDOWN_REQUEST__INIT;
	const struct worker_options options = {.root = &root};
	struct worker *worker = worker_new(&options, NULL);
	struct rpc_peer *peer = dial(worker);
	struct pollfd fd = {.fd = worker_shutdown_fd(worker), .events = POLLIN};
	struct rpc_call *call = run(peer, "echo up; trap '' TERM; sleep 1000");
	struct seen seen = {0};

	(void)state;
	while (!seen.out_size)
		assert_true(see(call, &seen));
	assert_int_equal(poll(&fd, 1, 0), 0);
	assert_int_equal(call_code(peer, &worker_shutdown, &request.base, NULL), 0);
	assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
	worker_free(worker);
	rpc_close(call);
	rpc_peer_free(peer);
}

static int setup(void **state)
{
	(void)state;
	struct worker_options options = {.root = &root, .kernel_usec = 1234};

	signal(SIGPIPE, SIG_IGN);
	rpc_init();
	if (!mkdtemp(dir) || chmod(dir, 0777) < 0 || job_root_init("/", "/tmp", &root, NULL) < 0)
		return -1;
	open_worker = worker_new(&options, NULL);
	options.secret = secret;
	secret_worker = worker_new(&options, NULL);
	if (!open_worker || !secret_worker)
		return -1;
	worker_set_ready(open_worker);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	worker_free(open_worker);
	worker_free(secret_worker);
	close(root.fd);
	rpc_quit();
	return remove_tree(dir, NULL);
}

static int run_all(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hello_says_who_we_are),
		cmocka_unit_test(another_protocol_is_refused_with_advice),
		cmocka_unit_test(nothing_goes_before_the_proof),
		cmocka_unit_test(the_second_wrong_proof_ends_the_connection),
		cmocka_unit_test(a_new_controller_replaces_the_old),
		cmocka_unit_test(the_small_calls_answer),
		cmocka_unit_test(bench_is_for_a_vm_that_was_made_for_it),
		cmocka_unit_test(a_job_streams_and_ends),
		cmocka_unit_test(a_running_job_is_stopped_on_order),
		cmocka_unit_test(a_lost_host_takes_its_job_along),
		cmocka_unit_test(a_lost_stream_is_taken_up_where_it_was_lost),
		cmocka_unit_test(what_nobody_takes_up_is_given_up),
		cmocka_unit_test(what_is_not_acknowledged_stops_the_job),
		cmocka_unit_test(a_run_begins_with_its_start),
		cmocka_unit_test(only_the_host_may_connect),
		cmocka_unit_test(connections_are_limited),
		cmocka_unit_test(shutdown_is_told_and_ends_a_running_job),
	};
	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	int failed = 0;

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	if (geteuid() == 0)
		failed += run_as_nobody(run_all, "worker service, as nobody");
	return failed + run_all("worker service") != 0;
}
