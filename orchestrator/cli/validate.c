/* orchestrator validate */
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/cli/report.h"
#include "orchestrator/cli/spec_options.h"

/* All jobs of the file: 0, or -1 with *err: the first that is wrong has all its errors told. */
static int check_jobs(const char *path, struct error **err)
{
	_cleanup_job_source_ struct job_source *source = job_source_read(path, err);

	if (!source)
		return -1;
	for (size_t i = 0; i < MAX(source->n, (size_t)1); i++) {
		_cleanup_job_files_ struct job_files *files = spec_from_document(source, i, err);

		if (!files || upload_check_inputs(files, err) < 0)
			return -1;
	}
	return 0;
}

/* One file: its row, and the exit code. */
static int check(const struct cli *cli, const char *path, json_t *rows)
{
	_cleanup_error_ struct error *err = NULL;
	bool ok = check_jobs(path, &err) == 0;
	json_t *row = json_object();
	int code = ok ? 0 : EXIT_USAGE;

	json_object_set_new(row, "file", output_string(path));
	json_object_set_new(row, "ok", json_boolean(ok));
	json_object_set_new(row, "error", output_string(ok ? NULL : err->text));
	json_array_append_new(rows, row);
	if (cli->output != OUTPUT_TABLE && cli->output != OUTPUT_NAME)
		return code;
	_cleanup_free_ char *shown = str_escape(path, strlen(path), false);
	if (ok)
		printf("%s: ok\n", shown);
	else
		report_plain(err->text); /* each line begins with its place */
	return code;
}

static int run(const struct cli *cli, int argc, char **argv)
{
	struct output output = output_stdout(cli);
	int code = cli_operands(cli, argc, argv, 1, -1, "a job file, or several");
	json_t *rows;

	if (code)
		return code;
	rows = json_array();
	for (int i = 1; i < argc; i++)
		code |= check(cli, argv[i], rows);
	if (cli->output == OUTPUT_JSON || cli->output == OUTPUT_YAML)
		output_value(&output, rows);
	json_decref(rows);
	return code;
}

const struct cli_command command_validate = {
	.name = "validate",
	.summary = "Check job files without submitting them",
	.synopsis = "job.yaml...",
	.about = "All errors of a job are shown, each with its line and column; then whether its "
		 "input files\n"
		 "can be read. Exits with 2 if a file is wrong.",
	.example = "orchestrator validate job.yaml",
	.needs_no_config = true,
	.run = run,
};
