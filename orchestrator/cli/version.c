/* orchestrator version */
#include <stdio.h>

#include "orchestrator/cli/cli.h"
#include "orchestrator/cli/output.h"

static int run(const struct cli *cli, int argc, char **argv)
{
	struct output output = output_stdout(cli);
	int code = cli_operands(cli, argc, argv, 0, 0, NULL);

	if (code)
		return code;
	if (cli->output == OUTPUT_TABLE) {
		printf("orchestrator " ORCHESTRATOR_VERSION "\n");
	} else if (cli->output == OUTPUT_NAME) {
		printf(ORCHESTRATOR_VERSION "\n");
	} else {
		json_t *object = json_pack("{s:s}", "version", ORCHESTRATOR_VERSION);
		output_value(&output, object);
		json_decref(object);
	}
	return 0;
}

const struct cli_command command_version = {
	.name = "version",
	.summary = "Show the version",
	.synopsis = "",
	.needs_no_config = true,
	.run = run,
};
