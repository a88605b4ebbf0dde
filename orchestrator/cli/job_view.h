/* Jobs and VMs as the command line shows them. The keys are those of result.json where it has them.
 */
#pragma once

#include "control.pb-c.h"
#include "orchestrator/cli/output.h"

/* Objects for output; new references. */
json_t *job_view(const Control__V1__JobInfo *info);
json_t *vm_view(const Control__V1__VmInfo *info);
json_t *pool_view(const Control__V1__PoolInfo *info);

extern const struct output_type job_columns;  /* list jobs */
extern const struct output_type job_fields;   /* status, result */
extern const struct output_type vm_columns;   /* list vms */
extern const struct output_type pool_columns; /* list pools */

/* One job (job_view()) by those fields; in a table its earlier attempts, its inputs (if all about
 * it is shown) and its artifacts below, if it has any. */
void job_view_print(
	const struct output *output, const struct output_type *fields, const json_t *job);

/* Where the time went: one line per stage that was reached, with its own time and the running total
 * from the submission. Table only; the other formats have times_usec. */
void job_view_timing(const struct output *output, const Control__V1__JobInfo *info);

/* What a command that stands for the job exits with. */
int job_exit_code(const Control__V1__JobInfo *info);
/* One line for a person if the job did not simply end by itself, else NULL: what happened. Owned by
 * the caller. */
char *job_what_happened(const Control__V1__JobInfo *info);
