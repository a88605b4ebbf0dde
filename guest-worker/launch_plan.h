/* What a job init is to make (its setup), and then what the job's process is to run (its plan), as
 * bytes from the worker. Both ends are the same program, and nothing of a job has run at the other:
 * the bytes are trusted. What is received lives in memory that is never given back: the process
 * becomes another program, or ends. -1 with errno; ECONNRESET: nobody will send one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest-worker/launch.h"

/* Owned by the caller. */
uint8_t *launch_setup_pack(
	const struct job_root *root, const struct sandbox *sandbox, bool cgroup, size_t *ret_size);

struct launch_setup {
	struct job_root root; /* path only */
	struct sandbox sandbox;
	bool cgroup;
};

int launch_setup_receive(int fd, struct launch_setup *ret);

/* Owned by the caller. root, sandbox and script are not part of it. */
uint8_t *launch_plan_pack(const struct launch *launch, size_t *ret_size);

/* Sets what the plan has. */
int launch_plan_receive(int fd, struct launch *launch);
