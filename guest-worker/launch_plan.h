/* A plan (struct launch) as bytes, from the worker to a process that was forked from it earlier.
 * Both are the same program, and nothing of a job has run in that process: the bytes are trusted.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "guest-worker/launch.h"

/* Owned by the caller. root, sandbox and script are not part of it. */
uint8_t *launch_plan_pack(const struct launch *launch, size_t *ret_size);

/* Wait for a plan at fd and put it into launch, whose strings then live in memory that is never
 * given back: the process becomes another program. Async-signal-safe. -1 with errno; ECONNRESET:
 * nobody will send one. */
int launch_plan_receive(int fd, struct launch *launch);
