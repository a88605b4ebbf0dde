/* The files of a job's inputs: made once, when they come, and shared by all copies of the job's
 * record from then on. */
#pragma once

#include <stddef.h>

#include "orchestrator/job.h"

struct input_list {
	unsigned refs;		    /* by input_list_ref() and input_list_unref() alone */
	struct job_artifact *files; /* owned; their paths are those in the guest */
	size_t n;
};

struct input_list *input_list_new(void);
/* Only while nobody else has it. sha256 has 32 bytes. */
void input_list_add(
	struct input_list *list, const char *path, uint64_t size, const uint8_t *sha256);
/* From any thread; NULL is allowed. */
struct input_list *input_list_ref(struct input_list *list);
void input_list_unref(struct input_list *list);
