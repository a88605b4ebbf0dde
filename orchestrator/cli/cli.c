/* From argv to the command's function: names, options, configuration, the end. */
#include "orchestrator/cli/cli.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/cli/options.h"
#include "orchestrator/cli/report.h"
#include "orchestrator/job.h"

bool cli_flag(const struct cli *cli, const char *name)
{
	for (size_t i = 0; i < cli->n_given; i++)
		if (str_eq(cli->given[i].option->name, name))
			return true;
	return false;
}

const char *cli_value_nth(const struct cli *cli, const char *name, size_t n)
{
	for (size_t i = 0; i < cli->n_given; i++)
		if (str_eq(cli->given[i].option->name, name) && !n--)
			return cli->given[i].value;
	return NULL;
}

const char *cli_value(const struct cli *cli, const char *name)
{
	for (size_t i = cli->n_given; i--;)
		if (str_eq(cli->given[i].option->name, name))
			return cli->given[i].value;
	return NULL;
}

int cli_operands(
	const struct cli *cli, int argc, char **argv, int least, int most, const char *what)
{
	if (argc - 1 < least)
		return cli_usage(cli, "%s needs %s", cli->command->name, what);
	if (most >= 0 && argc - 1 > most)
		return cli_usage(cli, "'%s' is too much: %s takes %s", argv[most + 1],
			cli->command->name, most ? what : "no operands");
	return 0;
}

const struct cli_command *cli_find(const struct cli *cli, const char *name)
{
	const char *names[64];
	size_t n = 0;

	for (size_t i = 0; cli->commands[i]; i++) {
		if (str_eq(cli->commands[i]->name, name))
			return cli->commands[i];
		if (!cli->commands[i]->hidden && n < ARRAY_SIZE(names))
			names[n++] = cli->commands[i]->name;
	}
	const char *near = str_nearest(name, names, n);
	if (near)
		cli_usage(cli, "unknown command '%s', did you mean '%s'?", name, near);
	else
		cli_usage(cli, "unknown command '%s'", name);
	return NULL;
}

static int parse_format(const char *s, enum output_format *ret, struct error **err)
{
	static const char *const names[] = {[OUTPUT_TABLE] = "table",
		[OUTPUT_JSON] = "json",
		[OUTPUT_YAML] = "yaml",
		[OUTPUT_NAME] = "name"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (str_eq(s, names[i])) {
			*ret = (enum output_format)i;
			return 0;
		}
	}
	return error_set(
		err, ERR_INVALID, "'-o %s': the formats are table, json, yaml and name", s);
}

/* The absolute form of a path that need not exist. */
static int absolute(const char *option, const char *path, char **ret, struct error **err)
{
	if (!*path)
		return error_set(err, ERR_INVALID, "--%s is empty", option);
	_cleanup_free_ char *cwd = *path == '/' ? NULL : getcwd(NULL, 0);
	if (*path != '/' && !cwd)
		return error_errno(err, errno, "the current directory");
	free(*ret);
	*ret = cwd ? str_printf("%s/%s", cwd, path) : xstrdup(path);
	return 0;
}

/* What the global options say, wherever they stood. */
struct globals {
	char *config_file; /* owned */
	char *state_dir;   /* owned */
	bool help;
	bool version;
};

static int take_globals(
	struct cli *cli, struct globals *globals, const struct options *options, struct error **err)
{
	for (size_t i = 0; i < options->n_given; i++) {
		const char *name = options->given[i].option->name;
		const char *value = options->given[i].value;
		int r = 0;

		if (!options_is_global(options->given[i].option))
			continue;
		if (str_eq(name, "format"))
			r = parse_format(value, &cli->output, err);
		else if (str_eq(name, "config"))
			r = absolute(name, value, &globals->config_file, err);
		else if (str_eq(name, "state-dir"))
			r = absolute(name, value, &globals->state_dir, err);
		else if (str_eq(name, "quiet"))
			cli->quiet = true;
		else if (str_eq(name, "verbose"))
			cli->verbose++;
		else if (str_eq(name, "help"))
			globals->help = true;
		else if (str_eq(name, "version"))
			globals->version = true;
		if (r < 0)
			return -1;
	}
	return 0;
}

static int call(struct cli *cli, struct globals *globals, const struct options *options)
{
	_cleanup_error_ struct error *err = NULL;

	if (globals->help) {
		options_print_help(stdout, cli->command);
		return 0;
	}
	cli->config_file = globals->config_file;
	cli->state_dir = globals->state_dir;
	cli->given = options->given;
	cli->n_given = options->n_given;
	cli->n_behind = options->n_behind;
	/* The flag is the variable with a stronger word: what is derived from it follows, and the
	 * daemon inherits it. */
	if (globals->state_dir)
		setenv("ORCHESTRATOR_STATE_DIR", globals->state_dir, 1);
	if (!cli->command->needs_no_config) {
		cli->config = config_load(cli->config_file, &err);
		if (!cli->config)
			return cli_fail(cli, steal_ptr(err));
	}
	log_setup(cli->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, LOG_FORMAT_PLAIN);
	if (cli->config)
		config_warn_of_variables();
	/* argv[0] is the command's name. */
	char **argv = xcalloc((size_t)options->n_operands + 2, sizeof(*argv));
	_cleanup_free_ char *name = xstrdup(cli->command->name);
	argv[0] = name;
	memcpy(argv + 1, options->operands, (size_t)options->n_operands * sizeof(*argv));
	int code = cli->command->run(cli, options->n_operands + 1, argv);
	free(argv);
	return code;
}

/* Why stdout could not be written, if it was found out before the end. */
static int stdout_errno;

int cli_flush_stdout(void)
{
	bool failed = ferror(stdout);

	/* Why printf() failed is not known any more; what it left in the buffer fails again. */
	clearerr(stdout);
	errno = 0;
	if (fflush(stdout) == 0 && !failed && !stdout_errno)
		return 0;
	if (!stdout_errno)
		stdout_errno = errno ? errno : EIO;
	return -1;
}

/* A full disk behind stdout must not look like success. */
static int finish_stdout(const struct cli *cli, int code)
{
	_cleanup_error_ struct error *err = NULL;

	if (cli_flush_stdout() == 0)
		return code;
	if (stdout_errno == EPIPE)
		return code ? code : 128 + 13;
	error_errno(&err, stdout_errno, "writing the output");
	return cli_fail(cli, steal_ptr(err));
}

static int with_command(struct cli *cli, struct globals *globals, int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	struct options options;
	int code;

	if (options_parse(cli->command->options, argc, argv, false, &options, &err) < 0)
		return cli_usage(cli, "%s", err->text);
	if (take_globals(cli, globals, &options, &err) < 0)
		code = cli_usage(cli, "%s", err->text);
	else
		code = call(cli, globals, &options);
	options_clear(&options);
	return code;
}

/* The words of the command line from the command's name on, or what stands in for them. */
static char **command_words(
	const struct options *leading, const struct globals *globals, char **instead, int *ret_n)
{
	static char version[] = "version", help[] = "help";

	if (leading->n_operands && !globals->version) {
		*ret_n = leading->n_operands;
		return leading->operands;
	}
	*ret_n = globals->version || globals->help;
	instead[0] = globals->version ? version : help;
	instead[1] = NULL;
	return instead;
}

static int dispatch(struct cli *cli, struct globals *globals, int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	struct options leading = {0};
	char *instead[2];
	int code, n;

	if (options_parse(NULL, argc, argv, true, &leading, &err) < 0 ||
		take_globals(cli, globals, &leading, &err) < 0) {
		options_clear(&leading);
		return cli_usage(cli, "%s", err->text);
	}
	char **words = command_words(&leading, globals, instead, &n);
	if (!n) {
		options_print_overview(stderr, cli->commands);
		code = EXIT_USAGE;
	} else if (!(cli->command = cli_find(cli, words[0]))) {
		code = EXIT_USAGE;
	} else {
		if (words == instead)
			globals->help = false;
		code = with_command(cli, globals, n, words);
	}
	options_clear(&leading);
	return code;
}

int cli_main(const struct cli_command *const *commands, int argc, char **argv)
{
	struct cli cli = {.commands = commands};
	struct globals globals = {0};

	setlocale(LC_CTYPE, "C.UTF-8"); /* for the width of characters */
	int code = finish_stdout(&cli, dispatch(&cli, &globals, argc, argv));
	free(globals.config_file);
	free(globals.state_dir);
	config_free(cli.config);
	return code;
}
