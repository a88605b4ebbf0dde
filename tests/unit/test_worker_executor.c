/* Jobs by the executor, as an ordinary process: once with the rights we have, and if those are
 * root's, once more as nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/log.h"
#include "common/util.h"
#include "guest-worker/executor.h"
#include "guest-worker/output.h"
#include "tests/unit/as_nobody.h"

#define PATIENCE_MS 60000

static struct job_root root;
static struct executor *executor;
static bool with_spare;

/* What a job wrote and how it ended. */
struct outcome {
	char *out, *err; /* owned; NUL-terminated */
	size_t out_size, err_size;
	struct execution_exit exit;
	char *error; /* owned */
	bool started;
};

static void outcome_free(struct outcome *outcome)
{
	free(outcome->out);
	free(outcome->err);
	free(outcome->error);
}
#define _cleanup_outcome_ __attribute__((cleanup(outcome_free)))

static void append(char **to, size_t *size, const char *data, size_t n)
{
	*to = xreallocarray(*to, *size + n + 1, 1);
	memcpy(*to + *size, data, n);
	*size += n;
	(*to)[*size] = 0;
}

/* Takes one event into the outcome; false after the exit. */
static bool take(struct execution *ex, struct outcome *ret)
{
	static char buf[OUTPUT_CHUNK];
	struct execution_event event;

	execution_next(ex, PATIENCE_MS, buf, sizeof(buf), &event);
	switch (event.type) {
	case EXECUTION_STARTED:
		ret->started = true;
		return true;
	case EXECUTION_OUT:
		append(&ret->out, &ret->out_size, buf, event.size);
		return true;
	case EXECUTION_ERR:
		append(&ret->err, &ret->err_size, buf, event.size);
		return true;
	case EXECUTION_EXIT:
		ret->exit = event.exit;
		ret->error = xstrdup(event.exit.error);
		return false;
	case EXECUTION_TAKEN_OVER:
	case EXECUTION_NOTHING:
		break;
	}
	fail_msg("the job neither wrote nor ended in time");
	return false;
}

static struct outcome outcome_new(void)
{
	struct outcome outcome = {0};

	append(&outcome.out, &outcome.out_size, "", 0);
	append(&outcome.err, &outcome.err_size, "", 0);
	return outcome;
}

/* Returns how many were taken before. */
static unsigned wait_for_spare(void)
{
	unsigned taken = 0;

	for (int i = 0; i < 500 && !executor_has_spare(executor, &taken); i++)
		sleep_ms(10);
	assert_true(executor_has_spare(executor, &taken));
	return taken;
}

static struct execution *begin(Worker__V1__RunStart *start)
{
	_cleanup_error_ struct error *err = NULL;
	char id[] = "test";

	if (with_spare)
		wait_for_spare();

	start->id = id;
	struct execution *ex = executor_start(executor, start, &err);
	if (!ex)
		fail_msg("%s", err->text);
	return ex;
}

static struct outcome run(Worker__V1__RunStart *start)
{
	struct outcome outcome = outcome_new();
	struct execution *ex = begin(start);

	while (take(ex, &outcome))
		;
	execution_release(ex);
	assert_int_equal(executor_count(executor), 0);
	/* Every process of it was waited for. */
	if (!with_spare) {
		assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
		assert_int_equal(errno, ECHILD);
	}
	return outcome;
}

static struct outcome run_script(const char *script)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *copy = xstrdup(script);

	start.script = copy;
	return run(&start);
}

static struct outcome run_command(const char *name)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *copy = xstrdup(name);
	char *argv[] = {copy};

	start.argv = argv;
	start.n_argv = 1;
	return run(&start);
}

static void assert_exited(const struct outcome *outcome, int code)
{
	if (outcome->error)
		fail_msg("%s", outcome->error);
	assert_true(outcome->started);
	assert_int_equal(outcome->exit.reason, WORKER__V1__RUN_EXIT__REASON__EXITED);
	assert_true(outcome->exit.has_code);
	assert_int_equal(outcome->exit.code, code);
}

static void streams_are_separate(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = run_script("echo out; echo err >&2; exit 3");

	assert_exited(&o, 3);
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
	struct execution *ex = begin(&start);
	while (!o.out_size)
		assert_true(take(ex, &o));
	assert_string_equal(o.out, "first\n");
	assert_int_equal(write_file(go, "", 0, 0644, false, NULL), 0);
	while (take(ex, &o))
		;
	execution_release(ex);
	remove_tree(dir, NULL);
	assert_exited(&o, 0);
	assert_string_equal(o.out, "first\nsecond\n");
}

static void a_signal_is_told(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = run_script("kill -SEGV $$");

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
	return run(&start);
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
	struct execution *ex = begin(&start);
	while (!o.out_size)
		assert_true(take(ex, &o));
	execution_stop(ex, PATIENCE_MS);
	while (take(ex, &o))
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
	struct execution *ex = begin(&start);
	while (!o.out_size)
		assert_true(take(ex, &o));
	execution_release(ex); /* with a full ring that nobody reads */
	assert_int_equal(executor_count(executor), 0);
}

static void output_behind_the_cap_is_counted(void **state)
{
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	char script[] = "head -c 3000000 /dev/zero; printf 123456 >&2";

	(void)state;
	start.script = script;
	start.has_output_bytes = true;
	start.output_bytes = 1000;
	_cleanup_outcome_ struct outcome o = run(&start);
	assert_exited(&o, 0);
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
	struct execution *ex = begin(&start);
	while (take(ex, &o))
		sleep_ms(2);
	execution_release(ex);
	assert_exited(&o, 0);
	assert_int_equal(o.out_size, 2000000);
	assert_false(o.exit.stdout_truncated);
}

static void binary_output_is_whole(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o =
		run_script("printf 'a\\000\\377\\033b'; printf '\\000' >&2");

	assert_exited(&o, 0);
	assert_int_equal(o.out_size, 5);
	assert_memory_equal(o.out, "a\0\377\033b", 5);
	assert_int_equal(o.err_size, 1);
}

static void a_job_may_close_its_streams_and_go_on(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o =
		run_script("echo one; exec >&- 2>&-; sleep 0.3; exit 5");

	assert_exited(&o, 5);
	assert_string_equal(o.out, "one\n");
	assert_true(o.exit.wall_usec >= 300 * 1000);
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
	_cleanup_outcome_ struct outcome o = run_script(script);
	struct pollfd hangup = {.fd = fd};
	int gone = poll(&hangup, 1, 0);
	remove_tree(dir, NULL);
	assert_exited(&o, 0);
	assert_string_equal(o.out, "done\n");
	assert_int_equal(gone, 1);
	assert_true(o.exit.wall_usec < 30 * 1000 * 1000);
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
	_cleanup_outcome_ struct outcome o = run(&start);
	assert_int_equal(o.exit.reason, WORKER__V1__RUN_EXIT__REASON__START_FAILED);
	assert_string_equal(o.error, "working directory /no/such/dir: No such file or directory");

	start.working_dir = NULL;
	start.user = user;
	_cleanup_outcome_ struct outcome u = run(&start);
	assert_int_equal(u.exit.reason, WORKER__V1__RUN_EXIT__REASON__START_FAILED);
	assert_non_null(strstr(u.error, "no-such-user"));
}

static void a_script_may_name_its_interpreter(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = run_script("#!/bin/cat\nread by cat\n");
	assert_exited(&o, 0);
	assert_string_equal(o.out, "#!/bin/cat\nread by cat\n");

	/* It is gone again. */
	_cleanup_outcome_ struct outcome ls = run_script("ls -a /tmp | grep '^\\.script-'");
	assert_exited(&ls, 1);
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
	_cleanup_outcome_ struct outcome o = run(&start);
	unsetenv("SECRET");
	assert_exited(&o, 0);
	assert_string_equal(o.out, "/usr/lib\nhello = world\n/var\nunset\n/usr/local/sbin\nuser\n");
}

/* Only three fds, no capability, no way back, no socket to the host. */
static void the_job_is_confined(void **state)
{
	(void)state;
	_cleanup_outcome_ struct outcome o = run_script(
		"ls /proc/self/fd | wc -l; grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' "
		"/proc/self/status; ps -o pgid= -p $$ >/dev/null 2>&1; ulimit -c");
	assert_exited(&o, 0);
	assert_non_null(strstr(o.out, "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"));
	assert_non_null(strstr(o.out, "NoNewPrivs:\t1\nSeccomp:\t2\n"));
	if (geteuid() == 0)
		assert_non_null(strstr(o.out, "CapBnd:\t0000000000000000\n"));
	assert_true(str_starts(o.out, "4\n")); /* and the one that ls reads */

	_cleanup_outcome_ struct outcome v =
		run_script("python3 -c '\nimport socket\ntry:\n  socket.socket(40, 1)\n"
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
	assert_null(executor_start(executor, &start, &err)); /* neither */
	assert_int_equal(err->code, ERR_INVALID);
	start.argv = argv;
	start.n_argv = 1;
	start.script = script;
	assert_null(executor_start(executor, &start, &err)); /* both */
	assert_int_equal(err->code, ERR_INVALID);
	start.n_argv = 0;
	start.id = empty;
	assert_null(executor_start(executor, &start, &err));
	assert_int_equal(err->code, ERR_INVALID);
	start.id = id;
	struct execution *ex = executor_start(executor, &start, &err);
	assert_non_null(ex);
	assert_null(executor_start(executor, &start, &err));
	assert_int_equal(err->code, ERR_EXISTS);
	assert_int_equal(executor_count(executor), 1);
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
		ex[i] = executor_start(executor, &start, NULL);
		assert_non_null(ex[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(ex); i++) {
		_cleanup_outcome_ struct outcome o = outcome_new();
		while (take(ex[i], &o))
			;
		assert_exited(&o, 4);
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
	_cleanup_outcome_ struct outcome o = run(&start);
	assert_exited(&o, 0);
	assert_string_equal(o.out, "8 100000 100000\n");
}

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
	if (!with_spare)
		skip();
	unsigned before = wait_for_spare();
	_cleanup_outcome_ struct outcome one = run_script("exit 3");
	assert_exited(&one, 3);
	executor_has_spare(executor, &taken);
	assert_int_equal(taken, before + 1);

	wait_for_spare();
	kill_children_of_threads();
	/* Dead, and not reaped: that is the executor's. */
	assert_int_equal(waitid(P_ALL, 0, &(siginfo_t){0}, WEXITED | WNOWAIT | __WALL), 0);
	_cleanup_outcome_ struct outcome two = run_script("exit 4");
	assert_exited(&two, 4);
	executor_has_spare(executor, &taken);
	assert_int_equal(taken, before + 1);
}

static int setup(void **state)
{
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	if (job_root_init("/", "/tmp", &root, &err) < 0)
		return -1;
	executor = executor_new(&root, false, &err);
	if (executor && with_spare)
		executor_keep_spare(executor, 1000);
	return executor ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	executor_free(executor);
	close(root.fd);
	/* Nor is a spare left. */
	return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : -1;
}

static int run_all(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_are_separate),
		cmocka_unit_test(output_is_live),
		cmocka_unit_test(a_signal_is_told),
		cmocka_unit_test(a_timeout_lets_the_job_clean_up),
		cmocka_unit_test(a_timeout_kills_what_does_not_listen),
		cmocka_unit_test(an_order_stops_the_job),
		cmocka_unit_test(a_released_job_is_killed),
		cmocka_unit_test(output_behind_the_cap_is_counted),
		cmocka_unit_test(a_slow_reader_holds_the_job_and_loses_nothing),
		cmocka_unit_test(binary_output_is_whole),
		cmocka_unit_test(a_job_may_close_its_streams_and_go_on),
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
	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	int failed = 0;

	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_PLAIN);
	if (geteuid() == 0)
		failed += run_as_nobody(run_all, "worker executor, as nobody");
	failed += run_all("worker executor");
	with_spare = geteuid() == 0;
	if (with_spare)
		failed += run_all("worker executor, with a spare job init");
	else
		print_message("NOT VERIFIED with a spare job init: not root\n");
	return failed != 0;
}
