/* What the two halves of store_bench share. */
#pragma once

#include <stddef.h>
#include <time.h>

#define CLIENTS	   50 /* of the many */
#define SPEC_BYTES 160

static inline double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void report(const char *what, size_t n, double seconds);
/* Run fn(arg, i) on CLIENTS threads and wait for all. Returns the seconds. */
double on_threads(size_t threads, void (*fn)(void *arg, size_t i), void *arg);
void die(const char *what, const char *why) __attribute__((noreturn));

/* socket: PostgreSQL's directory. */
void bench_postgres(const char *socket, size_t n);
