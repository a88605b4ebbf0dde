#include "orchestrator/run_exit.h"

#include <signal.h>
#include <string.h>

#include "common/util.h"

#define SIGNAL_BASE	128
#define EXIT_CODE_MOST	255
#define ERROR_TEXT_MOST 500

static void conclude(struct job_result *result, enum job_outcome outcome, int exit_code, char *text)
{
	result->outcome = outcome;
	result->exit_code = exit_code;
	free(result->error);
	result->error = text; /* taken */
}

static void exited(struct job_result *result, const Worker__V1__RunExit *exit)
{
	if (!exit->has_code || exit->code < 0 || exit->code > EXIT_CODE_MOST)
		conclude(result, OUTCOME_INFRA, EXIT_INFRA,
			xstrdup("the worker gave an exit code that no program can have"));
	else if (exit->code == 0)
		conclude(result, OUTCOME_SUCCEEDED, 0, NULL);
	else
		conclude(result, OUTCOME_FAILED, exit->code,
			str_printf("the program ended with exit code %d", exit->code));
}

static void signalled(struct job_result *result, const Worker__V1__RunExit *exit)
{
	if (!exit->has_code || exit->code < 1 || exit->code > SIGRTMAX) {
		conclude(result, OUTCOME_INFRA, EXIT_INFRA,
			xstrdup("the worker gave the number of no signal"));
		return;
	}
	const char *name = sigdescr_np(exit->code);
	result->signal = exit->code;
	conclude(result, OUTCOME_FAILED, SIGNAL_BASE + exit->code,
		str_printf("the program was killed by signal %d (%s)", exit->code,
			name ? name : "unknown"));
}

static void timed_out(struct job_result *result, uint64_t timeout_ms)
{
	_cleanup_free_ char *limit = format_duration(timeout_ms);

	conclude(result, OUTCOME_TIMEOUT, EXIT_TIMEOUT,
		str_printf("the program did not end within its timeout of %s", limit));
}

static char *describe(const Worker__V1__RunExit *exit, const char *otherwise)
{
	return exit->error ? str_escape(exit->error, strnlen(exit->error, ERROR_TEXT_MOST), false)
			   : xstrdup(otherwise);
}

void run_exit_conclude(const Worker__V1__RunExit *exit, uint64_t timeout_ms, const char *cancelled,
	struct job_result *result)
{
	/* JSON's integers are signed: more than that would be read as less than nothing. */
	result->max_rss_bytes = MIN(exit->max_rss_bytes, (uint64_t)INT64_MAX);
	if (__builtin_add_overflow(exit->user_usec, exit->system_usec, &result->cpu_usec) ||
		result->cpu_usec > INT64_MAX)
		result->cpu_usec = INT64_MAX;
	switch (exit->reason) {
	case WORKER__V1__RUN_EXIT__REASON__EXITED:
		exited(result, exit);
		return;
	case WORKER__V1__RUN_EXIT__REASON__SIGNALED:
		signalled(result, exit);
		return;
	case WORKER__V1__RUN_EXIT__REASON__TIMED_OUT:
		timed_out(result, timeout_ms);
		return;
	case WORKER__V1__RUN_EXIT__REASON__STOPPED:
		if (cancelled)
			conclude(result, OUTCOME_CANCELLED, EXIT_CANCELLED, xstrdup(cancelled));
		else
			conclude(result, OUTCOME_INFRA, EXIT_INFRA,
				xstrdup("the worker stopped the program, and nobody asked it to"));
		return;
	case WORKER__V1__RUN_EXIT__REASON__OOM_KILLED:
		result->signal = SIGKILL;
		conclude(result, OUTCOME_OOM_GUEST, SIGNAL_BASE + SIGKILL,
			xstrdup("the program needed more memory than its VM has "
				"(resources.memory)"));
		return;
	case WORKER__V1__RUN_EXIT__REASON__NOT_FOUND:
		conclude(result, OUTCOME_FAILED, EXIT_NOT_FOUND,
			describe(exit, "the command is not in the image"));
		return;
	case WORKER__V1__RUN_EXIT__REASON__NOT_EXECUTABLE:
		conclude(result, OUTCOME_FAILED, EXIT_NOT_EXECUTABLE,
			describe(exit, "the command cannot be executed"));
		return;
	case WORKER__V1__RUN_EXIT__REASON__START_FAILED:
		conclude(result, OUTCOME_FAILED, EXIT_INFRA,
			describe(exit, "the program could not be started"));
		return;
	default:
		conclude(result, OUTCOME_INFRA, EXIT_INFRA,
			xstrdup("the worker gave no reason it knows"));
	}
}
