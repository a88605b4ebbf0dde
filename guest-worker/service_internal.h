/* What the handlers share. Nobody else includes this. */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "common/rpc.h"
#include "common/worker_proof.h"
#include "guest-worker/executor.h"
#include "guest-worker/service.h"

struct worker {
	const struct job_root *root; /* borrowed */
	bool init;
	bool bench; /* offer Bench, and serve several proven connections */
	bool has_secret;
	uint8_t secret[PROOF_SECRET_BYTES];
	uint64_t kernel_usec, ready_usec;
	char boot_id[40];
	int shutdown_fd;	   /* owned: eventfd */
	struct executor *executor; /* owned */
	struct rpc_server *server; /* owned */

	pthread_mutex_t lock;
	unsigned n_conns;
	struct worker_conn *controller; /* the connection that proved itself last; or NULL */
};

/* One connection; freed when it has ended and no handler runs for it. */
struct worker_conn {
	struct worker *worker;
	/* A duplicate only for shutdown(2): the socket is gRPC's, and its number may be another
	 * file's by the time that we want it ended. */
	int end_fd;
	/* Under worker->lock. */
	bool greeted;
	bool proven;
	unsigned failures;
	uint8_t host_nonce[PROOF_NONCE_BYTES];
	uint8_t guest_nonce[PROOF_NONCE_BYTES];
};

/* service.c: 0 when the connection may have more than Hello and Prove, else ERR_UNAUTHENTICATED. */
int worker_require_proof(struct rpc_call *call, struct error **err);
/* The call's one request, within a bounded time; NULL with *err if it did not come. */
ProtobufCMessage *worker_request(struct rpc_call *call, struct error **err);
/* Both, in this order. */
ProtobufCMessage *worker_proven_request(struct rpc_call *call, struct error **err);

/* Handlers; server_arg is the worker. */
int worker_handle_run(struct rpc_call *call, void *server_arg, struct error **err); /* run.c */
int worker_handle_put(struct rpc_call *call, void *server_arg, struct error **err); /* files.c */
int worker_handle_get(struct rpc_call *call, void *server_arg, struct error **err);
int worker_handle_bench(struct rpc_call *call, void *server_arg, struct error **err); /* bench.c */
