/* Where the files of a job's attempts are. The attempt in progress, or the last one, has its files
 * (stdout, stderr, console.log, artifacts/, result.json) in the job's directory; before the next
 * one begins they go to attempts/N/ there.
 *
 * They go one by one, each by a rename, and whoever was killed on the way goes on where it was: so
 * at any time each file is in one of the two places, and a reader that finds none in attempts/N/
 * looks in the job's directory, and then whether what it found is still attempt N's. */
#pragma once

#include <stdbool.h>

#include "common/error.h"

/* The names of an attempt's files, in the order in which they are sent to who asks for all of
 * them; ends with NULL. */
extern const char *const attempt_file_names[];

/* attempts/N/ has all files of attempt n, which has ended. Harmless when it has them already. */
int attempt_files_keep(const char *job_dir, unsigned n, struct error **err);

/* Open a file of attempt n for reading. dir_fd: the job's directory. is_last: no later attempt was
 * begun when this was called; to be asked again when a file was found (*ret_shared), for it might
 * be the next one's. -1 with errno. */
int attempt_files_open(int dir_fd, unsigned n, bool is_last, const char *name, bool *ret_shared);

/* "STATE_DIR/jobs/ID/attempts/N" if it is there, else a copy of job_dir; owned by the caller. */
char *attempt_files_dir(const char *job_dir, unsigned n);
