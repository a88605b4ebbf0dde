/* Options by getopt_long from the commands' tables, and help from the same tables. */
#pragma once

#include <stdio.h>

#include "orchestrator/cli/cli.h"

struct cli_given {
	const struct cli_option *option; /* borrowed from its table */
	const char *value;		 /* borrowed from argv; NULL: it takes none */
};

/* The options that every command has. */
bool options_is_global(const struct cli_option *option);

/* What a command line was taken apart into. */
struct options {
	struct cli_given *given; /* owned; in the order given */
	size_t n_given;
	char **operands; /* owned array, NULL at the end; the strings are borrowed from argv */
	int n_operands;
	int n_behind; /* so many of them stood behind "--" */
};

/* Parse argv[1] on by both tables (own may be NULL). With only_leading the first operand ends it:
 * it and all behind it become operands. ERR_INVALID names the option and the nearest known one. */
int options_parse(const struct cli_option *own, int argc, char **argv, bool only_leading,
	struct options *ret, struct error **err);
void options_clear(struct options *options);

/* The commands, each with its summary. */
void options_print_overview(FILE *to, const struct cli_command *const *commands);
/* Usage, options and example of one command. */
void options_print_help(FILE *to, const struct cli_command *command);
