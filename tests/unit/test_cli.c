#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <locale.h>
#include <stdlib.h>

#include "orchestrator/cli/job_view.h"
#include "orchestrator/cli/options.h"
#include "orchestrator/cli/output.h"
#include "orchestrator/cli/sink.h"
#include "tests/unit/cli_fake.h"
#include "tests/unit/cli_run.h"

static char *shown(enum output_format format, unsigned width, json_t *rows)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	struct output output = {
		.to = to, .format = format, .now_usec = fake_epoch + 185000000, .width = width};

	if (json_is_array(rows))
		output_list(&output, &job_columns, rows);
	else
		output_object(&output, &job_fields, rows);
	fclose(to);
	json_decref(rows);
	return text;
}

static json_t *jobs(void)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < 3; i++) {
		struct fake_info f;
		fake_fill(&f, &fake_jobs[i]);
		json_array_append_new(rows, job_view(&f.info));
	}
	return rows;
}

static void tables_are_aligned(void **state)
{
	_cleanup_free_ char *text = shown(OUTPUT_TABLE, 0, jobs());
	_cleanup_free_ char *empty = shown(OUTPUT_TABLE, 0, json_array());
	_cleanup_free_ char *names = shown(OUTPUT_NAME, 0, jobs());

	(void)state;
	assert_string_equal(text,
		"ID      NAME  STATUS     EXIT  IMAGE   SUBMITTED  COMMAND\n"
		"good    -     succeeded     0  debian  3m05s ago  echo hi there\n"
		"three   -     failed        3  debian  3m05s ago  echo hi there\n"
		"nofile  -     failed      127  debian  3m05s ago  echo hi there\n");
	assert_string_equal(empty, "ID  NAME  STATUS  EXIT  IMAGE  SUBMITTED  COMMAND\n");
	assert_string_equal(names, "good\nthree\nnofile\n");
}

static void a_narrow_terminal_cuts_what_gives(void **state)
{
	json_t *rows = json_pack("[{s:s, s:s, s:s}]", "id", "gr\xc3\xbc\xc3\x9f", "status",
		"queued\033[2J", "command", "a very long command line that goes on and on");
	_cleanup_free_ char *text = shown(OUTPUT_TABLE, 72, rows);

	(void)state;
	/* The escaped control bytes, the umlauts counted as one column each, the ellipsis. */
	assert_string_equal(text,
		"ID    NAME  STATUS         EXIT  IMAGE  SUBMITTED  COMMAND\n"
		"gr\xc3\xbc\xc3\x9f  -     queued\\x1b[2J     -  -      -          "
		"a very long command \xe2\x80\xa6\n");
}

static void json_and_yaml_say_the_same(void **state)
{
	struct fake_info f;

	(void)state;
	fake_fill(&f, &fake_jobs[3]);
	_cleanup_free_ char *json = shown(OUTPUT_JSON, 0, job_view(&f.info));
	_cleanup_free_ char *yaml = shown(OUTPUT_YAML, 0, job_view(&f.info));
	json_t *back = json_loads(json, 0, NULL);

	assert_non_null(back);
	assert_string_equal(json_string_value(json_object_get(back, "outcome")), "failed");
	assert_int_equal(json_integer_value(json_object_get(back, "signal")), 9);
	assert_true(json_is_null(json_object_get(back, "name")));
	json_t *times = json_object_get(back, "times_usec");
	assert_int_equal(json_integer_value(json_object_get(times, "submitted")), fake_epoch);
	assert_null(json_object_get(times, "first_byte")); /* not reached */
	json_decref(back);
	assert_non_null(strstr(yaml, "id: killed\n"));
	assert_non_null(strstr(yaml, "name: null\n"));
	assert_non_null(strstr(yaml, "command:\n- echo\n- hi there\n"));
	assert_non_null(strstr(yaml, "labels: {}\n"));
	assert_non_null(strstr(yaml, "  network_interface: false\n"));
}

static void yaml_keeps_strings_strings(void **state)
{
	json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s}", "a", "12", "b", "no", "c", "",
		"d", "x: y", "e", 7, "f", "#!/bin/sh\necho hi\n");
	_cleanup_free_ char *yaml = shown(OUTPUT_YAML, 0, object);

	(void)state;
	assert_string_equal(yaml,
		"a: \"12\"\nb: \"no\"\nc: \"\"\nd: 'x: y'\ne: 7\nf: |\n  #!/bin/sh\n"
		"  echo hi\n");
}

static void stages_have_their_time_and_the_total(void **state)
{
	char *text = NULL;
	size_t size;
	struct fake_info f;
	struct output output = {.to = open_memstream(&text, &size)};

	(void)state;
	fake_fill(&f, &fake_jobs[0]);
	job_view_timing(&output, &f.info);
	fclose(output.to);
	assert_string_equal(text, "STAGE                     TOOK         TOTAL\n"
				  "queued                   1.5ms         1.5ms\n"
				  "domain created         248.5ms       250.0ms\n"
				  "recorded              1750.0ms      2000.0ms\n");
	free(text);
}

static void every_outcome_has_its_exit_code_and_words(void **state)
{
	static const struct {
		Job__V1__Outcome outcome;
		int has_code, code, signal, expected;
		const char *words;
	} cases[] = {
		{JOB__V1__OUTCOME__SUCCEEDED, 1, 0, 0, 0, NULL},
		{JOB__V1__OUTCOME__FAILED, 1, 42, 0, 42, NULL},
		{JOB__V1__OUTCOME__FAILED, 0, 0, 0, 1, NULL},
		{JOB__V1__OUTCOME__FAILED, 1, 139, 11, 139,
			"was killed by signal 11 (Segmentation fault)"},
		{JOB__V1__OUTCOME__FAILED, 0, 0, 9, 137, "was killed by signal 9 (Killed)"},
		{JOB__V1__OUTCOME__TIMEOUT, 0, 0, 0, 124, "timed out"},
		{JOB__V1__OUTCOME__CANCELLED, 0, 0, 0, 130, "was cancelled"},
		{JOB__V1__OUTCOME__OOM_GUEST, 1, 137, 9, 137, "ran out of its memory"},
		{JOB__V1__OUTCOME__OOM_HOST, 0, 0, 0, 125, "got no memory from this host"},
		{JOB__V1__OUTCOME__GUEST_PANIC, 0, 0, 0, 125, "made its kernel panic"},
		{JOB__V1__OUTCOME__AGENT_LOST, 0, 0, 0, 125, "lost the worker in its VM"},
		{JOB__V1__OUTCOME__BOOT_FAILED, 0, 0, 0, 125, "never began: its VM did not boot"},
		{JOB__V1__OUTCOME__INFRA, 0, 0, 0, 125, "failed because of this host"},
		{JOB__V1__OUTCOME__INFRA, 1, 4711, 0, 125, "failed because of this host"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fake_info f;
		fake_fill(&f, &fake_jobs[0]);
		f.info.outcome = cases[i].outcome;
		f.info.has_exit_code = cases[i].has_code;
		f.info.exit_code = cases[i].code;
		f.info.has_signal = cases[i].signal != 0;
		f.info.signal = cases[i].signal;
		_cleanup_free_ char *words = job_what_happened(&f.info);
		assert_int_equal(job_exit_code(&f.info), cases[i].expected);
		assert_true(str_eq(words, cases[i].words));
	}
}

static void words_that_were_meant_are_found(void **state)
{
	static const char *const names[] = {"submit", "status", "list", "logs", "run"};
	static const struct {
		const char *word, *meant;
	} cases[] = {{"sumbit", "submit"}, {"stat", "status"}, {"statsu", "status"},
		{"lst", "list"}, {"rum", "run"}, {"sta", "status"}, {"xyz", NULL}, {"", NULL},
		{"log", "logs"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_true(str_eq(
			str_nearest(cases[i].word, names, ARRAY_SIZE(names)), cases[i].meant));
}

static void operands_behind_the_dashes_are_told_apart(void **state)
{
	static const struct cli_option own[] = {
		{'f', "follow", NULL, "x"}, {'m', "memory", "SIZE", "x"}, {0, NULL, NULL, NULL}};
	char *argv[] = {(char[]){"run"}, (char[]){"job.yaml"}, (char[]){"-fm"}, (char[]){"1G"},
		(char[]){"--memory=2G"}, (char[]){"--"}, (char[]){"ls"}, (char[]){"-l"}, NULL};
	_cleanup_error_ struct error *err = NULL;
	struct options options;

	(void)state;
	assert_int_equal(options_parse(own, 8, argv, false, &options, &err), 0);
	assert_int_equal(options.n_given, 3);
	assert_string_equal(options.given[2].option->name, "memory");
	assert_string_equal(options.given[2].value, "2G");
	assert_int_equal(options.n_operands, 3);
	assert_int_equal(options.n_behind, 2);
	assert_string_equal(options.operands[0], "job.yaml");
	assert_string_equal(options.operands[2], "-l");
	options_clear(&options);
}

/* What the sink puts on a terminal for these pieces. */
static char *on_terminal(const char *const *pieces, bool raw)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	char name[64], buf[512];

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 ||
		ptsname_r(master, name, sizeof(name)) != 0)
		abort();
	int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct sink sink = sink_new(fd, raw);
	for (; *pieces; pieces++)
		assert_int_equal(sink_write(&sink, *pieces, strlen(*pieces)), 0);
	assert_int_equal(sink_end(&sink), 0);
	assert_int_equal(write(fd, "$", 1), 1);
	size_t n = 0;
	while (!n || buf[n - 1] != '$') {
		ssize_t r = read(master, buf + n, sizeof(buf) - n);
		assert_true(r > 0);
		n += (size_t)r;
	}
	close(fd);
	close(master);
	return xstrndup(buf, n - 1);
}

static void only_a_terminal_is_protected(void **state)
{
	/* An escape, a line end in two pieces, a character in two, a lone \r at the end. */
	static const char *const pieces[] = {
		"a\033[2J\r", "\nb\xc3", "\xbc\rc", "\xe2\x80", "\r", NULL};
	int fds[2];
	char buf[64];

	(void)state;
	_cleanup_free_ char *escaped = on_terminal(pieces, false);
	/* The terminal itself makes \r\n of a newline. */
	assert_string_equal(escaped, "a\\x1b[2J\r\nb\xc3\xbc\\x0dc\\xe2\\x80\\x0d");
	_cleanup_free_ char *raw = on_terminal((const char *const[]){"a\033[0m", NULL}, true);
	assert_string_equal(raw, "a\033[0m");
	assert_int_equal(pipe(fds), 0);
	struct sink sink = sink_new(fds[1], false);
	assert_int_equal(sink_write(&sink, "a\0\033\r\xff", 5), 0);
	assert_int_equal(sink_end(&sink), 0);
	assert_int_equal(read(fds[0], buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "a\0\033\r\xff", 5);
	close(fds[0]);
	close(fds[1]);
}

static void wrong_usage_is_explained(void **state)
{
	static const struct {
		const char *args[6];
		const char *part;
	} cases[] = {
		{{"sumbit"}, "orchestrator: unknown command 'sumbit', did you mean 'submit'?"},
		{{"help", "sumbit"}, "did you mean 'submit'?"},
		{{NULL}, "Commands:"},
		{{"submit"}, "submit needs a job file, or a command behind --"},
		{{"submit", "--folow", "x"}, "unknown option '--folow', did you mean '--follow'?"},
		{{"submit", "-Z"}, "unknown option '-Z'"},
		{{"run", "--memory"}, "option '--memory' needs a value: SIZE"},
		{{"run", "-m"}, "option '-m' needs a value: SIZE"},
		{{"submit", "--follow=yes", "x"}, "option '--follow' takes no value"},
		{{"list", "-o", "xml", "jobs"},
			"'-o xml': the formats are table, json, yaml and name"},
		{{"list"}, "list needs what to list"},
		{{"list", "cows"}, "'cows' cannot be listed"},
		{{"status"}, "status needs a job's id"},
		{{"status", "a", "b"}, "'b' is too much: status takes a job's id"},
		{{"config", "x"}, "'x' is too much: config takes no operands"},
		{{"run", "-m", "lots", "--", "ls"}, "--memory 'lots': not a size"},
		{{"run", "--priority", "101", "--", "ls"}, "--priority '101': a number from -100"},
		{{"run", "-c", "0", "--", "ls"}, "--cpus '0': a number from 1"},
		{{"run", "-t", "90", "--", "ls"}, "--timeout '90': not a duration"},
		{{"run", "-e", "=x", "--", "ls"}, "--env: '=x' is not of the form NAME=VALUE"},
		{{"run", "--input", "x", "--", "ls"},
			"--input 'x': is not of the form SRC:/ABSOLUTE/DEST"},
		{{"run", "a.yaml", "ls"}, "a command goes behind --"},
		{{"submit", "--output-dir", "d", "--", "ls"}, "--output-dir needs --follow"},
		{{"list", "jobs", "--state", "done"}, "--state 'done': the states are"},
		{{"wait", "-t", "soon", "x"}, "--timeout 'soon': not a duration"},
		{{"list", "vms", "--state", "queued"}, "--state is for 'list jobs' only"},
		{{"run", "ls"}, "goes behind --, as in 'orchestrator run -- ls'"},
		{{"run", "lost.yaml"}, "lost.yaml: No such file or directory\n"},
		{{"submit", "."}, ".: Is a directory"},
		{{"--config", "lost.yaml", "config"}, "lost.yaml: No such file or directory"},
		{{"help", "xyz"}, "See 'orchestrator help'."},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_ran_ struct ran ran = run_words(cases[i].args);
		assert_ran(ran, EXIT_USAGE, cases[i].part);
		assert_string_equal(ran.out, "");
	}
}

static void errors_are_json_when_the_output_is(void **state)
{
	_cleanup_ran_ struct ran ran = run_cli("-o", "json", "status");
	json_t *root = json_loads(ran.err, 0, NULL);
	json_t *error = json_object_get(root, "error");

	(void)state;
	assert_int_equal(ran.code, EXIT_USAGE);
	assert_string_equal(json_string_value(json_object_get(error, "code")), "INVALID");
	assert_string_equal(
		json_string_value(json_object_get(error, "message")), "status needs a job's id");
	json_decref(root);
}

static void help_shows_every_command(void **state)
{
	_cleanup_ran_ struct ran all = run_cli("--help"), version = run_cli("--version");

	(void)state;
	assert_ran(all, 0, "");
	assert_ran(version, 0, "");
	assert_string_equal(version.out, "orchestrator " ORCHESTRATOR_VERSION "\n");
	for (size_t i = 0; fake_commands[i]; i++) {
		const char *name = fake_commands[i]->name;
		_cleanup_ran_ struct ran one = run_cli("help", name),
					 same = run_cli(name, "--help");
		assert_non_null(strstr(all.out, name));
		assert_ran(one, 0, "");
		assert_non_null(strstr(one.out, "usage: orchestrator "));
		assert_non_null(strstr(one.out, fake_commands[i]->summary));
		assert_string_equal(one.out, same.out);
	}
}

static void job_files_are_checked(void **state)
{
	(void)state;
	run_put("good.yaml", "image: debian\ncommand: [echo, hi]\n");
	run_put("bad.yaml", "imaeg: debian\ncommand: [echo]\ntimeout: soon\n");
	run_put("lost.yaml",
		"image: debian\ncommand: [ls]\ninputs:\n- {src: nowhere, dest: /in}\n");
	_cleanup_ran_ struct ran good = run_cli("validate", "good.yaml");
	assert_ran(good, 0, "");
	assert_string_equal(good.out, "good.yaml: ok\n");
	_cleanup_ran_ struct ran bad = run_cli("validate", "good.yaml", "bad.yaml");
	assert_ran(bad, EXIT_USAGE, "bad.yaml:1:");
	assert_ran(bad, EXIT_USAGE, "bad.yaml:3:");
	assert_string_equal(bad.out, "good.yaml: ok\n");
	_cleanup_ran_ struct ran lost = run_cli("validate", "lost.yaml");
	assert_ran(lost, EXIT_USAGE, "lost.yaml: inputs[0]: nowhere (");
	_cleanup_ran_ struct ran json = run_cli("validate", "-o", "json", "bad.yaml");
	assert_int_equal(json.code, EXIT_USAGE);
	assert_non_null(strstr(json.out, "\"ok\": false"));
	assert_string_equal(json.err, "");
}

static void a_full_disk_is_no_success(void **state)
{
	(void)state;
	pid_t pid = fork();
	if (pid == 0) {
		char *argv[] = {(char[]){"orchestrator"}, (char[]){"version"}, NULL};
		int full = open("/dev/full", O_WRONLY), null = open("/dev/null", O_WRONLY);
		dup2(full, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		execv("/proc/self/exe", argv);
		_exit(99);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 125);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_are_aligned),
		cmocka_unit_test(a_narrow_terminal_cuts_what_gives),
		cmocka_unit_test(json_and_yaml_say_the_same),
		cmocka_unit_test(yaml_keeps_strings_strings),
		cmocka_unit_test(stages_have_their_time_and_the_total),
		cmocka_unit_test(every_outcome_has_its_exit_code_and_words),
		cmocka_unit_test(words_that_were_meant_are_found),
		cmocka_unit_test(operands_behind_the_dashes_are_told_apart),
		cmocka_unit_test(only_a_terminal_is_protected),
		cmocka_unit_test(wrong_usage_is_explained),
		cmocka_unit_test(errors_are_json_when_the_output_is),
		cmocka_unit_test(help_shows_every_command),
		cmocka_unit_test(job_files_are_checked),
		cmocka_unit_test(a_full_disk_is_no_success),
	};

	if (run_is_cli(argv))
		return cli_main(fake_commands, argc, argv);
	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, run_setup, run_teardown);
}
