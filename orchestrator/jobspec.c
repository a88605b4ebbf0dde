/* The keys of job.yaml, and the check of a whole spec. The rules of single fields stand in
 * jobspec_rules.c; the table below puts them in reach of the reader, jobspec_verify() applies them
 * to what did not come from a file. */
#include "orchestrator/jobspec.h"

#include <string.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/jobspec_rules.h"
#include "orchestrator/retry.h"

/* clang-format off */
#define AT(type, member)    YAML_AT(Job__V1__##type, member)
#define HAS(type, member)   YAML_HAS(Job__V1__##type, member)
#define COUNT(type, member) YAML_COUNT(Job__V1__##type, member)
/* clang-format on */

static const Job__V1__EnvVar env_initial = JOB__V1__ENV_VAR__INIT;
static const struct yaml_key env_keys[] = {
	{"name", YT_STRING, AT(EnvVar, name), .check = rule_env_name},
	{"value", YT_STRING, AT(EnvVar, value), .as_written = true, .check = rule_env_value},
};
static const struct yaml_table env_table = {
	"variable", sizeof(env_initial), YAML_KEYS(env_keys), .initial = &env_initial};

static const Job__V1__Label label_initial = JOB__V1__LABEL__INIT;
static const struct yaml_key label_keys[] = {
	{"name", YT_STRING, AT(Label, name), .check = rule_label_name},
	{"value", YT_STRING, AT(Label, value), .as_written = true, .check = rule_label_value},
};
static const struct yaml_table label_table = {
	"label", sizeof(label_initial), YAML_KEYS(label_keys), .initial = &label_initial};

static const Job__V1__Input input_initial = JOB__V1__INPUT__INIT;
static const struct yaml_key input_keys[] = {
	{"src", YT_STRING, AT(Input, src), .required = true, .check = rule_input_src},
	{"dest", YT_STRING, AT(Input, dest), .required = true, .check = rule_input_dest},
};
static const struct yaml_table input_table = {
	"input", sizeof(input_initial), YAML_KEYS(input_keys), .initial = &input_initial};

static const Job__V1__Output output_initial = JOB__V1__OUTPUT__INIT;
static const struct yaml_key output_keys[] = {
	{"path", YT_STRING, AT(Output, path), .required = true, .check = rule_output_path},
	{"optional", YT_BOOL, AT(Output, optional), HAS(Output, has_optional)},
};
static const struct yaml_table output_table = {"output", sizeof(output_initial),
	YAML_KEYS(output_keys), .initial = &output_initial, .scalar = "path"};

static const Job__V1__Resources resources_initial = JOB__V1__RESOURCES__INIT;
static const struct yaml_key resources_keys[] = {
	{"cpus", YT_UINT, AT(Resources, cpus), HAS(Resources, has_cpus), .min = 1,
		.max = LIMIT_CPUS},
	{"memory", YT_SIZE, AT(Resources, memory_bytes), HAS(Resources, has_memory_bytes),
		.min = LIMIT_MEMORY_LEAST, .max = LIMIT_MEMORY},
	{"disk", YT_SIZE, AT(Resources, disk_bytes), HAS(Resources, has_disk_bytes),
		.min = LIMIT_DISK_LEAST, .max = LIMIT_DISK},
};
static const struct yaml_table resources_table = {"resources", sizeof(resources_initial),
	YAML_KEYS(resources_keys), .initial = &resources_initial};

static const Job__V1__Limits limits_initial = JOB__V1__LIMITS__INIT;
static const struct yaml_key limits_keys[] = {
	{"output", YT_SIZE, AT(Limits, output_bytes), HAS(Limits, has_output_bytes),
		.max = LIMIT_OUTPUT},
	{"artifacts", YT_SIZE, AT(Limits, artifact_bytes), HAS(Limits, has_artifact_bytes),
		.max = LIMIT_ARTIFACTS},
};
static const struct yaml_table limits_table = {
	"limits", sizeof(limits_initial), YAML_KEYS(limits_keys), .initial = &limits_initial};

static const Job__V1__Retry retry_initial = JOB__V1__RETRY__INIT;
static const struct yaml_key retry_keys[] = {
	{"max_attempts", YT_UINT, AT(Retry, max_attempts), HAS(Retry, has_max_attempts),
		.required = true, .min = 1, .max = LIMIT_ATTEMPTS},
	{"on", YT_STRINGS, AT(Retry, on), COUNT(Retry, n_on), .min = 1, .max = RETRY_CLASS_COUNT,
		.check = retry_class_problem, .hint = "such as [infra, agent_lost]"},
	{"backoff", YT_DURATION, AT(Retry, backoff_ms), HAS(Retry, has_backoff_ms),
		.max = LIMIT_BACKOFF_MS},
	{"max_backoff", YT_DURATION, AT(Retry, max_backoff_ms), HAS(Retry, has_max_backoff_ms),
		.max = LIMIT_BACKOFF_MS},
};
static const struct yaml_table retry_table = {
	"retry", sizeof(retry_initial), YAML_KEYS(retry_keys), .initial = &retry_initial};

static const struct yaml_key job_keys[] = {
	{"name", YT_STRING, AT(Spec, name), .check = rule_name},
	{"image", YT_STRING, AT(Spec, image), .required = true, .check = rule_name},
	{"command", YT_STRINGS, AT(Spec, argv), COUNT(Spec, n_argv), .as_written = true, .min = 1,
		.max = LIMIT_ARGS, .check = rule_argument,
		.hint = "such as [python3, -c, \"print(6*7)\"]; a line for the shell goes under "
			"run"},
	{"run", YT_STRING, AT(Spec, script), .check = rule_script,
		.hint = "the script; a program and its arguments as a list go under command"},
	{"env", YT_MAP, AT(Spec, env), COUNT(Spec, n_env), .max = LIMIT_ENV, .table = &env_table,
		.hint = "such as {NAME: value}"},
	{"working_dir", YT_STRING, AT(Spec, working_dir), .check = rule_working_dir},
	{"user", YT_STRING, AT(Spec, user), .as_written = true, .check = rule_user},
	{"inputs", YT_TABLES, AT(Spec, inputs), COUNT(Spec, n_inputs), .max = LIMIT_FILES,
		.table = &input_table, .unique = "dest",
		.hint = "such as [{src: main.c, dest: /work/main.c}]"},
	{"outputs", YT_TABLES, AT(Spec, outputs), COUNT(Spec, n_outputs), .max = LIMIT_FILES,
		.table = &output_table, .unique = "path", .hint = "such as [/work/result.txt]"},
	{"timeout", YT_DURATION, AT(Spec, timeout_ms), HAS(Spec, has_timeout_ms), .min = 1,
		.max = LIMIT_TIMEOUT_MS},
	{"stop_grace_period", YT_DURATION, AT(Spec, stop_grace_period_ms),
		HAS(Spec, has_stop_grace_period_ms), .max = LIMIT_GRACE_MS},
	{"resources", YT_TABLE, AT(Spec, resources), .table = &resources_table,
		.hint = "such as {cpus: 2, memory: 1G}"},
	{"limits", YT_TABLE, AT(Spec, limits), .table = &limits_table,
		.hint = "such as {output: 16M}"},
	{"retry", YT_TABLE, AT(Spec, retry), .table = &retry_table,
		.hint = "such as {max_attempts: 3}"},
	{"priority", YT_INT, AT(Spec, priority), HAS(Spec, has_priority), .max = LIMIT_PRIORITY},
	{"ttl_after_finished", YT_DURATION, AT(Spec, ttl_after_finished_ms),
		HAS(Spec, has_ttl_after_finished_ms), .max = LIMIT_TTL_MS},
	{"labels", YT_MAP, AT(Spec, labels), COUNT(Spec, n_labels), .max = LIMIT_LABELS,
		.table = &label_table, .hint = "such as {team: blue}"},
};
static const char *const command_or_run[] = {"command", "run", NULL};
const struct yaml_table jobspec_table = {
	"job", sizeof(Job__V1__Spec), YAML_KEYS(job_keys), .one_of = command_or_run};

Job__V1__Spec *jobspec_parse(const char *text, size_t size, const char *name, struct error **err)
{
	static const Job__V1__Spec initial = JOB__V1__SPEC__INIT;
	Job__V1__Spec *spec = xmemdup(&initial, sizeof(initial));

	if (yaml_table_read(&jobspec_table, spec, text, size, name, err) == 0) {
		/* What concerns the whole of it, and has no line. */
		if (jobspec_verify(spec, err) == 0)
			return spec;
		_cleanup_free_ char *shown = str_escape(name, strlen(name), false);
		error_wrap(err, "%s:1:1", shown);
	}
	job__v1__spec__free_unpacked(spec, NULL);
	return NULL;
}

/* A spec that came as a message. Texts are C strings, lists have their counts; nothing else is
 * promised. ------------------------------------------------------------------------------------
 */

static int check(struct error **err, char *problem, const char *where)
{
	if (!problem)
		return 0;
	error_set(err, ERR_INVALID, "%s: %s", where, problem);
	free(problem);
	return -1;
}

static int check_item(
	struct error **err, char *problem, const char *list, size_t i, const char *field)
{
	_cleanup_free_ char *where = str_printf("%s[%zu]%s", list, i, field);

	return check(err, problem, where);
}

static int check_count(struct error **err, size_t n, size_t most, const char *where)
{
	if (n <= most)
		return 0;
	return error_set(err, ERR_INVALID, "%s: has %zu entries, the most is %zu", where, n, most);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* texts are sorted here. */
static int check_distinct(struct error **err, const char **texts, size_t n, const char *where)
{
	qsort(texts, n, sizeof(*texts), by_text);
	for (size_t i = 1; i < n; i++) {
		if (!str_eq(texts[i - 1], texts[i]))
			continue;
		_cleanup_free_ char *shown = str_escape(texts[i], strlen(texts[i]), false);
		return error_set(err, ERR_INVALID, "%s: \"%s\" is there twice", where, shown);
	}
	return 0;
}

static int verify_program(const Job__V1__Spec *spec, struct error **err)
{
	if (!spec->n_argv == !spec->script)
		return error_set(err, ERR_INVALID, "exactly one of command and run must be given");
	if (check_count(err, spec->n_argv, LIMIT_ARGS, "command") < 0)
		return -1;
	for (size_t i = 0; i < spec->n_argv; i++)
		if (check_item(err, rule_argument(spec->argv[i]), "command", i, "") < 0)
			return -1;
	if (spec->n_argv && !*spec->argv[0])
		return error_set(err, ERR_INVALID, "command[0]: must not be empty");
	return spec->script ? check(err, rule_script(spec->script), "run") : 0;
}

static int verify_env(const Job__V1__Spec *spec, struct error **err)
{
	const char *names[LIMIT_ENV];

	if (check_count(err, spec->n_env, LIMIT_ENV, "env") < 0)
		return -1;
	for (size_t i = 0; i < spec->n_env; i++) {
		names[i] = spec->env[i]->name;
		if (check_item(err, rule_env_name(names[i]), "env", i, ".name") < 0 ||
			check_item(err, rule_env_value(spec->env[i]->value), "env", i, "") < 0)
			return -1;
	}
	return check_distinct(err, names, spec->n_env, "env");
}

static int verify_labels(const Job__V1__Spec *spec, struct error **err)
{
	const char *names[LIMIT_LABELS];

	if (check_count(err, spec->n_labels, LIMIT_LABELS, "labels") < 0)
		return -1;
	for (size_t i = 0; i < spec->n_labels; i++) {
		names[i] = spec->labels[i]->name;
		if (check_item(err, rule_label_name(names[i]), "labels", i, ".name") < 0 ||
			check_item(err, rule_label_value(spec->labels[i]->value), "labels", i, "") <
				0)
			return -1;
	}
	return check_distinct(err, names, spec->n_labels, "labels");
}

static int verify_files(const Job__V1__Spec *spec, struct error **err)
{
	const char *names[LIMIT_FILES];

	if (check_count(err, spec->n_inputs, LIMIT_FILES, "inputs") < 0 ||
		check_count(err, spec->n_outputs, LIMIT_FILES, "outputs") < 0)
		return -1;
	for (size_t i = 0; i < spec->n_inputs; i++) {
		const Job__V1__Input *input = spec->inputs[i];
		names[i] = input->dest;
		if (check_item(err, rule_input_src(input->src), "inputs", i, ".src") < 0 ||
			check_item(err, rule_input_dest(input->dest), "inputs", i, ".dest") < 0)
			return -1;
	}
	if (check_distinct(err, names, spec->n_inputs, "inputs") < 0)
		return -1;
	for (size_t i = 0; i < spec->n_outputs; i++) {
		names[i] = spec->outputs[i]->path;
		if (check_item(err, rule_output_path(names[i]), "outputs", i, ".path") < 0)
			return -1;
	}
	return check_distinct(err, names, spec->n_outputs, "outputs");
}

/* The ranges stand in the table; the values are looked up by its offsets. */
static int verify_numbers(
	const struct yaml_table *table, const void *message, const char *prefix, struct error **err)
{
	for (size_t i = 0; i < table->n_keys; i++) {
		const struct yaml_key *key = &table->keys[i];
		_cleanup_free_ char *where = str_printf("%s%s", prefix, key->name);
		protobuf_c_boolean has;
		if (key->type != YT_UINT && key->type != YT_INT && key->type != YT_SIZE &&
			key->type != YT_DURATION)
			continue;
		memcpy(&has, (const char *)message + key->has, sizeof(has));
		if (has && check(err, yaml_key_range_problem(key, message), where) < 0)
			return -1;
	}
	return 0;
}

static int verify_retry(const Job__V1__Retry *retry, struct error **err)
{
	const char *names[RETRY_CLASS_COUNT];

	if (!retry->has_max_attempts)
		return error_set(err, ERR_INVALID, "retry: the key \"max_attempts\" is missing");
	if (verify_numbers(&retry_table, retry, "retry.", err) < 0 ||
		check_count(err, retry->n_on, RETRY_CLASS_COUNT, "retry.on") < 0)
		return -1;
	for (size_t i = 0; i < retry->n_on; i++) {
		names[i] = retry->on[i];
		if (check_item(err, retry_class_problem(names[i]), "retry.on", i, "") < 0)
			return -1;
	}
	if (retry->has_backoff_ms && retry->has_max_backoff_ms &&
		retry->max_backoff_ms < retry->backoff_ms)
		return error_set(err, ERR_INVALID, "retry.max_backoff: is less than retry.backoff");
	return check_distinct(err, names, retry->n_on, "retry.on");
}

/* A field that this version does not know, in the message or in one within it. It could not be kept
 * to the letter either: protobuf-c takes field numbers that it refuses when they come back. */
static bool has_unknown_field(const ProtobufCMessage *message)
{
	const ProtobufCMessageDescriptor *type = message->descriptor;

	if (message->n_unknown_fields)
		return true;
	for (unsigned i = 0; i < type->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &type->fields[i];
		const char *at = (const char *)message + field->offset;
		const void *one;
		size_t n = 1;

		if (field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		memcpy(&one, at, sizeof(one));
		const void *const *list = &one;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			memcpy(&n, (const char *)message + field->quantifier_offset, sizeof(n));
			list = one;
		}
		for (size_t k = 0; k < n; k++)
			if (list[k] && has_unknown_field(list[k]))
				return true;
	}
	return false;
}

int jobspec_verify(const Job__V1__Spec *spec, struct error **err)
{
	size_t size = job__v1__spec__get_packed_size(spec);

	if (size > LIMIT_SPEC)
		return error_set(err, ERR_INVALID,
			"the job is %zu bytes large in all, the most is %llu", size,
			(unsigned long long)LIMIT_SPEC);
	if (has_unknown_field(&spec->base))
		return error_set(
			err, ERR_INVALID, "the job has a field that this version does not know");
	if ((spec->name && check(err, rule_name(spec->name), "name") < 0) ||
		check(err, rule_name(spec->image), "image") < 0 || verify_program(spec, err) < 0 ||
		verify_env(spec, err) < 0 || verify_labels(spec, err) < 0 ||
		(spec->working_dir &&
			check(err, rule_working_dir(spec->working_dir), "working_dir") < 0) ||
		(spec->user && check(err, rule_user(spec->user), "user") < 0) ||
		verify_files(spec, err) < 0 || verify_numbers(&jobspec_table, spec, "", err) < 0)
		return -1;
	if (spec->resources &&
		verify_numbers(&resources_table, spec->resources, "resources.", err) < 0)
		return -1;
	if (spec->limits && verify_numbers(&limits_table, spec->limits, "limits.", err) < 0)
		return -1;
	return spec->retry ? verify_retry(spec->retry, err) : 0;
}

Job__V1__Spec *jobspec_copy(const Job__V1__Spec *spec)
{
	size_t size = job__v1__spec__get_packed_size(spec);
	_cleanup_free_ uint8_t *packed = xmalloc(size);

	job__v1__spec__pack(spec, packed);
	Job__V1__Spec *copy = job__v1__spec__unpack(NULL, size, packed);
	/* What was packed here unpacks, unless memory is out. */
	if (!copy)
		abort();
	return copy;
}
