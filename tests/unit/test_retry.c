#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/retry.h"

#define NOW UINT64_C(1790000000000000)

static Job__V1__Retry policy_of(uint32_t max_attempts, uint64_t backoff_ms, uint64_t most_ms)
{
	Job__V1__Retry policy = JOB__V1__RETRY__INIT;

	policy.has_max_attempts = true;
	policy.max_attempts = max_attempts;
	policy.has_backoff_ms = backoff_ms != 0;
	policy.backoff_ms = backoff_ms;
	policy.has_max_backoff_ms = most_ms != 0;
	policy.max_backoff_ms = most_ms;
	return policy;
}

static void attempts_have_an_end(void **state)
{
	static const struct {
		unsigned max, attempt, restarts;
		bool interrupted;
		enum retry_answer answer;
	} table[] = {
		{0, 1, 0, false, RETRY_NO}, /* no policy */
		{1, 1, 0, false, RETRY_NO},
		{3, 1, 0, false, RETRY_LATER},
		{3, 2, 0, false, RETRY_LATER},
		{3, 3, 0, false, RETRY_NO},
		{3, 4, 0, false, RETRY_NO},
		/* Those that the daemon's end took do not count, */
		{3, 4, 2, false, RETRY_LATER},
		{3, 5, 2, false, RETRY_NO},
		{0, 1, 0, true, RETRY_RESTART},
		{1, 1, 0, true, RETRY_RESTART},
		{0, RETRY_MAX_STARTS - 1, RETRY_MAX_STARTS - 2, true, RETRY_RESTART},
		/* but not for ever. */
		{0, RETRY_MAX_STARTS, RETRY_MAX_STARTS - 1, true, RETRY_NO},
		{2, RETRY_MAX_STARTS, RETRY_MAX_STARTS - 1, true, RETRY_LATER},
		{2, RETRY_MAX_STARTS + 1, RETRY_MAX_STARTS - 1, true, RETRY_NO},
		/* Numbers that do not fit together end it. */
		{2, 1, 9, false, RETRY_LATER},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		Job__V1__Retry policy = policy_of(table[i].max, 1000, 0);
		struct retry_end end = {
			.policy = table[i].max ? &policy : NULL,
			.attempt = table[i].attempt,
			.restarts = table[i].restarts,
			.outcome = OUTCOME_INFRA,
			.interrupted = table[i].interrupted,
		};
		uint64_t not_before = 1;

		if (retry_decide(&end, NOW, 0, &not_before) != table[i].answer)
			fail_msg("row %zu", i);
		if (table[i].answer == RETRY_RESTART)
			assert_int_equal(not_before, 0);
		if (table[i].answer == RETRY_LATER)
			assert_true(not_before > NOW);
	}
}

static void only_the_classes_asked_for(void **state)
{
	/* By the outcomes' order in job.h, from "succeeded" on. */
	static const struct {
		const char *on[3];
		const char *again;
	} table[] = {
		{{NULL}, "0000000111"},
		{{"infra", NULL}, "0000000001"},
		{{"failed", "timeout", NULL}, "0110000000"},
		{{"guest_panic", "oom_host", "oom_guest"}, "0000111000"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		Job__V1__Retry policy = policy_of(2, 1000, 0);
		char *on[3];

		for (size_t k = 0; k < 3 && table[i].on[k]; k++)
			on[policy.n_on++] = (char *)(uintptr_t)table[i].on[k];
		policy.on = on;
		for (enum job_outcome o = OUTCOME_SUCCEEDED; o < OUTCOMES; o++) {
			struct retry_end end = {.policy = &policy, .attempt = 1, .outcome = o};
			uint64_t at;
			bool again = retry_decide(&end, NOW, 0, &at) != RETRY_NO;

			if (again != (table[i].again[o - 1] == '1'))
				fail_msg("row %zu: %s", i, job_outcome_name(o));
		}
	}
}

static void the_backoff_doubles_up_to_its_cap(void **state)
{
	static const struct {
		uint64_t backoff_ms, most_ms;
		uint64_t waits_ms[5]; /* before attempts 2, 3, ... */
	} table[] = {
		{1000, 0, {1000, 2000, 4000, 8000, 16000}},
		{1000, 3000, {1000, 2000, 3000, 3000, 3000}},
		{0, 0, {2000, 4000, 8000, 16000, 32000}},
		/* A backoff longer than the default cap is its own cap. */
		{600000, 0, {600000, 600000, 600000, 600000, 600000}},
		{LIMIT_BACKOFF_MS, LIMIT_BACKOFF_MS,
			{LIMIT_BACKOFF_MS, LIMIT_BACKOFF_MS, LIMIT_BACKOFF_MS, LIMIT_BACKOFF_MS,
				LIMIT_BACKOFF_MS}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		Job__V1__Retry policy =
			policy_of(LIMIT_ATTEMPTS, table[i].backoff_ms, table[i].most_ms);

		for (unsigned n = 1; n <= 5; n++) {
			struct retry_end end = {
				.policy = &policy, .attempt = n, .outcome = OUTCOME_INFRA};
			uint64_t whole, least, some, wait = table[i].waits_ms[n - 1] * 1000;

			retry_decide(&end, NOW, 0, &whole);
			retry_decide(&end, NOW, UINT32_MAX, &least);
			retry_decide(&end, NOW, UINT32_MAX / 2, &some);
			assert_int_equal(whole - NOW, wait);
			assert_int_equal(least - NOW, wait - wait / 4);
			assert_true(least < some && some < whole);
		}
	}
	/* None at all is allowed. */
	Job__V1__Retry policy = policy_of(3, 1, 0);
	policy.backoff_ms = 0;
	struct retry_end end = {.policy = &policy, .attempt = 1, .outcome = OUTCOME_INFRA};
	uint64_t at;
	assert_int_equal(retry_decide(&end, NOW, UINT32_MAX, &at), RETRY_LATER);
	assert_int_equal(at, NOW);
}

static void classes_are_checked_by_name(void **state)
{
	static const struct {
		const char *name, *says;
	} table[] = {
		{"infra", NULL},
		{"failed", NULL},
		{"oom_host", NULL},
		{"succeeded", "not tried again"},
		{"cancelled", "not tried again"},
		{"none", "must be one of infra, "},
		{"", "must be one of infra, "},
		{"Infra", "must be one of infra, "},
		{"unknown", "must be one of infra, "},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_free_ char *problem = retry_class_problem(table[i].name);

		if (table[i].says ? !problem || !strstr(problem, table[i].says) : problem != NULL)
			fail_msg("%s: %s", table[i].name, problem ? problem : "allowed");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attempts_have_an_end),
		cmocka_unit_test(only_the_classes_asked_for),
		cmocka_unit_test(the_backoff_doubles_up_to_its_cap),
		cmocka_unit_test(classes_are_checked_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
