/* Is an attempt that ended followed by another, and when? Pure: time and chance are passed in. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "job.pb-c.h"
#include "orchestrator/job.h"

/* How often a job may be started anew because the daemon ended before its program began. */
#define RETRY_MAX_STARTS 5

/* The classes that a job may name under retry.on, for error texts. */
#define RETRY_CLASS_COUNT 8
#define RETRY_CLASSES                                                                              \
	"infra, boot_failed, agent_lost, guest_panic, oom_host, oom_guest, timeout, failed"

/* NULL if an outcome of that name may be retried, else what is wrong with it; owned by the caller.
 */
char *retry_class_problem(const char *name);

/* An attempt that ended. */
struct retry_end {
	const Job__V1__Retry *policy; /* verified; NULL: none */
	unsigned attempt;	      /* its number, from 1 */
	unsigned restarts;	      /* how many before it do not count */
	enum job_outcome outcome;
	/* The daemon ended, and the program had not begun: nothing of the job's happened. */
	bool interrupted;
};

enum retry_answer {
	RETRY_NO,      /* the job has ended */
	RETRY_LATER,   /* another attempt, not before *ret_not_before */
	RETRY_RESTART, /* another attempt at once, which the interrupted one does not count against
			*/
};

/* now and *ret_not_before in microseconds since the epoch. random says how much of the backoff's
 * jitter applies: with 0 the wait is the whole backoff, with UINT32_MAX three quarters of it. */
enum retry_answer retry_decide(
	const struct retry_end *end, uint64_t now_usec, uint32_t random, uint64_t *ret_not_before);
