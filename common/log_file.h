/* stderr in a file that does not grow without end. */
#pragma once

#include <stdint.h>

#include "common/error.h"

/* Once per process: stderr goes to the file at path, which is made (0600) or continued. When it has
 * `most` bytes it becomes path.1, in the place of the one before, and a new one begins; what comes
 * later is always in path or, for a moment, at the end of path.1. Looked at after each line of
 * log_write(), and in log_file_check() for what others write to stderr: call it now and then. */
int log_file_open(const char *path, uint64_t most, struct error **err);
/* From any thread. Does nothing without a file. */
void log_file_check(void);
/* stderr stays where it is, and is not looked after any more. */
void log_file_forget(void);
