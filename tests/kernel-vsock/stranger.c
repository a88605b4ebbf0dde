/* stranger CID PORT: somebody on the host who knows where a worker listens, and not its secret.
 * Makes each of its calls and prints, one a line, the call's name and "answered" or the error's
 * code. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/rpc.h"
#include "common/sock.h"
#include "common/util.h"
#include "common/worker_api.h"
#include "common/worker_proof.h"
#include "worker.pb-c.h"

#define CALL_MS 60000

static void tell(const char *name, int r, const struct error *err)
{
	printf("%s: %s\n", name, r < 0 ? err_code_name(err->code) : "answered");
	if (r < 0)
		fprintf(stderr, "%s: %s\n", name, err->text);
}

static void ask(struct rpc_peer *peer, const char *name, const struct rpc_method *method,
	const ProtobufCMessage *request)
{
	ProtobufCMessage *reply = NULL;
	_cleanup_error_ struct error *err = NULL;
	int r = rpc_unary(peer, method, request, CALL_MS, &reply, &err);

	if (r == 0)
		rpc_message_free(reply);
	tell(name, r, err);
}

/* A call with a stream: refused or not shows when the first answer is awaited. */
static void ask_stream(struct rpc_peer *peer, const char *name, const struct rpc_method *method,
	const ProtobufCMessage *request)
{
	ProtobufCMessage *reply = NULL;
	_cleanup_error_ struct error *err = NULL;
	struct rpc_call *call = rpc_open(peer, method, CALL_MS, &err);
	int r = call ? 0 : -1;

	if (call) {
		/* It may be refused before it is sent: then the answer is what counts. */
		rpc_send(call, request, NULL);
		r = rpc_recv(call, CALL_MS, &reply, &err);
		if (r > 0)
			rpc_message_free(reply);
		rpc_close(call);
	}
	tell(name, r, err);
}

int main(int argc, char **argv)
{
	Worker__V1__HelloRequest hello = WORKER__V1__HELLO_REQUEST__INIT;
	Worker__V1__ProveRequest prove = WORKER__V1__PROVE_REQUEST__INIT;
	Worker__V1__InfoRequest info = WORKER__V1__INFO_REQUEST__INIT;
	Worker__V1__PingRequest ping = WORKER__V1__PING_REQUEST__INIT;
	Worker__V1__AdditionRequest addition = WORKER__V1__ADDITION_REQUEST__INIT;
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	Worker__V1__RunRequest run = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__GetRequest get = WORKER__V1__GET_REQUEST__INIT;
	Worker__V1__ShutdownRequest shutdown_request = WORKER__V1__SHUTDOWN_REQUEST__INIT;
	struct endpoint ep = {.kind = ENDPOINT_VSOCK};
	char version[] = "stranger", id[] = "stranger", path[] = "/etc/passwd",
	     true_path[] = "/bin/true";
	char *paths[] = {path}, *args[] = {true_path};
	uint8_t nonce[PROOF_NONCE_BYTES] = {1}, proof[PROOF_BYTES] = {2};
	_cleanup_error_ struct error *err = NULL;

	if (argc != 3) {
		fputs("usage: stranger CID PORT\n", stderr);
		return 2;
	}
	ep.cid = (uint32_t)strtoul(argv[1], NULL, 10);
	ep.port = (uint32_t)strtoul(argv[2], NULL, 10);
	setvbuf(stdout, NULL, _IOLBF, 0);
	rpc_init();
	int fd = sock_connect(&ep, CALL_MS, &err);
	if (fd < 0) {
		tell("connect", -1, err);
		return 1;
	}
	struct rpc_peer *peer = rpc_peer_new(fd, "worker", &rpc_limits_guest, &err);
	if (!peer) {
		tell("connect", -1, err);
		return 1;
	}
	hello.protocol = WORKER_PROTOCOL;
	hello.host_version = version;
	hello.host_nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
	prove.proof = (ProtobufCBinaryData){sizeof(proof), proof};
	start.id = id;
	start.argv = args;
	start.n_argv = 1;
	run.part_case = WORKER__V1__RUN_REQUEST__PART_START;
	run.start = &start;
	get.paths = paths;
	get.n_paths = 1;
	ask(peer, "hello", &worker_hello, &hello.base);
	ask(peer, "info", &worker_info, &info.base);
	ask(peer, "ping", &worker_ping, &ping.base);
	ask(peer, "addition", &worker_addition, &addition.base);
	ask_stream(peer, "run", &worker_run, &run.base);
	ask_stream(peer, "get", &worker_get, &get.base);
	ask(peer, "shutdown", &worker_shutdown, &shutdown_request.base);
	ask(peer, "prove", &worker_prove, &prove.base);
	rpc_peer_free(peer);
	rpc_quit();
	return 0;
}
