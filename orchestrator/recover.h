/* What a daemon finds when it starts: jobs that another one left unfinished, VMs and directories
 * that belong to no job any more. */
#pragma once

#include <stddef.h>

#include "orchestrator/config.h"
#include "orchestrator/host.h"
#include "orchestrator/store.h"

/* Decides over each job that is not finished, by its record, its note (vm_note.h) and its domain:
 *
 *	queued                    stays queued
 *	note and domain           to be adopted; held as epoch + 1
 *	starting, no note         its program was not started: queued again, a bounded number of
 *	                          times, then the attempt has ended as infra
 *	all others                the attempt has ended as infra: by the job's retry it is queued
 *	                          again, or finished
 *
 * A domain without such a job is destroyed, with its processes and its directory, and a directory
 * whose submission was never acknowledged is removed. What *ret_found holds, oldest first, are the
 * queued jobs and those to be adopted (in any other state); it belongs to the caller. Called before
 * anything else uses the store. */
int recover(const struct config *config, struct host *host, struct store *store,
	struct job_record ***ret_found, size_t *ret_n, struct error **err);
