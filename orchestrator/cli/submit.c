/* orchestrator submit */
#include "orchestrator/cli/launch.h"

static const struct cli_option options[] = {
	{'f', "follow", NULL, "stream its output and exit with its code"},
	SPEC_OPTIONS,
	LAUNCH_OPTIONS,
	{0, NULL, NULL, NULL},
};

static int run(const struct cli *cli, int argc, char **argv)
{
	return launch(cli, argc, argv, cli_flag(cli, "follow"));
}

const struct cli_command command_submit = {
	.name = "submit",
	.summary = "Submit a job and print its id",
	.synopsis = "[OPTIONS] job.yaml|-\n[OPTIONS] -- COMMAND [ARG...]",
	.about = "The id is printed once the daemon has the job and its input files safe on disk. "
		 "Options\n"
		 "change what the job file says. A command behind -- replaces the file's.",
	.options = options,
	.example = "orchestrator submit job.yaml\n"
		   "orchestrator submit -f --memory 2G --key nightly-42 job.yaml",
	.run = run,
};
