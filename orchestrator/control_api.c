#include "orchestrator/control_api.h"

#include "control.pb-c.h"

#define METHOD(name, in, out, ...)                                                                 \
	{                                                                                          \
		.path = "/control.v1.Control/" name, .request = &in##__descriptor,                 \
		.reply = &out##__descriptor, __VA_ARGS__                                           \
	}

const struct rpc_method control_submit =
	METHOD("Submit", control__v1__submit_request, control__v1__submit_reply, .requests = true);
const struct rpc_method control_submit_many = METHOD("SubmitMany", control__v1__submit_many_request,
	control__v1__submit_many_reply, .requests = true, .replies = true);
const struct rpc_method control_get_job =
	METHOD("GetJob", control__v1__job_request, control__v1__job_info, .replies = false);
const struct rpc_method control_list_jobs =
	METHOD("ListJobs", control__v1__list_jobs_request, control__v1__job_info, .replies = true);
const struct rpc_method control_logs =
	METHOD("Logs", control__v1__logs_request, control__v1__logs_reply, .replies = true);
const struct rpc_method control_wait =
	METHOD("Wait", control__v1__wait_request, control__v1__job_info, .replies = false);
const struct rpc_method control_cancel =
	METHOD("Cancel", control__v1__job_request, control__v1__job_info, .replies = false);
const struct rpc_method control_retry =
	METHOD("Retry", control__v1__job_request, control__v1__submit_reply, .replies = false);
const struct rpc_method control_result =
	METHOD("Result", control__v1__job_request, job__v1__file_record, .replies = true);
const struct rpc_method control_list_vms =
	METHOD("ListVms", control__v1__list_vms_request, control__v1__vm_info, .replies = true);
const struct rpc_method control_list_pools = METHOD(
	"ListPools", control__v1__list_pools_request, control__v1__pool_info, .replies = true);
const struct rpc_method control_info =
	METHOD("Info", control__v1__info_request, control__v1__info_reply, .replies = false);
const struct rpc_method control_gc =
	METHOD("Gc", control__v1__gc_request, control__v1__gc_reply, .replies = true);
const struct rpc_method control_stop =
	METHOD("Stop", control__v1__stop_request, control__v1__stop_reply, .replies = false);
