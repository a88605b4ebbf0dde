/* Jobs by the executor, as an ordinary process: as nobody if our rights are root's, with the rights
 * we have, and with a spare job init ready before each job, which only root can make. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "guest-worker/executor.h"

#define PATIENCE_MS 60000

extern struct executor *fixture_executor;
extern bool fixture_with_spare;

/* What a job wrote and how it ended. */
struct outcome {
	char *out, *err; /* owned; NUL-terminated */
	size_t out_size, err_size;
	struct execution_exit exit;
	char *error; /* owned */
	bool started;
};

struct outcome outcome_new(void);
void outcome_free(struct outcome *outcome);
#define _cleanup_outcome_ __attribute__((cleanup(outcome_free)))

/* Start a job; it must start. start->id is set. */
struct execution *fixture_begin(Worker__V1__RunStart *start);
/* Takes one event into the outcome; false after the exit. */
bool fixture_take(struct execution *ex, struct outcome *ret);
/* From the start to the exit; nothing of the job may be left. */
struct outcome fixture_run(Worker__V1__RunStart *start);
struct outcome fixture_run_script(const char *script);
/* It was started, and ended by itself with that code. */
void fixture_expect_exit(const struct outcome *outcome, int code);
/* Until a spare job init is ready. Returns how many were taken before. */
unsigned fixture_wait_for_spare(void);

/* For cmocka: of a group of tests. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* Runs the group in each of the three ways; what main() returns. */
int fixture_main(int (*run_group)(const char *name));
