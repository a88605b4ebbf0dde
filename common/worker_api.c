#include "common/worker_api.h"

#include "worker.pb-c.h"

#define UNARY(name, type)                                                                          \
	{                                                                                          \
		.path = "/worker.v1.Worker/" name,                                                 \
		.request = &worker__v1__##type##_request__descriptor,                              \
		.reply = &worker__v1__##type##_reply__descriptor                                   \
	}

const struct rpc_method worker_hello = UNARY("Hello", hello);
const struct rpc_method worker_prove = UNARY("Prove", prove);
const struct rpc_method worker_info = UNARY("Info", info);
const struct rpc_method worker_ping = UNARY("Ping", ping);
const struct rpc_method worker_addition = UNARY("Addition", addition);
const struct rpc_method worker_shutdown = UNARY("Shutdown", shutdown);

const struct rpc_method worker_run = {
	.path = "/worker.v1.Worker/Run",
	.request = &worker__v1__run_request__descriptor,
	.reply = &worker__v1__run_reply__descriptor,
	.requests = true,
	.replies = true,
};
const struct rpc_method worker_put = {
	.path = "/worker.v1.Worker/Put",
	.request = &worker__v1__put_request__descriptor,
	.reply = &worker__v1__put_reply__descriptor,
	.requests = true,
};
const struct rpc_method worker_get = {
	.path = "/worker.v1.Worker/Get",
	.request = &worker__v1__get_request__descriptor,
	.reply = &worker__v1__get_reply__descriptor,
	.replies = true,
};
const struct rpc_method worker_bench = {
	.path = "/worker.v1.Worker/Bench",
	.request = &worker__v1__bench_request__descriptor,
	.reply = &worker__v1__bench_reply__descriptor,
	.requests = true,
	.replies = true,
};
