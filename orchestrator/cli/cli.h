/* The command line: what every command gets, and what every command is.
 *
 * A command is one file with one `const struct cli_command command_NAME`: its texts, its options
 * and its function. main.c finds it by name, parses the global options and the command's own (they
 * may stand in any order, before or after the command's name), loads the configuration with the
 * flags applied, and calls the function with the operands alone:
 *
 *	argv[0] is the command's name, argv[1] to argv[argc - 1] the operands, argv[argc] is NULL.
 *
 * Options are asked for by their long name with cli_flag() and cli_value(). --help is main's.
 * Data goes to stdout, all else to stderr. The function returns the process's exit code.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "orchestrator/config.h"

enum output_format { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_YAML, OUTPUT_NAME };

struct cli_given; /* an option as it was given (options.h) */

struct cli {
	const struct cli_command *const *commands; /* borrowed, static; all, ends with NULL */
	const struct cli_command *command;	   /* borrowed, static; which one this is */
	struct config *config; /* owned; NULL when the command says needs_no_config */
	enum output_format output;
	bool quiet;		       /* -q: no progress, no notes; errors still */
	int verbose;		       /* how many -v */
	const char *config_file;       /* --config, absolute; NULL: not given */
	const char *state_dir;	       /* --state-dir, absolute; NULL: not given */
	const struct cli_given *given; /* the command's own options */
	size_t n_given;
	int n_behind; /* so many of the operands stood behind "--" */
};

/* The end of a table is an entry without a name. */
struct cli_option {
	char letter;	  /* 0: only the long form */
	const char *name; /* without "--" */
	const char *arg;  /* what its value is called in help ("FILE"); NULL: it takes none */
	/* One line, no full stop. NULL: not in help, it is between the command line and the daemon
	 * that it starts. */
	const char *help;
};

struct cli_command {
	const char *name;
	const char *summary;		  /* one line for `orchestrator help` */
	const char *synopsis;		  /* behind "orchestrator NAME "; more lines: more forms */
	const char *about;		  /* a few lines of help; may be NULL */
	const struct cli_option *options; /* may be NULL */
	const char *example;		  /* lines */
	bool needs_no_config;		  /* works although the configuration is broken */
	bool hidden;			  /* not in `orchestrator help` */
	int (*run)(const struct cli *cli, int argc, char **argv);
};

/* Exit codes that are ours; the job's own, and those for how it ended, stand in job.h. */
#define EXIT_USAGE 2 /* what was asked for is wrong: command line, job file, configuration */

/* The whole program: find the command in the table, parse, load, call. Returns the exit code. */
int cli_main(const struct cli_command *const *commands, int argc, char **argv);

/* The command of that name; NULL when there is none, which is then said with the nearest name. */
const struct cli_command *cli_find(const struct cli *cli, const char *name);

/* Was the option given? */
bool cli_flag(const struct cli *cli, const char *name);
/* The value of the option's last appearance, or NULL. Borrowed from argv. */
const char *cli_value(const struct cli *cli, const char *name);
/* The value of its n-th appearance from 0, or NULL behind the last: for options that repeat. */
const char *cli_value_nth(const struct cli *cli, const char *name, size_t n);

/* Print *err's text as "orchestrator: TEXT" (under -o json as {"error":{"code","message"}}) on
 * stderr, free it, and return the exit code: EXIT_USAGE for ERR_INVALID, else EXIT_INFRA. */
int cli_fail(const struct cli *cli, struct error *err);
/* The same for a wrong use of the command, with a hint at its help. Returns EXIT_USAGE. */
int cli_usage(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Are there between least and most operands (-1: any number)? Else prints that `what` is missing or
 * what is too much, and returns EXIT_USAGE; 0 if all is well. */
int cli_operands(
	const struct cli *cli, int argc, char **argv, int least, int most, const char *what);
/* A remark for a person, on stderr, unless -q. */
void cli_note(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What was printed goes out now. -1: it cannot; the command's end says why, and here is the chance
 * to say on stderr what nobody will read. */
int cli_flush_stdout(void);

/* The commands, each in its own file. */
extern const struct cli_command command_bench;
extern const struct cli_command command_cancel;
extern const struct cli_command command_config;
extern const struct cli_command command_doctor;
extern const struct cli_command command_gc;
extern const struct cli_command command_help;
extern const struct cli_command command_image; /* run = cmd_image */
extern const struct cli_command command_list;
extern const struct cli_command command_logs;
extern const struct cli_command command_result;
extern const struct cli_command command_retry;
extern const struct cli_command command_run;
extern const struct cli_command command_serve; /* run = cmd_serve */
extern const struct cli_command command_status;
extern const struct cli_command command_stop;
extern const struct cli_command command_submit;
extern const struct cli_command command_validate;
extern const struct cli_command command_version;
extern const struct cli_command command_wait;

/* `serve --ready-fd N --idle-exit`: on N the daemon writes one line, "ready" when its control
 * socket is listened on or "error: TEXT" when it cannot start, and closes it. */
int cmd_serve(const struct cli *cli, int argc, char **argv);
int cmd_image(const struct cli *cli, int argc, char **argv);
