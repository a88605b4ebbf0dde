/* Attempts that follow another, of a real daemon whose attempts are fake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "orchestrator/job.h"
#include "tests/unit/control_fixture.h"

#define DEADLINE_MS 30000
#define HOUR_MS	    3600000

static size_t count_starts(struct fixture *f)
{
	_cleanup_free_ char *log = fixture_log(f);
	size_t n = 0;

	for (const char *at = log; (at = strstr(at, "start ")); at++)
		n++;
	return n;
}

static void expect_file(struct fixture *f, const char *id, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/jobs/%s/%s", f->config.state_dir, id, name);
	_cleanup_free_ char *found = read_file(path, MIB, NULL, NULL);

	if (!found || !strstr(found, text))
		fail_msg("%s: %s", path, found ? found : "not there");
}

/* Until it waits for another attempt. */
static Control__V1__JobInfo *wait_back(struct fixture *f, const char *id)
{
	for (int i = 0; i < DEADLINE_MS / 5; i++) {
		Control__V1__JobInfo *info = fixture_get(f, id, NULL);

		assert_non_null(info);
		if (info->state == CONTROL__V1__STATE__QUEUED && info->attempt)
			return info;
		rpc_message_free(&info->base);
		sleep_ms(5);
	}
	fail_msg("job %s does not come back", id);
	return NULL;
}

/* --- how often ------------------------------------------------------------------------------- */

static void attempts_come_to_an_end(void **state)
{
	struct fixture *f = *state;
	char id[32];

	fixture_retry(f, 3, 20);
	fixture_submit_ok(f, id, "out:tried", "artifact:a", "end:infra", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__INFRA);
	assert_int_equal(count_starts(f), 3);
	Control__V1__JobInfo *info = fixture_get(f, id, NULL);
	assert_non_null(info);
	assert_int_equal(info->attempt, 3);
	assert_int_equal(info->n_earlier, 2);
	for (uint32_t i = 0; i < 2; i++) {
		const Control__V1__JobInfo *earlier = info->earlier[i];

		assert_int_equal(earlier->attempt, i + 1);
		assert_int_equal(earlier->outcome, JOB__V1__OUTCOME__INFRA);
		assert_string_equal(earlier->error, "infra, as the test ordered");
		assert_int_equal(earlier->stdout_bytes, 6);
		assert_true(earlier->times->recorded >= earlier->times->program_ended);
		assert_true(earlier->times->destroyed > 0);
		/* Three quarters of the backoff at the least. */
		const Control__V1__Times *next = i ? info->times : info->earlier[1]->times;
		assert_true(next->started >= earlier->times->recorded + 15000);
		assert_true(next->started >= earlier->not_before);
	}
	rpc_message_free(&info->base);
	expect_file(f, id, "attempts/1/stdout", "tried\n");
	expect_file(f, id, "attempts/1/result.json", "\"attempt\": 1");
	expect_file(f, id, "attempts/2/result.json", "\"attempt\": 2");
	expect_file(f, id, "attempts/2/artifacts/a", "made");
	expect_file(f, id, "stdout", "tried\n");
	expect_file(f, id, "result.json", "\"attempt\": 3");
}

static void the_second_may_succeed(void **state)
{
	struct fixture *f = *state;
	struct error *err = NULL;
	char id[32];

	fixture_retry(f, 3, 1);
	fixture_submit_ok(f, id, "out:x", "end:1:agent_lost", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	assert_int_equal(count_starts(f), 2);
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	ProtobufCMessage *message;
	static const struct {
		uint32_t attempt;
		Job__V1__Outcome outcome;
		const char *dir;
	} table[] = {
		{1, JOB__V1__OUTCOME__AGENT_LOST, "/attempts/1"},
		{2, JOB__V1__OUTCOME__SUCCEEDED, ""},
	};
	request.id = id;
	request.has_attempt = true;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		request.attempt = table[i].attempt;
		assert_int_equal(rpc_unary(f->peer, &control_get_job, &request.base, DEADLINE_MS,
					 &message, NULL),
			0);
		const Control__V1__JobInfo *info = (Control__V1__JobInfo *)message;
		_cleanup_free_ char *dir =
			str_printf("%s/jobs/%s%s", f->config.state_dir, id, table[i].dir);
		assert_int_equal(info->attempt, table[i].attempt);
		assert_int_equal(info->outcome, table[i].outcome);
		assert_string_equal(info->result_dir, dir);
		assert_int_equal(info->n_earlier, 0);
		rpc_message_free(message);
	}
	request.attempt = 3;
	assert_int_equal(
		rpc_unary(f->peer, &control_get_job, &request.base, DEADLINE_MS, &message, &err),
		-1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
	assert_non_null(strstr(err->text, "no attempt 3"));
	error_free(err);
}

static void other_ends_are_ends(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *word;
		Job__V1__Outcome outcome;
	} table[] = {
		{"end:failed", JOB__V1__OUTCOME__FAILED},
		{"end:timeout", JOB__V1__OUTCOME__TIMEOUT},
		{"end:guest_panic", JOB__V1__OUTCOME__GUEST_PANIC},
		{"end:succeeded", JOB__V1__OUTCOME__SUCCEEDED},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char id[32];

		fixture_retry(f, 3, 1);
		fixture_submit_ok(f, id, table[i].word, NULL);
		fixture_expect(f, id, table[i].outcome);
	}
	assert_int_equal(count_starts(f), ARRAY_SIZE(table));
	/* Nor is any without being asked for. */
	char id[32];
	f->retry = NULL;
	fixture_submit_ok(f, id, "end:infra", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__INFRA);
	assert_int_equal(count_starts(f), ARRAY_SIZE(table) + 1);
}

static void an_attempt_that_cannot_start_counts(void **state)
{
	struct fixture *f = *state;
	char id[32];

	fixture_retry(f, 3, 1);
	fixture_submit_ok(f, id, "nothread", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__INFRA);
	Control__V1__JobInfo *info = fixture_get(f, id, NULL);
	assert_int_equal(info->attempt, 3);
	assert_int_equal(info->n_earlier, 2);
	rpc_message_free(&info->base);
}

/* The next attempt writes where the VM of the last one may still do. */
static void the_vm_goes_first(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *gone = fixture_word(f, "gone", "end");
	char id[32];

	fixture_retry(f, 2, 1);
	fixture_submit_ok(f, id, gone, "end:1:infra", NULL);
	Control__V1__JobInfo *info = wait_back(f, id);
	assert_int_equal(info->n_earlier, 1);
	rpc_message_free(&info->base);
	sleep_ms(100);
	assert_int_equal(count_starts(f), 1);
	fixture_touch(f, "end");
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	assert_int_equal(count_starts(f), 2);
}

/* --- the daemon's end ------------------------------------------------------------------------ */

static void kill_and_start(struct fixture *f)
{
	fixture_end(f, SIGKILL);
	_cleanup_free_ char *line = fixture_start(f);
	assert_string_equal(line, "ready");
}

static void a_backoff_outlives_the_daemon(void **state)
{
	struct fixture *f = *state;
	char waits[32], goes[32];

	fixture_retry(f, 2, HOUR_MS);
	fixture_submit_ok(f, waits, "end:infra", NULL);
	Control__V1__JobInfo *far = wait_back(f, waits);
	fixture_retry(f, 2, 1500);
	fixture_submit_ok(f, goes, "out:x", "end:1:infra", NULL);
	Control__V1__JobInfo *near = wait_back(f, goes);
	kill_and_start(f);
	/* Its time may be here before the daemon is, but it began no sooner. */
	fixture_expect(f, goes, JOB__V1__OUTCOME__SUCCEEDED);
	Control__V1__JobInfo *end = fixture_get(f, goes, NULL);
	assert_true(end->times->started >= near->not_before);
	assert_int_equal(end->attempt, 2);
	assert_int_equal(end->n_earlier, 1);
	rpc_message_free(&near->base);
	rpc_message_free(&end->base);
	expect_file(f, goes, "attempts/1/stdout", "x\n");
	/* One whose time is far waits still, alone with its time. */
	Control__V1__JobInfo *info = fixture_get(f, waits, NULL);
	assert_int_equal(info->state, CONTROL__V1__STATE__QUEUED);
	assert_int_equal(info->not_before, far->not_before);
	assert_true(info->not_before > now_real_usec() + UINT64_C(1000) * HOUR_MS / 2);
	assert_int_equal(info->n_earlier, 1);
	rpc_message_free(&info->base);
	rpc_message_free(&far->base);
	assert_int_equal(count_starts(f), 3);
}

/* The fake's VMs go with the daemon. */
static void a_lost_attempt_is_one_of_infra(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	char again[32], once[32];

	f->retry = NULL;
	fixture_submit_ok(f, once, go, NULL);
	fixture_retry(f, 2, 1);
	fixture_submit_ok(f, again, "out:x", go, NULL);
	fixture_until(f, once, CONTROL__V1__STATE__RUNNING);
	fixture_until(f, again, CONTROL__V1__STATE__RUNNING);
	kill_and_start(f);
	fixture_touch(f, "go");
	fixture_expect(f, once, JOB__V1__OUTCOME__INFRA);
	fixture_expect(f, again, JOB__V1__OUTCOME__SUCCEEDED);
	Control__V1__JobInfo *info = fixture_get(f, again, NULL);
	assert_int_equal(info->attempt, 2);
	assert_int_equal(info->restarts, 0);
	assert_int_equal(info->n_earlier, 1);
	assert_int_equal(info->earlier[0]->outcome, JOB__V1__OUTCOME__INFRA);
	assert_non_null(strstr(info->earlier[0]->error, "the daemon ended while the job ran"));
	rpc_message_free(&info->base);
	expect_file(f, again, "attempts/1/stdout", "x\n");
}

static void a_start_that_was_interrupted_does_not_count(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *boot = fixture_word(f, "boot", "boot");
	char id[32];

	f->retry = NULL;
	fixture_submit_ok(f, id, boot, "out:x", NULL);
	for (uint32_t i = 1; i <= 2; i++) {
		fixture_until(f, id, CONTROL__V1__STATE__STARTING);
		kill_and_start(f);
		Control__V1__JobInfo *info = fixture_get(f, id, NULL);
		assert_int_equal(info->restarts, i);
		assert_int_equal(info->n_earlier, i);
		assert_non_null(strstr(info->earlier[i - 1]->error, "before the program began"));
		rpc_message_free(&info->base);
	}
	fixture_touch(f, "boot");
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
}

static void a_daemon_that_kills_itself_with_a_job_does_not_for_ever(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *boot = fixture_word(f, "boot", "never");
	char id[32];

	f->retry = NULL;
	fixture_submit_ok(f, id, boot, NULL);
	for (int i = 0; i < 5; i++) {
		fixture_until(f, id, CONTROL__V1__STATE__STARTING);
		kill_and_start(f);
	}
	fixture_expect(f, id, JOB__V1__OUTCOME__INFRA);
	Control__V1__JobInfo *info = fixture_get(f, id, NULL);
	assert_int_equal(info->attempt, 5);
	assert_int_equal(info->n_earlier, 4);
	rpc_message_free(&info->base);
}

/* --- cancel ---------------------------------------------------------------------------------- */

static void expect_cancelled(struct fixture *f, const char *id)
{
	struct error *err = NULL;
	Control__V1__JobInfo *info = fixture_cancel(f, id, &err);

	if (!info)
		fail_msg("cancel: %s", err->text);
	assert_int_equal(info->state, CONTROL__V1__STATE__FINISHED);
	assert_int_equal(info->outcome, JOB__V1__OUTCOME__CANCELLED);
	assert_int_equal(info->n_earlier, 1);
	assert_false(info->has_not_before); /* nothing is to come */
	rpc_message_free(&info->base);
	fixture_expect_not_cancellable(f, id, "already ended");
}

static void a_backoff_is_cancelled_at_once(void **state)
{
	struct fixture *f = *state;
	char id[32];

	fixture_retry(f, 5, HOUR_MS);
	fixture_submit_ok(f, id, "out:x", "end:infra", NULL);
	rpc_message_free(&wait_back(f, id)->base);
	expect_cancelled(f, id);
	assert_int_equal(count_starts(f), 1);
	expect_file(f, id, "result.json", "\"outcome\": \"cancelled\"");
	expect_file(f, id, "attempts/1/result.json", "\"outcome\": \"infra\"");
	expect_file(f, id, "attempts/1/stdout", "x\n");
}

static void one_whose_vm_is_not_gone_is_cancelled_at_once(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *gone = fixture_word(f, "gone", "end");
	char id[32], next[32];

	f->config.max_vms = 1;
	_cleanup_free_ char *line = fixture_start(f);
	assert_string_equal(line, "ready");
	fixture_retry(f, 5, HOUR_MS);
	fixture_submit_ok(f, id, gone, "end:infra", NULL);
	rpc_message_free(&wait_back(f, id)->base);
	f->retry = NULL;
	fixture_submit_ok(f, next, "exit:0", NULL);
	expect_cancelled(f, id);
	fixture_touch(f, "end");
	fixture_expect(f, next, JOB__V1__OUTCOME__SUCCEEDED);
	assert_int_equal(count_starts(f), 2);
}

static void who_cancels_wants_no_other_attempt(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *boot = fixture_word(f, "boot", "never");
	_cleanup_free_ char *go = fixture_word(f, "wait", "never");
	_cleanup_free_ char *collect = fixture_word(f, "collect", "never");
	static const Control__V1__State states[] = {CONTROL__V1__STATE__STARTING,
		CONTROL__V1__STATE__RUNNING, CONTROL__V1__STATE__COLLECTING};
	const char *words[] = {boot, go, collect};
	char id[32];

	fixture_retry(f, 5, 1);
	for (size_t i = 0; i < ARRAY_SIZE(states); i++) {
		fixture_submit_ok(f, id, words[i], "end:infra", NULL);
		fixture_until(f, id, states[i]);
		Control__V1__JobInfo *info = fixture_cancel(f, id, NULL);
		assert_non_null(info);
		rpc_message_free(&info->base);
		fixture_expect(f, id, JOB__V1__OUTCOME__CANCELLED);
	}
	assert_int_equal(count_starts(f), ARRAY_SIZE(states));
	/* Also when the attempt ended by itself before it could hear of it. */
	fixture_submit_ok(f, id, go, "deaf", "end:infra", NULL);
	fixture_until(f, id, CONTROL__V1__STATE__RUNNING);
	rpc_message_free(&fixture_cancel(f, id, NULL)->base);
	fixture_expect(f, id, JOB__V1__OUTCOME__INFRA);
	assert_int_equal(count_starts(f), ARRAY_SIZE(states) + 1);
}

/* Whenever it comes: one end, and none is left behind. */
static void a_cancel_meets_the_next_attempt(void **state)
{
	struct fixture *f = *state;
	char ids[20][32];

	fixture_retry(f, 20, 0);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		fixture_submit_ok(f, ids[i], "end:infra", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		struct error *err = NULL;
		Control__V1__JobInfo *info = fixture_cancel(f, ids[i], &err);

		if (info)
			rpc_message_free(&info->base);
		else
			assert_int_equal(err->code, ERR_STATE);
		error_free(err);
		info = fixture_wait(f, ids[i], DEADLINE_MS, NULL);
		assert_non_null(info);
		assert_int_equal(info->state, CONTROL__V1__STATE__FINISHED);
		rpc_message_free(&info->base);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(attempts_come_to_an_end),
		TEST(the_second_may_succeed),
		TEST(other_ends_are_ends),
		TEST(an_attempt_that_cannot_start_counts),
		TEST(the_vm_goes_first),
		TEST(a_backoff_outlives_the_daemon),
		TEST(a_lost_attempt_is_one_of_infra),
		TEST(a_start_that_was_interrupted_does_not_count),
		TEST(a_daemon_that_kills_itself_with_a_job_does_not_for_ever),
		TEST(a_backoff_is_cancelled_at_once),
		TEST_STOPPED(one_whose_vm_is_not_gone_is_cancelled_at_once),
		TEST(who_cancels_wants_no_other_attempt),
		TEST(a_cancel_meets_the_next_attempt),
	};

	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
