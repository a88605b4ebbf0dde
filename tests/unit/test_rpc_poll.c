/* Who polls (common/rpc_poll.c): callers in a process that serves nothing, whose server is another
 * process (this program again, with a role and an fd); and handlers on the thread that polls. */
#include "tests/unit/rpc_child.h"

#define CALLERS 6
#define CALLS	300
#define ECHOES	200
#define PAUSES	400

/* The other process. */
static int serve(int fd)
{
	struct fixture f;

	alarm(3 * PATIENCE_MS / 1000);
	rpc_init();
	fixture_start(&f, keepalive_limits());
	rpc_server_set_quick(f.server, &worker_addition, NULL);
	if (rpc_server_add(f.server, fd, &f.ev, count_close, NULL) < 0)
		return 1;
	events_wait_ms(&f.ev, &f.ev.closed, 1, 3 * PATIENCE_MS);
	return 0;
}

struct child {
	struct rpc_child process;
	struct rpc_peer *peer;
};

static struct child child_start(void)
{
	struct rpc_limits limits = keepalive_limits();
	struct child child = {.process = rpc_child_start("serve")};

	child.peer = rpc_peer_new(child.process.fd, "worker", &limits, NULL);
	assert_non_null(child.peer);
	return child;
}

static void child_end(struct child *child)
{
	rpc_peer_free(child->peer);
	rpc_child_kill(&child->process);
}

static void expect_sum(struct rpc_peer *peer, int64_t a, int64_t b)
{
	struct error *err = NULL;
	int64_t sum = 0;

	if (add(peer, a, b, &sum, &err) < 0)
		fail_msg("%s", err->text);
	assert_int_equal(sum, a + b);
}

/* A call whose handler does not end by itself. */
static int hold(struct rpc_peer *peer, int timeout_ms, struct error **err)
{
	ProtobufCMessage *reply;
	int r = ping(peer, "hold", 4, timeout_ms, &reply, err);

	if (r == 0)
		rpc_message_free(reply);
	return r;
}

/* A thread that makes calls. */
struct caller {
	pthread_t thread;
	struct rpc_peer *peer;
	int timeout_ms; /* of a call that is held; 0: CALLS additions */
	int wrong;
	enum err_code code;
	uint64_t took_ms;
};

static void *run_caller(void *arg)
{
	struct caller *caller = arg;
	struct error *err = NULL;
	uint64_t began = now_mono_usec();
	int64_t sum;

	for (int i = 0; i < CALLS && !caller->timeout_ms; i++)
		if (add(caller->peer, i, 5, &sum, NULL) < 0 || sum != i + 5)
			caller->wrong++;
	if (caller->timeout_ms && hold(caller->peer, caller->timeout_ms, &err) < 0)
		caller->code = err->code;
	caller->took_ms = (now_mono_usec() - began) / 1000;
	error_free(err);
	return NULL;
}

static void caller_start(struct caller *caller, struct rpc_peer *peer, int timeout_ms)
{
	*caller = (struct caller){.peer = peer, .timeout_ms = timeout_ms};
	assert_int_equal(pthread_create(&caller->thread, NULL, run_caller, caller), 0);
}

/* ------------------------------------------------------------------------------------------------
 */

static void many_callers_and_a_stream_share_the_polling(void **state)
{
	struct child child = child_start();
	struct caller callers[CALLERS];
	ProtobufCMessage *message;

	(void)state;
	struct rpc_call *call = rpc_open(child.peer, &worker_run, -1, NULL);
	for (int i = 0; i < CALLERS; i++)
		caller_start(&callers[i], child.peer, 0);
	for (int i = 0; i < ECHOES; i++) {
		assert_int_equal(send_input(call, "x", NULL), 0);
		assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 1);
		rpc_message_free(message);
	}
	for (int i = 0; i < CALLERS; i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].wrong, 0);
	}
	assert_int_equal(rpc_close_send(call, NULL), 0);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 0);
	rpc_close(call);
	child_end(&child);
}

static void a_caller_that_polls_keeps_its_deadline(void **state)
{
	struct child child = child_start();
	struct error *err = NULL;

	(void)state;
	expect_sum(child.peer, 1, 2);
	uint64_t began = now_mono_usec();
	assert_int_equal(hold(child.peer, 300, &err), -1);
	expect_error(&err, ERR_TIMEOUT, "no answer in time");
	uint64_t took = (now_mono_usec() - began) / 1000;
	assert_in_range(took, 290, PATIENCE_MS / 2);
	expect_sum(child.peer, 2, 3);
	child_end(&child);
}

static void another_thread_cancels_a_caller_that_polls(void **state)
{
	struct child child = child_start();
	struct caller caller;

	(void)state;
	expect_sum(child.peer, 1, 2);
	caller_start(&caller, child.peer, 2 * PATIENCE_MS);
	sleep_ms(100);
	rpc_peer_cancel(child.peer);
	pthread_join(caller.thread, NULL);
	assert_int_equal(caller.code, ERR_UNAVAILABLE);
	assert_in_range(caller.took_ms, 0, PATIENCE_MS);
	child_end(&child);
}

static void a_killed_server_ends_a_caller_that_polls(void **state)
{
	struct child child = child_start();
	struct caller caller;

	(void)state;
	expect_sum(child.peer, 1, 2);
	caller_start(&caller, child.peer, 2 * PATIENCE_MS);
	sleep_ms(100);
	rpc_child_kill(&child.process);
	pthread_join(caller.thread, NULL);
	assert_int_equal(caller.code, ERR_UNAVAILABLE);
	assert_in_range(caller.took_ms, 0, PATIENCE_MS);
	rpc_peer_free(child.peer);
}

/* The first polls, and is gone before the second has what it waits for; calls come and go beside
 * them. */
static void who_waits_is_not_left_when_a_caller_ends(void **state)
{
	struct child child = child_start();
	struct caller first, second;

	(void)state;
	expect_sum(child.peer, 1, 2);
	caller_start(&first, child.peer, 200);
	sleep_ms(50);
	caller_start(&second, child.peer, 500);
	for (int i = 0; i < 50; i++)
		expect_sum(child.peer, i, i);
	pthread_join(first.thread, NULL);
	pthread_join(second.thread, NULL);
	assert_int_equal(first.code, ERR_TIMEOUT);
	assert_int_equal(second.code, ERR_TIMEOUT);
	assert_in_range(first.took_ms, 190, PATIENCE_MS / 2);
	assert_in_range(second.took_ms, 490, PATIENCE_MS / 2);
	child_end(&child);
}

/* The pauses are those after which the poller comes, so that both meet at the queue. */
static void calls_with_pauses_between_are_all_answered(void **state)
{
	struct child child = child_start();

	(void)state;
	for (int i = 0; i < PAUSES; i++) {
		expect_sum(child.peer, i, 1);
		expect_sum(child.peer, i, 2);
		usleep(1500 + (unsigned)i % 20 * 100);
	}
	child_end(&child);
}

/* Nobody calls, and the server's keepalive is answered all the same. */
static void an_idle_connection_is_polled(void **state)
{
	struct child child = child_start();

	(void)state;
	for (int i = 0; i < 2; i++) {
		for (int k = 0; k < 20; k++)
			expect_sum(child.peer, i, k);
		sleep_ms((KEEPALIVE_MS + DEAD_MS) * 3 / 2);
	}
	expect_sum(child.peer, 1, 2);
	child_end(&child);
}

/* Quick handlers. --------------------------------------------------------------------------------
 */

static void a_quick_handler_needs_no_thread_of_the_pool(void **state)
{
	struct rpc_limits limits = rpc_limits_guest;
	struct caller held;
	struct fixture f;

	(void)state;
	limits.calls = 1;
	fixture_start(&f, limits);
	rpc_server_set_quick(f.server, &worker_addition, NULL);
	caller_start(&held, fixture_connect(&f), 2 * PATIENCE_MS);
	assert_int_equal(events_wait(&f.ev, &f.ev.entered, 1), 1);
	struct rpc_peer *other = fixture_connect(&f);
	for (int i = 0; i < 20; i++)
		expect_sum(other, i, 7);
	assert_int_equal(events_get(&f.ev, &f.ev.left), 20);
	events_add(&f.ev, &f.ev.open, 1);
	pthread_join(held.thread, NULL);
	assert_int_equal(held.code, 0);
	fixture_stop(&f);
}

static void a_quick_call_without_its_request_holds_nobody_up(void **state)
{
	struct fixture f;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	rpc_server_set_quick(f.server, &worker_addition, NULL);
	struct rpc_peer *peer = fixture_connect(&f);
	struct rpc_call *half[3];
	for (size_t i = 0; i < ARRAY_SIZE(half); i++)
		half[i] = rpc_open(peer, &worker_addition, -1, NULL);
	expect_sum(peer, 3, 4);
	assert_int_equal(events_get(&f.ev, &f.ev.entered), 1);
	rpc_close(half[0]);
	/* Its handler is told that nothing comes. */
	assert_int_equal(events_wait(&f.ev, &f.ev.left, 2), 2);
	assert_int_equal(f.ev.last_code, ERR_CANCELLED);
	/* With the connection the others end too. */
	rpc_peer_free(peer);
	f.n_peers = 0;
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1), 1);
	rpc_close(half[1]);
	rpc_close(half[2]);
	fixture_stop(&f);
}

static void a_server_is_freed_while_quick_calls_wait(void **state)
{
	struct fixture f;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	rpc_server_set_quick(f.server, &worker_addition, NULL);
	struct rpc_peer *peer = fixture_connect(&f);
	struct rpc_call *half = rpc_open(peer, &worker_addition, -1, NULL);
	expect_sum(peer, 3, 4);
	rpc_server_free(f.server, 50);
	assert_int_equal(f.ev.closed, 1);
	rpc_close(half);
	rpc_peer_free(peer);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_callers_and_a_stream_share_the_polling),
		cmocka_unit_test(a_caller_that_polls_keeps_its_deadline),
		cmocka_unit_test(another_thread_cancels_a_caller_that_polls),
		cmocka_unit_test(a_killed_server_ends_a_caller_that_polls),
		cmocka_unit_test(who_waits_is_not_left_when_a_caller_ends),
		cmocka_unit_test(calls_with_pauses_between_are_all_answered),
		cmocka_unit_test(an_idle_connection_is_polled),
		cmocka_unit_test(a_quick_handler_needs_no_thread_of_the_pool),
		cmocka_unit_test(a_quick_call_without_its_request_holds_nobody_up),
		cmocka_unit_test(a_server_is_freed_while_quick_calls_wait),
	};

	if (argc == 3)
		return serve(atoi(argv[2]));
	return cmocka_run_group_tests(tests, fixture_init, fixture_quit);
}
