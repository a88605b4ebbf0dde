/* What submit and run share: from the command line to a job, and with it to its end. */
#pragma once

#include "common/rpc.h"
#include "orchestrator/cli/cli.h"
#include "orchestrator/cli/spec_options.h"

/* Their options besides SPEC_OPTIONS. */
#define LAUNCH_OPTIONS                                                                             \
	{'k', "key", "KEY", "the same key again gives the same job, not another one"},             \
		{0, "output-dir", "DIR", "fetch the results into DIR once the job ended"},         \
		{0, "force", NULL, "write over files in --output-dir"},                            \
	{                                                                                          \
		0, "raw", NULL, "do not escape control bytes on a terminal"                        \
	}

/* The id of a new job, on stdout. */
void launch_print_id(const struct cli *cli, const char *id);
/* Stay with the job to its end; the exit code. */
int launch_follow(const struct cli *cli, struct rpc_peer **peer, const char *id);
/* Submit the job. follow: stay with it to its end, and exit as it does. */
int launch(const struct cli *cli, int argc, char **argv, bool follow);
