/* The live jobs over a store that fails when told to: what is promised holds, what cannot be
 * recorded yet is recorded later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "common/util.h"
#include "tests/unit/jobs_fixture.h"

static void a_submit_that_is_not_committed_is_no_job(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&f->faults.submit, 1);
	assert_int_equal(fixture_submit(f, "exit:0", id), ERR_LIMIT);
	assert_int_equal(fixture_cancel(f, id), ERR_NOT_FOUND);
	assert_int_equal(fixture_submit(f, "exit:0", id), 0);
	fixture_expect_end(f, id, OUTCOME_SUCCEEDED);
}

static void a_failed_claim_is_tried_again(void **state)
{
	struct fixture *f = *state;
	char ids[4][JOB_ID_SIZE];

	atomic_store(&f->faults.claim, 2);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(fixture_submit(f, "exit:0", ids[i]), 0);
	for (size_t i = 0; i < 4; i++) {
		_cleanup_job_record_ struct job_record *record = fixture_wait_end(f, ids[i]);

		assert_int_equal(record->result.outcome, OUTCOME_SUCCEEDED);
		assert_int_equal(record->attempt, 1); /* none was begun in vain */
		assert_int_equal(record->epoch, 1);
	}
}

static void an_outcome_is_recorded_when_it_can_be(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&f->faults.finish, 1);
	assert_int_equal(fixture_submit(f, "exit:9", id), 0);
	_cleanup_job_record_ struct job_record *record = fixture_wait_end(f, id);
	assert_int_equal(atomic_load(&f->faults.finish), 0);
	assert_int_equal(record->result.exit_code, 9);
}

/* --- between two attempts -------------------------------------------------------------------- */

struct attempts {
	const char *id;
	size_t n;
};

static int count_attempt(void *arg, const struct job_record *record, struct error **err)
{
	struct attempts *attempts = arg;

	(void)err;
	assert_int_equal(record->attempt, ++attempts->n);
	return 0;
}

static int store_attempts(struct store *store, void *arg, struct error **err)
{
	struct attempts *attempts = arg;

	return store->ops->attempts(store, attempts->id, count_attempt, attempts, err);
}

static void expect_attempts(struct fixture *f, const char *id, size_t n)
{
	struct attempts attempts = {.id = id};

	assert_int_equal(store_queue_call(f->queue, store_attempts, &attempts, NULL), 0);
	assert_int_equal(attempts.n, n);
}

static void wait_for_fault(const atomic_int *left)
{
	for (int i = 0; i < DEADLINE_MS / 5 && atomic_load(left) > 0; i++)
		sleep_ms(5);
	assert_int_equal(atomic_load(left), 0);
}

static void another_attempt_waits_for_the_record_of_the_last(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	f->retried = true;
	atomic_store(&f->faults.requeue, 1);
	assert_int_equal(fixture_submit(f, "end:1:infra", id), 0);
	_cleanup_job_record_ struct job_record *record = fixture_wait_end(f, id);
	assert_int_equal(atomic_load(&f->faults.requeue), 0);
	assert_int_equal(record->result.outcome, OUTCOME_SUCCEEDED);
	assert_int_equal(record->attempt, 2);
	assert_int_equal(record->epoch, 3); /* claim, requeue, claim */
	expect_attempts(f, id, 1);
}

static void a_claim_that_fails_begins_no_attempt(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	f->retried = true;
	atomic_store(
		&f->faults.requeue, 1); /* so that the faults below come after the first claim */
	assert_int_equal(fixture_submit(f, "end:infra", id), 0);
	wait_for_fault(&f->faults.requeue);
	atomic_store(&f->faults.claim, 1);
	_cleanup_job_record_ struct job_record *record = fixture_wait_end(f, id);
	assert_int_equal(atomic_load(&f->faults.claim), 0);
	assert_int_equal(record->result.outcome, OUTCOME_INFRA);
	assert_int_equal(record->attempt, 3);
	expect_attempts(f, id, 2);
}

static void a_cancel_meets_the_way_back(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	f->retried = true;
	atomic_store(&f->faults.requeue, 1);
	assert_int_equal(fixture_submit(f, "end:infra", id), 0);
	wait_for_fault(&f->faults.requeue); /* it is tried again in a second */
	assert_int_equal(fixture_cancel(f, id), 0);
	_cleanup_job_record_ struct job_record *record = fixture_wait_end(f, id);
	assert_int_equal(record->result.outcome, OUTCOME_CANCELLED);
	assert_string_equal(record->result.error, "no longer wanted");
	assert_int_equal(record->attempt, 1);
	expect_attempts(f, id, 1);
}

/* --- cancel ---------------------------------------------------------------------------------- */

static void what_has_ended_is_not_cancelled(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&f->faults.finish, 1);
	assert_int_equal(fixture_submit(f, "exit:9", id), 0);
	wait_for_fault(&f->faults.finish); /* its end is known, and not recorded */
	assert_int_equal(fixture_cancel(f, id), ERR_STATE);
	fixture_expect_end(f, id, OUTCOME_FAILED);
}

static void a_cancel_meets_the_claim(void **state)
{
	struct fixture *f = *state;
	char ids[20][JOB_ID_SIZE];

	/* At once after the submit: queued, being claimed, or started; one end in any case. */
	for (size_t i = 0; i < 20; i++) {
		assert_int_equal(fixture_submit(f, "boot:/nonexistent", ids[i]), 0);
		assert_int_equal(fixture_cancel(f, ids[i]), 0);
	}
	for (size_t i = 0; i < 20; i++)
		fixture_expect_end(f, ids[i], OUTCOME_CANCELLED);
}

/* --- slots ----------------------------------------------------------------------------------- */

static void a_slot_is_free_when_its_qemu_has_ended(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *path = str_printf("%s/go", f->dir);
	_cleanup_free_ char *words = str_printf("freed gone:%s", path);
	_cleanup_free_ char *unseen = str_printf("gone:%s", path);
	char first[JOB_ID_SIZE], second[JOB_ID_SIZE], third[JOB_ID_SIZE];

	f->config.max_vms = 1;
	assert_int_equal(fixture_submit(f, words, first), 0);
	fixture_expect_end(f, first, OUTCOME_SUCCEEDED);
	/* The VM of the first is still being tidied up. */
	assert_int_equal(fixture_submit(f, unseen, second), 0);
	fixture_expect_end(f, second, OUTCOME_SUCCEEDED);
	/* Where QEMU's end is not seen, the slot is free when all is gone. */
	assert_int_equal(fixture_submit(f, "exit:0", third), 0);
	sleep_ms(50);
	assert_false(fixture_noted(f, "start", third));
	assert_int_equal(write_file(path, "", 0, 0600, false, NULL), 0);
	fixture_expect_end(f, third, OUTCOME_SUCCEEDED);
}

static void vms_that_stay_hold_up_the_rest(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *path = str_printf("%s/go", f->dir);
	_cleanup_free_ char *words = str_printf("freed gone:%s", path);
	char ids[3][JOB_ID_SIZE];

	f->config.max_vms = 1;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(fixture_submit(f, words, ids[i]), 0);
		fixture_expect_end(f, ids[i], OUTCOME_SUCCEEDED);
	}
	assert_int_equal(fixture_submit(f, "exit:0", ids[2]), 0);
	sleep_ms(50);
	assert_false(fixture_noted(f, "start", ids[2]));
	assert_int_equal(write_file(path, "", 0, 0600, false, NULL), 0);
	fixture_expect_end(f, ids[2], OUTCOME_SUCCEEDED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_submit_that_is_not_committed_is_no_job),
		TEST(a_failed_claim_is_tried_again),
		TEST(an_outcome_is_recorded_when_it_can_be),
		TEST(another_attempt_waits_for_the_record_of_the_last),
		TEST(a_claim_that_fails_begins_no_attempt),
		TEST(a_cancel_meets_the_way_back),
		TEST(what_has_ended_is_not_cancelled),
		TEST(a_cancel_meets_the_claim),
		TEST(a_slot_is_free_when_its_qemu_has_ended),
		TEST(vms_that_stay_hold_up_the_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
