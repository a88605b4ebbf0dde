#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "common/util.h"
#include "orchestrator/spawn.h"

static char sh[] = "sh", dash_c[] = "-c";

static int run(const char *script, int timeout_ms, struct error **err)
{
	_cleanup_free_ char *text = xstrdup(script);
	char *argv[] = {sh, dash_c, text, NULL};

	return spawn_run(argv, timeout_ms, err);
}

static void a_failure_is_told_in_the_programs_own_last_words(void **state)
{
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	assert_int_equal(run("exit 0", 10000, &err), 0);
	assert_null(err);
	assert_int_equal(run("echo first; echo 'last \033[2J' >&2; exit 3", 10000, &err), -1);
	assert_string_equal(err->text, "sh failed with exit code 3: last \\x1b[2J");
	assert_int_equal(run("kill -9 $$", 10000, &err), -1);
	assert_string_equal(err->text, "sh was killed by signal 9");
	assert_int_equal(run("echo 'No space left on device'; exit 1", 10000, &err), -1);
	assert_int_equal(err->code, ERR_LIMIT);
}

static void a_program_that_does_not_end_is_killed(void **state)
{
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	assert_int_equal(run("exec sleep 1000", 100, &err), -1);
	assert_int_equal(err->code, ERR_TIMEOUT);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

static void a_missing_program_is_an_error_of_its_own(void **state)
{
	char name[] = "/nowhere/at-all";
	char *argv[] = {name, NULL};
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	assert_int_equal(spawn_run(argv, 1000, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
	assert_non_null(strstr(err->text, "/nowhere/at-all"));
}

/* Descriptors may be given in any order, on numbers that others of them have now. */
static void only_the_given_descriptors_reach_the_child(void **state)
{
	int a[2], b[2], other[2];
	char buf[8] = {0};
	char script[] = "echo A >&3; echo B >&4; ( : >&5 ) 2>/dev/null && exit 1; exit 0";
	char *argv[] = {sh, dash_c, script, NULL};
	_cleanup_error_ struct error *err = NULL;
	int status;

	(void)state;
	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	assert_int_equal(pipe(other), 0);
	struct spawn_fd fds[] = {{a[1], 3}, {b[1], 4}};
	pid_t pid = spawn_process(argv, fds, 2, &err);
	assert_true(pid > 0);
	assert_int_equal(spawn_wait(pid, 10000, &status), 0);
	assert_int_equal(status, 0);
	assert_int_equal(read(a[0], buf, sizeof(buf)), 2);
	assert_int_equal(buf[0], 'A');
	assert_int_equal(read(b[0], buf, sizeof(buf)), 2);
	assert_int_equal(buf[0], 'B');
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
		close(other[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_failure_is_told_in_the_programs_own_last_words),
		cmocka_unit_test(a_program_that_does_not_end_is_killed),
		cmocka_unit_test(a_missing_program_is_an_error_of_its_own),
		cmocka_unit_test(only_the_given_descriptors_reach_the_child),
	};
	return cmocka_run_group_tests_name("spawn", tests, NULL, NULL);
}
