/* orchestrator: the command line, and with `serve` the daemon. One line per command. */
#include "orchestrator/cli/cli.h"

static const struct cli_command *const commands[] = {
	&command_run,
	&command_submit,
	&command_list,
	&command_status,
	&command_logs,
	&command_result,
	&command_wait,
	&command_cancel,
	&command_retry,
	&command_gc,
	&command_validate,
	&command_image,
	&command_bench,
	&command_config,
	&command_doctor,
	&command_serve,
	&command_stop,
	&command_version,
	&command_help,
	NULL,
};

int main(int argc, char **argv)
{
	return cli_main(commands, argc, argv);
}
