/* The live jobs over a store that fails when told to: what is promised holds, what cannot be
 * recorded yet is recorded later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/jobs.h"
#include "orchestrator/pools.h"
#include "orchestrator/retention.h"
#include "tests/unit/fake_attempt.h"

#define DEADLINE_MS 30000

struct fixture {
	char dir[32];
	struct config config;
	struct config_pool pool, *pools;
	struct store *store;
	struct loop *loop;
	pthread_t thread;
	struct store_queue *queue;
	struct host *host;
	struct jobs *jobs;
};

/* --- a store with faults --------------------------------------------------------------------- */

static const struct store_ops *real;
static struct store_ops faulty;
static atomic_int submit_faults, claim_faults, finish_faults, requeue_faults;

static int fault(atomic_int *left, struct error **err)
{
	if (atomic_load(left) <= 0)
		return 0;
	atomic_fetch_sub(left, 1);
	return error_set(err, ERR_LIMIT, "disk full, says the test");
}

static int faulty_submit(struct store *store, const struct job_record *record,
	char ret_other[JOB_ID_SIZE], struct error **err)
{
	return fault(&submit_faults, err) < 0 ? -1 : real->submit(store, record, ret_other, err);
}

static int faulty_claim(struct store *store, const struct job_record *record, struct error **err)
{
	return fault(&claim_faults, err) < 0 ? -1 : real->claim(store, record, err);
}

static int faulty_finish(struct store *store, const struct job_record *record, struct error **err)
{
	return fault(&finish_faults, err) < 0 ? -1 : real->finish(store, record, err);
}

static int faulty_requeue(struct store *store, const struct job_record *ended,
	const struct job_record *queued, struct error **err)
{
	return fault(&requeue_faults, err) < 0 ? -1 : real->requeue(store, ended, queued, err);
}

static void *run_loop(void *loop)
{
	loop_run(loop);
	return NULL;
}

static uint64_t memory_of; /* of the jobs to come; 0: no resources at all */

static int setup_with(void **state, uint32_t min_idle)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/jobs-test-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->config.state_dir = f->dir;
	f->config.max_vms = 2;
	f->pool = (struct config_pool){.image = (char *)(uintptr_t)FAKE_IMAGE,
		.min_idle = min_idle,
		.max = min_idle + 1,
		.cpus = 1,
		.memory_bytes = 64 * MIB,
		.max_age_ms = 3600 * 1000};
	f->pools = &f->pool;
	f->config.pools = &f->pools;
	f->config.n_pools = min_idle ? 1 : 0;
	_cleanup_free_ char *path = str_printf("%s/jobs.db", f->dir);
	f->store = store_sqlite_open(path, NULL);
	real = f->store->ops;
	faulty = *real;
	faulty.submit = faulty_submit;
	faulty.claim = faulty_claim;
	faulty.finish = faulty_finish;
	faulty.requeue = faulty_requeue;
	f->store->ops = &faulty;
	f->host = host_new(&f->config, NULL);
	f->loop = loop_new();
	f->queue = store_queue_new(f->store, f->loop, NULL);
	struct jobs_env env = {
		.loop = f->loop, .store = f->queue, .host = f->host, .config = &f->config};
	env.capacity = (struct scheduler_capacity){.memory = GIB, .cpus = 4};
	f->jobs = jobs_new(&env);
	jobs_start_pools(f->jobs);
	pthread_create(&f->thread, NULL, run_loop, f->loop);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, 0);
}

static int setup_pool_of_one(void **state)
{
	return setup_with(state, 1);
}

static int setup_pool_of_two(void **state)
{
	return setup_with(state, 2);
}

static void stopped(void *latch)
{
	latch_open(latch);
}

struct stop {
	struct fixture *f;
	struct latch done;
};

static void loop_stop_jobs(void *arg)
{
	struct stop *stop = arg;

	jobs_stop(stop->f->jobs, "the test is over", stopped, &stop->done);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct stop stop = {.f = f};

	memory_of = 0;

	latch_init(&stop.done);
	loop_post(f->loop, loop_stop_jobs, &stop);
	latch_wait(&stop.done);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	store_queue_free(f->queue);
	loop_drain(f->loop);
	jobs_free(f->jobs);
	loop_free(f->loop);
	host_free(f->host);
	f->store->ops->close(f->store);
	remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

/* --- calls from the test's thread ------------------------------------------------------------ */

struct call {
	struct fixture *f;
	struct jobs_newcomer newcomer;
	struct job_record *record;
	const char *id;
	struct watch *watch;
	bool found;
	struct error *error;
	struct latch done;
};

static void done(void *arg, struct error *error)
{
	struct call *call = arg;

	call->error = error;
	latch_open(&call->done);
}

static void loop_submit(void *arg)
{
	struct call *call = arg;

	jobs_submit(call->f->jobs, &call->newcomer, 1, done, call);
}

static uint64_t ttl_ms; /* of the jobs to come; 0: none */
static bool retried;	/* they have three attempts, without a wait */

/* words: of fake_attempt.h, between blanks. ret_id: char[JOB_ID_SIZE]. The code of its failure, or
 * 0. */
static enum err_code submit(struct fixture *f, const char *words, char *ret_id)
{
	struct job_record *record = job_record_new();
	struct call call = {.f = f, .newcomer.record = record};
	Job__V1__Spec *spec = record->spec = xmalloc(sizeof(*spec));

	job__v1__spec__init(spec);
	spec->image = xstrdup(FAKE_IMAGE);
	spec->argv = xcalloc(strlen(words), sizeof(*spec->argv));
	for (const char *word = words; *word; word += strspn(word, " ")) {
		size_t n = strcspn(word, " ");
		spec->argv[spec->n_argv++] = xstrndup(word, n);
		word += n;
	}
	record->state = JOB_QUEUED;
	job_id_make(now_real_usec(), record->id);
	memcpy(ret_id, record->id, JOB_ID_SIZE);
	if (memory_of) {
		spec->resources = xmalloc(sizeof(*spec->resources));
		job__v1__resources__init(spec->resources);
		spec->resources->has_memory_bytes = spec->resources->has_cpus = true;
		spec->resources->memory_bytes = memory_of;
		spec->resources->cpus = 1;
	}
	if (ttl_ms) {
		spec->has_ttl_after_finished_ms = true;
		spec->ttl_after_finished_ms = ttl_ms;
	}
	if (retried) {
		spec->retry = xmalloc(sizeof(*spec->retry));
		job__v1__retry__init(spec->retry);
		spec->retry->has_max_attempts = spec->retry->has_backoff_ms = true;
		spec->retry->max_attempts = 3;
	}
	latch_init(&call.done);
	loop_post(f->loop, loop_submit, &call);
	latch_wait(&call.done);
	struct error *error = call.error ? call.error : call.newcomer.error;
	enum err_code code = error ? error->code : 0;
	error_free(error);
	return code;
}

static void loop_cancel(void *arg)
{
	struct call *call = arg;

	jobs_cancel(call->f->jobs, call->id, "no longer wanted", done, call);
}

static enum err_code cancel(struct fixture *f, const char *id)
{
	struct call call = {.f = f, .id = id};

	latch_init(&call.done);
	loop_post(f->loop, loop_cancel, &call);
	latch_wait(&call.done);
	enum err_code code = call.error ? call.error->code : 0;
	error_free(call.error);
	return code;
}

static void loop_watch(void *arg)
{
	struct call *call = arg;

	call->found = jobs_watch(call->f->jobs, call->id, call->watch);
}

static void loop_unwatch(void *arg)
{
	struct call *call = arg;

	jobs_unwatch(call->f->jobs, call->watch);
}

static int store_get(struct store *store, void *arg, struct error **err)
{
	struct call *call = arg;

	return store->ops->get(store, call->id, &call->record, err);
}

/* Wait until watchers are told of the end; then the store must have it. */
static struct job_record *wait_end(struct fixture *f, const char *id)
{
	struct watch watch;
	struct watch_news news = {0};
	struct call call = {.f = f, .id = id, .watch = &watch};

	watch_init(&watch);
	loop_call(f->loop, loop_watch, &call);
	while (call.found && !news.finished)
		assert_true(watch_wait(&watch, DEADLINE_MS, &news));
	loop_call(f->loop, loop_unwatch, &call);
	watch_clear(&watch);
	assert_int_equal(store_queue_call(f->queue, store_get, &call, NULL), 0);
	assert_int_equal(call.record->state, JOB_FINISHED);
	return call.record;
}

static void expect_end(struct fixture *f, const char *id, enum job_outcome outcome)
{
	_cleanup_job_record_ struct job_record *record = wait_end(f, id);

	assert_int_equal(record->result.outcome, outcome);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void a_submit_that_is_not_committed_is_no_job(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&submit_faults, 1);
	assert_int_equal(submit(f, "exit:0", id), ERR_LIMIT);
	assert_int_equal(cancel(f, id), ERR_NOT_FOUND);
	assert_int_equal(submit(f, "exit:0", id), 0);
	expect_end(f, id, OUTCOME_SUCCEEDED);
}

static void a_failed_claim_is_tried_again(void **state)
{
	struct fixture *f = *state;
	char ids[4][JOB_ID_SIZE];

	atomic_store(&claim_faults, 2);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(submit(f, "exit:0", ids[i]), 0);
	for (size_t i = 0; i < 4; i++) {
		_cleanup_job_record_ struct job_record *record = wait_end(f, ids[i]);

		assert_int_equal(record->result.outcome, OUTCOME_SUCCEEDED);
		assert_int_equal(record->attempt, 1); /* none was begun in vain */
		assert_int_equal(record->epoch, 1);
	}
}

static void an_outcome_is_recorded_when_it_can_be(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&finish_faults, 1);
	assert_int_equal(submit(f, "exit:9", id), 0);
	_cleanup_job_record_ struct job_record *record = wait_end(f, id);
	assert_int_equal(atomic_load(&finish_faults), 0);
	assert_int_equal(record->result.exit_code, 9);
}

/* --- between two attempts -------------------------------------------------------------------- */

struct attempts {
	const char *id;
	size_t n;
};

static int count_attempt(void *arg, const struct job_record *record, struct error **err)
{
	struct attempts *attempts = arg;

	(void)err;
	assert_int_equal(record->attempt, ++attempts->n);
	return 0;
}

static int store_attempts(struct store *store, void *arg, struct error **err)
{
	struct attempts *attempts = arg;

	return store->ops->attempts(store, attempts->id, count_attempt, attempts, err);
}

static void expect_attempts(struct fixture *f, const char *id, size_t n)
{
	struct attempts attempts = {.id = id};

	assert_int_equal(store_queue_call(f->queue, store_attempts, &attempts, NULL), 0);
	assert_int_equal(attempts.n, n);
}

static int setup_retried(void **state)
{
	retried = true;
	return setup(state);
}

static int teardown_retried(void **state)
{
	retried = false;
	return teardown(state);
}

static void wait_for_fault(const atomic_int *left)
{
	for (int i = 0; i < DEADLINE_MS / 5 && atomic_load(left) > 0; i++)
		sleep_ms(5);
	assert_int_equal(atomic_load(left), 0);
}

static void another_attempt_waits_for_the_record_of_the_last(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&requeue_faults, 1);
	assert_int_equal(submit(f, "end:1:infra", id), 0);
	_cleanup_job_record_ struct job_record *record = wait_end(f, id);
	assert_int_equal(atomic_load(&requeue_faults), 0);
	assert_int_equal(record->result.outcome, OUTCOME_SUCCEEDED);
	assert_int_equal(record->attempt, 2);
	assert_int_equal(record->epoch, 3); /* claim, requeue, claim */
	expect_attempts(f, id, 1);
}

static void a_claim_that_fails_begins_no_attempt(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&requeue_faults, 1); /* so that the faults below come after the first claim */
	assert_int_equal(submit(f, "end:infra", id), 0);
	wait_for_fault(&requeue_faults);
	atomic_store(&claim_faults, 1);
	_cleanup_job_record_ struct job_record *record = wait_end(f, id);
	assert_int_equal(atomic_load(&claim_faults), 0);
	assert_int_equal(record->result.outcome, OUTCOME_INFRA);
	assert_int_equal(record->attempt, 3);
	expect_attempts(f, id, 2);
}

static void a_cancel_meets_the_way_back(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&requeue_faults, 1);
	assert_int_equal(submit(f, "end:infra", id), 0);
	wait_for_fault(&requeue_faults); /* it is tried again in a second */
	assert_int_equal(cancel(f, id), 0);
	_cleanup_job_record_ struct job_record *record = wait_end(f, id);
	assert_int_equal(record->result.outcome, OUTCOME_CANCELLED);
	assert_string_equal(record->result.error, "no longer wanted");
	assert_int_equal(record->attempt, 1);
	expect_attempts(f, id, 1);
}

static void what_has_ended_is_not_cancelled(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	atomic_store(&finish_faults, 1);
	assert_int_equal(submit(f, "exit:9", id), 0);
	wait_for_fault(&finish_faults); /* its end is known, and not recorded */
	assert_int_equal(cancel(f, id), ERR_STATE);
	expect_end(f, id, OUTCOME_FAILED);
}

static void a_cancel_meets_the_claim(void **state)
{
	struct fixture *f = *state;
	char ids[20][JOB_ID_SIZE];

	/* At once after the submit: queued, being claimed, or started; one end in any case. */
	for (size_t i = 0; i < 20; i++) {
		assert_int_equal(submit(f, "boot:/nonexistent", ids[i]), 0);
		assert_int_equal(cancel(f, ids[i]), 0);
	}
	for (size_t i = 0; i < 20; i++)
		expect_end(f, ids[i], OUTCOME_CANCELLED);
}

/* How often the line is in the fake's log. */
static unsigned noted(struct fixture *f, const char *what, const char *id)
{
	_cleanup_free_ char *path = str_printf("%s/" FAKE_LOG, f->dir);
	_cleanup_free_ char *log = read_file(path, MIB, NULL, NULL);
	_cleanup_free_ char *line = str_printf("%s %s\n", what, id);
	unsigned n = 0;

	for (const char *at = log; at && (at = strstr(at, line)); at++)
		n++;
	return n;
}

static bool has_begun(struct fixture *f, const char *id)
{
	return noted(f, "start", id) > 0;
}

static void wait_noted(struct fixture *f, const char *what, const char *id, unsigned n)
{
	for (int i = 0; i < DEADLINE_MS / 5 && noted(f, what, id) < n; i++)
		sleep_ms(5);
	assert_true(noted(f, what, id) >= n);
}

static void put_file(struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);

	assert_int_equal(write_file(path, "", 0, 0600, false, NULL), 0);
}

static void remove_file(struct fixture *f, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);

	assert_int_equal(unlink(path), 0);
}

static void a_job_takes_a_warm_vm_and_another_comes(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	memory_of = 64 * MIB;
	for (unsigned i = 1; i <= 3; i++) {
		wait_noted(f, "warm", "boots", i);
		assert_int_equal(submit(f, "exit:0", id), 0);
		expect_end(f, id, OUTCOME_SUCCEEDED);
		assert_int_equal(noted(f, "take", id), 1);
	}
	/* One of another size does not. */
	memory_of = 128 * MIB;
	assert_int_equal(submit(f, "exit:0", id), 0);
	expect_end(f, id, OUTCOME_SUCCEEDED);
	assert_true(has_begun(f, id));
}

static void idle_vms_give_room(void **state)
{
	struct fixture *f = *state;
	char first[JOB_ID_SIZE], second[JOB_ID_SIZE];

	/* Two idle ones, and max_vms is 2. */
	wait_noted(f, "warm", "boots", 2);
	memory_of = 128 * MIB;
	assert_int_equal(submit(f, "wait:/nonexistent", first), 0);
	wait_noted(f, "start", first, 1);
	assert_int_equal(noted(f, "warm", "leaves"), 1);
	assert_int_equal(submit(f, "wait:/nonexistent", second), 0);
	wait_noted(f, "start", second, 1);
	assert_int_equal(noted(f, "warm", "leaves"), 2);
	assert_int_equal(noted(f, "warm", "boots"), 2);
	/* They come back when there is room again. */
	assert_int_equal(cancel(f, first), 0);
	expect_end(f, first, OUTCOME_CANCELLED);
	wait_noted(f, "warm", "boots", 3);
}

static void idle_vms_that_die_are_replaced(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	wait_noted(f, "warm", "boots", 1);
	put_file(f, "fake.lost");
	wait_noted(f, "warm", "leaves", 1);
	remove_file(f, "fake.lost");
	wait_noted(f, "warm", "boots", 2);
	memory_of = 64 * MIB;
	assert_int_equal(submit(f, "exit:0", id), 0);
	expect_end(f, id, OUTCOME_SUCCEEDED);
	assert_int_equal(noted(f, "take", id), 1);
}

static void keep_pool(void *arg, const struct pools_info *info)
{
	struct pools_info *kept = arg;

	*kept = *info;
	assert_string_equal(info->reason ? info->reason : "", "it is broken");
}

struct look {
	struct fixture *f;
	struct pools_info info;
};

static void loop_look(void *arg)
{
	struct look *look = arg;

	jobs_each_pool(look->f->jobs, keep_pool, &look->info);
}

static void a_broken_image_does_not_hold_up_jobs(void **state)
{
	struct fixture *f = *state;
	struct look look = {.f = f};
	char id[JOB_ID_SIZE];

	put_file(f, "fake.broken");
	/* The one that was up before may be. */
	put_file(f, "fake.lost");
	wait_noted(f, "warm", "leaves", 1);
	sleep_ms(1500);
	assert_in_range(noted(f, "warm", "boots"), 1, 3);
	loop_call(f->loop, loop_look, &look);
	assert_true(look.info.failures >= 1);
	assert_string_equal(look.info.state, "backing off");
	memory_of = 64 * MIB;
	assert_int_equal(submit(f, "exit:0", id), 0);
	expect_end(f, id, OUTCOME_SUCCEEDED);
}

static void a_failed_claim_gives_the_warm_vm_back(void **state)
{
	struct fixture *f = *state;
	char id[JOB_ID_SIZE];

	wait_noted(f, "warm", "boots", 1);
	memory_of = 64 * MIB;
	atomic_store(&claim_faults, 1);
	assert_int_equal(submit(f, "exit:0", id), 0);
	expect_end(f, id, OUTCOME_SUCCEEDED);
	assert_int_equal(noted(f, "take", id), 1);
}

static void a_slot_is_free_when_its_qemu_has_ended(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *path = str_printf("%s/go", f->dir);
	_cleanup_free_ char *words = str_printf("freed gone:%s", path);
	_cleanup_free_ char *unseen = str_printf("gone:%s", path);
	char first[JOB_ID_SIZE], second[JOB_ID_SIZE], third[JOB_ID_SIZE];

	f->config.max_vms = 1;
	assert_int_equal(submit(f, words, first), 0);
	expect_end(f, first, OUTCOME_SUCCEEDED);
	/* The VM of the first is still being tidied up. */
	assert_int_equal(submit(f, unseen, second), 0);
	expect_end(f, second, OUTCOME_SUCCEEDED);
	/* Where QEMU's end is not seen, the slot is free when all is gone. */
	assert_int_equal(submit(f, "exit:0", third), 0);
	sleep_ms(50);
	assert_false(has_begun(f, third));
	assert_int_equal(write_file(path, "", 0, 0600, false, NULL), 0);
	expect_end(f, third, OUTCOME_SUCCEEDED);
}

static void vms_that_stay_hold_up_the_rest(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *path = str_printf("%s/go", f->dir);
	_cleanup_free_ char *words = str_printf("freed gone:%s", path);
	char ids[3][JOB_ID_SIZE];

	f->config.max_vms = 1;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(submit(f, words, ids[i]), 0);
		expect_end(f, ids[i], OUTCOME_SUCCEEDED);
	}
	assert_int_equal(submit(f, "exit:0", ids[2]), 0);
	sleep_ms(50);
	assert_false(has_begun(f, ids[2]));
	assert_int_equal(write_file(path, "", 0, 0600, false, NULL), 0);
	expect_end(f, ids[2], OUTCOME_SUCCEEDED);
}

static void old_results_are_swept(void **state)
{
	struct fixture *f = *state;
	char old[JOB_ID_SIZE], running[JOB_ID_SIZE];

	assert_int_equal(submit(f, "out:x", old), 0);
	assert_int_equal(submit(f, "wait:/nonexistent", running), 0);
	expect_end(f, old, OUTCOME_SUCCEEDED);
	_cleanup_free_ char *old_dir = config_job_dir(&f->config, old);
	_cleanup_free_ char *running_dir = config_job_dir(&f->config, running);
	f->config.retain_ms = 3600 * 1000;

	uint64_t now = now_real_usec();
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, NULL, NULL, NULL), 0);
	assert_int_equal(access(old_dir, F_OK), 0); /* an hour is not over */
	now += UINT64_C(3601) * 1000000;
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, NULL, NULL, NULL), 0);
	assert_int_equal(access(old_dir, F_OK), -1);
	assert_int_equal(access(running_dir, F_OK), 0);
	struct call call = {.id = old};
	_cleanup_error_ struct error *err = NULL;
	assert_int_equal(store_queue_call(f->queue, store_get, &call, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
}

static int note(void *arg, const char *id, uint64_t finished, uint64_t expired, struct error **err)
{
	(void)err;
	snprintf(arg, JOB_ID_SIZE, "%s", id);
	assert_int_equal(expired - finished, 90 * 1000000);
	return 0;
}

static void a_job_may_go_earlier_than_others(void **state)
{
	struct fixture *f = *state;
	char own[JOB_ID_SIZE], other[JOB_ID_SIZE], noted[JOB_ID_SIZE] = "";

	ttl_ms = 90 * 1000;
	assert_int_equal(submit(f, "out:x", own), 0);
	ttl_ms = 0;
	assert_int_equal(submit(f, "out:x", other), 0);
	expect_end(f, own, OUTCOME_SUCCEEDED);
	expect_end(f, other, OUTCOME_SUCCEEDED);
	_cleanup_free_ char *dir = config_job_dir(&f->config, own);

	/* retain is 0: the others stay for ever. */
	uint64_t now = now_real_usec();
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, note, noted, NULL), 0);
	assert_string_equal(noted, "");
	now += 91 * 1000000;
	assert_int_equal(retention_sweep(&f->config, f->queue, now, true, note, noted, NULL), 0);
	assert_string_equal(noted, own);
	assert_int_equal(access(dir, F_OK), 0); /* dry */
	noted[0] = '\0';
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, note, noted, NULL), 0);
	assert_string_equal(noted, own);
	assert_int_equal(access(dir, F_OK), -1);
	expect_end(f, other, OUTCOME_SUCCEEDED);
	noted[0] = '\0';
	assert_int_equal(retention_sweep(&f->config, f->queue, now, false, note, noted, NULL), 0);
	assert_string_equal(noted, "");
}

#define TEST(name)	     cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_RETRIED(name)   cmocka_unit_test_setup_teardown(name, setup_retried, teardown_retried)
#define POOL_TEST(name, how) cmocka_unit_test_setup_teardown(name, how, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_submit_that_is_not_committed_is_no_job),
		TEST(a_failed_claim_is_tried_again),
		TEST(an_outcome_is_recorded_when_it_can_be),
		TEST(a_cancel_meets_the_claim),
		TEST(what_has_ended_is_not_cancelled),
		TEST_RETRIED(another_attempt_waits_for_the_record_of_the_last),
		TEST_RETRIED(a_claim_that_fails_begins_no_attempt),
		TEST_RETRIED(a_cancel_meets_the_way_back),
		TEST(a_slot_is_free_when_its_qemu_has_ended),
		TEST(vms_that_stay_hold_up_the_rest),
		POOL_TEST(a_job_takes_a_warm_vm_and_another_comes, setup_pool_of_one),
		POOL_TEST(idle_vms_give_room, setup_pool_of_two),
		POOL_TEST(idle_vms_that_die_are_replaced, setup_pool_of_one),
		POOL_TEST(a_broken_image_does_not_hold_up_jobs, setup_pool_of_one),
		POOL_TEST(a_failed_claim_gives_the_warm_vm_back, setup_pool_of_one),
		TEST(old_results_are_swept),
		TEST(a_job_may_go_earlier_than_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
