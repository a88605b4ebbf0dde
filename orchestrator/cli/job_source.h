/* The text of a job file, and the documents it consists of: each is a job. */
#pragma once

#include <stddef.h>

#include "common/error.h"

struct job_document {
	size_t at, size;       /* in the text */
	unsigned line, column; /* where its content begins, from 1 */
};

struct job_source {
	char *name; /* owned; as it was given: "jobs.yaml", "-" */
	char *text; /* owned; ends with a NUL that size does not count */
	size_t size;
	struct job_document *documents; /* owned; those with nothing in them are left out */
	size_t n;
};

/* "-" is stdin. The first file of the process gives the same text when it is asked for again, since
 * a pipe can be read once only. At most LIMIT_JOB_FILE bytes in all. */
struct job_source *job_source_read(const char *path, struct error **err);
void job_source_free(struct job_source *source); /* NULL is allowed */

static inline void job_source_freep(struct job_source **source)
{
	job_source_free(*source);
}
#define _cleanup_job_source_ __attribute__((cleanup(job_source_freep)))

/* One document as a text of its own, in which lines have the numbers they have in the file. Owned
 * by the caller. */
char *job_source_document(const struct job_source *source, size_t i);
