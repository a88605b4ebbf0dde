/* A job's spec and its input files, to the daemon. */
#pragma once

#include "common/rpc.h"
#include "job.pb-c.h"
#include "orchestrator/cli/cli.h"

/* What a job is made of on this side. */
struct job_files {
	Job__V1__Spec *spec; /* owned */
	char *name;	     /* owned; how errors call it: "job.yaml", "-", "run" */
	int base_fd;	     /* owned; the directory that inputs' relative paths start from */
};

void job_files_free(struct job_files *files); /* NULL is allowed */

static inline void job_files_freep(struct job_files **files)
{
	job_files_free(*files);
}
#define _cleanup_job_files_ __attribute__((cleanup(job_files_freep)))

/* Can every input be opened? Errors name the entry and the path. */
int upload_check_inputs(const struct job_files *files, struct error **err);

/* Submit. key may be NULL. *ret_id is owned by the caller. A file that cannot be read is an error,
 * and then nothing was submitted. */
int upload_job(const struct cli *cli, struct rpc_peer *peer, const struct job_files *files,
	const char *key, char **ret_id, struct error **err);
