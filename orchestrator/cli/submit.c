/* orchestrator submit */
#include "orchestrator/cli/launch.h"
#include "orchestrator/cli/submit_many.h"

static const struct cli_option options[] = {
	{'f', "follow", NULL, "stream its output and exit with its code"},
	SPEC_OPTIONS,
	LAUNCH_OPTIONS,
	{0, NULL, NULL, NULL},
};

/* Has the one file that is named several jobs in it? What cannot be read is said elsewhere. */
static bool has_several(const char *name)
{
	_cleanup_job_source_ struct job_source *source = job_source_read(name, NULL);

	return source && source->n > 1;
}

static int run(const struct cli *cli, int argc, char **argv)
{
	int n_files = argc - 1 - cli->n_behind;
	bool follow = cli_flag(cli, "follow");

	if (n_files < 1 || (n_files == 1 && (follow || cli->n_behind || !has_several(argv[1]))))
		return launch(cli, argc, argv, follow);
	if (follow || cli_flag(cli, "output-dir"))
		return cli_usage(cli, "only one job can be followed; submit several without "
				      "--follow and --output-dir");
	if (cli_flag(cli, "key"))
		return cli_usage(cli, "--key names one job, and there are several");
	if (cli->n_behind)
		return cli_usage(cli, "a command behind -- goes with one job file");
	return submit_many(cli, argv + 1, (size_t)n_files);
}

const struct cli_command command_submit = {
	.name = "submit",
	.summary = "Submit jobs and print their ids",
	.synopsis = "[OPTIONS] job.yaml|-...\n[OPTIONS] -- COMMAND [ARG...]",
	.about = "An id is printed once the daemon has the job and its input files safe on disk. "
		 "Options\n"
		 "change what the job file says. A command behind -- replaces the file's.\n"
		 "Of several jobs (files, or documents of one, parted by ---) each is taken or "
		 "refused by\n"
		 "itself: ids come in the order of the jobs, and the exit code is 0 if none was "
		 "refused.",
	.options = options,
	.example = "orchestrator submit job.yaml\n"
		   "orchestrator submit -f --memory 2G --key nightly-42 job.yaml\n"
		   "orchestrator submit --label run=7 jobs/*.yaml",
	.run = run,
};
