/* A whole daemon whose disk fails under SQLite, at one write after the other of each kind of
 * change: what was acknowledged is not lost, each job runs once and has one outcome, and when the
 * errors end all goes on. Only the attempts are fake. FAULT_RUNS above 1: with every kind of error
 * at each write.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/retention.h"
#include "tests/unit/control_fixture.h"
#include "tests/unit/faulty_vfs.h"

#define POSITIONS 12

/* What fails, from the position on. */
static const struct mode {
	const char *name;
	int code, times;
} modes[] = {
	{"one I/O error", SQLITE_IOERR, 1},
	{"disk full, once", SQLITE_FULL, 1},
	{"I/O errors", SQLITE_IOERR, 1000000},
	{"disk full", SQLITE_FULL, 1000000},
};

static struct vfs_faults *faults;
static size_t n_ids;
static char ids[512][32];
static unsigned gates;
static unsigned attempts; /* that each job has */

static void arm(int position, const struct mode *mode)
{
	faults->fail = 0;
	faults->made = 0;
	faults->calls = 0;
	faults->code = mode->code;
	faults->skip = position;
	faults->fail = mode->times;
}

/* Give the daemon the time to meet them, then end them. Did any come? Nobody asks the daemon
 * meanwhile: who reads in the transaction that fails is told so. */
static bool disarm(void)
{
	sleep_ms(60);
	faults->fail = 0;
	return faults->made > 0;
}

static char *gate(const struct fixture *f, const char *word)
{
	_cleanup_free_ char *name = str_printf("gate-%u", gates);

	return fixture_word(f, word, name);
}

static void open_gate(const struct fixture *f)
{
	_cleanup_free_ char *name = str_printf("gate-%u", gates++);

	fixture_touch(f, name);
}

static char *start(struct fixture *f, const char *word)
{
	char *id = ids[n_ids++];

	assert_true(n_ids < ARRAY_SIZE(ids));
	fixture_submit_ok(f, id, word, "exit:7", NULL);
	return id;
}

/* Each of these makes one change while the faults are armed, and sees its job to the end. */

static bool at_submit(struct fixture *f, int position, const struct mode *mode)
{
	_cleanup_free_ char *key = str_printf("key-%zu-%d-%s", n_ids, position, mode->name);
	const char *argv[] = {"fake", "exit:7", NULL};
	_cleanup_error_ struct error *err = NULL;
	char told[32] = "", *id = ids[n_ids++];

	/* The only slot is taken, so that nothing else is written. */
	_cleanup_free_ char *wait = gate(f, "wait");
	const char *holder = start(f, wait);
	fixture_until(f, holder, CONTROL__V1__STATE__RUNNING);
	arm(position, mode);
	int r = fixture_submit(f, argv, key, NULL, told, &err);
	bool met = disarm();
	if (r < 0)
		assert_true(met);
	/* The same key is the same job, if there was one. */
	struct error *again = NULL;
	if (fixture_submit(f, argv, key, NULL, id, &again) < 0)
		fail_msg("submit again: %s", again->text);
	if (r == 0)
		assert_string_equal(told, id);
	open_gate(f);
	fixture_expect(f, holder, JOB__V1__OUTCOME__FAILED);
	fixture_expect(f, id, JOB__V1__OUTCOME__FAILED);
	return met;
}

static bool at_claim(struct fixture *f, int position, const struct mode *mode)
{
	_cleanup_free_ char *gone = gate(f, "gone");
	const char *holder = start(f, gone);
	const char *id = start(f, "out:x");

	fixture_expect(f, holder, JOB__V1__OUTCOME__FAILED);
	arm(position, mode);
	open_gate(f); /* the slot is free: with the claim comes the record of the VM's end */
	bool met = disarm();
	fixture_expect(f, id, JOB__V1__OUTCOME__FAILED);
	return met;
}

static bool at_gate(struct fixture *f, const char *word, int position, const struct mode *mode)
{
	_cleanup_free_ char *words = gate(f, word);
	const char *id = start(f, words);

	if (!str_eq(word, "boot"))
		fixture_until(f, id,
			str_eq(word, "collect") ? CONTROL__V1__STATE__COLLECTING
						: CONTROL__V1__STATE__RUNNING);
	else
		fixture_until(f, id, CONTROL__V1__STATE__STARTING);
	arm(position, mode);
	open_gate(f);
	bool met = disarm();
	fixture_expect(f, id, JOB__V1__OUTCOME__FAILED);
	return met;
}

/* To running, and what comes behind it. */
static bool at_update(struct fixture *f, int position, const struct mode *mode)
{
	return at_gate(f, "boot", position, mode);
}

static bool at_finish(struct fixture *f, int position, const struct mode *mode)
{
	return at_gate(f, "collect", position, mode);
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0;

	for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
		n++;
	return n;
}

/* A daemon of a sound disk finds each job as it was told, begun as often as it should be. */
static void check_history(struct fixture *f)
{
	faults->fail = 0;
	assert_int_equal(fixture_end(f, SIGKILL), 128 + SIGKILL);
	_cleanup_free_ char *line = fixture_start(f);
	assert_string_equal(line, "ready");
	_cleanup_free_ char *log = fixture_log(f);
	assert_int_equal(count(log, "start "), n_ids * attempts);
	for (size_t i = 0; i < n_ids; i++) {
		Control__V1__JobInfo *info = fixture_get(f, ids[i], NULL);
		_cleanup_free_ char *begun = str_printf("start %s\n", ids[i]);

		assert_non_null(info);
		assert_int_equal(info->state, CONTROL__V1__STATE__FINISHED);
		assert_int_equal(info->outcome, JOB__V1__OUTCOME__FAILED);
		assert_int_equal(info->exit_code, 7);
		assert_int_equal(info->attempt, attempts);
		assert_int_equal(info->n_earlier, attempts - 1);
		assert_int_equal(count(log, begun), attempts);
		rpc_message_free(&info->base);
	}
}

static void sweep_positions(struct fixture *f, const char *name,
	bool (*change)(struct fixture *, int, const struct mode *))
{
	const char *runs = getenv("FAULT_RUNS");
	bool all = runs && atoi(runs) > 1;
	int met = 0, tried = 0;

	for (int position = 0; position < POSITIONS; position++) {
		for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
			if (!all && (size_t)position % ARRAY_SIZE(modes) != m)
				continue;
			tried++;
			met += change(f, position, &modes[m]);
		}
	}
	printf("%s: %d times at %d writes, %d met an error\n", name, tried, POSITIONS, met);
	assert_true(met >= tried / 3);
	check_history(f);
}

static int setup(void **state)
{
	if (fixture_setup_stopped(state) < 0)
		return -1;
	struct fixture *f = *state;
	_cleanup_free_ char *path = fixture_path(f, "faults");

	n_ids = 0;
	attempts = 1;
	faults = vfs_faults_map(path);
	f->config.max_vms = 1;
	_cleanup_free_ char *line = fixture_start(f);
	return str_eq(line, "ready") ? 0 : -1;
}

static void a_submit(void **state)
{
	sweep_positions(*state, "submit", at_submit);
}

static void a_claim(void **state)
{
	sweep_positions(*state, "claim", at_claim);
}

static void an_update(void **state)
{
	sweep_positions(*state, "update", at_update);
}

static void a_finish(void **state)
{
	sweep_positions(*state, "finish", at_finish);
}

/* The end of an attempt, and the way back to the queue; then the whole of the next one. */
static void a_retry(void **state)
{
	char class[] = "failed";
	char *on[] = {class};
	Job__V1__Retry policy = JOB__V1__RETRY__INIT;
	struct fixture *f = *state;

	policy.has_max_attempts = policy.has_backoff_ms = true;
	policy.max_attempts = attempts = 2;
	policy.backoff_ms = 1;
	policy.on = on;
	policy.n_on = ARRAY_SIZE(on);
	f->retry = &policy;
	sweep_positions(f, "retry", at_finish);
	f->retry = NULL;
}

/* --- removing: the sweep alone, in this process ------------------------------------------------
 */

static int store_ended(struct store *store, void *arg, struct error **err)
{
	struct job_record *record = arg;

	record->epoch++;
	record->state = JOB_STARTING;
	if (store->ops->claim(store, record, err) < 0)
		return -1;
	record->state = JOB_FINISHED;
	return store->ops->finish(store, record, err);
}

static int store_submit(struct store *store, void *arg, struct error **err)
{
	char other[JOB_ID_SIZE];

	return store->ops->submit(store, arg, other, err);
}

static int visit_one(void *arg, const struct job_record *record, struct error **err)
{
	(void)record;
	(void)err;
	(*(size_t *)arg)++;
	return 0;
}

static int store_count(struct store *store, void *arg, struct error **err)
{
	struct store_filter filter = {0};

	*(size_t *)arg = 0;
	return store->ops->list(store, &filter, visit_one, arg, err);
}

static void add_finished(struct store_queue *queue, uint64_t at_usec)
{
	_cleanup_job_record_ struct job_record *record = job_record_new();
	Job__V1__Spec *spec = record->spec = xmalloc(sizeof(*spec));

	job__v1__spec__init(spec);
	spec->image = xstrdup("fake");
	job_id_make(now_real_usec(), record->id);
	record->state = JOB_QUEUED;
	record->result.times[STAGE_RECORDED] = at_usec;
	assert_int_equal(store_queue_call(queue, store_submit, record, NULL), 0);
	assert_int_equal(store_queue_call(queue, store_ended, record, NULL), 0);
}

static void a_removal(void **state)
{
	char dir[] = "/tmp/store-errors-XXXXXX";
	uint64_t now = now_real_usec(), hour = UINT64_C(3600) * 1000000;

	(void)state;
	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *path = str_printf("%s/faults", dir), *db = str_printf("%s/db", dir);
	struct config config = {.state_dir = dir, .retain_ms = 60 * 1000};
	faults = vfs_faults_map(path);
	vfs_faults_install(faults);
	struct loop *loop = loop_new();
	for (int position = 0; position < POSITIONS; position++) {
		struct store *store = store_sqlite_open(db, NULL);
		struct store_queue *queue = store_queue_new(store, loop, NULL);
		const struct mode *mode = &modes[position % 2];
		size_t before = 3 + (size_t)position, left;

		/* Those of the last hour stay. */
		for (int i = 0; i < 10; i++)
			add_finished(queue, now - 2 * hour);
		add_finished(queue, now + hour);
		if (position == 0) {
			add_finished(queue, now + hour);
			add_finished(queue, now + hour);
		}
		arm(position, mode);
		_cleanup_error_ struct error *err = NULL;
		int r = retention_sweep(&config, queue, now, false, NULL, NULL, &err);
		bool met = disarm();
		assert_int_equal(r, met ? -1 : 0);
		assert_int_equal(store_queue_call(queue, store_count, &left, NULL), 0);
		assert_int_equal(left, met ? before + 10 : before); /* all or none */
		/* The next sweep does it, in the next process. */
		store_queue_free(queue);
		store->ops->close(store);
		store = store_sqlite_open(db, NULL);
		queue = store_queue_new(store, loop, NULL);
		assert_int_equal(retention_sweep(&config, queue, now, false, NULL, NULL, NULL), 0);
		assert_int_equal(store_queue_call(queue, store_count, &left, NULL), 0);
		assert_int_equal(left, before);
		store_queue_free(queue);
		store->ops->close(store);
	}
	loop_free(loop);
	remove_tree(dir, NULL);
}

#define TEST_FAULTY(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST_FAULTY(a_submit),
		TEST_FAULTY(a_claim),
		TEST_FAULTY(an_update),
		TEST_FAULTY(a_finish),
		TEST_FAULTY(a_retry),
		cmocka_unit_test(a_removal),
	};

	/* The daemon is this program, too; its directory is its second argument. */
	if (argc > 2 && str_eq(argv[1], "daemon")) {
		_cleanup_free_ char *path = str_printf("%s/faults", argv[2]);

		vfs_faults_install(vfs_faults_map(path));
	}
	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
