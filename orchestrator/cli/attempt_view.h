/* The attempts of a job that another followed, as the command line shows them. */
#pragma once

#include "control.pb-c.h"
#include "orchestrator/cli/output.h"

extern const struct output_type attempt_columns;

/* The job's earlier attempts, oldest first; a new reference. */
json_t *attempt_views(const Control__V1__JobInfo *info);

/* One line about an attempt that another follows: which it was, how it ended, when the next one
 * starts. retry: the job's, or NULL. Owned by the caller. */
char *attempt_note(
	const Control__V1__JobInfo *ended, const Job__V1__Retry *retry, uint64_t now_usec);
