/* What the parts of store_bench share. */
#pragma once

#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "job.pb-c.h"

#define CLIENTS	   50 /* of the many */
#define WINDOW	   64 /* on their way, of a client that does not wait for each */
#define SPEC_BYTES 160

static inline double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void report(const char *what, size_t n, double seconds);
/* Run fn(arg, i) on so many threads and wait for all. Each calls wait_for_start() when it is
 * connected; returns the seconds since all were. */
double on_threads(size_t threads, void (*fn)(void *arg, size_t i), void *arg);
void wait_for_start(void);
void die(const char *what, const char *why) __attribute__((noreturn));
extern pid_t daemon_pid; /* not to be left behind by die(); 0: none */
Job__V1__Spec *make_spec(void);

void bench_socket(size_t n);
/* Does not return in a client's process. */
void client_main(int argc, char **argv);

/* socket: PostgreSQL's directory. */
void bench_postgres(const char *socket, size_t n);
