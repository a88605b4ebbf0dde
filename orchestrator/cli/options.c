#include "orchestrator/cli/options.h"

#include <getopt.h>
#include <string.h>

#include "common/util.h"

/* getopt_long's values for long options; below it are the letters. */
#define LONG_BASE 256
#define MAX_TABLE 64

static const struct cli_option options_global[] = {
	{'o', "format", "FORMAT", "table, json, yaml or name; errors are JSON too under json"},
	{'q', "quiet", NULL, "no progress and no notes; errors still"},
	{'v', "verbose", NULL, "say more, as plain lines on stderr"},
	{0, "config", "FILE", "read this configuration file instead of the usual ones"},
	{0, "state-dir", "DIR", "keep everything below DIR, with a daemon of its own"},
	{'h', "help", NULL, "show help and exit"},
	{0, "version", NULL, NULL},
	{0, NULL, NULL, NULL},
};

bool options_is_global(const struct cli_option *option)
{
	for (size_t i = 0; i < ARRAY_SIZE(options_global); i++)
		if (option == &options_global[i])
			return true;
	return false;
}

/* A command's own options and the global ones, as getopt_long wants them. */
struct table {
	const struct cli_option *options[MAX_TABLE];
	struct option longs[MAX_TABLE + 1];
	char letters[2 * MAX_TABLE + 3];
	size_t n;
};

static void table_add(struct table *table, const struct cli_option *options)
{
	for (; options && options->name && table->n < MAX_TABLE; options++, table->n++) {
		table->options[table->n] = options;
		table->longs[table->n] = (struct option){.name = options->name,
			.has_arg = options->arg ? required_argument : no_argument,
			.val = LONG_BASE + (int)table->n};
		if (options->letter) {
			size_t end = strlen(table->letters);
			table->letters[end] = options->letter;
			table->letters[end + 1] = options->arg ? ':' : 0;
		}
	}
}

static const struct cli_option *table_find(const struct table *table, int value)
{
	if (value >= LONG_BASE && (size_t)(value - LONG_BASE) < table->n)
		return table->options[value - LONG_BASE];
	for (size_t i = 0; i < table->n; i++)
		if (value && table->options[i]->letter == value)
			return table->options[i];
	return NULL;
}

static int unknown_long(const struct table *table, const char *arg, struct error **err)
{
	const char *names[MAX_TABLE];
	_cleanup_free_ char *word = xstrndup(arg + 2, strcspn(arg + 2, "="));
	_cleanup_free_ char *shown = str_escape(word, strlen(word), false);
	size_t n = 0, matches = 0;

	for (size_t i = 0; i < table->n; i++) {
		if (!table->options[i]->help)
			continue;
		matches += str_starts(table->options[i]->name, word);
		names[n++] = table->options[i]->name;
	}
	if (matches > 1)
		return error_set(err, ERR_INVALID, "'--%s' may be any of several options", shown);
	const char *near = str_nearest(word, names, n);
	if (near)
		return error_set(err, ERR_INVALID, "unknown option '--%s', did you mean '--%s'?",
			shown, near);
	return error_set(err, ERR_INVALID, "unknown option '--%s'", shown);
}

static int bad_option(const struct table *table, int c, const char *arg, struct error **err)
{
	const struct cli_option *option = table_find(table, optopt);
	char letter[3] = {'-', (char)optopt, 0};

	if (c == ':' && option)
		return error_set(err, ERR_INVALID, "option '%s%s' needs a value: %s",
			optopt >= LONG_BASE ? "--" : "",
			optopt >= LONG_BASE ? option->name : letter, option->arg);
	if (option)
		return error_set(err, ERR_INVALID, "option '--%s' takes no value", option->name);
	if (optopt) {
		_cleanup_free_ char *shown = str_escape(letter, 2, false);
		return error_set(err, ERR_INVALID, "unknown option '%s'", shown);
	}
	return unknown_long(table, arg, err);
}

int options_parse(const struct cli_option *own, int argc, char **argv, bool only_leading,
	struct options *ret, struct error **err)
{
	/* '-': operands come in order, so that those behind "--" can be told apart. */
	struct table table = {.letters = {only_leading ? '+' : '-', ':'}};
	struct options options = {
		.given = xcalloc((size_t)argc + 1, sizeof(*options.given)),
		.operands = xcalloc((size_t)argc + 1, sizeof(*options.operands)),
	};
	int c;

	table_add(&table, own);
	table_add(&table, options_global);
	opterr = 0;
	optind = 0; /* GNU: begin anew */
	while ((c = getopt_long(argc, argv, table.letters, table.longs, NULL)) != -1) {
		if (c == 1) {
			options.operands[options.n_operands++] = optarg;
			continue;
		}
		if (c == '?' || c == ':') {
			options_clear(&options);
			return bad_option(&table, c, argv[optind - 1], err);
		}
		options.given[options.n_given++] =
			(struct cli_given){.option = table_find(&table, c), .value = optarg};
	}
	for (; optind < argc; optind++) {
		options.operands[options.n_operands++] = argv[optind];
		options.n_behind++;
	}
	*ret = options;
	return 0;
}

void options_clear(struct options *options)
{
	free(options->given);
	free(options->operands);
	*options = (struct options){0};
}

static void print_options(FILE *to, const char *title, const struct cli_option *options)
{
	bool any = false;

	for (; options && options->name; options++) {
		char left[64], letter[5] = "    ";

		if (!options->help)
			continue;
		if (options->letter)
			snprintf(letter, sizeof(letter), "-%c, ", options->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s", letter, options->name,
			options->arg ? " " : "", options->arg ? options->arg : "");
		if (!any)
			fprintf(to, "\n%s:\n", title);
		any = true;
		fprintf(to, "  %-26s%s%s\n", left, strlen(left) >= 26 ? "  " : "", options->help);
	}
}

/* Each line of text behind the indentation. */
static void print_lines(FILE *to, const char *first, const char *rest, const char *text)
{
	for (const char *lead = first; *text; lead = rest) {
		size_t n = strcspn(text, "\n");
		fprintf(to, "%s%.*s\n", lead, (int)n, text);
		text += n + (text[n] == '\n');
	}
}

void options_print_overview(FILE *to, const struct cli_command *const *commands)
{
	fprintf(to, "usage: orchestrator [OPTIONS] COMMAND ...\n\n"
		    "Runs jobs in sandbox VMs, each in its own, thrown away "
		    "afterwards.\n\nCommands:\n");
	for (; *commands; commands++)
		if (!(*commands)->hidden)
			fprintf(to, "  %-12s%s\n", (*commands)->name, (*commands)->summary);
	print_options(to, "Global options", options_global);
	fprintf(to, "\nFirst steps:\n"
		    "  orchestrator run --image debian -- python3 -c 'print(6*7)'\n"
		    "  orchestrator submit -f job.yaml\n"
		    "  orchestrator doctor            what is missing on this machine\n"
		    "  orchestrator help COMMAND      options and an example\n");
}

void options_print_help(FILE *to, const struct cli_command *command)
{
	_cleanup_free_ char *first = str_printf("usage: orchestrator %s ", command->name);
	_cleanup_free_ char *rest = str_printf("       orchestrator %s ", command->name);

	if (command->synopsis && *command->synopsis)
		print_lines(to, first, rest, command->synopsis);
	else
		fprintf(to, "usage: orchestrator %s\n", command->name);
	fprintf(to, "\n%s.\n", command->summary);
	if (command->about)
		print_lines(to, "", "", command->about);
	print_options(to, "Options", command->options);
	print_options(to, "Global options", options_global);
	if (command->example) {
		fprintf(to, "\nExample:\n");
		print_lines(to, "  ", "  ", command->example);
	}
}
