/* The daemon's methods, for the command line and the daemon itself. */
#pragma once

#include "common/rpc.h"

extern const struct rpc_method control_submit;
extern const struct rpc_method control_submit_many;
extern const struct rpc_method control_get_job;
extern const struct rpc_method control_list_jobs;
extern const struct rpc_method control_logs;
extern const struct rpc_method control_wait;
extern const struct rpc_method control_cancel;
extern const struct rpc_method control_retry;
extern const struct rpc_method control_result;
extern const struct rpc_method control_list_vms;
extern const struct rpc_method control_list_pools;
extern const struct rpc_method control_info;
extern const struct rpc_method control_gc;
extern const struct rpc_method control_stop;
