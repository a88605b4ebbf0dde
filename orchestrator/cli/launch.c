#include "orchestrator/cli/launch.h"

#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/fetch.h"
#include "orchestrator/cli/follow.h"
#include "orchestrator/cli/interrupt.h"
#include "orchestrator/cli/output.h"

void launch_print_id(const struct cli *cli, const char *id)
{
	struct output output = output_stdout(cli);

	if (cli->output == OUTPUT_TABLE || cli->output == OUTPUT_NAME) {
		printf("%s\n", id);
	} else {
		json_t *object = json_pack("{s:s}", "id", id);
		output_value(&output, object);
		json_decref(object);
	}
	/* That stdout is broken is said at the end; the job is there all the same. */
	if (cli_flush_stdout() < 0)
		cli_note(cli, "job %s was submitted", id);
}

static int interrupted(const struct cli *cli)
{
	cli_note(cli, "interrupted; nothing was submitted");
	return 128 + interrupt_signal();
}

/* The results of a job that has ended. Its own exit code is worth more than that of the fetching.
 */
static int fetch(const struct cli *cli, struct rpc_peer *peer, const char *id, int code)
{
	_cleanup_error_ struct error *err = NULL;

	if (fetch_results(cli, peer, id, 0, cli_value(cli, "output-dir"), cli_flag(cli, "force"),
		    &err) == 0)
		return code;
	int ours = cli_fail(cli, steal_ptr(err));
	return code ? code : ours;
}

int launch_follow(const struct cli *cli, struct rpc_peer **peer, const char *id)
{
	struct follow_options options = {.follow = true, .raw = cli_flag(cli, "raw")};
	_cleanup_message_ Control__V1__JobInfo *ended = NULL;

	if (cli->verbose)
		cli_note(cli, "job %s", id);
	int code = follow_job(cli, peer, id, &options, &ended);
	if (ended && cli_flag(cli, "output-dir"))
		code = fetch(cli, *peer, id, code);
	return code;
}

int launch(const struct cli *cli, int argc, char **argv, bool follow)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	_cleanup_free_ char *id = NULL;
	const char *dir = cli_value(cli, "output-dir");

	if (dir && !follow)
		return cli_usage(cli,
			"--output-dir needs --follow; or fetch later with 'orchestrator result'");
	_cleanup_job_files_ struct job_files *files = spec_from_command_line(cli, argc, argv, &err);
	if (!files || upload_check_inputs(files, &err) < 0 ||
		(dir && fetch_check_directory(dir, cli_flag(cli, "force"), &err) < 0))
		return cli_fail(cli, steal_ptr(err));
	interrupt_begin();
	if (connect_daemon(cli, CONNECT_START, &peer, NULL, &err) < 0)
		return cli_fail(cli, steal_ptr(err));
	interrupt_hold();
	if (upload_job(cli, peer, files, cli_value(cli, "key"), &id, &err) < 0)
		return interrupt_signal() ? interrupted(cli) : cli_fail(cli, steal_ptr(err));
	if (follow)
		return launch_follow(cli, &peer, id);
	launch_print_id(cli, id);
	return 0;
}
