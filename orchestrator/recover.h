/* What a daemon finds when it starts: jobs that another one left unfinished, VMs and directories
 * that belong to no job any more. */
#pragma once

#include <stddef.h>

#include "orchestrator/attempt.h"
#include "orchestrator/config.h"
#include "orchestrator/store.h"

/* Sweeps the host, ends the jobs that ran (their VMs are gone now; taking them over instead has
 * its place here), removes directories whose submission was never acknowledged. The queued jobs,
 * oldest first, belong to the caller. Before anything else uses the store. */
int recover(const struct config *config, struct host *host, struct store *store,
	struct job_record ***ret_queued, size_t *ret_n, struct error **err);
