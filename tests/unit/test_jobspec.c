#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "orchestrator/jobspec.h"

static void spec_freep(Job__V1__Spec **spec)
{
	job__v1__spec__free_unpacked(*spec, NULL);
}
#define _cleanup_spec_ __attribute__((cleanup(spec_freep)))

static Job__V1__Spec *must_parse(const char *text)
{
	_cleanup_error_ struct error *err = NULL;
	Job__V1__Spec *spec = jobspec_parse(text, strlen(text), "job.yaml", &err);

	if (!spec)
		fail_msg("%s\n-> %s", text, err->text);
	return spec;
}

static void expect_error(const char *text, size_t size, const char *want)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_spec_ Job__V1__Spec *spec = jobspec_parse(text, size, "job.yaml", &err);

	if (spec)
		fail_msg("%s\n-> was taken", text);
	assert_int_equal(err->code, ERR_INVALID);
	assert_string_equal(err->text, want);
}

static void a_job_with_everything(void **state)
{
	_cleanup_spec_ Job__V1__Spec *spec = must_parse("name: build-1.2_x\n"
							"image: debian\n"
							"command: [make, -j, 2, V=1, no]\n"
							"env:\n"
							"  PORT: 8080\n"
							"  X: yes\n"
							"  RATIO: 1.50\n"
							"  EMPTY: \"\"\n"
							"working_dir: /work\n"
							"user: 1000\n"
							"inputs:\n"
							"  - src: ../main.c\n"
							"    dest: /work/main.c\n"
							"  - {src: /etc/motd, dest: /tmp/motd}\n"
							"outputs:\n"
							"  - out/a.out\n"
							"  - path: /work/log\n"
							"    optional: true\n"
							"timeout: 1m30s\n"
							"stop_grace_period: 0s\n"
							"resources:\n"
							"  cpus: 2\n"
							"  memory: 1G\n"
							"  disk: 2G\n"
							"limits:\n"
							"  output: 1M\n"
							"  artifacts: 0\n"
							"priority: -7\n"
							"retry:\n"
							"  max_attempts: 3\n"
							"  on: [infra, timeout]\n"
							"  backoff: 1500ms\n"
							"ttl_after_finished: 1h\n"
							"labels:\n"
							"  team: blue\n"
							"  ticket: 42\n");

	(void)state;
	assert_string_equal(spec->name, "build-1.2_x");
	assert_string_equal(spec->image, "debian");
	assert_int_equal(spec->n_argv, 5);
	assert_string_equal(spec->argv[2], "2");
	assert_string_equal(spec->argv[4], "no");
	assert_null(spec->script);
	assert_int_equal(spec->n_env, 4);
	assert_string_equal(spec->env[0]->name, "PORT");
	assert_string_equal(spec->env[0]->value, "8080");
	assert_string_equal(spec->env[1]->value, "yes");
	assert_string_equal(spec->env[2]->value, "1.50");
	assert_string_equal(spec->env[3]->value, "");
	assert_string_equal(spec->working_dir, "/work");
	assert_string_equal(spec->user, "1000");
	assert_int_equal(spec->n_inputs, 2);
	assert_string_equal(spec->inputs[0]->src, "../main.c");
	assert_string_equal(spec->inputs[1]->dest, "/tmp/motd");
	assert_int_equal(spec->n_outputs, 2);
	assert_string_equal(spec->outputs[0]->path, "out/a.out");
	assert_false(spec->outputs[0]->has_optional);
	assert_true(spec->outputs[1]->has_optional && spec->outputs[1]->optional);
	assert_true(spec->has_timeout_ms);
	assert_int_equal(spec->timeout_ms, 90000);
	assert_true(spec->has_stop_grace_period_ms);
	assert_int_equal(spec->stop_grace_period_ms, 0);
	assert_int_equal(spec->resources->cpus, 2);
	assert_int_equal(spec->resources->memory_bytes, GIB);
	assert_int_equal(spec->resources->disk_bytes, 2 * GIB);
	assert_int_equal(spec->limits->output_bytes, MIB);
	assert_true(spec->limits->has_artifact_bytes);
	assert_int_equal(spec->limits->artifact_bytes, 0);
	assert_int_equal(spec->priority, -7);
	assert_int_equal(spec->retry->max_attempts, 3);
	assert_int_equal(spec->retry->n_on, 2);
	assert_string_equal(spec->retry->on[1], "timeout");
	assert_int_equal(spec->retry->backoff_ms, 1500);
	assert_false(spec->retry->has_max_backoff_ms);
	assert_int_equal(spec->ttl_after_finished_ms, 3600000);
	assert_int_equal(spec->n_labels, 2);
	assert_string_equal(spec->labels[1]->value, "42");
}

static void a_small_job_has_no_defaults_filled_in(void **state)
{
	_cleanup_spec_ Job__V1__Spec *spec =
		must_parse("image: debian\nrun: |\n  set -e\n  echo hi\n");
	_cleanup_spec_ Job__V1__Spec *copy = jobspec_copy(spec);

	(void)state;
	assert_string_equal(spec->script, "set -e\necho hi\n");
	assert_int_equal(spec->n_argv, 0);
	assert_null(spec->name);
	assert_false(spec->has_timeout_ms);
	assert_null(spec->resources);
	assert_ptr_not_equal(copy->script, spec->script);
	assert_string_equal(copy->script, spec->script);
}

static void a_byte_order_mark_is_passed_over(void **state)
{
	_cleanup_spec_ Job__V1__Spec *spec =
		must_parse("\xef\xbb\xbfimage: debian\r\nrun: exit 0\r\n");

	(void)state;
	assert_string_equal(spec->image, "debian");
	assert_string_equal(spec->script, "exit 0");
}

/* Lines behind "image: debian" and "run: true" in quotes, so the first of them is line 3. */
static void bad_lines(void **state)
{
	static const struct {
		const char *lines, *want;
	} cases[] = {
		{"name: Build", "3:7: name: must be of the letters a-z and digits, with . _ or - "
				"inside"},
		{"name: -x", "3:7: name: must be of the letters a-z and digits, with . _ or - "
			     "inside"},
		{"name: x.", "3:7: name: must be of the letters a-z and digits, with . _ or - "
			     "inside"},
		{"name: ''", "3:7: name: must not be empty"},
		{"name: 2024", "3:7: name: must be a text, and 2024 is a number in YAML; write "
			       "\"2024\" in quotes"},
		{"name: on", "3:7: name: must be a text, and on is a boolean in YAML; write \"on\" "
			     "in quotes"},
		{"name: a123456789b123456789c123456789d123456789e123456789f123456789g123",
			"3:7: name: is 64 bytes long, the most is 63"},
		{"command: [a]",
			"3:1: \"command\" and \"run\" exclude each other; keep one of them"},
		{"env: {1A: b}", "3:7: env[\"1A\"]: the name must be of letters, digits and _, and "
				 "not begin with a digit"},
		{"env: {A-B: b}", "3:7: env[\"A-B\"]: the name must be of letters, digits and _, "
				  "and not begin with a digit"},
		{"env: {A: ~}", "3:10: env[\"A\"]: ~ means \"no value\" in YAML; put it in quotes "
				"if the text is meant"},
		{"env: {A: b, A: c}", "3:13: duplicate key \"A\", first at line 3"},
		{"env: [A=b]",
			"3:6: env: must be a mapping of names to texts, such as {NAME: value}"},
		{"working_dir: work", "3:14: working_dir: must be an absolute path, such as "
				      "/tmp/x"},
		{"working_dir: /a/../b", "3:14: working_dir: must not have \"..\" in it"},
		{"working_dir: /a//b", "3:14: working_dir: must not have \"//\" or \".\" in it"},
		{"working_dir: /a/./b", "3:14: working_dir: must not have \"//\" or \".\" in it"},
		{"working_dir: /a/", "3:14: working_dir: must not end with \"/\""},
		{"working_dir: \"/a\\e[2J\"",
			"3:14: working_dir: must not have control characters"},
		{"working_dir: \"/a\\tb\"", "3:14: working_dir: must not have control characters"},
		{"working_dir: \"/a\\u202Eb\"",
			"3:14: working_dir: must not have control characters"},
		{"user: Root", "3:7: user: must be a user's name, of a-z, digits, _ and - with a "
			       "letter or _ first, or a user id"},
		{"user: 4294967295", "3:7: user: is too large a user id"},
		{"inputs: [a]",
			"3:10: inputs[0]: must be a mapping with the keys of an input: src, "
			"dest"},
		{"inputs: [{src: a}]", "3:10: inputs[0]: the key \"dest\" is missing"},
		{"inputs: [{src: '', dest: /a}]", "3:16: inputs[0].src: must not be empty"},
		{"inputs: [{src: a, dest: b}]", "3:25: inputs[0].dest: must be an absolute path, "
						"such as /tmp/x"},
		{"inputs: [{src: a, dest: /}]", "3:25: inputs[0].dest: must not be / itself"},
		{"inputs: [{src: a, dest: /proc}]", "3:25: inputs[0].dest: must not be in /proc"},
		{"inputs: [{src: a, dest: /sys/x}]", "3:25: inputs[0].dest: must not be in /sys"},
		{"inputs: [{src: a, dest: /dev/x}]", "3:25: inputs[0].dest: must not be in /dev"},
		{"inputs: [{src: a, dest: /..}]", "3:25: inputs[0].dest: must not have \"..\" in "
						  "it"},
		{"inputs:\n- {src: a, dest: /x}\n- {src: b, dest: /x}",
			"5:3: inputs[1]: the dest \"/x\" is there already, at line 4"},
		{"outputs: a", "3:10: outputs: must be a list, such as [/work/result.txt]"},
		{"outputs: [/]", "3:11: outputs[0].path: must name a file or a directory"},
		{"outputs: ['.']", "3:11: outputs[0].path: must name a file or a directory"},
		{"outputs: [../a]", "3:11: outputs[0].path: must not have \"..\" in it"},
		{"outputs: [./a]", "3:11: outputs[0].path: must not have \"//\" or \".\" in it"},
		{"outputs: [/proc/1/mem]", "3:11: outputs[0].path: must not be in /proc"},
		{"outputs: [a, {path: a}]",
			"3:14: outputs[1]: the path \"a\" is there already, at line 3"},
		{"outputs: [{path: a, optional: maybe}]", "3:31: outputs[0].optional: must be true "
							  "or false, not \"maybe\""},
		{"timeout: 10", "3:10: timeout: 10 has no unit; write 10s"},
		{"timeout: 0s", "3:10: timeout: 0s is too little, the least is 1ms"},
		{"timeout: 8d", "3:10: timeout: 8d is too much, the most is 7d"},
		{"stop_grace_period: 6m",
			"3:20: stop_grace_period: 6m is too much, the most is 5m"},
		{"resources: 2", "3:12: resources: must be a mapping of keys, such as {cpus: 2, "
				 "memory: 1G}"},
		{"resources: {cpus: 0}", "3:19: resources.cpus: 0 is too little, the least is 1"},
		{"retry: 3", "3:8: retry: must be a mapping of keys, such as {max_attempts: 3}"},
		{"retry: {on: [infra]}", "3:8: retry: the key \"max_attempts\" is missing"},
		{"retry: {max_attempts: 0}",
			"3:23: retry.max_attempts: 0 is too little, the least is 1"},
		{"retry: {max_attempts: 21}",
			"3:23: retry.max_attempts: 21 is too much, the most is 20"},
		{"retry: {max_attempts: 2, on: infra}",
			"3:30: retry.on: must be a list, such as [infra, agent_lost]"},
		{"retry: {max_attempts: 2, on: []}", "3:30: retry.on: must not be empty"},
		{"retry: {max_attempts: 2, on: [infra, cancelled]}",
			"3:38: retry.on[1]: a job that was cancelled is not tried again; the "
			"classes are "
			"infra, boot_failed, agent_lost, "
			"guest_panic, oom_host, oom_guest, timeout, failed"},
		{"retry: {max_attempts: 2, on: [sometimes]}",
			"3:31: retry.on[0]: must be one of "
			"infra, boot_failed, agent_lost, "
			"guest_panic, oom_host, oom_guest, timeout, failed"},
		{"retry: {max_attempts: 2, on: [infra, infra]}",
			"1:1: retry.on: \"infra\" is there twice"},
		{"retry: {max_attempts: 2, backoff: 5}",
			"3:35: retry.backoff: 5 has no unit; write 5s"},
		{"retry: {max_attempts: 2, backoff: 25h}",
			"3:35: retry.backoff: 25h is too much, the most is 1d"},
		{"retry: {max_attempts: 2, backoff: 2s, max_backoff: 1s}",
			"1:1: retry.max_backoff: is less than retry.backoff"},
		{"retry: {max_attempts: 2, tries: 1}",
			"3:26: unknown key \"tries\"; the keys of a retry are: max_attempts, on, "
			"backoff, max_backoff"},
		{"priority: 101", "3:11: priority: 101 is out of range: from -100 to 100"},
		{"priority: -101", "3:11: priority: -101 is out of range: from -100 to 100"},
		{"priority: high",
			"3:11: priority: must be a whole number from -100 to 100, not \"high\""},
		{"priority: 1.5",
			"3:11: priority: must be a whole number from -100 to 100, not \"1.5\""},
		{"priority: '5'", "3:11: priority: must be a number without quotes"},
		{"resources: {cpus: 65}", "3:19: resources.cpus: 65 is too much, the most is 64"},
		{"resources: {memory: 1}",
			"3:21: resources.memory: 1 is too little, the least is 64M"},
		{"resources: {memory: 512}", "3:21: resources.memory: 512 (bytes) is too little, "
					     "the least is 64M; did you mean 512M?"},
		{"resources: {memory: 257G}",
			"3:21: resources.memory: 257G is too much, the most is 256G"},
		{"resources: {disk: 1M}",
			"3:19: resources.disk: 1M is too little, the least is 16M"},
		{"resources: {mem: 1G}", "3:13: unknown key \"mem\"; did you mean \"memory\"?"},
		{"limits: {output: 2G}", "3:18: limits.output: 2G is too much, the most is 1G"},
		{"limits: {artifacts: 65G}",
			"3:21: limits.artifacts: 65G is too much, the most is 64G"},
		{"labels: {Team: a}", "3:10: labels[\"Team\"]: the name must be of the letters a-z "
				      "and digits, with . _ or - inside"},
		{"labels: {t: \"a\\nb\"}", "3:13: labels[\"t\"]: must not have control characters"},
		{"image: a", "3:1: duplicate key \"image\", first at line 1"},
		{"comand: [a]", "3:1: unknown key \"comand\"; did you mean \"command\"?"},
		{"timout: 1m", "3:1: unknown key \"timout\"; did you mean \"timeout\"?"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *text =
			str_printf("image: debian\nrun: 'true'\n%s\n", cases[i].lines);
		_cleanup_free_ char *want = str_printf("job.yaml:%s", cases[i].want);
		expect_error(text, strlen(text), want);
	}
}

static void bad_files(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{"", "job.yaml:1:1: the key \"image\" is missing\n"
		     "job.yaml:1:1: the key \"command\" or \"run\" is missing"},
		{"# nothing\n---\n...\n", "job.yaml:1:1: the key \"image\" is missing\n"
					  "job.yaml:1:1: the key \"command\" or \"run\" is "
					  "missing"},
		{"hello", "job.yaml:1:1: must be a mapping with the keys of a job: name, image, "
			  "command, run, env, working_dir, user, inputs, outputs, timeout, "
			  "stop_grace_period, resources, limits, retry, priority, "
			  "ttl_after_finished, "
			  "labels"},
		{"image: debian\ncommand: python3 x.py\n",
			"job.yaml:2:10: command: must be a list, such as [python3, -c, "
			"\"print(6*7)\"]; a line for the shell goes under run"},
		{"image: debian\ncommand: []\n", "job.yaml:2:10: command: must not be empty"},
		{"image: debian\ncommand: ['', a]\n",
			"job.yaml:1:1: command[0]: must not be empty"},
		{"image: debian\nrun: yes\n",
			"job.yaml:2:6: run: must be a text, and yes is a boolean in YAML; write "
			"\"yes\" in quotes"},
		{"image: debian\nrun: [a]\n",
			"job.yaml:2:6: run: must be a text, the script; a program and its "
			"arguments as a list go under command"},
		{"image: debian\nrun:\n", "job.yaml:2:5: run: has no value; give one or leave the "
					  "key out"},
		{"image: debian\nrun: ' '\n", "job.yaml:2:6: run: must not be empty"},
		{"image: debian\n\trun: x\n",
			"job.yaml:2:1: a tab cannot indent in YAML; use spaces"},
		{"image: \"debian\nrun: x\n",
			"job.yaml:3:1: found unexpected end of stream (while scanning a quoted "
			"scalar that began at line 1); a quote is not closed"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		expect_error(cases[i].text, strlen(cases[i].text), cases[i].want);
}

static void five_mistakes_give_five_lines(void **state)
{
	static const char text[] = "name: My Job\n"
				   "image: debian\n"
				   "comand: [python3, -c, 'print(1)']\n"
				   "run: echo\n"
				   "env:\n"
				   "  GREETING: [hello]\n"
				   "timeout: 10\n"
				   "resources:\n"
				   "  memory: 512\n";

	(void)state;
	expect_error(text, strlen(text),
		"job.yaml:1:7: name: must be of the letters a-z and digits, with . _ or - inside\n"
		"job.yaml:3:1: unknown key \"comand\"; did you mean \"command\"?\n"
		"job.yaml:6:13: env[\"GREETING\"]: must be a text\n"
		"job.yaml:7:10: timeout: 10 has no unit; write 10s\n"
		"job.yaml:9:11: resources.memory: 512 (bytes) is too little, the least is 64M; did "
		"you mean 512M?");
}

/* A list of n entries under key. */
static char *many(const char *key, const char *entry_format, size_t n, bool map)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	fprintf(out, "image: debian\n%s%s:\n", str_eq(key, "command") ? "" : "run: x\n", key);
	for (size_t i = 0; i < n; i++) {
		char number[24];
		snprintf(number, sizeof(number), "%zu", i);
		fputs(map ? " " : " - ", out);
		for (const char *s = entry_format; *s; s++) {
			if (*s == '#')
				fputs(number, out);
			else
				fputc(*s, out);
		}
		fputc('\n', out);
	}
	fclose(out);
	return text;
}

static void counts_are_capped(void **state)
{
	static const struct {
		const char *key, *entry;
		size_t most;
		bool map;
		const char *place;
	} cases[] = {
		{"command", "a#", LIMIT_ARGS, false, "3:2: command"},
		{"env", "A#: b", LIMIT_ENV, true, "4:2: env"},
		{"labels", "a#: b", LIMIT_LABELS, true, "4:2: labels"},
		{"inputs", "{src: a, dest: /x#}", LIMIT_FILES, false, "4:2: inputs"},
		{"outputs", "x#", LIMIT_FILES, false, "4:2: outputs"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *most =
			many(cases[i].key, cases[i].entry, cases[i].most, cases[i].map);
		_cleanup_free_ char *more =
			many(cases[i].key, cases[i].entry, cases[i].most + 1, cases[i].map);
		_cleanup_free_ char *want =
			str_printf("job.yaml:%s: has %zu entries, the most is %zu", cases[i].place,
				cases[i].most + 1, cases[i].most);
		_cleanup_spec_ Job__V1__Spec *spec = must_parse(most);
		expect_error(more, strlen(more), want);
	}
}

static char *job_with_script(size_t size)
{
	static const char head[] = "image: debian\nrun: ";
	char *text = xmalloc(sizeof(head) + size);

	memcpy(text, head, sizeof(head) - 1);
	memset(text + sizeof(head) - 1, 'x', size);
	text[sizeof(head) - 1 + size] = 0;
	return text;
}

static void sizes_are_capped(void **state)
{
	_cleanup_free_ char *most = job_with_script(LIMIT_SCRIPT);
	_cleanup_free_ char *more = job_with_script(LIMIT_SCRIPT + 1);
	_cleanup_free_ char *huge = job_with_script(LIMIT_JOB_FILE);
	_cleanup_spec_ Job__V1__Spec *spec = must_parse(most);

	(void)state;
	expect_error(
		more, strlen(more), "job.yaml:2:6: run: is 49153 bytes long, the most is 49152");
	expect_error(
		huge, strlen(huge), "job.yaml:1:1: larger than 65536 bytes, the most for a file");
}

/* What the file's reader would refuse must be refused as a message too. */
static void messages_obey_the_same_rules(void **state)
{
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	Job__V1__EnvVar a = JOB__V1__ENV_VAR__INIT, b = JOB__V1__ENV_VAR__INIT;
	Job__V1__EnvVar *env[LIMIT_ENV + 1] = {&a, &b};
	Job__V1__Label label = JOB__V1__LABEL__INIT, *labels[] = {&label};
	Job__V1__Input input = JOB__V1__INPUT__INIT, *inputs[] = {&input, &input};
	Job__V1__Output output = JOB__V1__OUTPUT__INIT, *outputs[] = {&output};
	Job__V1__Resources resources = JOB__V1__RESOURCES__INIT;
	char image[] = "debian", bad_utf8[] = "\xff", arg[] = "true", empty[] = "", A[] = "A";
	char dest[] = "/x", proc[] = "/proc/1", upper[] = "Team", relative[] = "x";
	char *argv[] = {arg, bad_utf8};
	_cleanup_error_ struct error *err = NULL;

#define REFUSED(want)                                                                              \
	do {                                                                                       \
		assert_int_equal(jobspec_verify(&spec, &err), -1);                                 \
		assert_int_equal(err->code, ERR_INVALID);                                          \
		assert_string_equal(err->text, want);                                              \
	} while (0)
#define ACCEPTED() assert_int_equal(jobspec_verify(&spec, &err), 0)

	(void)state;
	spec.image = image;
	REFUSED("exactly one of command and run must be given");
	spec.argv = argv;
	spec.n_argv = 1;
	ACCEPTED();
	spec.script = arg;
	REFUSED("exactly one of command and run must be given");
	spec.script = NULL;
	spec.n_argv = 2;
	REFUSED("command[1]: must be valid UTF-8");
	argv[1] = argv[0] = empty;
	REFUSED("command[0]: must not be empty");
	argv[0] = arg;
	spec.image = upper;
	REFUSED("image: must be of the letters a-z and digits, with . _ or - inside");
	spec.image = image;
	a.name = b.name = A;
	a.value = b.value = arg;
	spec.env = env;
	spec.n_env = 2;
	REFUSED("env: \"A\" is there twice");
	b.value = bad_utf8;
	REFUSED("env[1]: must be valid UTF-8");
	for (size_t i = 0; i < ARRAY_SIZE(env); i++)
		env[i] = &a;
	spec.n_env = ARRAY_SIZE(env);
	REFUSED("env: has 513 entries, the most is 512");
	spec.n_env = 1;
	ACCEPTED();
	label.name = upper;
	label.value = arg;
	spec.labels = labels;
	spec.n_labels = 1;
	REFUSED("labels[0].name: must be of the letters a-z and digits, with . _ or - inside");
	spec.n_labels = 0;
	input.src = arg;
	input.dest = dest;
	spec.inputs = inputs;
	spec.n_inputs = 2;
	REFUSED("inputs: \"/x\" is there twice");
	spec.n_inputs = 1;
	ACCEPTED();
	input.dest = proc;
	REFUSED("inputs[0].dest: must not be in /proc");
	spec.n_inputs = 0;
	output.path = proc;
	spec.outputs = outputs;
	spec.n_outputs = 1;
	REFUSED("outputs[0].path: must not be in /proc");
	spec.n_outputs = 0;
	spec.working_dir = relative;
	REFUSED("working_dir: must be an absolute path, such as /tmp/x");
	spec.working_dir = NULL;
	spec.has_timeout_ms = 1;
	spec.timeout_ms = LIMIT_TIMEOUT_MS + 1000;
	REFUSED("timeout: 604801s is too much, the most is 7d");
	spec.timeout_ms = 0;
	REFUSED("timeout: 0s is too little, the least is 1ms");
	spec.has_timeout_ms = 0;
	resources.has_memory_bytes = 1;
	resources.memory_bytes = MIB;
	spec.resources = &resources;
	REFUSED("resources.memory: 1M is too little, the least is 64M");
	resources.memory_bytes = 64 * MIB;
	ACCEPTED();
}

static void a_message_is_capped_as_a_whole(void **state)
{
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	char image[] = "debian";
	_cleanup_free_ char *arg = xcalloc(1, LIMIT_SCRIPT + 1);
	char *argv[] = {arg, arg, arg, arg, arg, arg};
	_cleanup_error_ struct error *err = NULL;

	(void)state;
	memset(arg, 'x', LIMIT_SCRIPT);
	spec.image = image;
	spec.argv = argv;
	spec.n_argv = 5;
	assert_int_equal(jobspec_verify(&spec, &err), 0);
	spec.n_argv = 6;
	assert_int_equal(jobspec_verify(&spec, &err), -1);
	assert_non_null(strstr(err->text, "bytes large in all, the most is 262144"));
}

/* As a client of another version might send it; at the top, within, and in a list. */
static void a_message_with_unknown_fields_is_refused(void **state)
{
	static const char *const packed[] = {
		"\x12\x01"
		"d\x1a\x01x\xf8\x07\x01",
		"\x12\x01"
		"d\x1a\x01x\x6a\x03\xf8\x07\x01",
		"\x12\x01"
		"d\x1a\x01x\x2a\x09\x0a\x01"
		"A\x12\x01"
		"b\xf8\x07\x01",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(packed); i++) {
		_cleanup_error_ struct error *err = NULL;
		Job__V1__Spec *spec =
			job__v1__spec__unpack(NULL, strlen(packed[i]), (const uint8_t *)packed[i]);
		assert_non_null(spec);
		assert_int_equal(jobspec_verify(spec, &err), -1);
		assert_string_equal(
			err->text, "the job has a field that this version does not know");
		job__v1__spec__free_unpacked(spec, NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_job_with_everything),
		cmocka_unit_test(a_small_job_has_no_defaults_filled_in),
		cmocka_unit_test(a_byte_order_mark_is_passed_over),
		cmocka_unit_test(bad_lines),
		cmocka_unit_test(bad_files),
		cmocka_unit_test(five_mistakes_give_five_lines),
		cmocka_unit_test(counts_are_capped),
		cmocka_unit_test(sizes_are_capped),
		cmocka_unit_test(messages_obey_the_same_rules),
		cmocka_unit_test(a_message_is_capped_as_a_whole),
		cmocka_unit_test(a_message_with_unknown_fields_is_refused),
	};
	return cmocka_run_group_tests_name("jobspec", tests, NULL, NULL);
}
