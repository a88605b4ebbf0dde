#include "orchestrator/cli/spec_options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/util.h"
#include "orchestrator/jobspec.h"

static struct job_files *files_new(Job__V1__Spec *spec, const char *name)
{
	struct job_files *files = xcalloc(1, sizeof(*files));

	files->spec = spec;
	files->name = xstrdup(name);
	files->base_fd = -1;
	return files;
}

/* The directory of the job file; of stdin and of options it is the current one. */
static int open_base(struct job_files *files, const char *path, struct error **err)
{
	const char *slash = path ? strrchr(path, '/') : NULL;
	_cleanup_free_ char *dir =
		slash ? xstrndup(path, slash == path ? 1 : (size_t)(slash - path)) : xstrdup(".");

	files->base_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return files->base_fd < 0 ? error_errno(err, errno, "%s", dir) : 0;
}

static struct job_files *files_from_text(
	const char *text, size_t size, const char *path, struct error **err)
{
	Job__V1__Spec *spec = jobspec_parse(text, size, path, err);

	if (!spec)
		return NULL;
	_cleanup_job_files_ struct job_files *files = files_new(spec, path);
	if (open_base(files, str_eq(path, "-") ? NULL : path, err) < 0)
		return NULL;
	return steal_ptr(files);
}

/* A job file, "-" is stdin; without verification of its inputs. */
static struct job_files *spec_from_file(const char *path, struct error **err)
{
	_cleanup_job_source_ struct job_source *source = job_source_read(path, err);

	return source ? files_from_text(source->text, source->size, path, err) : NULL;
}

struct job_files *spec_from_document(const struct job_source *source, size_t i, struct error **err)
{
	if (source->n <= 1)
		return files_from_text(source->text, source->size, source->name, err);
	_cleanup_free_ char *text = job_source_document(source, i);
	return files_from_text(text, strlen(text), source->name, err);
}

static void set_string(char **field, const char *value)
{
	if (!value)
		return;
	free(*field);
	*field = xstrdup(value);
}

/* One more element at the end of a repeated field. */
#define APPEND(array, n, item)                                                                     \
	do {                                                                                       \
		(array) = xreallocarray(array, (n) + 1, sizeof(*(array)));                         \
		(array)[(n)++] = (item);                                                           \
	} while (0)

int spec_split_pair(const char *pair, char **ret_name, char **ret_value, struct error **err)
{
	const char *equals = strchr(pair, '=');

	if (!equals || equals == pair)
		return error_set(err, ERR_INVALID, "'%s' is not of the form NAME=VALUE", pair);
	*ret_name = xstrndup(pair, (size_t)(equals - pair));
	*ret_value = xstrdup(equals + 1);
	return 0;
}

static int add_env(Job__V1__Spec *spec, const char *pair, struct error **err)
{
	_cleanup_free_ char *name = NULL, *value = NULL;

	if (*pair && !strchr(pair, '=')) {
		if (!getenv(pair))
			return error_set(err, ERR_INVALID,
				"--env %s: no such variable here; give it as %s=VALUE", pair, pair);
		name = xstrdup(pair);
		value = xstrdup(getenv(pair));
	} else if (spec_split_pair(pair, &name, &value, err) < 0) {
		return error_wrap(err, "--env");
	}
	for (size_t i = 0; i < spec->n_env; i++) {
		if (str_eq(spec->env[i]->name, name)) {
			set_string(&spec->env[i]->value, value);
			return 0;
		}
	}
	Job__V1__EnvVar *env = xmalloc(sizeof(*env));
	job__v1__env_var__init(env);
	env->name = steal_ptr(name);
	env->value = steal_ptr(value);
	APPEND(spec->env, spec->n_env, env);
	return 0;
}

static int add_label(Job__V1__Spec *spec, const char *pair, struct error **err)
{
	_cleanup_free_ char *name = NULL, *value = NULL;

	if (spec_split_pair(pair, &name, &value, err) < 0)
		return error_wrap(err, "--label");
	for (size_t i = 0; i < spec->n_labels; i++) {
		if (str_eq(spec->labels[i]->name, name)) {
			set_string(&spec->labels[i]->value, value);
			return 0;
		}
	}
	Job__V1__Label *label = xmalloc(sizeof(*label));
	job__v1__label__init(label);
	label->name = steal_ptr(name);
	label->value = steal_ptr(value);
	APPEND(spec->labels, spec->n_labels, label);
	return 0;
}

/* The last ":/" parts them, so SRC may have colons. SRC is relative to where the command runs, not
 * to the job file. */
static int add_input(Job__V1__Spec *spec, const char *pair, struct error **err)
{
	const char *colon = NULL;

	for (const char *p = pair; (p = strstr(p, ":/")); p++)
		colon = p;
	if (!colon || colon == pair)
		return error_set(err, ERR_INVALID,
			"--input '%s': is not of the form SRC:/ABSOLUTE/DEST", pair);
	_cleanup_free_ char *cwd = *pair == '/' ? xstrdup("") : getcwd(NULL, 0);
	if (!cwd)
		return error_errno(err, errno, "the current directory");
	Job__V1__Input *input = xmalloc(sizeof(*input));
	job__v1__input__init(input);
	input->src = str_printf("%s%s%.*s", cwd, *cwd ? "/" : "", (int)(colon - pair), pair);
	input->dest = xstrdup(colon + 1);
	APPEND(spec->inputs, spec->n_inputs, input);
	return 0;
}

static int add_output(Job__V1__Spec *spec, const char *path, struct error **err)
{
	if (!*path)
		return error_set(err, ERR_INVALID, "--output is empty");
	Job__V1__Output *output = xmalloc(sizeof(*output));
	job__v1__output__init(output);
	output->path = xstrdup(path);
	APPEND(spec->outputs, spec->n_outputs, output);
	return 0;
}

static int each(const struct cli *cli, const char *option, Job__V1__Spec *spec,
	int (*add)(Job__V1__Spec *, const char *, struct error **), struct error **err)
{
	const char *value;

	for (size_t i = 0; (value = cli_value_nth(cli, option, i)); i++)
		if (add(spec, value, err) < 0)
			return -1;
	return 0;
}

static int size_option(const struct cli *cli, const char *option, protobuf_c_boolean *has,
	uint64_t *value, struct error **err)
{
	const char *text = cli_value(cli, option);

	if (!text)
		return 0;
	if (parse_size(text, value) < 0)
		return error_set(err, ERR_INVALID, "--%s '%s': not a size; write it as 512M or 2G",
			option, text);
	*has = true;
	return 0;
}

static int apply_priority(const struct cli *cli, Job__V1__Spec *spec, struct error **err)
{
	const char *text = cli_value(cli, "priority");
	char *end;

	if (!text)
		return 0;
	long n = strtol(text, &end, 10);
	if (!*text || *end || n < -LIMIT_PRIORITY || n > LIMIT_PRIORITY)
		return error_set(err, ERR_INVALID, "--priority '%s': a number from -%d to %d", text,
			LIMIT_PRIORITY, LIMIT_PRIORITY);
	spec->priority = (int32_t)n;
	spec->has_priority = true;
	return 0;
}

static int apply_resources(const struct cli *cli, Job__V1__Spec *spec, struct error **err)
{
	const char *cpus = cli_value(cli, "cpus"), *timeout = cli_value(cli, "timeout");

	if (timeout) {
		if (parse_duration(timeout, &spec->timeout_ms) < 0)
			return error_set(err, ERR_INVALID,
				"--timeout '%s': not a duration; write it as 90s, 10m or 1h30m",
				timeout);
		spec->has_timeout_ms = true;
	}
	if (!cpus && !cli_flag(cli, "memory") && !cli_flag(cli, "disk"))
		return 0;
	if (!spec->resources) {
		spec->resources = xmalloc(sizeof(*spec->resources));
		job__v1__resources__init(spec->resources);
	}
	if (cpus) {
		uint64_t n;
		if (parse_number(cpus, 1, LIMIT_CPUS, &n) < 0)
			return error_set(err, ERR_INVALID, "--cpus '%s': a number from 1 to %u",
				cpus, LIMIT_CPUS);
		spec->resources->cpus = (uint32_t)n;
		spec->resources->has_cpus = true;
	}
	if (size_option(cli, "memory", &spec->resources->has_memory_bytes,
		    &spec->resources->memory_bytes, err) < 0)
		return -1;
	return size_option(
		cli, "disk", &spec->resources->has_disk_bytes, &spec->resources->disk_bytes, err);
}

static void apply_command(Job__V1__Spec *spec, char **words, int n)
{
	if (!n)
		return;
	for (size_t i = 0; i < spec->n_argv; i++)
		free(spec->argv[i]);
	free(steal_ptr(spec->argv));
	free(steal_ptr(spec->script));
	spec->n_argv = 0;
	for (int i = 0; i < n; i++)
		APPEND(spec->argv, spec->n_argv, xstrdup(words[i]));
}

int spec_apply_options(const struct cli *cli, Job__V1__Spec *spec, struct error **err)
{
	set_string(&spec->image, cli_value(cli, "image"));
	set_string(&spec->name, cli_value(cli, "name"));
	set_string(&spec->user, cli_value(cli, "user"));
	set_string(&spec->working_dir, cli_value(cli, "workdir"));
	if (apply_resources(cli, spec, err) < 0 || apply_priority(cli, spec, err) < 0 ||
		each(cli, "env", spec, add_env, err) < 0 ||
		each(cli, "label", spec, add_label, err) < 0 ||
		each(cli, "input", spec, add_input, err) < 0)
		return -1;
	return each(cli, "output", spec, add_output, err);
}

/* "run ls" is a command that was meant to stand behind "--", not a file that went away. */
static void hint_at_command(const struct cli *cli, const char *name, struct error **err)
{
	const char *dot = strrchr(name, '.');

	if (!err || !*err || str_eq(name, "-") || access(name, F_OK) == 0 || errno != ENOENT ||
		(dot && (str_eq(dot, ".yaml") || str_eq(dot, ".yml") || str_eq(dot, ".json"))))
		return;
	_cleanup_free_ char *said = xstrdup((*err)->text);
	error_free(steal_ptr(*err));
	error_set(err, ERR_INVALID,
		"%s (if it is a command: that goes behind --, as in 'orchestrator %s -- %s')", said,
		cli->command->name, name);
}

struct job_files *spec_from_command_line(
	const struct cli *cli, int argc, char **argv, struct error **err)
{
	int n_files = argc - 1 - cli->n_behind;
	_cleanup_job_files_ struct job_files *files = NULL;

	if (n_files > 1) {
		error_set(err, ERR_INVALID,
			"'%s' is too much: %s takes one job file; a command goes behind --, as in "
			"'orchestrator %s --image debian -- ls -l'",
			argv[2], cli->command->name, cli->command->name);
		return NULL;
	}
	if (n_files == 0 && !cli->n_behind) {
		error_set(err, ERR_INVALID, "%s needs a job file, or a command behind --",
			cli->command->name);
		return NULL;
	}
	if (n_files) {
		files = spec_from_file(argv[1], err);
		if (!files) {
			hint_at_command(cli, argv[1], err);
			return NULL;
		}
	} else {
		Job__V1__Spec *spec = xmalloc(sizeof(*spec));
		job__v1__spec__init(spec);
		spec->image = xstrdup(cli->config->default_image);
		files = files_new(spec, cli->command->name);
		if (open_base(files, NULL, err) < 0)
			return NULL;
	}
	apply_command(files->spec, argv + 1 + n_files, cli->n_behind);
	if (spec_apply_options(cli, files->spec, err) < 0 || jobspec_verify(files->spec, err) < 0)
		return NULL;
	return steal_ptr(files);
}
