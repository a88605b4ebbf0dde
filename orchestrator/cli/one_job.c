#include "orchestrator/cli/one_job.h"

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/control_api.h"
#include "orchestrator/retry.h"

int one_job_attempt(const struct cli *cli, uint32_t *ret)
{
	const char *text = cli_value(cli, "attempt");
	uint64_t n = 0;

	*ret = 0;
	if (text && parse_number(text, 1, LIMIT_ATTEMPTS + RETRY_MAX_STARTS, &n) < 0)
		return cli_usage(cli, "--attempt '%s': a number, the first one is 1", text);
	*ret = (uint32_t)n;
	return 0;
}

int one_job_get(const struct cli *cli, int argc, char **argv, uint32_t *ret_attempt,
	struct rpc_peer **ret_peer, Control__V1__JobInfo **ret_info)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	_cleanup_error_ struct error *err = NULL;
	int code = cli_operands(cli, argc, argv, 1, 1, "a job's id");

	if (code || (code = one_job_attempt(cli, ret_attempt)))
		return code;
	request.id = argv[1];
	request.has_attempt = *ret_attempt != 0;
	request.attempt = *ret_attempt;
	if (connect_daemon(cli, CONNECT_START, ret_peer, NULL, &err) < 0 ||
		connect_call(
			*ret_peer, &control_get_job, &request, CONNECT_CALL_MS, ret_info, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	return 0;
}
