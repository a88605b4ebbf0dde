#include "orchestrator/cli/report.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/job.h"

bool report_is_terminal(int fd)
{
	const char *term = getenv("TERM");

	return isatty(fd) && term && *term && !str_eq(term, "dumb");
}

bool report_may_colour(int fd)
{
	const char *no_colour = getenv("NO_COLOR");

	return report_is_terminal(fd) && !(no_colour && *no_colour);
}

/* One write, so that lines of several processes on one terminal do not mix. */
static void put(const char *head, const char *text, const char *tail)
{
	_cleanup_free_ char *line = str_printf("%s%s%s\n", head, text, tail);

	if (write_all(STDERR_FILENO, line, strlen(line)) < 0)
		return; /* nowhere left to say so */
}

static void report_json(enum err_code code, const char *text)
{
	/* Texts may have bytes of a guest's in them; JSON wants UTF-8. */
	_cleanup_free_ char *safe = utf8_valid(text, strlen(text))
					    ? xstrdup(text)
					    : str_escape(text, strlen(text), true);
	json_t *object =
		json_pack("{s:{s:s, s:s}}", "error", "code", err_code_name(code), "message", safe);
	_cleanup_free_ char *line = json_dumps(object, JSON_COMPACT);

	put("", line ? line : "{\"error\":{\"code\":\"INTERNAL\"}}", "");
	json_decref(object);
}

static void report_text(enum err_code code, const struct cli *cli, const char *text)
{
	bool colour = report_may_colour(STDERR_FILENO);

	if (cli->output == OUTPUT_JSON) {
		report_json(code, text);
		return;
	}
	_cleanup_free_ char *safe = str_escape(text, strlen(text), true);
	/* Several lines only where a file is wrong in several places: each begins with its place,
	 * and editors want to find it there. */
	const char *gap = strchr(text, '\n') ? "several errors:\n" : "";
	put(colour ? "\033[31morchestrator:\033[0m " : "orchestrator: ", gap, safe);
}

void report_error(const struct cli *cli, const struct error *err)
{
	report_text(err ? err->code : ERR_INTERNAL, cli,
		err ? err->text : "failed, and nobody said why");
}

void report_plain(const char *text)
{
	_cleanup_free_ char *safe = str_escape(text, strlen(text), true);

	put("", safe, "");
}

int report_exit_code(const struct error *err)
{
	return err && err->code == ERR_INVALID ? EXIT_USAGE : EXIT_INFRA;
}

int cli_fail(const struct cli *cli, struct error *err)
{
	int code = report_exit_code(err);

	report_error(cli, err);
	error_free(err);
	return code;
}

int cli_usage(const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	_cleanup_free_ char *text = str_vprintf(fmt, ap);
	va_end(ap);
	report_text(ERR_INVALID, cli, text);
	if (cli->output != OUTPUT_JSON) {
		const char *name = cli->command ? cli->command->name : "help";
		bool known = !str_eq(name, "help");
		_cleanup_free_ char *hint =
			str_printf("orchestrator help%s%s", known ? " " : "", known ? name : "");
		put("See '", hint, "'.");
	}
	return EXIT_USAGE;
}

void cli_note(const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	if (cli->quiet)
		return;
	va_start(ap, fmt);
	_cleanup_free_ char *text = str_vprintf(fmt, ap);
	va_end(ap);
	_cleanup_free_ char *safe = str_escape(text, strlen(text), false);
	put("orchestrator: ", safe, "");
}
