/* What is being done, for the person who waits: one line that is written over on a terminal, plain
 * lines with -v, otherwise nothing. On stderr. */
#pragma once

#include "orchestrator/cli/cli.h"

struct progress {
	bool terminal; /* one line, written over */
	bool plain;    /* a line for each change */
	char *shown;   /* owned; NULL: nothing stands on the line */
};

struct progress progress_begin(const struct cli *cli);
/* Does anybody see it? Else nothing has to be found out for it. */
bool progress_is_seen(const struct progress *progress);
void progress_show(struct progress *progress, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Before anything else is written to the terminal. */
void progress_clear(struct progress *progress);
/* Clear, and show nothing more. */
void progress_end(struct progress *progress);
