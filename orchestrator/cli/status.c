/* orchestrator status */
#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/one_job.h"
#include "orchestrator/cli/output.h"

static const struct cli_option options[] = {
	{'t', "timing", NULL, "where the time went, stage by stage"},
	ATTEMPT_OPTION,
	{0, NULL, NULL, NULL},
};

static void show(const struct cli *cli, const Control__V1__JobInfo *info)
{
	struct output output = output_stdout(cli);

	if (cli->output == OUTPUT_TABLE && cli_flag(cli, "timing")) {
		job_view_timing(&output, info);
		return;
	}
	json_t *object = job_view(info);
	job_view_print(&output, &job_fields, object);
	json_decref(object);
}

static int run(const struct cli *cli, int argc, char **argv)
{
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	_cleanup_message_ Control__V1__JobInfo *info = NULL;
	uint32_t attempt;
	int code = one_job_get(cli, argc, argv, &attempt, &peer, &info);

	if (code == 0)
		show(cli, info);
	return code;
}

const struct cli_command command_status = {
	.name = "status",
	.summary = "Show all about a job: how it ended, its VM, what was around it",
	.synopsis = "[--timing] [--attempt N] ID",
	.about = "ID may be the beginning of an id that only one job has. Attempts that another "
		 "followed are\n"
		 "listed below the job; --attempt shows all about one of them.",
	.options = options,
	.example = "orchestrator status 0nmv\n"
		   "orchestrator status --timing 0nmv\n"
		   "orchestrator status -o json 0nmv | jq .wall",
	.run = run,
};
