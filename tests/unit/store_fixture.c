#include "tests/unit/store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/util.h"

static const struct store_backend *backend;

void fixture_use_store(const struct store_backend *which)
{
	backend = which;
}

int fixture_setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/store-test-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->store = backend->open(f->dir, NULL);
	*state = f;
	return f->store ? 0 : -1;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	if (f->store)
		f->store->ops->close(f->store);
	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

void fixture_reopen(struct fixture *f)
{
	f->store->ops->close(f->store);
	f->store = backend->open(f->dir, NULL);
	assert_non_null(f->store);
}

struct job_record *fixture_make(const char *id, const char *key, const char *label)
{
	struct job_record *record = job_record_new();

	strcpy(record->id, id);
	record->key = xstrdup(key);
	record->share = xstrdup("uid:7");
	record->state = JOB_QUEUED;
	record->spec = xmalloc(sizeof(*record->spec));
	job__v1__spec__init(record->spec);
	record->spec->image = xstrdup("debian");
	record->spec->script = xstrdup("echo hi");
	if (label) {
		record->spec->labels = xcalloc(1, sizeof(*record->spec->labels));
		record->spec->labels[record->spec->n_labels++] =
			xmalloc(sizeof(**record->spec->labels));
		job__v1__label__init(record->spec->labels[0]);
		record->spec->labels[0]->name = xstrdup("team");
		record->spec->labels[0]->value = xstrdup(label);
	}
	record->result.times[STAGE_SUBMITTED] = 1000;
	return record;
}

enum err_code fixture_change(
	struct store *store, fixture_change_fn fn, const struct job_record *record)
{
	_cleanup_error_ struct error *err = NULL;

	assert_int_equal(store->ops->begin(store, NULL), 0);
	int r = fn(store, record, &err);
	assert_true(store->ops->in_transaction(store));
	assert_int_equal(store->ops->commit(store, NULL), 0);
	return r == 0 ? 0 : err->code;
}

enum err_code fixture_submit(struct store *store, struct job_record *record, char *other)
{
	_cleanup_error_ struct error *err = NULL;
	char ignored[JOB_ID_SIZE];

	assert_int_equal(store->ops->begin(store, NULL), 0);
	int r = store->ops->submit(store, record, other ? other : ignored, &err);
	assert_int_equal(store->ops->commit(store, NULL), 0);
	return r == 0 ? 0 : err->code;
}

void fixture_submit_new(struct store *store, const char *id, const char *key, const char *label)
{
	_cleanup_job_record_ struct job_record *record = fixture_make(id, key, label);

	assert_int_equal(fixture_submit(store, record, NULL), 0);
}

struct job_record *fixture_get(struct store *store, const char *id)
{
	struct job_record *record = NULL;

	assert_int_equal(store->ops->get(store, id, &record, NULL), 0);
	return record;
}

void fixture_claim(struct store *store, struct job_record *job)
{
	job->epoch++;
	job->attempt++;
	job->state = JOB_STARTING;
	assert_int_equal(fixture_change(store, store->ops->claim, job), 0);
}

void fixture_finish(struct store *store, const char *id, uint64_t usec)
{
	_cleanup_job_record_ struct job_record *job = fixture_get(store, id);

	job->result.outcome = OUTCOME_SUCCEEDED;
	job->result.times[STAGE_RECORDED] = usec;
	assert_int_equal(fixture_change(store, store->ops->finish, job), 0);
}
