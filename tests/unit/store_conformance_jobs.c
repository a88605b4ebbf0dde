/* What the store promises of each job: its record, its key, its epochs and its attempts. */
#include "tests/unit/store_conformance.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/util.h"

static void what_is_committed_is_there_again(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	struct job_record *none = NULL;

	fixture_submit_new(f->store, "0000000000001", "key", "red");
	_cleanup_job_record_ struct job_record *lost = fixture_make("0000000000002", NULL, NULL);
	char other[JOB_ID_SIZE];
	assert_int_equal(f->store->ops->begin(f->store, NULL), 0);
	assert_int_equal(f->store->ops->submit(f->store, lost, other, NULL), 0);
	f->store->ops->rollback(f->store);
	fixture_reopen(f);

	_cleanup_job_record_ struct job_record *back = fixture_get(f->store, "0000000000001");
	assert_string_equal(back->key, "key");
	assert_string_equal(back->share, "uid:7");
	assert_string_equal(back->spec->script, "echo hi");
	assert_string_equal(back->spec->labels[0]->value, "red");
	assert_int_equal(back->state, JOB_QUEUED);
	assert_int_equal(back->result.times[STAGE_SUBMITTED], 1000);
	assert_int_equal(f->store->ops->get(f->store, lost->id, &none, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
}

static void a_key_is_one_jobs(void **state)
{
	struct fixture *f = *state;
	_cleanup_job_record_ struct job_record *again = fixture_make("0000000000002", "key", NULL);
	char other[JOB_ID_SIZE] = "", id[JOB_ID_SIZE];

	fixture_submit_new(f->store, "0000000000001", "key", NULL);
	assert_int_equal(fixture_submit(f->store, again, other), ERR_EXISTS);
	assert_string_equal(other, "0000000000001");
	assert_int_equal(f->store->ops->by_key(f->store, "key", id, NULL), 0);
	assert_string_equal(id, "0000000000001");
	assert_int_equal(f->store->ops->by_key(f->store, "no", id, NULL), -1);
	/* With another spec it is another job, which the key is not for. */
	_cleanup_job_record_ struct job_record *asked =
		fixture_make("0000000000005", "other", NULL);
	asked->request_sha256[0] = 1;
	assert_int_equal(fixture_submit(f->store, asked, NULL), 0);
	strcpy(asked->id, "0000000000006");
	assert_int_equal(fixture_submit(f->store, asked, other), ERR_EXISTS);
	assert_string_equal(other, "0000000000005");
	asked->request_sha256[0] = 2;
	assert_int_equal(fixture_submit(f->store, asked, other), ERR_EXISTS);
	assert_string_equal(other, "");
	/* Jobs without a key do not get in each other's way. */
	fixture_submit_new(f->store, "0000000000003", NULL, NULL);
	fixture_submit_new(f->store, "0000000000004", NULL, NULL);
}

static void a_stale_epoch_changes_nothing(void **state)
{
	struct fixture *f = *state;
	const struct store_ops *ops = f->store->ops;
	_cleanup_job_record_ struct job_record *job = fixture_make("0000000000001", NULL, NULL);

	assert_int_equal(fixture_submit(f->store, job, NULL), 0);
	job->epoch = 1;
	job->attempt = 1;
	job->state = JOB_STARTING;
	assert_int_equal(fixture_change(f->store, ops->claim, job), 0);
	assert_int_equal(
		fixture_change(f->store, ops->claim, job), ERR_ABORTED); /* claimed already */
	job->epoch = 2;
	assert_int_equal(fixture_change(f->store, ops->claim, job), ERR_ABORTED); /* not queued */
	job->state = JOB_RUNNING;
	assert_int_equal(fixture_change(f->store, ops->update, job), ERR_ABORTED);
	job->epoch = 1;
	assert_int_equal(fixture_change(f->store, ops->update, job), 0);
	job->state = JOB_STARTING;
	assert_int_equal(fixture_change(f->store, ops->update, job), ERR_ABORTED); /* backwards */

	job->result.outcome = OUTCOME_FAILED;
	job->epoch = 0;
	assert_int_equal(fixture_change(f->store, ops->finish, job), ERR_ABORTED);
	job->epoch = 1;
	assert_int_equal(fixture_change(f->store, ops->finish, job), 0);
	job->result.outcome = OUTCOME_SUCCEEDED;
	assert_int_equal(fixture_change(f->store, ops->finish, job), ERR_ABORTED); /* once */
	job->state = JOB_COLLECTING;
	assert_int_equal(fixture_change(f->store, ops->update, job), ERR_ABORTED);
	_cleanup_job_record_ struct job_record *back = fixture_get(f->store, job->id);
	assert_int_equal(back->state, JOB_FINISHED);
	assert_int_equal(back->result.outcome, OUTCOME_FAILED);
	assert_int_equal(back->epoch, 1);

	assert_int_equal(ops->destroyed(f->store, job->id, 1, 4711, NULL), 0);
	_cleanup_job_record_ struct job_record *gone = fixture_get(f->store, job->id);
	assert_int_equal(gone->result.times[STAGE_DESTROYED], 4711);
}

static void a_job_is_taken_over_once(void **state)
{
	struct fixture *f = *state;
	const struct store_ops *ops = f->store->ops;
	_cleanup_job_record_ struct job_record *job = fixture_make("0000000000001", NULL, NULL);

	assert_int_equal(fixture_submit(f->store, job, NULL), 0);
	job->epoch = 1;
	assert_int_equal(
		fixture_change(f->store, ops->take_over, job), ERR_ABORTED); /* nobody had it */
	job->attempt = 1;
	job->state = JOB_STARTING;
	assert_int_equal(fixture_change(f->store, ops->claim, job), 0);
	job->state = JOB_RUNNING;
	assert_int_equal(fixture_change(f->store, ops->update, job), 0);
	assert_int_equal(fixture_change(f->store, ops->take_over, job), ERR_ABORTED); /* epoch */
	job->epoch = 2;
	job->state = JOB_COLLECTING;
	assert_int_equal(
		fixture_change(f->store, ops->take_over, job), ERR_ABORTED); /* another state */
	job->state = JOB_RUNNING;
	assert_int_equal(fixture_change(f->store, ops->take_over, job), 0);
	/* Who had it before has it no more. */
	job->epoch = 1;
	assert_int_equal(fixture_change(f->store, ops->finish, job), ERR_ABORTED);
	job->epoch = 3;
	job->state = JOB_QUEUED;
	assert_int_equal(
		fixture_change(f->store, ops->take_over, job), ERR_ABORTED); /* not this way */
	job->state = JOB_RUNNING;
	assert_int_equal(fixture_change(f->store, ops->take_over, job), 0);
	assert_int_equal(fixture_change(f->store, ops->finish, job), 0);
	job->epoch = 4;
	assert_int_equal(fixture_change(f->store, ops->take_over, job), ERR_ABORTED); /* finished */
}

static enum err_code requeue(
	struct store *store, const struct job_record *ended, const struct job_record *queued)
{
	_cleanup_error_ struct error *err = NULL;

	assert_int_equal(store->ops->begin(store, NULL), 0);
	int r = store->ops->requeue(store, ended, queued, &err);
	assert_true(store->ops->in_transaction(store));
	assert_int_equal(store->ops->commit(store, NULL), 0);
	return r == 0 ? 0 : err->code;
}

static int append_attempt(void *arg, const struct job_record *record, struct error **err)
{
	char text[128];

	(void)err;
	assert_int_equal(record->state, JOB_FINISHED);
	snprintf(text, sizeof(text), "%u:%llu:%s:%d:%s:%llu:%llu ", record->attempt,
		(unsigned long long)record->epoch, record->vm, record->result.outcome,
		record->result.error, (unsigned long long)record->not_before,
		(unsigned long long)record->result.times[STAGE_DESTROYED]);
	strcat(arg, text);
	return 0;
}

static void expect_attempts(struct store *store, const char *id, const char *expected)
{
	char found[512] = "";

	assert_int_equal(store->ops->attempts(store, id, append_attempt, found, NULL), 0);
	assert_string_equal(found, expected);
}

static struct job_record *ended_attempt(const struct job_record *job, const char *why)
{
	struct job_record *ended = job_record_copy(job);

	ended->state = JOB_FINISHED;
	ended->not_before = 9000;
	strcpy(ended->vm, "vm-x");
	ended->result.outcome = OUTCOME_INFRA;
	ended->result.error = xstrdup(why);
	return ended;
}

static void an_attempt_is_recorded_once(void **state)
{
	struct fixture *f = *state;
	const struct store_ops *ops = f->store->ops;
	_cleanup_job_record_ struct job_record *job = fixture_make("0000000000001", NULL, NULL);

	assert_int_equal(fixture_submit(f->store, job, NULL), 0);
	_cleanup_job_record_ struct job_record *early = ended_attempt(job, "too early");
	_cleanup_job_record_ struct job_record *no = record_back_in_queue(job, 1);
	assert_int_equal(requeue(f->store, early, no), ERR_ABORTED); /* it waits */
	fixture_claim(f->store, job);

	_cleanup_job_record_ struct job_record *ended = ended_attempt(job, "first");
	_cleanup_job_record_ struct job_record *queued = record_back_in_queue(job, 9000);
	assert_int_equal(queued->epoch, 2);
	assert_int_equal(queued->result.times[STAGE_SUBMITTED], 1000);
	/* Both or none, whichever of the two does not fit. */
	ended->epoch = 0;
	assert_int_equal(requeue(f->store, ended, queued), ERR_ABORTED);
	ended->epoch = 1;
	queued->epoch = 3;
	assert_int_equal(requeue(f->store, ended, queued), ERR_ABORTED);
	expect_attempts(f->store, job->id, "");
	queued->epoch = 2;
	assert_int_equal(requeue(f->store, ended, queued), 0);
	assert_int_equal(requeue(f->store, ended, queued), ERR_ABORTED); /* once */
	/* Who held the attempt holds the job no more. */
	job->state = JOB_RUNNING;
	assert_int_equal(fixture_change(f->store, ops->update, job), ERR_ABORTED);
	assert_int_equal(fixture_change(f->store, ops->finish, job), ERR_ABORTED);
	fixture_reopen(f);
	ops = f->store->ops;
	_cleanup_job_record_ struct job_record *back = fixture_get(f->store, job->id);
	assert_int_equal(back->state, JOB_QUEUED);
	assert_int_equal(back->epoch, 2);
	assert_int_equal(back->attempt, 1);
	assert_int_equal(back->not_before, 9000);
	assert_string_equal(back->vm, "");
	assert_int_equal(back->result.outcome, OUTCOME_NONE);
	assert_int_equal(back->result.times[STAGE_SUBMITTED], 1000);
	expect_attempts(f->store, job->id, "1:1:vm-x:10:first:9000:0 ");

	/* The VM of the first attempt goes while the second runs. */
	fixture_claim(f->store, back);
	assert_int_equal(ops->destroyed(f->store, job->id, 1, 77, NULL), 0);
	assert_int_equal(ops->destroyed(f->store, job->id, 1, 78, NULL), 0);
	expect_attempts(f->store, job->id, "1:1:vm-x:10:first:9000:77 ");
	/* That of the second before its end is recorded. */
	assert_int_equal(ops->destroyed(f->store, job->id, 2, 88, NULL), 0);
	_cleanup_job_record_ struct job_record *second = ended_attempt(back, "second");
	_cleanup_job_record_ struct job_record *again = record_back_in_queue(back, 0);
	assert_int_equal(requeue(f->store, second, again), 0);
	expect_attempts(f->store, job->id, "1:1:vm-x:10:first:9000:77 2:3:vm-x:10:second:9000:88 ");
	fixture_claim(f->store, again);
	again->result.outcome = OUTCOME_SUCCEEDED;
	assert_int_equal(fixture_change(f->store, ops->finish, again), 0);
	assert_int_equal(requeue(f->store, again, again), ERR_ABORTED); /* finished */
	_cleanup_job_record_ struct job_record *last = fixture_get(f->store, job->id);
	assert_int_equal(last->attempt, 3);
	assert_int_equal(last->result.times[STAGE_DESTROYED], 0);
	/* The job's record goes with those of its attempts. */
	assert_int_equal(ops->remove(f->store, job->id, NULL), 0);
	expect_attempts(f->store, job->id, "");
	fixture_submit_new(f->store, job->id, NULL, NULL);
	expect_attempts(f->store, job->id, "");
}

static void what_came_with_a_submit_stays(void **state)
{
	struct fixture *f = *state;
	_cleanup_job_record_ struct job_record *job = fixture_make("0000000000002", "k", NULL);
	uint8_t sha256[32] = {7};

	strcpy(job->retried_from, "0000000000001");
	job->request_sha256[31] = 9;
	job->inputs = input_list_new();
	input_list_add(job->inputs, "/in/a", 5, sha256);
	input_list_add(job->inputs, "/in/b/c", 6, sha256);
	input_list_add(job->inputs, "/in/d", 0, sha256);
	assert_int_equal(fixture_submit(f->store, job, NULL), 0);
	fixture_claim(f->store, job);
	job->result.outcome = OUTCOME_SUCCEEDED;
	assert_int_equal(fixture_change(f->store, f->store->ops->finish, job), 0);
	fixture_reopen(f);
	_cleanup_job_record_ struct job_record *back = fixture_get(f->store, job->id);
	assert_string_equal(back->retried_from, "0000000000001");
	assert_memory_equal(back->request_sha256, job->request_sha256, 32);
	assert_int_equal(back->inputs->n, 3);
	assert_string_equal(back->inputs->files[1].path, "/in/b/c");
	assert_int_equal(back->inputs->files[1].size, 6);
	assert_memory_equal(back->inputs->files[1].sha256, sha256, 32);
}

int store_conformance_jobs(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_committed_is_there_again),
		TEST(a_key_is_one_jobs),
		TEST(a_stale_epoch_changes_nothing),
		TEST(a_job_is_taken_over_once),
		TEST(an_attempt_is_recorded_once),
		TEST(what_came_with_a_submit_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
