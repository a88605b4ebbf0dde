/* orchestrator status */
#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/attempt_view.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/control_api.h"

static const struct cli_option options[] = {
	{'t', "timing", NULL, "where the time went, stage by stage"},
	ATTEMPT_OPTION,
	{0, NULL, NULL, NULL},
};

/* Below the job's fields, if there are any. */
static void list(const struct output *output, const struct output_type *type, const json_t *object,
	const char *key)
{
	const json_t *rows = json_object_get(object, key);

	if (!json_array_size(rows))
		return;
	fputc('\n', output->to);
	output_list(output, type, rows);
}

static void show(const struct cli *cli, const Control__V1__JobInfo *info)
{
	struct output output = output_stdout(cli);
	json_t *object = job_view(info);

	if (cli->output == OUTPUT_TABLE && cli_flag(cli, "timing"))
		job_view_timing(&output, info);
	else
		output_object(&output, &job_fields, object);
	if (cli->output == OUTPUT_TABLE && !cli_flag(cli, "timing")) {
		list(&output, &attempt_columns, object, "earlier_attempts");
		list(&output, &input_columns, object, "inputs");
		list(&output, &artifact_columns, object, "artifacts");
	}
	json_decref(object);
}

static int run(const struct cli *cli, int argc, char **argv)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	_cleanup_message_ Control__V1__JobInfo *info = NULL;
	int code = cli_operands(cli, argc, argv, 1, 1, "a job's id");

	if (code || (code = attempt_option(cli, &request.attempt)))
		return code;
	request.id = argv[1];
	request.has_attempt = request.attempt != 0;
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0 ||
		connect_call(peer, &control_get_job, &request, CONNECT_CALL_MS, &info, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	show(cli, info);
	return 0;
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
