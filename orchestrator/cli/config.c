/* orchestrator config */
#include <stdio.h>

#include "common/util.h"

#include "orchestrator/cli/cli.h"

static int run(const struct cli *cli, int argc, char **argv)
{
	int code = cli_operands(cli, argc, argv, 0, 0, NULL);

	if (code)
		return code;
	_cleanup_free_ char *text = config_describe(cli->config);
	fputs(text, stdout);
	return 0;
}

const struct cli_command command_config = {
	.name = "config",
	.summary = "Show the configuration in force, and where each value came from",
	.synopsis = "",
	.about = "Weakest first: defaults, /etc/orchestrator/orchestrator.yaml,\n"
		 "~/.config/orchestrator/orchestrator.yaml, ORCHESTRATOR_* variables, options.",
	.example = "ORCHESTRATOR_MAX_VMS=4 orchestrator config",
	.run = run,
};
