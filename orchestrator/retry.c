#include "orchestrator/retry.h"

#include "common/limits.h"
#include "common/util.h"

static const enum job_outcome classes[] = {OUTCOME_INFRA, OUTCOME_BOOT_FAILED, OUTCOME_AGENT_LOST,
	OUTCOME_GUEST_PANIC, OUTCOME_OOM_HOST, OUTCOME_OOM_GUEST, OUTCOME_TIMEOUT, OUTCOME_FAILED};
_Static_assert(ARRAY_SIZE(classes) == RETRY_CLASS_COUNT, "each is counted");
/* So many of them, from the first, are the host's doing: the default. */
#define DEFAULT_CLASSES 3

char *retry_class_problem(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		if (str_eq(name, job_outcome_name(classes[i])))
			return NULL;
	}
	if (str_eq(name, job_outcome_name(OUTCOME_SUCCEEDED)) ||
		str_eq(name, job_outcome_name(OUTCOME_CANCELLED)))
		return str_printf(
			"a job that %s%s is not tried again; the classes are " RETRY_CLASSES,
			str_eq(name, "cancelled") ? "was " : "", name);
	return xstrdup("must be one of " RETRY_CLASSES);
}

static bool is_asked_for(const Job__V1__Retry *policy, enum job_outcome outcome)
{
	for (size_t i = 0; i < policy->n_on; i++) {
		if (str_eq(policy->on[i], job_outcome_name(outcome)))
			return true;
	}
	for (size_t i = 0; !policy->n_on && i < DEFAULT_CLASSES; i++) {
		if (classes[i] == outcome)
			return true;
	}
	return false;
}

/* The backoff before the attempt behind the n-th, from 1. */
static uint64_t backoff_usec(const Job__V1__Retry *policy, unsigned n, uint32_t random)
{
	uint64_t base = policy->has_backoff_ms ? policy->backoff_ms : DEFAULT_BACKOFF_MS;
	uint64_t most = policy->has_max_backoff_ms ? policy->max_backoff_ms
						   : MAX(base, DEFAULT_BACKOFF_MOST_MS);
	uint64_t ms = MIN(base, most);

	for (unsigned i = 1; i < n && ms < most; i++)
		ms = MIN(ms * 2, most);
	uint64_t usec = MIN(ms, LIMIT_BACKOFF_MS) * 1000;
	return usec - (uint64_t)((double)(usec / 4) * random / UINT32_MAX);
}

enum retry_answer retry_decide(
	const struct retry_end *end, uint64_t now_usec, uint32_t random, uint64_t *ret_not_before)
{
	/* A job whose start is the daemon's end must not be that for ever. */
	if (end->interrupted && end->restarts + 1 < RETRY_MAX_STARTS) {
		*ret_not_before = 0;
		return RETRY_RESTART;
	}
	if (!end->policy || !end->policy->has_max_attempts)
		return RETRY_NO;
	unsigned counted = end->attempt - MIN(end->restarts, end->attempt);
	if (counted >= end->policy->max_attempts || !is_asked_for(end->policy, end->outcome))
		return RETRY_NO;
	*ret_not_before = now_usec + backoff_usec(end->policy, MAX(counted, 1u), random);
	return RETRY_LATER;
}
