/* orchestrator help */
#include <stdio.h>

#include "common/util.h"
#include "orchestrator/cli/options.h"

static int run(const struct cli *cli, int argc, char **argv)
{
	int code = cli_operands(cli, argc, argv, 0, 1, "the name of a command");

	if (code)
		return code;
	if (argc == 1) {
		options_print_overview(stdout, cli->commands);
		return 0;
	}
	const struct cli_command *command = cli_find(cli, argv[1]);
	if (!command)
		return EXIT_USAGE;
	options_print_help(stdout, command);
	return 0;
}

const struct cli_command command_help = {
	.name = "help",
	.summary = "Show help, of a command or of all",
	.synopsis = "[COMMAND]",
	.example = "orchestrator help run",
	.needs_no_config = true,
	.run = run,
};
