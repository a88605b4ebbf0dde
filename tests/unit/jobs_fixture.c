#include "tests/unit/jobs_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/host.h"
#include "tests/unit/fake_attempt.h"

/* --- a store with faults --------------------------------------------------------------------- */

static const struct store_ops *real;
static struct store_ops faulty;
static struct fixture *current; /* whose faults they are */

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
	if (fault(&current->faults.submit, err) < 0)
		return -1;
	return real->submit(store, record, ret_other, err);
}

static int faulty_claim(struct store *store, const struct job_record *record, struct error **err)
{
	if (fault(&current->faults.claim, err) < 0)
		return -1;
	return real->claim(store, record, err);
}

static int faulty_finish(struct store *store, const struct job_record *record, struct error **err)
{
	if (fault(&current->faults.finish, err) < 0)
		return -1;
	return real->finish(store, record, err);
}

static int faulty_requeue(struct store *store, const struct job_record *ended,
	const struct job_record *queued, struct error **err)
{
	if (fault(&current->faults.requeue, err) < 0)
		return -1;
	return real->requeue(store, ended, queued, err);
}

/* --- its life -------------------------------------------------------------------------------- */

static void *run_loop(void *loop)
{
	loop_run(loop);
	return NULL;
}

int fixture_setup_pool(void **state, uint32_t min_idle)
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
	current = f;
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

int fixture_setup(void **state)
{
	return fixture_setup_pool(state, 0);
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

int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	struct stop stop = {.f = f};

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

enum err_code fixture_submit(struct fixture *f, const char *words, char ret_id[JOB_ID_SIZE])
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
	if (f->memory_bytes) {
		spec->resources = xmalloc(sizeof(*spec->resources));
		job__v1__resources__init(spec->resources);
		spec->resources->has_memory_bytes = spec->resources->has_cpus = true;
		spec->resources->memory_bytes = f->memory_bytes;
		spec->resources->cpus = 1;
	}
	if (f->ttl_ms) {
		spec->has_ttl_after_finished_ms = true;
		spec->ttl_after_finished_ms = f->ttl_ms;
	}
	if (f->retried) {
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

enum err_code fixture_cancel(struct fixture *f, const char *id)
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

struct job_record *fixture_wait_end(struct fixture *f, const char *id)
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

void fixture_expect_end(struct fixture *f, const char *id, enum job_outcome outcome)
{
	_cleanup_job_record_ struct job_record *record = fixture_wait_end(f, id);

	assert_int_equal(record->result.outcome, outcome);
}

/* --- what the fakes did ---------------------------------------------------------------------- */

unsigned fixture_noted(const struct fixture *f, const char *what, const char *id)
{
	_cleanup_free_ char *path = str_printf("%s/" FAKE_LOG, f->dir);
	_cleanup_free_ char *log = read_file(path, MIB, NULL, NULL);
	_cleanup_free_ char *line = str_printf("%s %s\n", what, id);
	unsigned n = 0;

	for (const char *at = log; at && (at = strstr(at, line)); at++)
		n++;
	return n;
}

void fixture_wait_noted(const struct fixture *f, const char *what, const char *id, unsigned n)
{
	for (int i = 0; i < DEADLINE_MS / 5 && fixture_noted(f, what, id) < n; i++)
		sleep_ms(5);
	assert_true(fixture_noted(f, what, id) >= n);
}
