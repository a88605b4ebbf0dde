#include "tests/unit/store_conformance.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/util.h"

static const struct store_backend *backend;

struct fixture {
	char dir[32];
	struct store *store;
};

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/store-test-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->store = backend->open(f->dir, NULL);
	*state = f;
	return f->store ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->store)
		f->store->ops->close(f->store);
	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static struct job_record *make(const char *id, const char *key, const char *label)
{
	struct job_record *record = job_record_new();

	strcpy(record->id, id);
	record->key = xstrdup(key);
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

typedef int (*change_fn)(struct store *, const struct job_record *, struct error **);

static enum err_code change(struct store *store, change_fn fn, const struct job_record *record)
{
	_cleanup_error_ struct error *err = NULL;

	assert_int_equal(store->ops->begin(store, NULL), 0);
	int r = fn(store, record, &err);
	assert_true(store->ops->in_transaction(store));
	assert_int_equal(store->ops->commit(store, NULL), 0);
	return r == 0 ? 0 : err->code;
}

static enum err_code submit(struct store *store, struct job_record *record, char other[JOB_ID_SIZE])
{
	_cleanup_error_ struct error *err = NULL;
	char ignored[JOB_ID_SIZE];

	assert_int_equal(store->ops->begin(store, NULL), 0);
	int r = store->ops->submit(store, record, other ? other : ignored, &err);
	assert_int_equal(store->ops->commit(store, NULL), 0);
	return r == 0 ? 0 : err->code;
}

static void submit_new(struct store *store, const char *id, const char *key, const char *label)
{
	_cleanup_job_record_ struct job_record *record = make(id, key, label);

	assert_int_equal(submit(store, record, NULL), 0);
}

static struct job_record *get(struct store *store, const char *id)
{
	struct job_record *record = NULL;

	assert_int_equal(store->ops->get(store, id, &record, NULL), 0);
	return record;
}

static void reopen(struct fixture *f)
{
	f->store->ops->close(f->store);
	f->store = backend->open(f->dir, NULL);
	assert_non_null(f->store);
}

static void what_is_committed_is_there_again(void **state)
{
	struct fixture *f = *state;
	_cleanup_error_ struct error *err = NULL;
	struct job_record *none = NULL;

	submit_new(f->store, "0000000000001", "key", "red");
	_cleanup_job_record_ struct job_record *lost = make("0000000000002", NULL, NULL);
	char other[JOB_ID_SIZE];
	assert_int_equal(f->store->ops->begin(f->store, NULL), 0);
	assert_int_equal(f->store->ops->submit(f->store, lost, other, NULL), 0);
	f->store->ops->rollback(f->store);
	reopen(f);

	_cleanup_job_record_ struct job_record *back = get(f->store, "0000000000001");
	assert_string_equal(back->key, "key");
	assert_string_equal(back->spec->script, "echo hi");
	assert_string_equal(back->spec->labels[0]->value, "red");
	assert_int_equal(back->state, JOB_QUEUED);
	assert_int_equal(back->result.times[STAGE_SUBMITTED], 1000);
	assert_int_equal(f->store->ops->get(f->store, lost->id, &none, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
}

static void a_key_is_one_jobs(void **state)
{
	struct fixture *f = *state;
	_cleanup_job_record_ struct job_record *again = make("0000000000002", "key", NULL);
	char other[JOB_ID_SIZE] = "", id[JOB_ID_SIZE];

	submit_new(f->store, "0000000000001", "key", NULL);
	assert_int_equal(submit(f->store, again, other), ERR_EXISTS);
	assert_string_equal(other, "0000000000001");
	assert_int_equal(f->store->ops->by_key(f->store, "key", id, NULL), 0);
	assert_string_equal(id, "0000000000001");
	assert_int_equal(f->store->ops->by_key(f->store, "no", id, NULL), -1);
	/* With another spec it is another job, which the key is not for. */
	_cleanup_job_record_ struct job_record *asked = make("0000000000005", "other", NULL);
	asked->request_sha256[0] = 1;
	assert_int_equal(submit(f->store, asked, NULL), 0);
	strcpy(asked->id, "0000000000006");
	assert_int_equal(submit(f->store, asked, other), ERR_EXISTS);
	assert_string_equal(other, "0000000000005");
	asked->request_sha256[0] = 2;
	assert_int_equal(submit(f->store, asked, other), ERR_EXISTS);
	assert_string_equal(other, "");
	/* Jobs without a key do not get in each other's way. */
	submit_new(f->store, "0000000000003", NULL, NULL);
	submit_new(f->store, "0000000000004", NULL, NULL);
}

static void a_stale_epoch_changes_nothing(void **state)
{
	struct fixture *f = *state;
	const struct store_ops *ops = f->store->ops;
	_cleanup_job_record_ struct job_record *job = make("0000000000001", NULL, NULL);

	assert_int_equal(submit(f->store, job, NULL), 0);
	job->epoch = 1;
	job->attempt = 1;
	job->state = JOB_STARTING;
	assert_int_equal(change(f->store, ops->claim, job), 0);
	assert_int_equal(change(f->store, ops->claim, job), ERR_ABORTED); /* claimed already */
	job->epoch = 2;
	assert_int_equal(change(f->store, ops->claim, job), ERR_ABORTED); /* not queued */
	job->state = JOB_RUNNING;
	assert_int_equal(change(f->store, ops->update, job), ERR_ABORTED);
	job->epoch = 1;
	assert_int_equal(change(f->store, ops->update, job), 0);
	job->state = JOB_STARTING;
	assert_int_equal(change(f->store, ops->update, job), ERR_ABORTED); /* backwards */

	job->result.outcome = OUTCOME_FAILED;
	job->epoch = 0;
	assert_int_equal(change(f->store, ops->finish, job), ERR_ABORTED);
	job->epoch = 1;
	assert_int_equal(change(f->store, ops->finish, job), 0);
	job->result.outcome = OUTCOME_SUCCEEDED;
	assert_int_equal(change(f->store, ops->finish, job), ERR_ABORTED); /* once */
	job->state = JOB_COLLECTING;
	assert_int_equal(change(f->store, ops->update, job), ERR_ABORTED);
	_cleanup_job_record_ struct job_record *back = get(f->store, job->id);
	assert_int_equal(back->state, JOB_FINISHED);
	assert_int_equal(back->result.outcome, OUTCOME_FAILED);
	assert_int_equal(back->epoch, 1);

	assert_int_equal(ops->destroyed(f->store, job->id, 1, 4711, NULL), 0);
	_cleanup_job_record_ struct job_record *gone = get(f->store, job->id);
	assert_int_equal(gone->result.times[STAGE_DESTROYED], 4711);
}

static void a_job_is_taken_over_once(void **state)
{
	struct fixture *f = *state;
	const struct store_ops *ops = f->store->ops;
	_cleanup_job_record_ struct job_record *job = make("0000000000001", NULL, NULL);

	assert_int_equal(submit(f->store, job, NULL), 0);
	job->epoch = 1;
	assert_int_equal(change(f->store, ops->take_over, job), ERR_ABORTED); /* nobody had it */
	job->attempt = 1;
	job->state = JOB_STARTING;
	assert_int_equal(change(f->store, ops->claim, job), 0);
	job->state = JOB_RUNNING;
	assert_int_equal(change(f->store, ops->update, job), 0);
	assert_int_equal(change(f->store, ops->take_over, job), ERR_ABORTED); /* epoch */
	job->epoch = 2;
	job->state = JOB_COLLECTING;
	assert_int_equal(change(f->store, ops->take_over, job), ERR_ABORTED); /* another state */
	job->state = JOB_RUNNING;
	assert_int_equal(change(f->store, ops->take_over, job), 0);
	/* Who had it before has it no more. */
	job->epoch = 1;
	assert_int_equal(change(f->store, ops->finish, job), ERR_ABORTED);
	job->epoch = 3;
	job->state = JOB_QUEUED;
	assert_int_equal(change(f->store, ops->take_over, job), ERR_ABORTED); /* not this way */
	job->state = JOB_RUNNING;
	assert_int_equal(change(f->store, ops->take_over, job), 0);
	assert_int_equal(change(f->store, ops->finish, job), 0);
	job->epoch = 4;
	assert_int_equal(change(f->store, ops->take_over, job), ERR_ABORTED); /* finished */
}

static enum err_code requeue(
	struct store *store, const struct job_record *ended, const struct job_record *queued)
{
	_cleanup_error_ struct error *err = NULL;

	assert_int_equal(store->ops->begin(store, NULL), 0);
	int r = store->ops->requeue(store, ended, queued, &err);
	assert_true(store->ops->in_transaction(store));
	assert_int_equal(store->ops->commit(store, NULL), 0);
	return r == 0 ? 0 : err->code;
}

static int append_attempt(void *arg, const struct job_record *record, struct error **err)
{
	char text[128];

	(void)err;
	assert_int_equal(record->state, JOB_FINISHED);
	snprintf(text, sizeof(text), "%u:%llu:%s:%d:%s:%llu:%llu ", record->attempt,
		(unsigned long long)record->epoch, record->vm, record->result.outcome,
		record->result.error, (unsigned long long)record->not_before,
		(unsigned long long)record->result.times[STAGE_DESTROYED]);
	strcat(arg, text);
	return 0;
}

static void expect_attempts(struct store *store, const char *id, const char *expected)
{
	char found[512] = "";

	assert_int_equal(store->ops->attempts(store, id, append_attempt, found, NULL), 0);
	assert_string_equal(found, expected);
}

static void claim_again(struct store *store, struct job_record *job)
{
	job->epoch++;
	job->attempt++;
	job->state = JOB_STARTING;
	assert_int_equal(change(store, store->ops->claim, job), 0);
}

static struct job_record *ended_attempt(const struct job_record *job, const char *why)
{
	struct job_record *ended = job_record_copy(job);

	ended->state = JOB_FINISHED;
	ended->not_before = 9000;
	strcpy(ended->vm, "vm-x");
	ended->result.outcome = OUTCOME_INFRA;
	ended->result.error = xstrdup(why);
	return ended;
}

static void an_attempt_is_recorded_once(void **state)
{
	struct fixture *f = *state;
	const struct store_ops *ops = f->store->ops;
	_cleanup_job_record_ struct job_record *job = make("0000000000001", NULL, NULL);

	assert_int_equal(submit(f->store, job, NULL), 0);
	_cleanup_job_record_ struct job_record *early = ended_attempt(job, "too early");
	_cleanup_job_record_ struct job_record *no = record_back_in_queue(job, 1);
	assert_int_equal(requeue(f->store, early, no), ERR_ABORTED); /* it waits */
	claim_again(f->store, job);

	_cleanup_job_record_ struct job_record *ended = ended_attempt(job, "first");
	_cleanup_job_record_ struct job_record *queued = record_back_in_queue(job, 9000);
	assert_int_equal(queued->epoch, 2);
	assert_int_equal(queued->result.times[STAGE_SUBMITTED], 1000);
	/* Both or none, whichever of the two does not fit. */
	ended->epoch = 0;
	assert_int_equal(requeue(f->store, ended, queued), ERR_ABORTED);
	ended->epoch = 1;
	queued->epoch = 3;
	assert_int_equal(requeue(f->store, ended, queued), ERR_ABORTED);
	expect_attempts(f->store, job->id, "");
	queued->epoch = 2;
	assert_int_equal(requeue(f->store, ended, queued), 0);
	assert_int_equal(requeue(f->store, ended, queued), ERR_ABORTED); /* once */
	/* Who held the attempt holds the job no more. */
	job->state = JOB_RUNNING;
	assert_int_equal(change(f->store, ops->update, job), ERR_ABORTED);
	assert_int_equal(change(f->store, ops->finish, job), ERR_ABORTED);
	reopen(f);
	ops = f->store->ops;
	_cleanup_job_record_ struct job_record *back = get(f->store, job->id);
	assert_int_equal(back->state, JOB_QUEUED);
	assert_int_equal(back->epoch, 2);
	assert_int_equal(back->attempt, 1);
	assert_int_equal(back->not_before, 9000);
	assert_string_equal(back->vm, "");
	assert_int_equal(back->result.outcome, OUTCOME_NONE);
	assert_int_equal(back->result.times[STAGE_SUBMITTED], 1000);
	expect_attempts(f->store, job->id, "1:1:vm-x:10:first:9000:0 ");

	/* The VM of the first attempt goes while the second runs. */
	claim_again(f->store, back);
	assert_int_equal(ops->destroyed(f->store, job->id, 1, 77, NULL), 0);
	assert_int_equal(ops->destroyed(f->store, job->id, 1, 78, NULL), 0);
	expect_attempts(f->store, job->id, "1:1:vm-x:10:first:9000:77 ");
	/* That of the second before its end is recorded. */
	assert_int_equal(ops->destroyed(f->store, job->id, 2, 88, NULL), 0);
	_cleanup_job_record_ struct job_record *second = ended_attempt(back, "second");
	_cleanup_job_record_ struct job_record *again = record_back_in_queue(back, 0);
	assert_int_equal(requeue(f->store, second, again), 0);
	expect_attempts(f->store, job->id, "1:1:vm-x:10:first:9000:77 2:3:vm-x:10:second:9000:88 ");
	claim_again(f->store, again);
	again->result.outcome = OUTCOME_SUCCEEDED;
	assert_int_equal(change(f->store, ops->finish, again), 0);
	assert_int_equal(requeue(f->store, again, again), ERR_ABORTED); /* finished */
	_cleanup_job_record_ struct job_record *last = get(f->store, job->id);
	assert_int_equal(last->attempt, 3);
	assert_int_equal(last->result.times[STAGE_DESTROYED], 0);
	/* The job's record goes with those of its attempts. */
	assert_int_equal(ops->remove(f->store, job->id, NULL), 0);
	expect_attempts(f->store, job->id, "");
	submit_new(f->store, job->id, NULL, NULL);
	expect_attempts(f->store, job->id, "");
}

static void what_came_with_a_submit_stays(void **state)
{
	struct fixture *f = *state;
	_cleanup_job_record_ struct job_record *job = make("0000000000002", "k", NULL);
	uint8_t sha256[32] = {7};

	strcpy(job->retried_from, "0000000000001");
	job->request_sha256[31] = 9;
	job->inputs = input_list_new();
	input_list_add(job->inputs, "/in/a", 5, sha256);
	input_list_add(job->inputs, "/in/b/c", 6, sha256);
	input_list_add(job->inputs, "/in/d", 0, sha256);
	assert_int_equal(submit(f->store, job, NULL), 0);
	claim_again(f->store, job);
	job->result.outcome = OUTCOME_SUCCEEDED;
	assert_int_equal(change(f->store, f->store->ops->finish, job), 0);
	reopen(f);
	_cleanup_job_record_ struct job_record *back = get(f->store, job->id);
	assert_string_equal(back->retried_from, "0000000000001");
	assert_memory_equal(back->request_sha256, job->request_sha256, 32);
	assert_int_equal(back->inputs->n, 3);
	assert_string_equal(back->inputs->files[1].path, "/in/b/c");
	assert_int_equal(back->inputs->files[1].size, 6);
	assert_memory_equal(back->inputs->files[1].sha256, sha256, 32);
}

static void finish_job(struct store *store, const char *id, uint64_t at)
{
	_cleanup_job_record_ struct job_record *job = get(store, id);

	job->result.outcome = OUTCOME_SUCCEEDED;
	job->result.times[STAGE_RECORDED] = at;
	assert_int_equal(change(store, store->ops->finish, job), 0);
}

static int append_id(void *arg, const struct job_record *record, struct error **err)
{
	(void)err;
	assert_non_null(record->spec);
	strcat(strcat(arg, record->id + 12), " ");
	return 0;
}

static void lists_are_filtered(void **state)
{
	struct fixture *f = *state;
	Job__V1__Label label = JOB__V1__LABEL__INIT, *labels[] = {&label};
	char name[] = "team", red[] = "red";

	submit_new(f->store, "0000000000001", NULL, "red");
	submit_new(f->store, "0000000000003", NULL, "blue");
	submit_new(f->store, "0000000000002", NULL, "red");
	finish_job(f->store, "0000000000001", 500);
	label.name = name;
	label.value = red;
	_cleanup_job_record_ struct job_record *third = get(f->store, "0000000000002");
	const struct {
		struct store_filter filter;
		const char *found;
	} table[] = {
		{{0}, "2 3 1 "}, /* the order of submission counts, not the ids' */
		{{.limit = 2}, "2 3 "},
		{{.states = 1u << JOB_QUEUED}, "2 3 "},
		{{.states = 1u << JOB_FINISHED}, "1 "},
		{{.states = 1u << JOB_FINISHED | 1u << JOB_QUEUED}, "2 3 1 "},
		{{.states = 1u << JOB_RUNNING}, ""},
		{{.labels = labels, .n_labels = 1}, "2 1 "},
		{{.labels = labels, .n_labels = 1, .states = 1u << JOB_QUEUED}, "2 "},
		{{.before_seq = third->seq}, "3 1 "},
		{{.before_seq = third->seq, .limit = 1}, "3 "},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char found[64] = "";

		assert_int_equal(
			f->store->ops->list(f->store, &table[i].filter, append_id, found, NULL), 0);
		assert_string_equal(found, table[i].found);
	}
	char found[64] = "";
	assert_int_equal(f->store->ops->unfinished(f->store, append_id, found, NULL), 0);
	assert_string_equal(found, "3 2 ");
}

static void prefixes_are_resolved(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *prefix, *id;
		enum err_code code;
		const char *text;
	} table[] = {
		{"0000000000001", "0000000000001", 0, NULL},
		{"1", "1v00000000000", 0, NULL},
		{"1v", "1v00000000000", 0, NULL},
		{"0", NULL, ERR_INVALID, "0000000000001, 0000000000002"},
		{"2", NULL, ERR_NOT_FOUND, "no job 2"},
		{"", NULL, ERR_NOT_FOUND, ""},
		{"%", NULL, ERR_NOT_FOUND, ""},
		{"0000000000001' OR 1", NULL, ERR_NOT_FOUND, ""},
	};

	submit_new(f->store, "0000000000001", NULL, NULL);
	submit_new(f->store, "0000000000002", NULL, NULL);
	submit_new(f->store, "1v00000000000", NULL, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_error_ struct error *err = NULL;
		char id[JOB_ID_SIZE] = "";
		int r = f->store->ops->find(f->store, table[i].prefix, id, &err);

		assert_int_equal(r == 0 ? 0 : err->code, table[i].code);
		if (r == 0)
			assert_string_equal(id, table[i].id);
		else
			assert_non_null(strstr(err->text, table[i].text));
	}
}

static void old_jobs_can_go(void **state)
{
	struct fixture *f = *state;
	char found[64] = "", left[64] = "";

	submit_new(f->store, "0000000000001", "k", "red");
	submit_new(f->store, "0000000000002", NULL, NULL);
	submit_new(f->store, "0000000000003", NULL, NULL);
	finish_job(f->store, "0000000000003", 100);
	finish_job(f->store, "0000000000001", 200);
	struct store_expiry expiry = {.before_usec = 1000, .settled_usec = 1000, .limit = 10};
	assert_int_equal(f->store->ops->expired(f->store, &expiry, append_id, found, NULL), 0);
	assert_string_equal(found, "3 1 ");
	found[0] = '\0';
	expiry.before_usec = 200;
	assert_int_equal(f->store->ops->expired(f->store, &expiry, append_id, found, NULL), 0);
	assert_string_equal(found, "3 ");
	assert_int_equal(f->store->ops->remove(f->store, "0000000000001", NULL), 0);
	assert_int_equal(f->store->ops->remove(f->store, "0000000000002", NULL), -1); /* queued */
	struct store_filter all = {0};
	assert_int_equal(f->store->ops->list(f->store, &all, append_id, left, NULL), 0);
	assert_string_equal(left, "3 2 ");
	submit_new(f->store, "0000000000004", "k", "red"); /* the key is free again */
}

static void a_job_may_have_a_time_of_its_own(void **state)
{
	struct fixture *f = *state;
	char found[64] = "";
	static const struct {
		struct store_expiry expiry;
		const char *found;
	} table[] = {
		/* 1 ended at 100 with 5 ms; 2 and 3 at 200 and 300 without; 4 at 400 with 0. */
		{{.now_usec = 5100, .settled_usec = 9999, .limit = 9}, "4 "},
		{{.now_usec = 5101, .settled_usec = 9999, .limit = 9}, "4 1 "},
		{{.now_usec = 5101, .settled_usec = 400, .limit = 9}, "1 "},
		{{.now_usec = 1, .settled_usec = 9999, .before_usec = 300, .limit = 9}, "2 "},
		{{.now_usec = 1, .settled_usec = 300, .before_usec = 999, .limit = 9}, "2 "},
		{{.now_usec = 9999, .settled_usec = 9999, .before_usec = 999, .limit = 9},
			"4 1 2 3 "},
		{{.now_usec = 9999, .settled_usec = 9999, .before_usec = 999, .limit = 2}, "4 1 "},
		{{.now_usec = 9999,
			 .settled_usec = 9999,
			 .before_usec = 999,
			 .limit = 9,
			 .skip = 3},
			"3 "},
	};

	for (int i = 1; i <= 4; i++) {
		char id[JOB_ID_SIZE];

		snprintf(id, sizeof(id), "%013d", i);
		_cleanup_job_record_ struct job_record *record = make(id, NULL, NULL);
		record->spec->has_ttl_after_finished_ms = i == 1 || i == 4;
		record->spec->ttl_after_finished_ms = i == 1 ? 5 : 0;
		assert_int_equal(submit(f->store, record, NULL), 0);
		finish_job(f->store, id, (uint64_t)i * 100);
	}
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		found[0] = '\0';
		assert_int_equal(
			f->store->ops->expired(f->store, &table[i].expiry, append_id, found, NULL),
			0);
		assert_string_equal(found, table[i].found);
	}
}

static uint64_t last_seq;

static int append_id_and_seq(void *arg, const struct job_record *record, struct error **err)
{
	last_seq = record->seq;
	return append_id(arg, record, err);
}

static void pages_are_the_list(void **state)
{
	struct fixture *f = *state;
	Job__V1__Label red = JOB__V1__LABEL__INIT, *labels[] = {&red};
	char whole[512], pages[512];

	red.name = (char[]){"team"};
	red.value = (char[]){"red"};
	for (int i = 1; i <= 40; i++) {
		char id[JOB_ID_SIZE];

		snprintf(id, sizeof(id), "%013d", i);
		submit_new(f->store, id, NULL, i % 3 ? "red" : "blue");
		if (i % 4 == 0)
			finish_job(f->store, id, 100);
	}
	for (int kind = 0; kind < 8; kind++) {
		struct store_filter filter = {0};

		if (kind & 1)
			filter.states |= 1u << JOB_FINISHED;
		if (kind & 2)
			filter.states |= 1u << JOB_QUEUED;
		if (kind & 4) {
			filter.labels = labels;
			filter.n_labels = 1;
		}
		whole[0] = pages[0] = '\0';
		assert_int_equal(f->store->ops->list(f->store, &filter, append_id, whole, NULL), 0);
		filter.limit = 3;
		do {
			filter.before_seq = last_seq;
			last_seq = 0;
			assert_int_equal(f->store->ops->list(
						 f->store, &filter, append_id_and_seq, pages, NULL),
				0);
		} while (last_seq);
		assert_string_equal(whole, pages);
		assert_true(whole[0] != '\0');
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int store_conformance_run(const struct store_backend *which)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_committed_is_there_again),
		TEST(a_key_is_one_jobs),
		TEST(a_stale_epoch_changes_nothing),
		TEST(a_job_is_taken_over_once),
		TEST(an_attempt_is_recorded_once),
		TEST(what_came_with_a_submit_stays),
		TEST(lists_are_filtered),
		TEST(prefixes_are_resolved),
		TEST(old_jobs_can_go),
		TEST(a_job_may_have_a_time_of_its_own),
		TEST(pages_are_the_list),
	};

	backend = which;
	return cmocka_run_group_tests_name(which->name, tests, NULL, NULL);
}
