/* A real daemon in its own process, over a directory of its own, with attempts that are fake, and
 * the calls that tests make of it. A test program that uses it begins its main() with
 * fixture_daemon_main(), for the daemon is the same program, started anew. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/rpc.h"
#include "control.pb-c.h"
#include "orchestrator/config.h"

struct fixture {
	char dir[64];
	struct config config; /* strings are owned; set before fixture_start() */
	bool idle_exit;
	Job__V1__Retry *retry; /* borrowed; of the jobs to come; NULL: none */
	Job__V1__Retry policy; /* fixture_retry()'s */
	pid_t daemon;	       /* 0: none */
	struct rpc_peer *peer;
};

/* Does not return in a daemon's process. */
void fixture_daemon_main(int argc, char **argv);

/* For cmocka: a directory and a daemon that runs with two slots; all is gone afterwards. */
int fixture_setup(void **state);
int fixture_setup_stopped(void **state); /* the same, but no daemon is started */
int fixture_teardown(void **state);

/* Start it and connect. The line it says when it is ready, owned by the caller: "ready" or
 * "error: ...", in which case its process has ended. */
char *fixture_start(struct fixture *f);
/* Send the signal, wait for the end; the exit code, or 128 + the signal it died of. */
int fixture_end(struct fixture *f, int signum);
/* Wait for it to end by itself. */
int fixture_wait_end(struct fixture *f);
struct rpc_peer *fixture_connect(const struct fixture *f);

/* A path below the fixture's directory, for the scripts' "wait:"; owned. */
char *fixture_path(const struct fixture *f, const char *name);
/* Let those go who wait for it. */
void fixture_touch(const struct fixture *f, const char *name);
/* "wait:/tmp/.../name" and so on; owned. */
char *fixture_word(const struct fixture *f, const char *word, const char *name);
/* What the fake attempts noted; owned. */
char *fixture_log(const struct fixture *f);

/* Submit argv as a job of the fake image. 0, or -1 with *err. inputs: host paths, NULL-ended, or
 * NULL; they are sent as they are. */
int fixture_submit(struct fixture *f, const char *const *argv, const char *key,
	const char *const *inputs, char ret_id[32], struct error **err);
/* The same, and it must succeed. Words are separate arguments, NULL ends them. */
void fixture_submit_ok(struct fixture *f, char ret_id[32], const char *word, ...)
	__attribute__((sentinel));

/* The jobs to come have that retry, with the same wait before each attempt. */
void fixture_retry(struct fixture *f, uint32_t max_attempts, uint64_t backoff_ms);

Control__V1__JobInfo *fixture_get(struct fixture *f, const char *id, struct error **err);
Control__V1__JobInfo *fixture_wait(
	struct fixture *f, const char *id, int timeout_ms, struct error **err);
Control__V1__JobInfo *fixture_cancel(struct fixture *f, const char *id, struct error **err);
/* A cancel must be refused, with that text. */
void fixture_expect_not_cancellable(struct fixture *f, const char *id, const char *text);
/* Follow the job until it is in that state. */
void fixture_until(struct fixture *f, const char *id, Control__V1__State state);
/* Wait for its end, which must be of that outcome. */
void fixture_expect(struct fixture *f, const char *id, Job__V1__Outcome outcome);

/* In a table of tests: one with a daemon that runs, and one that has to start it. */
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
#define TEST_STOPPED(name)                                                                         \
	cmocka_unit_test_setup_teardown(name, fixture_setup_stopped, fixture_teardown)
