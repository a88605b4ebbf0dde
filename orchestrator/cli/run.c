/* orchestrator run */
#include "orchestrator/cli/launch.h"

static const struct cli_option options[] = {
	SPEC_OPTIONS,
	LAUNCH_OPTIONS,
	{0, NULL, NULL, NULL},
};

static int run(const struct cli *cli, int argc, char **argv)
{
	return launch(cli, argc, argv, true);
}

const struct cli_command command_run = {
	.name = "run",
	.summary = "Run a job: submit it, stream its output, exit with its code",
	.synopsis = "[OPTIONS] job.yaml|-\n[OPTIONS] -- COMMAND [ARG...]",
	.about = "Ctrl-C leaves the job running and says how to come back to it. Exit codes that "
		 "are not\n"
		 "the job's own: 124 timeout, 125 our fault, 126 not executable, 127 not found, "
		 "128+N killed\n"
		 "by signal N, 130 cancelled; 2 when the command line or the job file is wrong.",
	.options = options,
	.example = "orchestrator run --image debian -- python3 -c 'print(6*7)'\n"
		   "orchestrator run -m 1G -c 2 --input src:/src --output /src/out --output-dir "
		   "out \\\n"
		   "    --workdir /src -- make\n"
		   "orchestrator run job.yaml",
	.run = run,
};
