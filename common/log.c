#include "common/log.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/util.h"

static enum log_level threshold = LOG_LEVEL_INFO;
static enum log_format style = LOG_FORMAT_PLAIN;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

static void (*after_line)(void);

void log_after_line(void (*fn)(void))
{
	after_line = fn;
}

void log_setup(enum log_level level, enum log_format format)
{
	threshold = level;
	style = format;
}

enum log_level log_level(void)
{
	return threshold;
}

int log_level_parse(const char *s, enum log_level *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (str_eq(s, level_names[i])) {
			*ret = (enum log_level)i;
			return 0;
		}
	}
	return -1;
}

void log_write(enum log_level level, const char *subject, const char *fmt, ...)
{
	static const int syslog_level[] = {3, 4, 6, 7};
	char head[64] = "";
	va_list ap;

	if (level > threshold)
		return;
	va_start(ap, fmt);
	_cleanup_free_ char *raw = str_vprintf(fmt, ap);
	va_end(ap);
	_cleanup_free_ char *text = str_escape(raw, strlen(raw), false);

	if (style == LOG_FORMAT_TIMED) {
		struct timespec ts;
		struct tm tm;
		clock_gettime(CLOCK_REALTIME, &ts);
		gmtime_r(&ts.tv_sec, &tm);
		size_t n = strftime(head, sizeof(head), "%Y-%m-%dT%H:%M:%S", &tm);
		snprintf(head + n, sizeof(head) - n, ".%03ldZ %-5s ", ts.tv_nsec / 1000000,
			level_names[level]);
	} else if (style == LOG_FORMAT_KERNEL) {
		snprintf(head, sizeof(head), "<%d>", syslog_level[level]);
	}
	/* One write for the whole line, so that threads and processes do not mix theirs. */
	_cleanup_free_ char *line =
		str_printf("%s%s%s%s\n", head, subject ? subject : "", subject ? ": " : "", text);
	if (write_all(STDERR_FILENO, line, strlen(line)) < 0)
		return; /* nowhere left to say so */
	if (after_line)
		after_line();
}
