/* The guest's half of `orchestrator bench`: the same worker by TCP as by vsock, a raw service on
 * both as the floor, and the Bench call. Only where the host booted this machine for it
 * (common/bench.h); the worker of a job never comes here. */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "guest-worker/service.h"

/* Does the kernel's command line have the word? */
bool bench_wanted(void);
/* The same, of a command line: a whole word of it. */
bool bench_in_cmdline(const char *cmdline);
/* Bring the interface up and serve, on threads that live as long as the process. Call after
 * worker_set_ready() and before the host is told. */
int bench_start(struct worker *worker, struct error **err);
