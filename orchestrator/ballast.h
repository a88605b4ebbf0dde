/* A file in the state directory that is given up when its disk is full, so that the outcomes of the
 * jobs that run can be recorded all the same. While it is given, only records are written: output
 * and files of jobs count as not fitting, and no job is started. It is made again as soon as there
 * is twice its size free.
 *
 * One for the process, as the state directory is. All may be called from any thread; before
 * ballast_open(), and with a size of 0, there is none, and nothing is ever held back.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

/* Make it, or find it as an earlier daemon left it; on a disk that is full already it is given at
 * once, for the start itself needs some room. state_dir is copied. */
void ballast_open(const char *state_dir, uint64_t size);
/* The disk is full. True if this gave something: worth another try. */
bool ballast_give(void);
bool ballast_is_given(void);
/* Bytes free for everybody else, were it there; makes it again if there is room for that. */
int ballast_free_disk(uint64_t *ret, struct error **err);
/* Is there room to begin something? ERR_LIMIT: not now. Tells the log when that changes. */
int ballast_check_room(struct error **err);
