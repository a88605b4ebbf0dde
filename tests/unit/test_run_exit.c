#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/run_exit.h"

#define REASON(name) WORKER__V1__RUN_EXIT__REASON__##name

static Worker__V1__RunExit exit_of(Worker__V1__RunExit__Reason reason, int32_t code)
{
	Worker__V1__RunExit exit = WORKER__V1__RUN_EXIT__INIT;

	exit.reason = reason;
	exit.has_code = true;
	exit.code = code;
	return exit;
}

static void each_end_has_its_outcome_and_code(void **state)
{
	static const struct {
		Worker__V1__RunExit__Reason reason;
		int32_t code;
		enum job_outcome outcome;
		int exit_code, signal;
	} ends[] = {
		{REASON(EXITED), 0, OUTCOME_SUCCEEDED, 0, 0},
		{REASON(EXITED), 7, OUTCOME_FAILED, 7, 0},
		{REASON(EXITED), 255, OUTCOME_FAILED, 255, 0},
		{REASON(SIGNALED), 15, OUTCOME_FAILED, 143, 15},
		{REASON(SIGNALED), 64, OUTCOME_FAILED, 192, 64},
		{REASON(TIMED_OUT), 0, OUTCOME_TIMEOUT, EXIT_TIMEOUT, 0},
		{REASON(OOM_KILLED), 9, OUTCOME_OOM_GUEST, 137, 9},
		{REASON(NOT_FOUND), 0, OUTCOME_FAILED, EXIT_NOT_FOUND, 0},
		{REASON(NOT_EXECUTABLE), 0, OUTCOME_FAILED, EXIT_NOT_EXECUTABLE, 0},
		{REASON(START_FAILED), 0, OUTCOME_FAILED, EXIT_INFRA, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		struct job_result result = {0};
		const Worker__V1__RunExit exit = exit_of(ends[i].reason, ends[i].code);
		run_exit_conclude(&exit, 90000, NULL, &result);
		assert_int_equal(result.outcome, ends[i].outcome);
		assert_int_equal(result.exit_code, ends[i].exit_code);
		assert_int_equal(result.signal, ends[i].signal);
		assert_int_equal(result.error == NULL, ends[i].outcome == OUTCOME_SUCCEEDED);
		job_result_clear(&result);
	}
}

/* 256 and signal 128 are 0 in the eight bits of an exit code. */
static void numbers_no_program_can_have_are_no_success(void **state)
{
	static const struct {
		Worker__V1__RunExit__Reason reason;
		int32_t code;
	} lies[] = {
		{REASON(EXITED), 256},
		{REASON(EXITED), -256},
		{REASON(EXITED), INT32_MIN},
		{REASON(SIGNALED), 0},
		{REASON(SIGNALED), 128},
		{REASON(SIGNALED), -128},
		{REASON(SIGNALED), INT32_MAX},
		{(Worker__V1__RunExit__Reason)77, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct job_result result = {0};
		const Worker__V1__RunExit exit = exit_of(lies[i].reason, lies[i].code);
		run_exit_conclude(&exit, 90000, NULL, &result);
		assert_int_equal(result.outcome, OUTCOME_INFRA);
		assert_int_equal(result.exit_code, EXIT_INFRA);
		assert_int_equal(result.signal, 0);
		assert_non_null(result.error);
		job_result_clear(&result);
	}
	struct job_result result = {0};
	Worker__V1__RunExit exit = exit_of(REASON(EXITED), 0);
	exit.has_code = false;
	exit.user_usec = UINT64_MAX;
	exit.system_usec = 2;
	exit.max_rss_bytes = UINT64_MAX;
	run_exit_conclude(&exit, 90000, NULL, &result);
	assert_int_equal(result.outcome, OUTCOME_INFRA);
	assert_true(result.cpu_usec == INT64_MAX);
	assert_true(result.max_rss_bytes == INT64_MAX);
	job_result_clear(&result);
}

static void cancelled_is_only_what_somebody_cancelled(void **state)
{
	const Worker__V1__RunExit exit = exit_of(REASON(STOPPED), 15);
	struct job_result result = {0};

	(void)state;
	run_exit_conclude(&exit, 90000, "by ann", &result);
	assert_int_equal(result.outcome, OUTCOME_CANCELLED);
	assert_int_equal(result.exit_code, EXIT_CANCELLED);
	assert_string_equal(result.error, "by ann");
	run_exit_conclude(&exit, 90000, NULL, &result);
	assert_int_equal(result.outcome, OUTCOME_INFRA);
	job_result_clear(&result);
}

static void what_the_worker_says_is_escaped(void **state)
{
	Worker__V1__RunExit exit = exit_of(REASON(NOT_FOUND), 0);
	char text[] = "no \033[2J here";
	struct job_result result = {0};

	(void)state;
	exit.error = text;
	run_exit_conclude(&exit, 90000, NULL, &result);
	assert_string_equal(result.error, "no \\x1b[2J here");
	job_result_clear(&result);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_end_has_its_outcome_and_code),
		cmocka_unit_test(numbers_no_program_can_have_are_no_success),
		cmocka_unit_test(cancelled_is_only_what_somebody_cancelled),
		cmocka_unit_test(what_the_worker_says_is_escaped),
	};

	return cmocka_run_group_tests_name("run_exit", tests, NULL, NULL);
}
