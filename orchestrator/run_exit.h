/* How the program ended, as the worker tells it, made into an outcome. The worker may be hostile:
 * its numbers are taken only where a program can have them, so that a failure never looks like a
 * success to who reads the exit code, and a job that nobody cancelled is never "cancelled". */
#pragma once

#include "orchestrator/job.h"
#include "worker.pb-c.h"

/* Sets outcome, exit_code, signal, error, max_rss_bytes and cpu_usec of result. timeout_ms: the
 * job's, for the text. cancelled: why, or NULL if nobody cancelled it. */
void run_exit_conclude(const Worker__V1__RunExit *exit, uint64_t timeout_ms, const char *cancelled,
	struct job_result *result);
