/* The live jobs and their pool: who takes a warm VM, who gives room, what is made anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "common/util.h"
#include "orchestrator/pools.h"
#include "tests/unit/jobs_fixture.h"

static int setup_pool_of_one(void **state)
{
	return fixture_setup_pool(state, 1);
}

static int setup_pool_of_two(void **state)
{
	return fixture_setup_pool(state, 2);
}

static void put_file(struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);

	assert_int_equal(write_file(path, "", 0, 0600, false, NULL), 0);
}

static void remove_file(struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);

	assert_int_equal(unlink(path), 0);
}

static void a_job_takes_a_warm_vm_and_another_comes(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	f->memory_bytes = 64 * MIB;
	for (unsigned i = 1; i <= 3; i++) {
		fixture_wait_noted(f, "warm", "boots", i);
		assert_int_equal(fixture_submit(f, "exit:0", id), 0);
		fixture_expect_end(f, id, OUTCOME_SUCCEEDED);
		assert_int_equal(fixture_noted(f, "take", id), 1);
	}
	/* One of another size does not. */
	f->memory_bytes = 128 * MIB;
	assert_int_equal(fixture_submit(f, "exit:0", id), 0);
	fixture_expect_end(f, id, OUTCOME_SUCCEEDED);
	assert_int_equal(fixture_noted(f, "start", id), 1);
}

static void idle_vms_give_room(void **state)
{
	struct fixture *f = *state;
	char first[JOB_ID_SIZE], second[JOB_ID_SIZE];

	/* Two idle ones, and max_vms is 2. */
	fixture_wait_noted(f, "warm", "boots", 2);
	f->memory_bytes = 128 * MIB;
	assert_int_equal(fixture_submit(f, "wait:/nonexistent", first), 0);
	fixture_wait_noted(f, "start", first, 1);
	assert_int_equal(fixture_noted(f, "warm", "leaves"), 1);
	assert_int_equal(fixture_submit(f, "wait:/nonexistent", second), 0);
	fixture_wait_noted(f, "start", second, 1);
	assert_int_equal(fixture_noted(f, "warm", "leaves"), 2);
	assert_int_equal(fixture_noted(f, "warm", "boots"), 2);
	/* They come back when there is room again. */
	assert_int_equal(fixture_cancel(f, first), 0);
	fixture_expect_end(f, first, OUTCOME_CANCELLED);
	fixture_wait_noted(f, "warm", "boots", 3);
}

static void idle_vms_that_die_are_replaced(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	fixture_wait_noted(f, "warm", "boots", 1);
	put_file(f, "fake.lost");
	fixture_wait_noted(f, "warm", "leaves", 1);
	remove_file(f, "fake.lost");
	fixture_wait_noted(f, "warm", "boots", 2);
	f->memory_bytes = 64 * MIB;
	assert_int_equal(fixture_submit(f, "exit:0", id), 0);
	fixture_expect_end(f, id, OUTCOME_SUCCEEDED);
	assert_int_equal(fixture_noted(f, "take", id), 1);
}

static void keep_pool(void *arg, const struct pools_info *info)
{
	struct pools_info *kept = arg;

	*kept = *info;
	assert_string_equal(info->reason ? info->reason : "", "it is broken");
}

struct look {
	struct fixture *f;
	struct pools_info info;
};

static void loop_look(void *arg)
{
	struct look *look = arg;

	jobs_each_pool(look->f->jobs, keep_pool, &look->info);
}

static void a_broken_image_does_not_hold_up_jobs(void **state)
{
	struct fixture *f = *state;
	struct look look = {.f = f};
	char id[JOB_ID_SIZE];

	put_file(f, "fake.broken");
	/* The one that was up before may be. */
	put_file(f, "fake.lost");
	fixture_wait_noted(f, "warm", "leaves", 1);
	sleep_ms(1500);
	assert_in_range(fixture_noted(f, "warm", "boots"), 1, 3);
	loop_call(f->loop, loop_look, &look);
	assert_true(look.info.failures >= 1);
	assert_string_equal(look.info.state, "backing off");
	f->memory_bytes = 64 * MIB;
	assert_int_equal(fixture_submit(f, "exit:0", id), 0);
	fixture_expect_end(f, id, OUTCOME_SUCCEEDED);
}

static void a_failed_claim_gives_the_warm_vm_back(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	fixture_wait_noted(f, "warm", "boots", 1);
	f->memory_bytes = 64 * MIB;
	atomic_store(&f->faults.claim, 1);
	assert_int_equal(fixture_submit(f, "exit:0", id), 0);
	fixture_expect_end(f, id, OUTCOME_SUCCEEDED);
	assert_int_equal(fixture_noted(f, "take", id), 1);
}

#define POOL_TEST(name, how) cmocka_unit_test_setup_teardown(name, how, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		POOL_TEST(a_job_takes_a_warm_vm_and_another_comes, setup_pool_of_one),
		POOL_TEST(idle_vms_give_room, setup_pool_of_two),
		POOL_TEST(idle_vms_that_die_are_replaced, setup_pool_of_one),
		POOL_TEST(a_broken_image_does_not_hold_up_jobs, setup_pool_of_one),
		POOL_TEST(a_failed_claim_gives_the_warm_vm_back, setup_pool_of_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
