/* A store in a directory of its own, and what tests do with it by its interface alone. */
#pragma once

#include "orchestrator/store.h"

struct store_backend {
	const char *name;
	/* The store of that directory, which is empty the first time; it has been closed before
	 * it is opened again. */
	struct store *(*open)(const char *dir, struct error **err);
};

struct fixture {
	char dir[32];
	struct store *store; /* owned; NULL: closed */
};

/* Of the fixtures to come. */
void fixture_use_store(const struct store_backend *backend);
/* For cmocka. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* Close it and open it again, or fail. */
void fixture_reopen(struct fixture *f);

/* A job that waits, submitted at 1000; key: NULL, or its key; label: NULL, or the value of its
 * label "team". Owned. */
struct job_record *fixture_make(const char *id, const char *key, const char *label);

typedef int (*fixture_change_fn)(struct store *, const struct job_record *, struct error **);

/* One operation (claim, update, finish, take_over), committed: 0, or the code of its failure. */
enum err_code fixture_change(
	struct store *store, fixture_change_fn fn, const struct job_record *record);
/* The same for a submit; other: char[JOB_ID_SIZE], or NULL. */
enum err_code fixture_submit(struct store *store, struct job_record *record, char *other);
/* One that must succeed, of fixture_make(). */
void fixture_submit_new(struct store *store, const char *id, const char *key, const char *label);
/* A job that must be there; owned. */
struct job_record *fixture_get(struct store *store, const char *id);
/* The job's next attempt begins: *job is changed, too. */
void fixture_claim(struct store *store, struct job_record *job);
/* It has succeeded, recorded at that time. */
void fixture_finish(struct store *store, const char *id, uint64_t usec);

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
