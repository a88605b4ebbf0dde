/* orchestrator retry */
#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/interrupt.h"
#include "orchestrator/cli/launch.h"
#include "orchestrator/control_api.h"

/* Inputs may have to be copied. */
#define RETRY_MS 300000

static const struct cli_option options[] = {
	{'f', "follow", NULL, "stream its output and exit with its code"},
	{0, "raw", NULL, "do not escape control bytes on a terminal"},
	{0, NULL, NULL, NULL},
};

static int run(const struct cli *cli, int argc, char **argv)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	_cleanup_message_ Control__V1__SubmitReply *reply = NULL;
	int code = cli_operands(cli, argc, argv, 1, 1, "the id of a job that has ended");

	if (code)
		return code;
	interrupt_begin();
	request.id = argv[1];
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0 ||
		connect_call(peer, &control_retry, &request, RETRY_MS, &reply, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	if (cli_flag(cli, "follow"))
		return launch_follow(cli, &peer, reply->id);
	launch_print_id(cli, reply->id);
	return 0;
}

const struct cli_command command_retry = {
	.name = "retry",
	.summary = "Submit a finished job again, as a new job",
	.synopsis = "[-f] ID",
	.about = "The new job has the spec and the input files of the old one, an id of its own, "
		 "and begins with\n"
		 "its first attempt. The old one stays as it is. For attempts that follow by "
		 "themselves, see\n"
		 "retry in the job file.",
	.options = options,
	.example = "orchestrator retry 0nmv\n"
		   "orchestrator retry -f 0nmv",
	.run = run,
};
