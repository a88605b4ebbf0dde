/* orchestrator cancel */
#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/control_api.h"
#include "orchestrator/job.h"

static const struct output_type columns = {
	.name_key = "id",
	.columns =
		(const struct output_column[]){
			{.title = "ID", .key = "id"},
			{.title = "STATUS", .key = "status"},
			{.title = NULL},
		},
};

static int run(const struct cli *cli, int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	struct output output = output_stdout(cli);
	int code = cli_operands(cli, argc, argv, 1, -1, "a job's id, or several");

	if (code)
		return code;
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	json_t *rows = json_array();
	for (int i = 1; i < argc; i++) {
		Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
		_cleanup_message_ Control__V1__JobInfo *info = NULL;

		request.id = argv[i];
		/* One that cannot be cancelled does not save the others. */
		if (connect_call(peer, &control_cancel, &request, CONNECT_CALL_MS, &info, &err) < 0)
			code = cli_fail(cli, steal_ptr(err));
		else
			json_array_append_new(rows, job_view(info));
	}
	if (cli->output == OUTPUT_JSON || cli->output == OUTPUT_YAML || json_array_size(rows))
		output_list(&output, &columns, rows);
	json_decref(rows);
	return code;
}

const struct cli_command command_cancel = {
	.name = "cancel",
	.summary = "Cancel jobs, queued or running",
	.synopsis = "ID...",
	.about = "A running program gets SIGTERM, after its stop_grace_period SIGKILL, and its VM "
		 "is\n"
		 "destroyed; what it wrote so far is kept. A job that has ended stays as it is.",
	.example = "orchestrator cancel 0nmv",
	.run = run,
};
