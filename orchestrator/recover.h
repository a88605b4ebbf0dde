/* What a daemon finds when it starts: jobs that another one left unfinished, VMs and directories
 * that belong to no job any more. */
#pragma once

#include <stddef.h>

#include "orchestrator/attempt.h"
#include "orchestrator/config.h"
#include "orchestrator/store.h"

/* Decides over each job that is not finished, by its record, its note (vm_note.h) and its domain:
 *
 *	queued                          stays queued
 *	note and domain                 to be adopted; held as epoch + 1
 *	starting, no note               its program was not started: queued again; a bounded number
 *of times, then infra note and no domain, or running  finished as infra without a note domain
 *without any of these     destroyed, with its processes and its directory
 *
 * and removes directories whose submission was never acknowledged. *ret_found, oldest first, are
 *the queued ones and those to be adopted (any other state); they belong to the caller. Before
 *anything else uses the store. */
int recover(const struct config *config, struct host *host, struct store *store,
	struct job_record ***ret_found, size_t *ret_n, struct error **err);
