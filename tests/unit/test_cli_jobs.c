/* The commands that need a daemon, against a scripted one (cli_fake.h) that they start themselves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>

#include "orchestrator/cli/reconnect.h"
#include "tests/unit/cli_fake.h"
#include "tests/unit/cli_run.h"

/* run_begin() with a terminal of its own for all three: what it shows comes as out, and what is
 * written to out_fd is typed. */
static struct ran run_begin_terminal(const char *const *args)
{
	struct ran ran = {.out = xstrdup(""), .err = xstrdup(""), .err_fd = -1};
	const char *argv[40] = {"orchestrator"};
	char name[64];

	for (int i = 0; args[i]; i++)
		argv[i + 1] = args[i];
	ran.out_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (ran.out_fd < 0 || grantpt(ran.out_fd) < 0 || unlockpt(ran.out_fd) < 0 ||
		ptsname_r(ran.out_fd, name, sizeof(name)) != 0)
		abort();
	/* Held open until the child has it: a terminal that nobody has open reads as ended. */
	_cleanup_close_ int held = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	int pipe_fds[2];
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		abort();
	ran.pid = fork();
	if (ran.pid == 0) {
		setsid();
		int fd = open(name, O_RDWR); /* becomes the controlling one */
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		if (fd > 2)
			close(fd);
		execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
		_exit(99);
	}
	close(pipe_fds[1]);
	char c;
	if (read(pipe_fds[0], &c, 1) < 0) /* ends when the child has executed */
		abort();
	close(pipe_fds[0]);
	return ran;
}

static char *submitted(void)
{
	return read_file("state/submitted", 1 << 20, NULL, NULL);
}

/* After each test: no daemon outlives it. */
static int stop_daemon(void **state)
{
	unsetenv("FAKE_OLD");
	unsetenv("FAKE_ERROR");
	unsetenv("FAKE_MUTE");
	_cleanup_ran_ struct ran ran = run_cli("stop");
	int r = ran.code ? -1 : run_teardown(state);

	return r;
}

static void the_first_command_starts_the_daemon(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran none = run_cli("list", "vms");
	assert_ran(none, 0, "");
	assert_non_null(strstr(none.out, "ID  STATE  JOB"));
	_cleanup_ran_ struct ran look = run_cli("list", "jobs", "--no-start", "-o", "name");
	assert_ran(look, 0, "");
	assert_string_equal(look.out, "");
	assert_int_equal(access("state/run/control.sock", F_OK), -1);

	_cleanup_ran_ struct ran first = run_cli("-v", "list", "jobs");
	assert_ran(first, 0, "starting the daemon");
	assert_non_null(strstr(first.out, "good    -     succeeded     0"));
	_cleanup_ran_ struct ran second =
		run_cli("-v", "list", "jobs", "-o", "name", "-s", "queued");
	assert_ran(second, 0, "");
	assert_string_equal(second.err, "");
	assert_string_equal(second.out, "");

	_cleanup_ran_ struct ran vms = run_cli("list", "vms");
	assert_non_null(strstr(vms.out, "\nvm-1  running  -    debian     2    512M"));
	_cleanup_ran_ struct ran stop = run_cli("stop");
	assert_ran(stop, 0, "has stopped");
	_cleanup_ran_ struct ran again = run_cli("stop");
	assert_ran(again, 0, "no daemon is running");
}

static void many_commands_at_once_start_one_daemon(void **state)
{
	struct ran ran[6];
	const char *args[] = {"-v", "list", "jobs", "-o", "name", NULL};
	int started = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ran); i++)
		ran[i] = run_begin(args);
	for (size_t i = 0; i < ARRAY_SIZE(ran); i++) {
		run_end(&ran[i]);
		assert_ran(ran[i], 0, "");
		assert_string_equal(ran[i].out, "good\nthree\nnofile\n");
		started += strstr(ran[i].err, "starting the daemon") != NULL;
		run_free(&ran[i]);
	}
	assert_int_equal(started, 1);
}

static void a_daemon_that_cannot_start_says_why(void **state)
{
	(void)state;
	setenv("FAKE_ERROR", "1", 1);
	_cleanup_ran_ struct ran told = run_cli("list", "jobs");
	assert_ran(told, 125, "starting the daemon: QEMU is missing");
	unsetenv("FAKE_ERROR");
	setenv("FAKE_MUTE", "1", 1);
	_cleanup_ran_ struct ran mute = run_cli("list", "jobs");
	assert_ran(mute, 125, "it ended at once: last words (more in ");
}

static void another_version_is_refused_but_can_be_stopped(void **state)
{
	(void)state;
	setenv("FAKE_OLD", "1", 1);
	_cleanup_ran_ struct ran ran = run_cli("list", "jobs");
	assert_ran(ran, 125, "is version 0.0.0, this command is " ORCHESTRATOR_VERSION);
	_cleanup_ran_ struct ran stop = run_cli("stop");
	assert_ran(stop, 0, "has stopped");
}

static void another_state_directory_is_not_ours(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran first = run_cli("list", "jobs");
	assert_ran(first, 0, "");
	_cleanup_free_ char *run = str_printf("%s/state/run", run_dir);
	setenv("ORCHESTRATOR_RUNTIME_DIR", run, 1);
	_cleanup_ran_ struct ran other = run_cli("--state-dir", "other", "list", "jobs");
	unsetenv("ORCHESTRATOR_RUNTIME_DIR");
	assert_ran(other, 125, "serves the state directory");
}

static void a_job_goes_through_with_its_inputs(void **state)
{
	(void)state;
	run_put("a.txt", "alpha");
	assert_int_equal(mkdir("jobs", 0755), 0);
	assert_int_equal(mkdir("jobs/tree", 0755), 0);
	run_put("jobs/tree/b.txt", "beta");
	run_put("jobs/job.yaml", "image: debian\ncommand: [old]\ninputs:\n"
				 "- {src: tree, dest: /tree}\nenv: {A: '1', B: '2'}\n");
	/* Relative to the job file in it, to where we are on the command line. */
	_cleanup_ran_ struct ran ran =
		run_cli("submit", "jobs/job.yaml", "--key", "k1", "-m", "1G", "-c", "3", "-t", "1m",
			"-e", "B=3", "-e", "HOME", "--input", "a.txt:/a.txt", "--", "new", "-x");
	assert_ran(ran, 0, "");
	assert_string_equal(ran.out, "good\n");
	_cleanup_free_ char *text = submitted();
	_cleanup_free_ char *expected =
		str_printf("image debian\narg new\narg -x\nenv A=1\nenv B=3\nenv HOME=%s\n"
			   "memory 1073741824 cpus 3\ntimeout 60000\nkey k1\n"
			   "head 0\nhead 0/b.txt\nchunk beta\nhead 1\nchunk alpha\n",
			run_dir);
	assert_string_equal(text, expected);

	_cleanup_ran_ struct ran json = run_cli("submit", "-o", "json", "--", "ls");
	assert_string_equal(json.out, "{\n  \"id\": \"good\"\n}\n");
}

static void nothing_is_submitted_without_its_inputs(void **state)
{
	(void)state;
	run_put("job.yaml", "image: debian\ncommand: [ls]\ninputs:\n"
			    "- {src: job.yaml, dest: /a}\n- {src: data/x.csv, dest: /x}\n");
	_cleanup_ran_ struct ran missing = run_cli("submit", "job.yaml");
	assert_ran(missing, EXIT_USAGE, "job.yaml: inputs[1]: data/x.csv (");
	assert_ran(missing, EXIT_USAGE, "No such file or directory");
	assert_int_equal(access("state", F_OK), -1); /* not even a daemon */

	assert_int_equal(mkfifo("fifo", 0600), 0);
	_cleanup_ran_ struct ran fifo = run_cli("submit", "--input", "fifo:/f", "--", "ls");
	assert_ran(fifo, EXIT_USAGE, "is neither a file nor a directory");

	/* Found only on the way: the upload is taken back. */
	assert_int_equal(mkdir("tree", 0755), 0);
	assert_int_equal(mkfifo("tree/fifo", 0600), 0);
	_cleanup_ran_ struct ran below = run_cli("submit", "--input", "tree:/t", "--", "ls");
	assert_ran(below, 125, "inputs[0]: ");
	assert_ran(below, 125, ": fifo: ");
	assert_null(submitted());
}

static void put_many_jobs(void)
{
	run_put("a.yaml", "name: a1\nimage: debian\ncommand: [ls]\n");
	run_put("bad.yaml", "name: b1\nimage: debian\n\nimaeg: x\ncommand: [ls]\n");
	run_put("c.yaml", "# Two jobs, and nothing between them.\n---\nname: c1\nimage: debian\n"
			  "run: |\n  echo '\n  ---\n  '\n---\n# nothing\n---\n\n  # no image\n"
			  "name: c2\nimage: nowhere\ncommand: [ls]\n"
			  "--- {name: c3, image: debian, command: [ls]}\n");
	run_put("d.yaml", "name: d1\nimage: debian\ncommand: [ls]\n"
			  "inputs: [{src: a.yaml, dest: /a}]\n");
	run_put("hang.yaml", "name: hang\nimage: debian\ncommand: [ls]\n");
	run_put("crash.yaml", "name: crash\nimage: debian\ncommand: [ls]\n");
}

/* Who submits into a full disk still learns the id. */
static void the_id_is_told_where_stdout_is_broken(void **state)
{
	(void)state;
	put_many_jobs();
	run_stdout = "/dev/full";
	_cleanup_ran_ struct ran one = run_cli("submit", "--", "ls");
	_cleanup_ran_ struct ran many = run_cli("submit", "a.yaml", "b.yaml");
	_cleanup_ran_ struct ran json = run_cli("submit", "-o", "json", "--", "ls");
	run_stdout = NULL;
	assert_ran(one, 125, "job good was submitted");
	assert_ran(one, 125, "writing the output: No space left on device");
	assert_ran(many, 125, "jobs were submitted; 'orchestrator list jobs' has their ids");
	assert_ran(json, 125, "job good was submitted");
}

static void a_refusal_is_shown_as_it_is(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran ran = run_cli("run", "--image", "nowhere", "--", "ls");
	assert_ran(ran, 125, "orchestrator: no image 'nowhere'");
	_cleanup_ran_ struct ran none = run_cli("status", "nosuch");
	assert_ran(none, 125, "orchestrator: no job 'nosuch'");
	run_put("bad.yaml", "imaeg: debian\ntimeout: soon\n");
	_cleanup_ran_ struct ran bad = run_cli("submit", "bad.yaml");
	assert_ran(bad, EXIT_USAGE, "bad.yaml:1:");
}

static void many_jobs_are_taken_or_refused_one_by_one(void **state)
{
	(void)state;
	put_many_jobs();
	_cleanup_ran_ struct ran ran =
		run_cli("submit", "c.yaml", "bad.yaml", "gone.yaml", "d.yaml", "a.yaml");
	assert_ran(ran, EXIT_USAGE, "orchestrator: bad.yaml:4:1: unknown key \"imaeg\"");
	assert_string_equal(ran.out, "c1\nc3\nd1\na1\n");
	assert_ran(ran, EXIT_USAGE, "c.yaml:14:1: no image 'nowhere'");
	assert_ran(ran, EXIT_USAGE, "gone.yaml: No such file");
	_cleanup_free_ char *text = submitted();
	assert_non_null(strstr(text, "head 0\nchunk name: a1\n")); /* d's input */

	_cleanup_ran_ struct ran good = run_cli("submit", "a.yaml", "d.yaml", "a.yaml");
	assert_ran(good, 0, "");
	assert_string_equal(good.out, "a1\nd1\na1\n");
	/* What the daemon refuses is no wrong use. */
	_cleanup_ran_ struct ran json = run_cli("submit", "-o", "json", "c.yaml");
	assert_int_equal(json.code, 125);
	json_t *rows = json_loads(json.out, 0, NULL);
	assert_int_equal(json_array_size(rows), 3);
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(rows, 0), "id")), "c1");
	assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 1), "error")),
		"c.yaml:14:1: no image 'nowhere'");
	assert_string_equal(
		json_string_value(json_object_get(json_array_get(rows, 2), "job")), "c.yaml:17:5");
	json_decref(rows);

	_cleanup_ran_ struct ran options =
		run_cli("submit", "--image", "nowhere", "a.yaml", "a.yaml");
	assert_ran(options, 125, "a.yaml:1:1: no image 'nowhere'");
	_cleanup_ran_ struct ran wrong = run_cli("submit", "--cpus", "no", "a.yaml", "a.yaml");
	assert_ran(wrong, EXIT_USAGE, "--cpus 'no'");
	_cleanup_ran_ struct ran follow = run_cli("submit", "-f", "a.yaml", "a.yaml");
	assert_ran(follow, EXIT_USAGE, "only one job can be followed");
	_cleanup_ran_ struct ran key = run_cli("submit", "--key", "k", "a.yaml", "a.yaml");
	assert_ran(key, EXIT_USAGE, "--key names one job");
	_cleanup_ran_ struct ran valid = run_cli("validate", "c.yaml");
	assert_ran(valid, 0, "");
}

/* More than are on their way at once, or in one message. */
static void very_many_jobs_keep_their_order(void **state)
{
	_cleanup_free_ char *text = xcalloc(1400, 48), *expected = xcalloc(1400, 8);
	size_t n = 0, m = 0;

	(void)state;
	for (int i = 0; i < 1400; i++) {
		n += (size_t)sprintf(text + n, "--- {name: n%d, image: a, command: [b]}\n", i);
		m += (size_t)sprintf(expected + m, "n%d\n", i);
	}
	run_put("many.yaml", text);
	_cleanup_ran_ struct ran ran = run_cli("submit", "many.yaml");
	assert_ran(ran, 0, "");
	assert_string_equal(ran.out, expected);
}

static void what_was_acknowledged_is_printed(void **state)
{
	(void)state;
	put_many_jobs();
	_cleanup_ran_ struct ran ran =
		run_begin((const char *const[]){"submit", "a.yaml", "hang.yaml", "a.yaml", NULL});
	run_read(&ran, "a1\n");
	uint64_t began = now_mono_usec();
	kill(ran.pid, SIGINT);
	run_end(&ran);
	assert_true(now_mono_usec() - began < 30000000);
	assert_ran(ran, 130, "2 jobs were sent and not acknowledged");
	assert_ran(ran, 130, "interrupted; 1 jobs were submitted");
	assert_string_equal(ran.out, "a1\n");

	_cleanup_ran_ struct ran crash = run_cli("submit", "a.yaml", "crash.yaml", "a.yaml");
	assert_ran(crash, 125, "2 jobs were sent and not acknowledged");
	assert_string_equal(crash.out, "a1\n");
}

static void run_exits_as_the_job_does(void **state)
{
	static const struct {
		const char *name;
		int code;
		const char *part;
	} cases[] = {
		{"good", 0, "err\0332\n"},
		{"three", 3, "err\0332\n"},
		{"nofile", 127,
			"job nofile failed: no such program: /bin/nope; more: orchestrator status"},
		{"killed", 137, "job killed was killed by signal 9 (Killed)"},
		{"late", 124,
			"job late timed out: ran longer than 5s; more: orchestrator status late"},
		{"panic", 125, "syncing: \\x1b[2Jboo; more: orchestrator logs --console panic"},
		{"cancelled", 130, "job cancelled was cancelled"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_ran_ struct ran ran = run_cli("run", "--name", cases[i].name, "--", "x");
		assert_ran(ran, cases[i].code, cases[i].part);
		/* Into a pipe: unchanged. */
		assert_string_equal(ran.out, "out\0331\n");
		_cleanup_ran_ struct ran again = run_cli("logs", "-f", cases[i].name);
		assert_ran(again, cases[i].code, cases[i].part);
		_cleanup_ran_ struct ran logs = run_cli("logs", cases[i].name);
		assert_ran(logs, 0, "err\0332\n");
		assert_string_equal(logs.out, "out\0331\n");
	}
	_cleanup_ran_ struct ran quiet = run_cli("run", "--name", "three", "--", "x");
	assert_string_equal(quiet.err, "err\0332\n"); /* its own exit code needs no words */
}

static void ctrl_c_leaves_the_job_running(void **state)
{
	static const char *const args[] = {"logs", "-f", "hang", NULL};

	(void)state;
	_cleanup_ran_ struct ran ran = run_begin(args);
	run_read(&ran, "out");
	kill(ran.pid, SIGINT);
	run_end(&ran);
	assert_ran(ran, 130,
		"job hang goes on; re-attach: orchestrator logs -f hang; cancel: orchestrator "
		"cancel hang");
	_cleanup_ran_ struct ran term = run_begin(args);
	run_read(&term, "out");
	kill(term.pid, SIGTERM);
	run_end(&term);
	assert_ran(term, 143, "goes on");
}

static void a_terminal_sees_progress_until_the_output_begins(void **state)
{
	static const char *const args[] = {"logs", "-f", "slow", NULL};

	(void)state;
	_cleanup_ran_ struct ran ran = run_begin_terminal(args);
	run_end(&ran);
	assert_int_equal(ran.code, 124);
	/* Each line over the one before it; cleared before the output, which is escaped. */
	assert_string_equal(ran.out,
		"\r\033[Kjob slow: queued (3rd)\r\033[Kjob slow: booting its VM\xe2\x80\xa6"
		"\r\033[Kout\\x1b1\r\nerr\\x1b2\r\n"
		"orchestrator: job slow timed out; more: orchestrator status slow\r\n");
	_cleanup_ran_ struct ran quiet =
		run_begin_terminal((const char *const[]){"-q", "logs", "-f", "slow", NULL});
	run_end(&quiet);
	assert_null(strstr(quiet.out, "\033"));
	/* Without a terminal: silence, or with -v plain lines. */
	_cleanup_ran_ struct ran pipe = run_words(args),
				 plain = run_cli("-v", "logs", "-f", "slow");
	assert_null(strstr(pipe.err, "queued"));
	assert_ran(plain, 124,
		"orchestrator: job slow: queued (3rd)\norchestrator: job slow: booting");
	unsetenv("NO_COLOR");
	_cleanup_ran_ struct ran colour = run_begin_terminal(args);
	run_end(&colour);
	assert_non_null(strstr(colour.out, "\033[2mjob slow: queued (3rd)\033[0m"));
	assert_non_null(strstr(colour.out, "\033[31morchestrator:\033[0m job slow timed out"));
}

static void the_typed_ctrl_c_does_the_same(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran ran =
		run_begin_terminal((const char *const[]){"logs", "-f", "hang", NULL});
	run_read(&ran, "err\\x1b2");
	assert_int_equal(write(ran.out_fd, "\003", 1), 1);
	run_end(&ran);
	assert_int_equal(ran.code, 130);
	assert_non_null(strstr(ran.out, "job hang goes on; re-attach: orchestrator logs -f hang"));
}

static void a_reader_that_leaves_ends_only_the_following(void **state)
{
	static const char *const args[] = {"logs", "-f", "flood", NULL};

	(void)state;
	_cleanup_ran_ struct ran ran = run_begin(args);
	run_read(&ran, "out");
	close_fd(&ran.out_fd);
	run_end(&ran);
	assert_ran(ran, 141, "job flood goes on");
}

static void following_survives_the_daemon(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran ran = run_cli("-v", "logs", "-f", "crash");
	assert_ran(ran, 0, "the daemon went away, looking for it once more");
	assert_string_equal(ran.out, "out\0331\nmore\n");
	_cleanup_ran_ struct ran often = run_cli("run", "--name", "four", "--", "x");
	assert_ran(often, 4, "err\0332\n");
	assert_string_equal(often.out, "out\0331\nmore\nmore\nmore\n");
}

static void a_daemon_that_dies_each_time_is_given_up(void **state)
{
	(void)state;
	setenv("FAKE_PATIENCE", "3000", 1);
	uint64_t began = now_mono_usec();
	_cleanup_ran_ struct ran ran = run_cli("logs", "-f", "doom");
	assert_ran(ran, 125, "did not come back for 3 s");
	assert_ran(ran, 125, "more: orchestrator status doom");
	assert_string_equal(ran.out, "out\0331\n");
	assert_string_equal(
		strchr(ran.err, '\n') + 1 + strcspn(strchr(ran.err, '\n') + 1, "\n"), "\n");
	assert_true(now_mono_usec() - began >= 2900000);
	setenv("FAKE_ERROR", "1", 1);
	_cleanup_ran_ struct ran again = run_cli("wait", "good"); /* nothing was lost: at once */
	assert_ran(again, 125, "starting the daemon: QEMU is missing");
	unsetenv("FAKE_PATIENCE");
}

static void a_daemon_stopped_on_purpose_stays_away(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran ran = run_begin((const char *const[]){"logs", "-f", "hang", NULL});
	run_read(&ran, "out");
	_cleanup_ran_ struct ran stop = run_cli("stop");
	assert_ran(stop, 0, "has stopped");
	run_end(&ran);
	assert_ran(ran, 125, "the daemon was stopped while job hang was under way");
	_cleanup_ran_ struct ran again = run_cli("stop");
	assert_ran(again, 0, "no daemon is running");
}

static void results_come_below_the_directory_or_not_at_all(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran ran = run_cli("run", "--output-dir", "out", "--", "x");
	assert_ran(ran, 0, "1 file (3) in out");
	_cleanup_free_ char *text = read_file("out/stdout", 100, NULL, NULL);
	assert_string_equal(text, "42\n");
	_cleanup_ran_ struct ran again = run_cli("result", "good", "--output-dir", "out");
	assert_ran(again, 125, "fetching the results of job good into out");
	_cleanup_ran_ struct ran force =
		run_cli("result", "good", "--output-dir", "out", "--force");
	assert_ran(force, 0, "1 file");
	_cleanup_ran_ struct ran full = run_cli("run", "--output-dir", "out", "--", "x");
	assert_ran(full, 125, "--output-dir out: is not empty");
	assert_string_equal(full.out, ""); /* refused before it ran */
	_cleanup_ran_ struct ran evil = run_cli("result", "killed", "--output-dir", "evil-out");
	assert_int_equal(evil.code, 125);
	assert_int_equal(access("evil", F_OK), -1);
}

static void jobs_are_shown_and_waited_for(void **state)
{
	(void)state;
	_cleanup_ran_ struct ran status = run_cli("status", "killed");
	assert_ran(status, 0, "");
	assert_non_null(strstr(status.out, "Status:      failed\n"));
	assert_non_null(strstr(status.out, "Network:     no\n"));
	assert_non_null(strstr(status.out, "Submitted:   2026-01-01 00:00:00\n"));
	assert_non_null(strstr(status.out, "\nARTIFACT   SIZE  SHA256\n0/out.bin    2K  abcd0"));
	_cleanup_ran_ struct ran timing = run_cli("status", "--timing", "good");
	assert_non_null(strstr(timing.out, "domain created         248.5ms       250.0ms\n"));
	_cleanup_ran_ struct ran result = run_cli("result", "-o", "yaml", "good");
	assert_non_null(strstr(result.out, "outcome: succeeded\n"));
	_cleanup_ran_ struct ran waited = run_cli("wait", "good", "three", "late");
	assert_ran(waited, 3, "");
	assert_string_equal(waited.out, "ID     STATUS     EXIT\ngood   succeeded     0\n"
					"three  failed        3\nlate   timeout     124\n");
	_cleanup_ran_ struct ran late = run_cli("wait", "--timeout", "50ms", "hang");
	assert_ran(late, 124, "job hang has not ended in time; it goes on");
	_cleanup_ran_ struct ran cancel = run_cli("cancel", "cancelled", "nosuch");
	assert_ran(cancel, 125, "no job 'nosuch'");
	assert_non_null(strstr(cancel.out, "cancelled  cancelled\n"));
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, run_setup, stop_daemon)
	static const struct CMUnitTest tests[] = {
		TEST(the_first_command_starts_the_daemon),
		TEST(many_commands_at_once_start_one_daemon),
		TEST(a_daemon_that_cannot_start_says_why),
		TEST(another_version_is_refused_but_can_be_stopped),
		TEST(another_state_directory_is_not_ours),
		TEST(a_job_goes_through_with_its_inputs),
		TEST(nothing_is_submitted_without_its_inputs),
		TEST(the_id_is_told_where_stdout_is_broken),
		TEST(a_refusal_is_shown_as_it_is),
		TEST(many_jobs_are_taken_or_refused_one_by_one),
		TEST(very_many_jobs_keep_their_order),
		TEST(what_was_acknowledged_is_printed),
		TEST(run_exits_as_the_job_does),
		TEST(ctrl_c_leaves_the_job_running),
		TEST(a_terminal_sees_progress_until_the_output_begins),
		TEST(the_typed_ctrl_c_does_the_same),
		TEST(a_reader_that_leaves_ends_only_the_following),
		TEST(following_survives_the_daemon),
		TEST(a_daemon_that_dies_each_time_is_given_up),
		TEST(a_daemon_stopped_on_purpose_stays_away),
		TEST(results_come_below_the_directory_or_not_at_all),
		TEST(jobs_are_shown_and_waited_for),
	};

	if (getenv("FAKE_PATIENCE"))
		reconnect_patience_ms = atoi(getenv("FAKE_PATIENCE"));
	if (run_is_cli(argv))
		return cli_main(fake_commands, argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
