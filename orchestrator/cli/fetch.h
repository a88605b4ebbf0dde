/* A job's results into a directory of the user's. */
#pragma once

#include "common/rpc.h"
#include "orchestrator/cli/cli.h"

/* Before a job is submitted whose files shall come there: a directory that has something in it is
 * refused, unless replace. */
int fetch_check_directory(const char *dir, bool replace, struct error **err);

/* Fetch them, of the last attempt if that is 0; the directory is made. The files are the guest's:
 * they only ever land below dir, and no file that is there is written over unless replace. */
int fetch_results(const struct cli *cli, struct rpc_peer *peer, const char *id, uint32_t attempt,
	const char *dir, bool replace, struct error **err);
