/* orchestrator logs */
#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/follow.h"
#include "orchestrator/cli/interrupt.h"
#include "orchestrator/cli/one_job.h"

static const struct cli_option options[] = {
	{'f', "follow", NULL, "go on until the job ended, and exit with its code"},
	{0, "console", NULL, "the guest's console (kernel and worker) instead of the job's output"},
	ATTEMPT_OPTION,
	{0, "raw", NULL, "do not escape control bytes on a terminal"},
	{0, NULL, NULL, NULL},
};

static int run(const struct cli *cli, int argc, char **argv)
{
	struct follow_options how = {.follow = cli_flag(cli, "follow"),
		.console = cli_flag(cli, "console"),
		.raw = cli_flag(cli, "raw")};
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	int code = cli_operands(cli, argc, argv, 1, 1, "a job's id");

	if (code || (code = one_job_attempt(cli, &how.attempt)))
		return code;
	interrupt_begin();
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	return follow_job(cli, &peer, argv[1], &how, NULL);
}

const struct cli_command command_logs = {
	.name = "logs",
	.summary = "Show a job's output",
	.synopsis = "[-f] [--console] [--attempt N] [--raw] ID",
	.about =
		"What the job wrote to stdout goes to stdout, and stderr to stderr: unchanged, "
		"except that a\n"
		"terminal gets control bytes escaped. Of several attempts it is the last one's; -f "
		"goes on with\n"
		"those that follow, and says so on stderr.",
	.options = options,
	.example = "orchestrator logs -f 0nmv\n"
		   "orchestrator logs 0nmv 2>/dev/null | sha256sum\n"
		   "orchestrator logs --console 0nmv",
	.run = run,
};
