#include "orchestrator/serve.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>

#include "common/util.h"
#include "orchestrator/cli/cli.h"

/* The descriptor that a command left us, from its number. */
static int take_ready_fd(const char *text, int *ret, struct error **err)
{
	uint64_t fd;

	if (parse_number(text, 3, INT_MAX, &fd) < 0 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return error_set(err, ERR_INVALID, "--ready-fd %s: no open descriptor", text);
	*ret = (int)fd;
	return 0;
}

int cmd_serve(const struct cli *cli, int argc, char **argv)
{
	const char *ready = cli_value(cli, "ready-fd");
	struct serve_options options = {.foreground = !ready, .ready_fd = -1};
	struct error *err = NULL;

	if (argc > 1)
		return cli_usage(cli, "serve takes no operand: %s", argv[1]);
	options.idle_exit = cli_flag(cli, "idle-exit");
	if (ready && take_ready_fd(ready, &options.ready_fd, &err) < 0)
		return cli_fail(cli, err);
	return serve(cli->config, &options, &err) < 0 ? cli_fail(cli, err) : EXIT_SUCCESS;
}

static const struct cli_option options[] = {
	{0, "idle-exit", NULL, "leave when there were no jobs and no commands for idle_timeout"},
	{0, "ready-fd", "N", NULL},
	{0, NULL, NULL, NULL},
};

const struct cli_command command_serve = {
	.name = "serve",
	.summary = "Run the daemon in the foreground",
	.synopsis = "[--idle-exit]",
	.about = "Commands start a daemon by themselves, which leaves when it is idle; this is for "
		 "service\n"
		 "managers, and for looking at its log. SIGTERM stops it as `orchestrator stop` "
		 "does.",
	.options = options,
	.example = "orchestrator serve",
	.run = cmd_serve,
};
