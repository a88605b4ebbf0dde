/* The small things every file needs: memory that does not fail, ownership, strings, time, files. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "common/error.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))
#define KIB	      UINT64_C(1024)
#define MIB	      (KIB * 1024)
#define GIB	      (MIB * 1024)

/* Memory. These do not return on exhaustion: a process that cannot get a few bytes ends with a
 * message. Sizes that come from outside are capped before they get here. */
void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
void *xreallocarray(void *p, size_t n, size_t size);
void *xmemdup(const void *p, size_t size);
char *xstrdup(const char *s); /* NULL gives NULL */
char *xstrndup(const char *s, size_t n);
char *str_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
char *str_vprintf(const char *fmt, va_list ap) __attribute__((format(printf, 1, 0)));

/* Ownership. */
static inline void freep(void *p)
{
	free(*(void **)p);
}
static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define _cleanup_free_	__attribute__((cleanup(freep)))
#define _cleanup_close_ __attribute__((cleanup(closep)))
#define steal_ptr(p)                                                                               \
	({                                                                                         \
		__typeof__(p) stolen_ = (p);                                                       \
		(p) = NULL;                                                                        \
		stolen_;                                                                           \
	})
#define steal_fd(fd)                                                                               \
	({                                                                                         \
		int stolen_ = (fd);                                                                \
		(fd) = -1;                                                                         \
		stolen_;                                                                           \
	})
/* Close *fd if open, and set it to -1. Keeps errno. */
void close_fd(int *fd);

/* Strings. */
static inline bool str_eq(const char *a, const char *b)
{
	return a && b ? __builtin_strcmp(a, b) == 0 : a == b;
}
bool str_starts(const char *s, const char *prefix);
bool utf8_valid(const char *s, size_t n); /* also refuses NUL, surrogates, overlong forms */
/* Copy with every byte that could drive a terminal escaped (\xNN): C0 but \t, DEL, C1, bidi
 * controls; also \n unless keep_newlines. Bytes that are no UTF-8 are escaped too. */
char *str_escape(const char *s, size_t n, bool keep_newlines);
char *hex_encode(const void *p, size_t n);
/* 0, or -1 when s is not exactly 2*n lower- or upper-case hex digits. */
int hex_decode(const char *s, void *ret, size_t n);

/* As people write them. Sizes: 512M, 1G, 64KiB, 100 (bytes); powers of 1024. Durations: 90s, 10m,
 * 1h30m, 250ms; a bare number is refused. 0, or -1: not of that form, or out of range. */
int parse_size(const char *s, uint64_t *ret_bytes);
int parse_duration(const char *s, uint64_t *ret_ms);
char *format_size(uint64_t bytes);  /* "1.5G", "12K", "100" */
char *format_duration(uint64_t ms); /* "1m30s", "250ms" */

/* Time. */
uint64_t now_mono_usec(void); /* CLOCK_MONOTONIC */
uint64_t now_real_usec(void); /* CLOCK_REALTIME */
void sleep_ms(unsigned ms);

/* Files. */
int write_all(int fd, const void *buf, size_t n); /* 0, or -1 with errno */
/* All of a file, with a NUL behind it. More than cap bytes: ERR_LIMIT. */
char *read_file(const char *path, size_t cap, size_t *ret_size, struct error **err);
/* Write beside it and rename; fsync of file and directory if durable. */
int write_file(
	const char *path, const void *buf, size_t n, mode_t mode, bool durable, struct error **err);
int make_dirs(const char *path, mode_t mode, struct error **err); /* mkdir -p */
/* rm -rf without following links. A path that is not there is success. */
int remove_tree(const char *path, struct error **err);
int fd_set_nonblock(int fd, bool on); /* 0, or -1 with errno */
/* The directory's directory of the running program: /usr for /usr/bin/orchestrator. */
char *install_prefix(void);

/* Random bytes from the kernel; does not fail. */
void random_bytes(void *p, size_t n);
