/* Results whose time is over, of jobs that ran. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "common/util.h"
#include "orchestrator/retention.h"
#include "tests/unit/jobs_fixture.h"

static int store_get(struct store *store, void *arg, struct error **err)
{
	struct job_record *none = NULL;

	return store->ops->get(store, arg, &none, err);
}

static void old_results_are_swept(void **state)
{
	struct fixture *f = *state;
	char old[JOB_ID_SIZE], running[JOB_ID_SIZE];

	assert_int_equal(fixture_submit(f, "out:x", old), 0);
	assert_int_equal(fixture_submit(f, "wait:/nonexistent", running), 0);
	fixture_expect_end(f, old, OUTCOME_SUCCEEDED);
	_cleanup_free_ char *old_dir = config_job_dir(&f->config, old);
	_cleanup_free_ char *running_dir = config_job_dir(&f->config, running);
	f->config.retain_ms = 3600 * 1000;

	uint64_t now = now_real_usec();
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, NULL, NULL, NULL), 0);
	assert_int_equal(access(old_dir, F_OK), 0); /* an hour is not over */
	now += UINT64_C(3601) * 1000000;
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, NULL, NULL, NULL), 0);
	assert_int_equal(access(old_dir, F_OK), -1);
	assert_int_equal(access(running_dir, F_OK), 0);
	_cleanup_error_ struct error *err = NULL;
	assert_int_equal(store_queue_call(f->queue, store_get, old, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
}

static int note(void *arg, const char *id, uint64_t finished, uint64_t expired, struct error **err)
{
	(void)err;
	snprintf(arg, JOB_ID_SIZE, "%s", id);
	assert_int_equal(expired - finished, 90 * 1000000);
	return 0;
}

static void a_job_may_go_earlier_than_others(void **state)
{
	struct fixture *f = *state;
	char own[JOB_ID_SIZE], other[JOB_ID_SIZE], noted[JOB_ID_SIZE] = "";

	f->ttl_ms = 90 * 1000;
	assert_int_equal(fixture_submit(f, "out:x", own), 0);
	f->ttl_ms = 0;
	assert_int_equal(fixture_submit(f, "out:x", other), 0);
	fixture_expect_end(f, own, OUTCOME_SUCCEEDED);
	fixture_expect_end(f, other, OUTCOME_SUCCEEDED);
	_cleanup_free_ char *dir = config_job_dir(&f->config, own);

	/* retain is 0: the others stay for ever. */
	uint64_t now = now_real_usec();
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, note, noted, NULL), 0);
	assert_string_equal(noted, "");
	now += 91 * 1000000;
	assert_int_equal(retention_sweep(&f->config, f->queue, now, true, note, noted, NULL), 0);
	assert_string_equal(noted, own);
	assert_int_equal(access(dir, F_OK), 0); /* dry */
	noted[0] = '\0';
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, note, noted, NULL), 0);
	assert_string_equal(noted, own);
	assert_int_equal(access(dir, F_OK), -1);
	fixture_expect_end(f, other, OUTCOME_SUCCEEDED);
	noted[0] = '\0';
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, note, noted, NULL), 0);
	assert_string_equal(noted, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(old_results_are_swept),
		TEST(a_job_may_go_earlier_than_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
