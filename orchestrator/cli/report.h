/* What goes to stderr: errors, notes, and whether and how it may be coloured. */
#pragma once

#include <stdarg.h>

#include "orchestrator/cli/cli.h"

/* Is fd a terminal on which colour and cursor movement may be used? */
bool report_is_terminal(int fd);
/* Also NO_COLOR is not set. */
bool report_may_colour(int fd);

/* The error on stderr as cli_fail() does, without freeing it and without an exit code. */
void report_error(const struct cli *cli, const struct error *err);
int report_exit_code(const struct error *err);
/* Lines that say themselves where they come from, as they are, on stderr. */
void report_plain(const char *text);
