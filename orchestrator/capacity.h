/* What this host has to give: its memory and processors, as far as this process may use them. */
#pragma once

#include "orchestrator/config.h"
#include "orchestrator/scheduler.h"

struct scheduler_capacity capacity_read(const struct config *config);

/* The least of the machine's memory and the limits in these files, which have a number of bytes or
 * "max"; those that cannot be read say nothing. */
uint64_t capacity_memory(uint64_t machine, const char *const *limit_files, size_t n);
