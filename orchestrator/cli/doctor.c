/* orchestrator doctor */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/cli/connect.h"
#include "orchestrator/cli/doctor_checks.h"
#include "orchestrator/cli/output.h"

static const char *const level_names[] = {
	[FINDING_OK] = "ok", [FINDING_WARN] = "warn", [FINDING_FAIL] = "fail"};

static void print_line(const struct output *output, const char *name, const struct finding *finding)
{
	static const char *const colours[] = {
		[FINDING_OK] = "32", [FINDING_WARN] = "33", [FINDING_FAIL] = "31"};
	_cleanup_free_ char *text = str_escape(finding->text, strlen(finding->text), false);
	const char *level = level_names[finding->level];

	if (output->colour)
		printf("\033[%sm%-4s\033[0m  %-12s  %s\n", colours[finding->level], level, name,
			text);
	else
		printf("%-4s  %-12s  %s\n", level, name, text);
	if (finding->advice)
		printf("%20s-> %s\n", "", finding->advice);
	cli_flush_stdout(); /* some checks take a moment */
}

static void add(
	const struct output *output, json_t *rows, const char *name, const struct finding *finding)
{
	json_t *row = json_object();

	json_object_set_new(row, "check", output_string(name));
	json_object_set_new(row, "result", output_string(level_names[finding->level]));
	json_object_set_new(row, "found", output_string(finding->text));
	json_object_set_new(row, "advice", output_string(finding->advice));
	json_array_append_new(rows, row);
	if (output->format == OUTPUT_TABLE || output->format == OUTPUT_NAME)
		print_line(output, name, finding);
}

static void check_daemon(const struct cli *cli, struct finding *ret)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_peer_ struct rpc_peer *peer = NULL;
	_cleanup_message_ Control__V1__InfoReply *info = NULL;

	if (connect_daemon(cli, CONNECT_IF_RUNNING, &peer, &info, &err) < 0)
		finding_set(ret, FINDING_FAIL, xstrdup(err->text), NULL);
	else if (!peer)
		finding_set(ret, FINDING_OK, xstrdup("none runs; the first job starts one"), NULL);
	else
		finding_set(ret, FINDING_OK,
			str_printf("process %u, %u of %u VMs, %u queued", info->pid, info->vms,
				info->max_vms, info->queued),
			NULL);
}

static int run(const struct cli *cli, int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	struct output output = output_stdout(cli);
	struct finding finding = {0};
	enum finding_level worst = FINDING_OK;
	int code = cli_operands(cli, argc, argv, 0, 0, NULL);

	if (code)
		return code;
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN); /* the findings say it */
	json_t *rows = json_array();
	for (const struct check *check = doctor_checks; check->name; check++) {
		check->run(cli->config, &finding);
		worst = MAX(worst, finding.level);
		add(&output, rows, check->name, &finding);
		finding_clear(&finding);
	}
	check_daemon(cli, &finding);
	worst = MAX(worst, finding.level);
	add(&output, rows, "daemon", &finding);
	finding_clear(&finding);
	if (output.format == OUTPUT_JSON || output.format == OUTPUT_YAML)
		output_value(&output, rows);
	json_decref(rows);
	return worst == FINDING_FAIL ? 1 : 0;
}

const struct cli_command command_doctor = {
	.name = "doctor",
	.summary = "Check what this machine needs to run jobs",
	.synopsis = "",
	.about = "Each line is ok, warn (works, but slower or less than it could) or fail (no job "
		 "can run),\n"
		 "with what to do about it. Exits with 1 if something fails.",
	.example = "orchestrator doctor",
	.run = run,
};
