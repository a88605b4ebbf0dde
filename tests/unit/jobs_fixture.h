/* The live jobs (jobs.h) in one process: a loop on a thread of its own, a store that fails when
 * told to, attempts that are fake (fake_attempt.h); and calls from the test's thread. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "orchestrator/jobs.h"

#define DEADLINE_MS 30000

struct fixture {
	char dir[32]; /* the state directory */
	struct config config;
	struct config_pool pool, *pools;
	struct store *store;
	struct loop *loop;
	pthread_t thread; /* the loop's */
	struct store_queue *queue;
	struct host *host;
	struct jobs *jobs;
	/* How many of the next operations of each kind fail. */
	struct {
		atomic_int submit, claim, finish, requeue;
	} faults;
	/* Of the jobs to come. */
	uint64_t memory_bytes; /* 0: no resources at all */
	uint64_t ttl_ms;       /* 0: none */
	bool retried;	       /* they have three attempts, without a wait */
};

/* For cmocka: two slots and no pool; all is gone afterwards. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* With a pool of so many VMs, of 64 MiB and one processor. */
int fixture_setup_pool(void **state, uint32_t min_idle);

/* words: of fake_attempt.h, between blanks. 0, or the code of its failure; ret_id is set in any
 * case. */
enum err_code fixture_submit(struct fixture *f, const char *words, char ret_id[JOB_ID_SIZE]);
enum err_code fixture_cancel(struct fixture *f, const char *id);
/* Wait until watchers are told of the end; then the store must have it. Owned by the caller. */
struct job_record *fixture_wait_end(struct fixture *f, const char *id);
/* The same, and it must be of that outcome. */
void fixture_expect_end(struct fixture *f, const char *id, enum job_outcome outcome);

/* How often the line "what id" is in the fakes' log. */
unsigned fixture_noted(const struct fixture *f, const char *what, const char *id);
/* Until it is there n times at the least. */
void fixture_wait_noted(const struct fixture *f, const char *what, const char *id, unsigned n);

/* In a table of tests. */
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
