/* Diagnosis, one line an event, to stderr. Values may be hostile: they are escaped. Use a log line
 * where an error is handled; where it is returned, return it. */
#pragma once

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format {
	LOG_FORMAT_PLAIN,  /* "vm-3f2: booted" for a person at a terminal */
	LOG_FORMAT_TIMED,  /* with time and level, for a daemon's log file */
	LOG_FORMAT_KERNEL, /* with "<level>" for a console */
};

void log_setup(enum log_level level, enum log_format format);
enum log_level log_level(void);
/* "error", "warn", "info", "debug"; 0 or -1. */
int log_level_parse(const char *s, enum log_level *ret);

/* Called after each line that was written, on its thread; NULL: nothing is. Set it before there are
 * other threads. */
void log_after_line(void (*fn)(void));

/* subject: what the line is about (a VM's or job's id, a module), or NULL. */
void log_write(enum log_level level, const char *subject, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(subject, ...) log_write(LOG_LEVEL_ERROR, subject, __VA_ARGS__)
#define log_warn(subject, ...)	log_write(LOG_LEVEL_WARN, subject, __VA_ARGS__)
#define log_info(subject, ...)	log_write(LOG_LEVEL_INFO, subject, __VA_ARGS__)
#define log_debug(subject, ...)                                                                    \
	do {                                                                                       \
		if (log_level() >= LOG_LEVEL_DEBUG)                                                \
			log_write(LOG_LEVEL_DEBUG, subject, __VA_ARGS__);                          \
	} while (0)
