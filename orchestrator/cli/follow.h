/* A job's output on this terminal, as it comes. */
#pragma once

#include "common/rpc.h"
#include "control.pb-c.h"
#include "orchestrator/cli/cli.h"

struct follow_options {
	bool follow;	  /* until the job ended; else what is there */
	bool console;	  /* the guest's console instead of the job's streams */
	bool raw;	  /* no escaping on a terminal */
	unsigned attempt; /* whose output, or whose first; 0: the last one's */
};

/* Prints the job's streams to stdout and stderr. Call interrupt_begin() before the connection is
 * made. *peer may be replaced: a daemon that went away is sought again (reconnect.h).
 *
 * Returns the exit code for the command, everything being said: with follow the job's own; 130
 * after Ctrl-C and 141 when nobody reads the output any more, the job going on in both cases;
 * EXIT_INFRA. *ret_ended (may be NULL) is the job once it ended, else NULL; for rpc_message_free().
 */
int follow_job(const struct cli *cli, struct rpc_peer **peer, const char *id,
	const struct follow_options *options, Control__V1__JobInfo **ret_ended);
