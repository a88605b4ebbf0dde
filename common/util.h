/* The small things every file needs: memory that does not fail, ownership, time; and with it text
 * and files, which have headers of their own. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "common/error.h"
#include "common/files.h"
#include "common/text.h"

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

/* Time. */
uint64_t now_mono_usec(void); /* CLOCK_MONOTONIC */
uint64_t now_real_usec(void); /* CLOCK_REALTIME */
uint64_t now_boot_usec(void); /* CLOCK_BOOTTIME: the machine's uptime */
void sleep_ms(unsigned ms);

/* The directory's directory of the running program: /usr for /usr/bin/orchestrator. */
char *install_prefix(void);

/* Random bytes from the kernel; does not fail. */
void random_bytes(void *p, size_t n);
