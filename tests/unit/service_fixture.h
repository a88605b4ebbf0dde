/* The worker's RPC over socket pairs, in this process: a worker that takes any host, and one that
 * wants the secret. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/util.h"
#include "common/worker_proof.h"
#include "tests/unit/as_nobody.h"
#include "tests/unit/worker_fixture.h"
#include "worker.pb-c.h"

static const uint8_t secret[PROOF_SECRET_BYTES] = {1, 2, 3};
static const uint8_t host_nonce[PROOF_NONCE_BYTES] = {9};

static struct job_root root;
static struct worker *open_worker;   /* without a secret */
static struct worker *secret_worker; /* with one */
static char dir[] = "/tmp/test_worker.XXXXXX";

static inline int ping(struct rpc_peer *peer)
{
	const Worker__V1__PingRequest request = WORKER__V1__PING_REQUEST__INIT;

	return call_code(peer, &worker_ping, &request.base, NULL);
}

static inline int hello(struct rpc_peer *peer, uint32_t protocol, Worker__V1__HelloReply **ret)
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

static inline int prove(struct rpc_peer *peer, const uint8_t *guest_nonce)
{
	Worker__V1__ProveRequest request = WORKER__V1__PROVE_REQUEST__INIT;
	uint8_t proof[PROOF_BYTES];

	worker_proof_make(secret, PROOF_HOST, host_nonce, guest_nonce, proof);
	request.proof = (ProtobufCBinaryData){.data = proof, .len = sizeof(proof)};
	return call_code(peer, &worker_prove, &request.base, NULL);
}

static inline struct rpc_peer *dial_proven(struct worker *worker)
{
	struct rpc_peer *peer = dial(worker);
	Worker__V1__HelloReply *reply = NULL;

	assert_int_equal(hello(peer, WORKER_PROTOCOL, &reply), 0);
	assert_int_equal(prove(peer, reply->guest_nonce.data), 0);
	rpc_message_free(&reply->base);
	return peer;
}

struct seen {
	char out[256], err[256];
	size_t out_size, err_size;
	bool started, exited;
	Worker__V1__RunExit__Reason reason;
	int code;
	uint64_t stdout_bytes;
	unsigned replies;
};

static inline struct rpc_call *run(struct rpc_peer *peer, const char *script)
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

static inline void note(char *to, size_t *size, const ProtobufCBinaryData *data)
{
	assert_true(*size + data->len < 256);
	memcpy(to + *size, data->data, data->len);
	*size += data->len;
}

/* One reply; false at the proper end of the stream. */
static inline bool see(struct rpc_call *call, struct seen *seen)
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
	assert_true(reply->started || reply->has_out || reply->has_err || reply->exit);
	if (reply->started) {
		assert_false(seen->started);
		seen->started = true;
	}
	if (reply->has_out)
		note(seen->out, &seen->out_size, &reply->out);
	if (reply->has_err)
		note(seen->err, &seen->err_size, &reply->err);
	if (reply->exit) {
		seen->exited = true;
		seen->reason = reply->exit->reason;
		seen->code = reply->exit->code;
		seen->stdout_bytes = reply->exit->stdout_bytes;
	}
	seen->replies++;
	rpc_message_free(message);
	return true;
}

static inline uint32_t executions(struct rpc_peer *peer)
{
	const Worker__V1__InfoRequest info = WORKER__V1__INFO_REQUEST__INIT;
	ProtobufCMessage *reply = NULL;

	assert_int_equal(call_code(peer, &worker_info, &info.base, &reply), 0);
	uint32_t n = ((Worker__V1__InfoReply *)reply)->executions;
	rpc_message_free(reply);
	return n;
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
	(void)state;
	worker_free(open_worker);
	worker_free(secret_worker);
	close(root.fd);
	rpc_quit();
	return remove_tree(dir, NULL);
}

/* The tests with the rights that we have, and as root once more as nobody; main's value. */
static inline int run_with_and_without_rights(int (*run_all)(const char *name), const char *name)
{
	int failed = 0;

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	if (geteuid() == 0) {
		_cleanup_free_ char *nobody = str_printf("%s, as nobody", name);
		failed += run_as_nobody(run_all, nobody);
	}
	return failed + run_all(name) != 0;
}
