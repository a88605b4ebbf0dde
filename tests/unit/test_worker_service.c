/* The worker's RPC but for jobs: who may come, the proof, the small calls. */
#include "tests/unit/service_fixture.h"

#include <errno.h>

#include "guest-worker/listener.h"

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
		strstr(err->text, "worker speaks protocol 2, host speaks 3: rebuild the image with "
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

static int run_all(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hello_says_who_we_are),
		cmocka_unit_test(another_protocol_is_refused_with_advice),
		cmocka_unit_test(nothing_goes_before_the_proof),
		cmocka_unit_test(the_second_wrong_proof_ends_the_connection),
		cmocka_unit_test(a_new_controller_replaces_the_old),
		cmocka_unit_test(the_small_calls_answer),
		cmocka_unit_test(only_the_host_may_connect),
		cmocka_unit_test(connections_are_limited),
		cmocka_unit_test(bench_is_for_a_vm_that_was_made_for_it),
		cmocka_unit_test(shutdown_is_told_and_ends_a_running_job),
	};
	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return run_with_and_without_rights(run_all, "worker service");
}
