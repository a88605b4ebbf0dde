/* Jobs by the executor: how they start, what they find, how they end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/util.h"
#include "tests/unit/executor_fixture.h"

/* --- how they end
 * --------------------------------------------------------------------------------- */

static void a_signal_is_told(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = fixture_run_script("kill -SEGV $$");

	assert_int_equal(o.exit.reason, WORKER__V1__RUN_EXIT__REASON__SIGNALED);
	assert_int_equal(o.exit.code, SIGSEGV);
}

static struct outcome run_with_timeout(char *script, uint64_t timeout_ms, uint64_t grace_ms)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;

	start.script = script;
	start.has_timeout_ms = start.has_stop_grace_period_ms = true;
	start.timeout_ms = timeout_ms;
	start.stop_grace_period_ms = grace_ms;
	return fixture_run(&start);
}

static void a_timeout_lets_the_job_clean_up(void **state)
{
	char script[] = "trap 'echo cleaned; exit 7' TERM; echo up; while :; do sleep 0.05; done";

	(void)state;
	_cleanup_outcome_ struct outcome o = run_with_timeout(script, 700, PATIENCE_MS);
	assert_int_equal(o.exit.reason, WORKER__V1__RUN_EXIT__REASON__TIMED_OUT);
	assert_string_equal(o.out, "up\ncleaned\n");
	assert_int_equal(o.exit.code, 7);
	assert_true(o.exit.wall_usec >= 700 * 1000);
}

static void a_timeout_kills_what_does_not_listen(void **state)
{
	char script[] = "trap '' TERM; echo up; while :; do sleep 0.05; done";

	(void)state;
	_cleanup_outcome_ struct outcome o = run_with_timeout(script, 300, 200);
	assert_int_equal(o.exit.reason, WORKER__V1__RUN_EXIT__REASON__TIMED_OUT);
	assert_string_equal(o.out, "up\n");
	assert_int_equal(o.exit.code, SIGKILL);
	assert_true(o.exit.wall_usec >= 500 * 1000);
	assert_true(o.exit.wall_usec < 30 * 1000 * 1000);
}

static void an_order_stops_the_job(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char script[] = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";

	(void)state;
	start.script = script;
	_cleanup_outcome_ struct outcome o = outcome_new();
	struct execution *ex = fixture_begin(&start);
	while (!o.out_size)
		assert_true(fixture_take(ex, &o));
	execution_stop(ex, PATIENCE_MS);
	while (fixture_take(ex, &o))
		;
	execution_release(ex);
	assert_int_equal(o.exit.reason, WORKER__V1__RUN_EXIT__REASON__STOPPED);
	assert_string_equal(o.out, "up\nbye\n");
}

static void a_released_job_is_killed(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char script[] = "trap '' TERM; yes";

	(void)state;
	start.script = script;
	_cleanup_outcome_ struct outcome o = outcome_new();
	struct execution *ex = fixture_begin(&start);
	while (!o.out_size)
		assert_true(fixture_take(ex, &o));
	execution_release(ex); /* with a full ring that nobody reads */
	assert_int_equal(executor_count(fixture_executor), 0);
}

/* Left behind: one child in the group that holds the streams, one that left the session. Each holds
 * a FIFO open, which hangs up when both are gone. */
static void nothing_outlives_the_job(void **state)
{
	char dir[] = "/tmp/test_worker.XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chmod(dir, 0755), 0);
	_cleanup_free_ char *fifo = str_printf("%s/fifo", dir);
	assert_int_equal(mkfifo(fifo, 0666), 0);
	assert_int_equal(chmod(fifo, 0666), 0);
	_cleanup_close_ int fd = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	_cleanup_free_ char *script = str_printf(
		"trap '' TERM HUP; exec 5>%s; sleep 300 & setsid sleep 300 & echo done", fifo);
	_cleanup_outcome_ struct outcome o = fixture_run_script(script);
	struct pollfd hangup = {.fd = fd};
	int gone = poll(&hangup, 1, 0);
	remove_tree(dir, NULL);
	fixture_expect_exit(&o, 0);
	assert_string_equal(o.out, "done\n");
	assert_int_equal(gone, 1);
	assert_true(o.exit.wall_usec < 30 * 1000 * 1000);
}

/* --- how they start
 * ------------------------------------------------------------------------------- */

static struct outcome run_command(const char *name)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *copy = xstrdup(name);
	char *argv[] = {copy};

	start.argv = argv;
	start.n_argv = 1;
	return fixture_run(&start);
}

static void what_cannot_be_run_says_why(void **state)
{
	char dir[] = "/tmp/test_worker.XXXXXX";

	(void)state;
	_cleanup_outcome_ struct outcome none = run_command("no-such-command");
	assert_int_equal(none.exit.reason, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND);
	assert_string_equal(none.error, "no-such-command: not found in the image's PATH");
	assert_false(none.started);

	_cleanup_outcome_ struct outcome path = run_command("/no/such");
	assert_int_equal(path.exit.reason, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND);

	_cleanup_outcome_ struct outcome denied = run_command("/etc/passwd");
	assert_int_equal(denied.exit.reason, WORKER__V1__RUN_EXIT__REASON__NOT_EXECUTABLE);
	assert_string_equal(denied.error, "/etc/passwd: Permission denied");

	assert_non_null(mkdtemp(dir));
	assert_int_equal(chmod(dir, 0755), 0);
	_cleanup_free_ char *garbage = str_printf("%s/garbage", dir);
	_cleanup_free_ char *orphan = str_printf("%s/orphan", dir);
	assert_int_equal(write_file(garbage, "\1\2\3\4", 4, 0755, false, NULL), 0);
	assert_int_equal(write_file(orphan, "#!/no/such/sh\n", 14, 0755, false, NULL), 0);
	_cleanup_outcome_ struct outcome format = run_command(garbage);
	_cleanup_outcome_ struct outcome interpreter = run_command(orphan);
	remove_tree(dir, NULL);
	assert_int_equal(format.exit.reason, WORKER__V1__RUN_EXIT__REASON__NOT_EXECUTABLE);
	assert_non_null(strstr(format.error, "Exec format error"));
	assert_int_equal(interpreter.exit.reason, WORKER__V1__RUN_EXIT__REASON__NOT_FOUND);
	assert_non_null(strstr(interpreter.error, "interpreter"));
}

static void a_bad_directory_or_user_fails_the_start(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char script[] = "exit 0", dir[] = "/no/such/dir", user[] = "no-such-user";

	(void)state;
	start.script = script;
	start.working_dir = dir;
	_cleanup_outcome_ struct outcome o = fixture_run(&start);
	assert_int_equal(o.exit.reason, WORKER__V1__RUN_EXIT__REASON__START_FAILED);
	assert_string_equal(o.error, "working directory /no/such/dir: No such file or directory");

	start.working_dir = NULL;
	start.user = user;
	_cleanup_outcome_ struct outcome u = fixture_run(&start);
	assert_int_equal(u.exit.reason, WORKER__V1__RUN_EXIT__REASON__START_FAILED);
	assert_non_null(strstr(u.error, "no-such-user"));
}

static void a_script_may_name_its_interpreter(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = fixture_run_script("#!/bin/cat\nread by cat\n");
	fixture_expect_exit(&o, 0);
	assert_string_equal(o.out, "#!/bin/cat\nread by cat\n");

	/* It is gone again; others of the machine may have theirs in the same directory. */
	_cleanup_outcome_ struct outcome name = fixture_run_script("#!/bin/sh\nprintf %s \"$0\"\n");
	fixture_expect_exit(&name, 0);
	assert_non_null(strstr(name.out, "/.script-"));
	_cleanup_free_ char *look = str_printf("test -e '%s'", name.out);
	_cleanup_outcome_ struct outcome gone = fixture_run_script(look);
	fixture_expect_exit(&gone, 1);
}

static void environment_and_directory_are_the_jobs(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	Job__V1__EnvVar one = JOB__V1__ENV_VAR__INIT, two = JOB__V1__ENV_VAR__INIT;
	Job__V1__EnvVar *env[] = {&one, &two};
	char name[] = "GREETING", value[] = "hello = world", home[] = "HOME", at[] = "/var";
	char script[] =
		"pwd; echo \"$GREETING\"; echo $HOME; echo ${SECRET-unset}; echo ${PATH%%:*};"
		"cat; test \"$(id -un)\" = \"$USER\" && echo user";
	char dir[] = "/usr/lib";

	(void)state;
	one.name = name;
	one.value = value;
	two.name = home;
	two.value = at;
	start.env = env;
	start.n_env = 2;
	start.script = script;
	start.working_dir = dir;
	setenv("SECRET", "of the worker", 1);
	_cleanup_outcome_ struct outcome o = fixture_run(&start);
	unsetenv("SECRET");
	fixture_expect_exit(&o, 0);
	assert_string_equal(o.out, "/usr/lib\nhello = world\n/var\nunset\n/usr/local/sbin\nuser\n");
}

/* Only three fds, no capability, no way back, no socket to the host. */
static void the_job_is_confined(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = fixture_run_script(
		"ls /proc/self/fd | wc -l; grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' "
		"/proc/self/status; ps -o pgid= -p $$ >/dev/null 2>&1; ulimit -c");
	fixture_expect_exit(&o, 0);
	assert_non_null(strstr(o.out, "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"));
	assert_non_null(strstr(o.out, "NoNewPrivs:\t1\nSeccomp:\t2\n"));
	if (geteuid() == 0)
		assert_non_null(strstr(o.out, "CapBnd:\t0000000000000000\n"));
	assert_true(str_starts(o.out, "4\n")); /* and the one that ls reads */

	_cleanup_outcome_ struct outcome v =
		fixture_run_script("python3 -c '\nimport socket\ntry:\n  socket.socket(40, 1)\n"
				   "except PermissionError: print(\"refused\")\n'");
	if (v.exit.code == 127)
		return; /* no python3 here */
	assert_string_equal(v.out, "refused\n");
}

static void requests_that_contradict_themselves_are_refused(void **state)
{
	_cleanup_error_ struct error *err = NULL;
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char id[] = "one", empty[] = "", script[] = "sleep 1000", cat[] = "cat";
	char *argv[] = {cat};

	(void)state;
	start.id = id;
	assert_null(executor_start(fixture_executor, &start, &err)); /* neither */
	assert_int_equal(err->code, ERR_INVALID);
	start.argv = argv;
	start.n_argv = 1;
	start.script = script;
	assert_null(executor_start(fixture_executor, &start, &err)); /* both */
	assert_int_equal(err->code, ERR_INVALID);
	start.n_argv = 0;
	start.id = empty;
	assert_null(executor_start(fixture_executor, &start, &err));
	assert_int_equal(err->code, ERR_INVALID);
	start.id = id;
	struct execution *ex = executor_start(fixture_executor, &start, &err);
	assert_non_null(ex);
	assert_null(executor_start(fixture_executor, &start, &err));
	assert_int_equal(err->code, ERR_EXISTS);
	assert_int_equal(executor_count(fixture_executor), 1);
	execution_release(ex);
}

static void many_run_at_once(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	struct execution *ex[8];
	char script[] = "echo $$; sleep 0.2; exit 4";

	(void)state;
	start.script = script;
	for (size_t i = 0; i < ARRAY_SIZE(ex); i++) {
		char id[] = {(char)('a' + i), 0};
		start.id = id;
		ex[i] = executor_start(fixture_executor, &start, NULL);
		assert_non_null(ex[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(ex); i++) {
		_cleanup_outcome_ struct outcome o = outcome_new();
		while (fixture_take(ex[i], &o))
			;
		fixture_expect_exit(&o, 4);
		execution_release(ex[i]);
	}
}

/* A plan that no socket holds at once. */
static void a_large_plan_is_whole(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char shell[] = "sh", c[] = "-c", script[] = "echo $# ${#1} ${#8}; test \"$1\" = \"$8\"";
	_cleanup_free_ char *large = xcalloc(1, 100001);
	char *argv[] = {
		shell, c, script, shell, large, large, large, large, large, large, large, large};

	(void)state;
	memset(large, 'x', 100000);
	start.argv = argv;
	start.n_argv = ARRAY_SIZE(argv);
	_cleanup_outcome_ struct outcome o = fixture_run(&start);
	fixture_expect_exit(&o, 0);
	assert_string_equal(o.out, "8 100000 100000\n");
}

/* --- a job init made ahead
 * ------------------------------------------------------------------------ */

static void kill_children_of_threads(void)
{
	glob_t found;

	assert_int_equal(glob("/proc/self/task/*/children", 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		_cleanup_free_ char *pids = read_file(found.gl_pathv[i], 4096, NULL, NULL);
		char *rest = pids;
		for (char *pid; rest && (pid = strsep(&rest, " "));)
			if (*pid)
				kill((pid_t)atoi(pid), SIGKILL);
	}
	globfree(&found);
}

static void the_spare_is_taken_unless_it_died(void **state)
{
	unsigned taken;

	(void)state;
	if (!fixture_with_spare)
		skip();
	unsigned before = fixture_wait_for_spare();
	_cleanup_outcome_ struct outcome one = fixture_run_script("exit 3");
	fixture_expect_exit(&one, 3);
	executor_has_spare(fixture_executor, &taken);
	assert_int_equal(taken, before + 1);

	fixture_wait_for_spare();
	kill_children_of_threads();
	/* Dead, and not reaped: that is the executor's. */
	assert_int_equal(waitid(P_ALL, 0, &(siginfo_t){0}, WEXITED | WNOWAIT | __WALL), 0);
	_cleanup_outcome_ struct outcome two = fixture_run_script("exit 4");
	fixture_expect_exit(&two, 4);
	executor_has_spare(fixture_executor, &taken);
	assert_int_equal(taken, before + 1);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_signal_is_told),
		cmocka_unit_test(a_timeout_lets_the_job_clean_up),
		cmocka_unit_test(a_timeout_kills_what_does_not_listen),
		cmocka_unit_test(an_order_stops_the_job),
		cmocka_unit_test(a_released_job_is_killed),
		cmocka_unit_test(nothing_outlives_the_job),
		cmocka_unit_test(what_cannot_be_run_says_why),
		cmocka_unit_test(a_bad_directory_or_user_fails_the_start),
		cmocka_unit_test(a_script_may_name_its_interpreter),
		cmocka_unit_test(environment_and_directory_are_the_jobs),
		cmocka_unit_test(the_job_is_confined),
		cmocka_unit_test(requests_that_contradict_themselves_are_refused),
		cmocka_unit_test(many_run_at_once),
		cmocka_unit_test(a_large_plan_is_whole),
		cmocka_unit_test(the_spare_is_taken_unless_it_died),
	};

	return cmocka_run_group_tests_name(name, tests, fixture_setup, fixture_teardown);
}

int main(void)
{
	return fixture_main(run_group);
}
