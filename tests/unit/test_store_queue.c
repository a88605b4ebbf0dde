/* Group commit, with a store that only counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>

#include <string.h>

#include "common/util.h"
#include "orchestrator/store_queue.h"

struct counting {
	struct store base;
	atomic_int begins, commits, rollbacks; /* of the store's thread, read by others */
	bool open;
	bool fail_commit;
	bool lose_transaction; /* the next operation takes it down */
};

static int begin(struct store *store, struct error **err)
{
	struct counting *c = (struct counting *)store;

	(void)err;
	assert_false(c->open);
	c->open = true;
	c->begins++;
	return 0;
}

static int commit(struct store *store, struct error **err)
{
	struct counting *c = (struct counting *)store;

	if (c->fail_commit)
		return error_set(err, ERR_LIMIT, "disk full");
	c->open = false;
	c->commits++;
	return 0;
}

static void rollback(struct store *store)
{
	struct counting *c = (struct counting *)store;

	c->open = false;
	c->rollbacks++;
}

static bool in_transaction(struct store *store)
{
	return ((struct counting *)store)->open;
}

static const struct store_ops ops = {
	.begin = begin, .commit = commit, .rollback = rollback, .in_transaction = in_transaction};

struct fixture {
	struct counting store;
	struct loop *loop;
	pthread_t thread;
	struct store_queue *queue;
	struct latch gate, inside; /* an operation that holds the store's thread */
};

static void *run_loop(void *loop)
{
	loop_run(loop);
	return NULL;
}

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	f->store.base.ops = &ops;
	f->loop = loop_new();
	pthread_create(&f->thread, NULL, run_loop, f->loop);
	f->queue = store_queue_new(&f->store.base, f->loop, NULL);
	*state = f;
	return f->queue ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	store_queue_free(f->queue);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	loop_free(f->loop);
	free(f);
	return 0;
}

static int hold(struct store *store, void *arg, struct error **err)
{
	struct fixture *f = arg;

	(void)store;
	(void)err;
	latch_open(&f->inside);
	latch_wait(&f->gate);
	return 0;
}

/* The store's thread is busy from now on, until release(): what comes meanwhile waits. */
static void hold_store(struct fixture *f)
{
	latch_init(&f->gate);
	latch_init(&f->inside);
	store_queue_post(f->queue, hold, NULL, f);
	latch_wait(&f->inside);
}

struct told {
	struct fixture *f;
	int number;
	int *order; /* the numbers in the order of telling */
	int *n_told;
	bool fail, lose;
	enum err_code code; /* what it was told; 0: committed */
	int commits;	    /* how many there were when it was told */
};

static int operate(struct store *store, void *arg, struct error **err)
{
	struct told *told = arg;

	if (told->lose)
		((struct counting *)store)->open = false;
	if (told->fail || told->lose)
		return error_set(err, told->lose ? ERR_LIMIT : ERR_ABORTED, "no");
	return 0;
}

static void hear(void *arg, struct error *error)
{
	struct told *told = arg;

	told->code = error ? error->code : 0;
	told->commits = told->f->store.commits;
	told->order[(*told->n_told)++] = told->number;
	error_free(error);
}

static void nothing(void *arg)
{
	(void)arg;
}

#define N 100

/* Post N operations while the store is held, release it, and wait until all were told. */
static void run_batch(struct fixture *f, struct told told[N], int order[N])
{
	int n_told = 0;

	hold_store(f);
	for (int i = 0; i < N; i++) {
		told[i].f = f;
		told[i].number = i;
		told[i].order = order;
		told[i].n_told = &n_told;
		store_queue_post(f->queue, operate, hear, &told[i]);
	}
	loop_call(f->loop, nothing, NULL);
	assert_int_equal(n_told, 0); /* nobody before the commit */
	latch_open(&f->gate);
	struct told last = {.f = f};
	store_queue_call(f->queue, operate, &last, NULL);
	loop_call(f->loop, nothing, NULL); /* what was told before it has been heard now */
	assert_int_equal(n_told, N);
	for (int i = 0; i < N; i++)
		assert_int_equal(order[i], i);
}

static void what_waits_is_one_transaction(void **state)
{
	struct fixture *f = *state;
	struct told told[N] = {0};
	int order[N];

	told[50].fail = true; /* its own affair */
	run_batch(f, told, order);
	for (int i = 0; i < N; i++) {
		assert_int_equal(told[i].code, i == 50 ? ERR_ABORTED : 0);
		assert_true(told[i].commits >= 2);
	}
	assert_in_range(f->store.commits, 2, 3); /* the holder's, the batch's, the last call's */
}

static void a_lost_transaction_fails_all(void **state)
{
	struct fixture *f = *state;
	struct told told[N] = {0};
	int order[N];

	told[10].fail = true;
	told[50].lose = true;
	run_batch(f, told, order);
	for (int i = 0; i < N; i++)
		assert_int_equal(told[i].code, ERR_LIMIT);
	assert_int_equal(f->store.rollbacks, 1);
}

static void a_failed_commit_fails_all(void **state)
{
	struct fixture *f = *state;
	struct told told = {.f = f};
	_cleanup_error_ struct error *err = NULL;

	f->store.fail_commit = true;
	assert_int_equal(store_queue_call(f->queue, operate, &told, &err), -1);
	assert_int_equal(err->code, ERR_LIMIT);
	assert_string_equal(err->text, "disk full");
	f->store.fail_commit = false;
	assert_int_equal(store_queue_call(f->queue, operate, &told, NULL), 0);
}

struct direct {
	struct fixture *f;
	bool fail;
	pthread_t operated, told;
	int commits; /* when it was told */
	enum err_code code;
	struct latch done;
};

static int operate_directly(struct store *store, void *arg, struct error **err)
{
	struct direct *direct = arg;

	(void)store;
	direct->operated = pthread_self();
	return direct->fail ? error_set(err, ERR_ABORTED, "no") : 0;
}

static void hear_directly(void *arg, struct error *error)
{
	struct direct *direct = arg;

	direct->told = pthread_self();
	direct->commits = direct->f->store.commits;
	direct->code = error ? error->code : 0;
	error_free(error);
	latch_open(&direct->done);
}

static void who_is_told_directly_hears_it_on_the_stores_thread(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 3; i++) {
		struct direct direct = {.f = f, .fail = i == 1};

		f->store.fail_commit = i == 2;
		latch_init(&direct.done);
		store_queue_post_direct(f->queue, 5, operate_directly, hear_directly, &direct);
		latch_wait(&direct.done);
		assert_true(pthread_equal(direct.operated, direct.told));
		assert_int_equal(direct.commits, i < 2 ? i + 1 : 2);
		assert_int_equal(direct.code, i == 1 ? ERR_ABORTED : i == 2 ? ERR_LIMIT : 0);
	}
	f->store.fail_commit = false;
}

struct caller {
	struct fixture *f;
	pthread_t thread;
	int wrong;
};

static void *call_often(void *arg)
{
	struct caller *caller = arg;

	for (int i = 0; i < 200; i++) {
		struct told told = {.f = caller->f, .fail = i % 3 == 0};
		struct error *err = NULL;
		int r = store_queue_call(caller->f->queue, operate, &told, &err);

		caller->wrong += (r < 0) != told.fail || (r < 0) != (err != NULL);
		error_free(err);
	}
	return NULL;
}

static void many_threads_are_told_of_their_own(void **state)
{
	struct caller callers[8];

	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		callers[i] = (struct caller){.f = *state};
		pthread_create(&callers[i].thread, NULL, call_often, &callers[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].wrong, 0);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_waits_is_one_transaction),
		TEST(a_lost_transaction_fails_all),
		TEST(a_failed_commit_fails_all),
		TEST(who_is_told_directly_hears_it_on_the_stores_thread),
		TEST(many_threads_are_told_of_their_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
