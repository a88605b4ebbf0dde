/* What a job writes, by the executor: when it comes, how much of it, and who waits for whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "tests/unit/executor_fixture.h"

static void streams_are_separate(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = fixture_run_script("echo out; echo err >&2; exit 3");

	fixture_expect_exit(&o, 3);
	assert_string_equal(o.out, "out\n");
	assert_string_equal(o.err, "err\n");
	assert_int_equal(o.exit.stdout_bytes, 4);
	assert_int_equal(o.exit.stderr_bytes, 4);
	assert_false(o.exit.stdout_truncated);
	assert_true(o.exit.wall_usec > 0);
	assert_true(o.exit.max_rss_bytes > 0);
}

/* The first line arrives while the job still waits for the file that we make afterwards. */
static void output_is_live(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char dir[] = "/tmp/test_worker.XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chmod(dir, 0755), 0);
	_cleanup_free_ char *go = str_printf("%s/go", dir);
	_cleanup_free_ char *script =
		str_printf("echo first; while ! test -e %s; do sleep 0.02; done; echo second", go);
	start.script = script;
	start.has_timeout_ms = true;
	start.timeout_ms = PATIENCE_MS;
	_cleanup_outcome_ struct outcome o = outcome_new();
	struct execution *ex = fixture_begin(&start);
	while (!o.out_size)
		assert_true(fixture_take(ex, &o));
	assert_string_equal(o.out, "first\n");
	assert_int_equal(write_file(go, "", 0, 0644, false, NULL), 0);
	while (fixture_take(ex, &o))
		;
	execution_release(ex);
	remove_tree(dir, NULL);
	fixture_expect_exit(&o, 0);
	assert_string_equal(o.out, "first\nsecond\n");
}

static void output_behind_the_cap_is_counted(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char script[] = "head -c 3000000 /dev/zero; printf 123456 >&2";

	(void)state;
	start.script = script;
	start.has_output_bytes = true;
	start.output_bytes = 1000;
	_cleanup_outcome_ struct outcome o = fixture_run(&start);
	fixture_expect_exit(&o, 0);
	assert_int_equal(o.out_size, 1000);
	assert_int_equal(o.exit.stdout_bytes, 3000000);
	assert_true(o.exit.stdout_truncated);
	assert_string_equal(o.err, "123456");
	assert_false(o.exit.stderr_truncated);
}

static void a_slow_reader_holds_the_job_and_loses_nothing(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char script[] = "i=0; while test $i -lt 40; do head -c 50000 /dev/zero; i=$((i+1)); done";

	(void)state;
	start.script = script;
	_cleanup_outcome_ struct outcome o = outcome_new();
	struct execution *ex = fixture_begin(&start);
	while (fixture_take(ex, &o))
		sleep_ms(2);
	execution_release(ex);
	fixture_expect_exit(&o, 0);
	assert_int_equal(o.out_size, 2000000);
	assert_false(o.exit.stdout_truncated);
}

static void binary_output_is_whole(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o =
		fixture_run_script("printf 'a\\000\\377\\033b'; printf '\\000' >&2");

	fixture_expect_exit(&o, 0);
	assert_int_equal(o.out_size, 5);
	assert_memory_equal(o.out, "a\0\377\033b", 5);
	assert_int_equal(o.err_size, 1);
}

static void a_job_may_close_its_streams_and_go_on(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o =
		fixture_run_script("echo one; exec >&- 2>&-; sleep 0.3; exit 5");

	fixture_expect_exit(&o, 5);
	assert_string_equal(o.out, "one\n");
	assert_true(o.exit.wall_usec >= 300 * 1000);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_are_separate),
		cmocka_unit_test(output_is_live),
		cmocka_unit_test(output_behind_the_cap_is_counted),
		cmocka_unit_test(a_slow_reader_holds_the_job_and_loses_nothing),
		cmocka_unit_test(binary_output_is_whole),
		cmocka_unit_test(a_job_may_close_its_streams_and_go_on),
	};

	return cmocka_run_group_tests_name(name, tests, fixture_setup, fixture_teardown);
}

int main(void)
{
	return fixture_main(run_group);
}
