#include "orchestrator/cli/progress.h"

#include <string.h>

#include "common/util.h"
#include "orchestrator/cli/report.h"

static const char clear_line[] = "\r\033[K";

struct progress progress_begin(const struct cli *cli)
{
	bool terminal = !cli->quiet && report_is_terminal(STDERR_FILENO);

	return (struct progress){.terminal = terminal, .plain = !terminal && cli->verbose > 0};
}

bool progress_is_seen(const struct progress *progress)
{
	return progress->terminal || progress->plain;
}

static void put(const char *text)
{
	if (write_all(STDERR_FILENO, text, strlen(text)) < 0)
		return; /* nobody sees it, then */
}

void progress_show(struct progress *progress, const char *fmt, ...)
{
	va_list ap;

	if (!progress_is_seen(progress))
		return;
	va_start(ap, fmt);
	_cleanup_free_ char *raw = str_vprintf(fmt, ap);
	va_end(ap);
	_cleanup_free_ char *text = str_escape(raw, strlen(raw), false);
	if (str_eq(text, progress->shown))
		return;
	bool dim = report_may_colour(STDERR_FILENO);
	_cleanup_free_ char *line =
		progress->terminal ? str_printf("%s%s%s%s", clear_line, dim ? "\033[2m" : "", text,
					     dim ? "\033[0m" : "")
				   : str_printf("orchestrator: %s\n", text);
	put(line);
	free(progress->shown);
	progress->shown = steal_ptr(text);
}

void progress_clear(struct progress *progress)
{
	if (progress->terminal && progress->shown)
		put(clear_line);
	free(steal_ptr(progress->shown));
}

void progress_end(struct progress *progress)
{
	progress_clear(progress);
	progress->terminal = progress->plain = false;
}
