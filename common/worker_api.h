/* The worker's methods. */
#pragma once

#include "common/rpc.h"

extern const struct rpc_method worker_hello;
extern const struct rpc_method worker_prove;
extern const struct rpc_method worker_info;
extern const struct rpc_method worker_ping;
extern const struct rpc_method worker_addition;
extern const struct rpc_method worker_run;
extern const struct rpc_method worker_put;
extern const struct rpc_method worker_get;
extern const struct rpc_method worker_bench;
extern const struct rpc_method worker_shutdown;
