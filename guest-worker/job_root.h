/* The root directory that jobs see, and how the worker opens what is below it.
 *
 * Everything below belongs to the job, links too: the worker, which is root, opens it only by
 * job_root_open(), which resolves every link inside that root and follows no magic link of /proc.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"

struct job_root {
	int fd;		     /* O_PATH */
	const char *path;    /* static or borrowed; "/" means: the machine's own root */
	const char *workdir; /* where a job runs that names no directory */
};

/* ret->fd is to be closed by the caller. */
int job_root_init(const char *path, const char *workdir, struct job_root *ret, struct error **err);
static inline bool job_root_is_separate(const struct job_root *root)
{
	return !(root->path[0] == '/' && root->path[1] == 0);
}

/* An fd (always CLOEXEC), or -1 with errno. */
int job_root_open(const struct job_root *root, const char *path, int flags, mode_t mode);

/* All of a regular file below the root, with a NUL behind it; NULL if it is not there, is no
 * regular file, or is larger than cap. */
char *job_root_read(const struct job_root *root, const char *path, size_t cap);
