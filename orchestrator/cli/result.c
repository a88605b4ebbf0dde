/* orchestrator result */
#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/fetch.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/one_job.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/job.h"

static const struct cli_option options[] = {
	{'d', "output-dir", "DIR",
		"fetch stdout, stderr, result.json, the console and artifacts/ into DIR"},
	ATTEMPT_OPTION,
	{0, "force", NULL, "write over files that are there"},
	{0, NULL, NULL, NULL},
};

static const struct output_type summary = {
	.name_key = "id",
	.columns =
		(const struct output_column[]){
			{.title = "ID", .key = "id"},
			{.title = "Status", .key = "status"},
			{.title = "Exit code", .key = "exit_code"},
			{.title = "Error", .key = "error"},
			{.title = "Left out", .key = "left_out"},
			{.title = "Stdout", .key = "stdout"},
			{.title = "Stderr", .key = "stderr"},
			{.title = "Results", .key = "result_dir"},
			{.title = NULL},
		},
};

static void show(const struct cli *cli, const Control__V1__JobInfo *info)
{
	struct output output = output_stdout(cli);
	json_t *object = job_view(info);

	job_view_print(&output, &summary, object);
	json_decref(object);
}

static int run(const struct cli *cli, int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	_cleanup_message_ Control__V1__JobInfo *info = NULL;
	uint32_t attempt;
	const char *dir = cli_value(cli, "output-dir");
	int code = one_job_get(cli, argc, argv, &attempt, &peer, &info);

	if (code)
		return code;
	if (info->state != CONTROL__V1__STATE__FINISHED) {
		error_set(&err, ERR_STATE,
			"job %s is %s, it has no result yet; wait for it: orchestrator wait %s",
			info->id, job_state_name((enum job_state)info->state), info->id);
		return cli_fail(cli, steal_ptr(err));
	}
	if (!dir) {
		show(cli, info);
		return 0;
	}
	if (fetch_results(cli, peer, info->id, attempt, dir, cli_flag(cli, "force"), &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	return 0;
}

const struct cli_command command_result = {
	.name = "result",
	.summary = "Show a finished job's result, or fetch its files",
	.synopsis = "[--attempt N] [--output-dir DIR [--force]] ID",
	.about = "The names and contents of artifacts are the job's own: look before you run or "
		 "open them.",
	.options = options,
	.example = "orchestrator result 0nmv\n"
		   "orchestrator result --output-dir out 0nmv",
	.run = run,
};
