/* The job that a command line names by its id, and the attempt of it by --attempt. */
#pragma once

#include "common/rpc.h"
#include "control.pb-c.h"
#include "orchestrator/cli/cli.h"

/* For the options of a command that shows one attempt. */
#define ATTEMPT_OPTION                                                                             \
	{                                                                                          \
		0, "attempt", "N", "of this attempt instead of the last one"                       \
	}

/* What --attempt says; 0: it is not given. Not a number: says so and returns EXIT_USAGE. */
int one_job_attempt(const struct cli *cli, uint32_t *ret);

/* The only operand is a job's id: connect to a daemon, started if need be, and ask what it knows of
 * the job, or of that attempt (*ret_attempt, 0: not given). Returns 0, or the code to exit with,
 * when it has said what is wrong. *ret_peer and *ret_info are as connect_daemon() and
 * connect_call() leave them, whatever is returned. */
int one_job_get(const struct cli *cli, int argc, char **argv, uint32_t *ret_attempt,
	struct rpc_peer **ret_peer, Control__V1__JobInfo **ret_info);
