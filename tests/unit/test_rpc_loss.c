/* Ends that go away: killed, stopped, closed in the middle, freed while calls run. Peers that are
 * killed or stopped are processes of their own: this program again, with a role and an fd. */
#include "tests/unit/rpc_child.h"

/* Roles of the child process. They run until killed or left alone. -------------------------------
 */

static int serve(int fd)
{
	struct fixture f;

	fixture_start(&f, keepalive_limits());
	if (rpc_server_add(f.server, fd, &f.ev, count_close, NULL) < 0)
		return 1;
	events_wait(&f.ev, &f.ev.closed, 1);
	return 0;
}

/* Begin an upload, and never end it. */
static int upload(int fd)
{
	struct rpc_limits limits = keepalive_limits();
	struct rpc_peer *peer = rpc_peer_new(fd, "parent", &limits, NULL);
	struct rpc_call *call = rpc_open(peer, &worker_put, -1, NULL);
	ProtobufCMessage *message;

	for (int i = 0; i < 3; i++)
		if (send_chunk(call, NULL, 1000, NULL) < 0)
			return 1;
	return rpc_recv(call, PATIENCE_MS, &message, NULL);
}

static int play(const char *role, int fd)
{
	/* Should the parent die, so does this. */
	alarm(3 * PATIENCE_MS / 1000);
	rpc_init();
	return str_eq(role, "serve") ? serve(fd) : upload(fd);
}

/* ------------------------------------------------------------------------------------------------
 */

static struct rpc_call *run_on_child(struct rpc_child *child, struct rpc_peer **ret_peer)
{
	struct rpc_limits limits = keepalive_limits();
	ProtobufCMessage *message;

	*ret_peer = rpc_peer_new(child->fd, "worker", &limits, NULL);
	assert_non_null(*ret_peer);
	struct rpc_call *call = rpc_open(*ret_peer, &worker_run, -1, NULL);
	assert_int_equal(send_input(call, "x", NULL), 0);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 1);
	rpc_message_free(message);
	return call;
}

static void a_killed_server_is_no_proper_end(void **state)
{
	struct rpc_child child = rpc_child_start("serve");
	struct error *err = NULL;
	struct rpc_peer *peer;
	ProtobufCMessage *message;
	int64_t sum;

	(void)state;
	struct rpc_call *call = run_on_child(&child, &peer);
	rpc_child_kill(&child);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, &err), -1);
	expect_error(&err, ERR_UNAVAILABLE, "worker: lost the connection");
	assert_int_equal(send_input(call, "x", &err), -1);
	expect_error(&err, ERR_UNAVAILABLE, "worker: lost the connection");
	assert_int_equal(add(peer, 1, 1, &sum, &err), -1);
	expect_error(&err, ERR_UNAVAILABLE, "worker: lost the connection");
	rpc_close(call);
	rpc_peer_free(peer);
}

static void a_killed_caller_leaves_no_complete_upload(void **state)
{
	struct rpc_child child = rpc_child_start("upload");
	struct fixture f;

	(void)state;
	fixture_start(&f, rpc_limits_control);
	assert_int_equal(rpc_server_add(f.server, child.fd, &f.ev, count_close, NULL), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, 3), 3);
	rpc_child_kill(&child);
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1), 1);
	assert_int_equal(f.ev.broken, 1);
	assert_int_equal(f.ev.complete, 0);
	assert_int_equal(f.ev.last_code, ERR_CANCELLED);
	fixture_stop(&f);
}

static void keepalive_finds_a_stopped_server(void **state)
{
	struct rpc_child child = rpc_child_start("serve");
	struct error *err = NULL;
	struct rpc_peer *peer;
	ProtobufCMessage *message;

	(void)state;
	struct rpc_call *call = run_on_child(&child, &peer);
	/* As long as it runs it is not taken for dead. */
	assert_int_equal(rpc_recv(call, 2 * (KEEPALIVE_MS + DEAD_MS), &message, &err), -1);
	expect_error(&err, ERR_TIMEOUT, "nothing came");
	assert_false(rpc_call_cancelled(call));
	kill(child.pid, SIGSTOP);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, &err), -1);
	expect_error(&err, ERR_UNAVAILABLE, "worker: lost the connection");
	rpc_child_kill(&child);
	rpc_close(call);
	rpc_peer_free(peer);
}

static void keepalive_finds_a_stopped_caller(void **state)
{
	struct rpc_child child = rpc_child_start("upload");
	struct fixture f;

	(void)state;
	fixture_start(&f, keepalive_limits());
	assert_int_equal(rpc_server_add(f.server, child.fd, &f.ev, count_close, NULL), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, 3), 3);
	kill(child.pid, SIGSTOP);
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1), 1);
	assert_int_equal(f.ev.broken, 1);
	assert_int_equal(f.ev.complete, 0);
	rpc_child_kill(&child);
	fixture_stop(&f);
}

/* Each way in which an upload may break off, at varying moments. */
static void a_truncated_upload_never_looks_complete(void **state)
{
	enum { ROUNDS = 120 };
	struct fixture f;

	(void)state;
	fixture_start(&f, rpc_limits_control);
	for (int i = 0; i < ROUNDS; i++) {
		int fd = fixture_dial(&f);
		int shut = i % 4 >= 2 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
		struct rpc_peer *peer = rpc_peer_new(fd, "daemon", &f.limits, NULL);
		struct rpc_call *call = rpc_open(peer, &worker_put, -1, NULL);
		for (int n = 0; n < i / 4 % 5; n++)
			assert_int_equal(send_chunk(call, NULL, (size_t)i * 100, NULL), 0);
		if (i % 4 == 0) {
			rpc_close(steal_ptr(call));
		} else if (i % 4 == 1) {
			rpc_peer_free(steal_ptr(peer));
		} else {
			shutdown(shut, i % 4 == 2 ? SHUT_WR : SHUT_RDWR);
			close(shut);
		}
		rpc_close(call);
		rpc_peer_free(peer);
	}
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, ROUNDS), ROUNDS);
	assert_int_equal(f.ev.complete, 0);
	assert_int_equal(f.ev.broken, f.ev.entered);
	assert_true(f.ev.broken > 0);
	fixture_stop(&f);
}

static void a_download_cut_off_is_an_error(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *message;
	int r;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	int fd = fixture_dial(&f);
	int shut = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	struct rpc_peer *peer = rpc_peer_new(fd, "worker", &f.limits, NULL);
	struct rpc_call *call = open_get(peer, 100, 100000);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 1);
	rpc_message_free(message);
	shutdown(shut, SHUT_RDWR);
	close(shut);
	while ((r = rpc_recv(call, PATIENCE_MS, &message, &err)) == 1)
		rpc_message_free(message);
	assert_int_equal(r, -1);
	expect_error(&err, ERR_UNAVAILABLE, "worker: lost the connection");
	rpc_close(call);
	rpc_peer_free(peer);
	fixture_stop(&f);
}

static void on_close_comes_once_and_after_the_handlers(void **state)
{
	struct fixture f;
	ProtobufCMessage *reply;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	/* Without any call, and before a word was said. */
	close(fixture_dial(&f));
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1), 1);
	/* A handler that goes on after its caller has gone. */
	struct rpc_peer *peer = rpc_peer_new(fixture_dial(&f), "worker", &f.limits, NULL);
	struct rpc_call *call = rpc_open(peer, &worker_put, -1, NULL);
	assert_int_equal(send_chunk(call, "slow", 10, NULL), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.entered, 1), 1);
	rpc_close(call);
	rpc_peer_free(peer);
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 2), 2);
	assert_int_equal(f.ev.left, 1);
	/* Open until the server is freed. */
	assert_int_equal(ping(fixture_connect(&f), "x", 1, PATIENCE_MS, &reply, NULL), 0);
	rpc_message_free(reply);
	fixture_stop(&f);
	assert_int_equal(f.ev.closed, 3);
}

static void an_idle_connection_is_watched_after_its_first_call(void **state)
{
	struct fixture f;
	int64_t sum;

	(void)state;
	fixture_start(&f, rpc_limits_control);
	struct rpc_peer *peer = rpc_peer_new(fixture_dial(&f), "worker", &f.limits, NULL);
	assert_int_equal(add(peer, 1, 1, &sum, NULL), 0);
	assert_int_equal(events_wait_ms(&f.ev, &f.ev.closed, 1, 100), 0);
	rpc_peer_free(peer);
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1), 1);
	fixture_stop(&f);
}

static void *hold(void *arg)
{
	struct error *err = NULL;
	ProtobufCMessage *reply = NULL;

	ping(arg, "hold", 4, PATIENCE_MS, &reply, &err);
	rpc_message_free(reply);
	return err;
}

static void *open_later(void *arg)
{
	struct fixture *f = arg;

	events_wait_ms(&f->ev, &f->ev.left, 1, 300);
	events_add(&f->ev, &f->ev.open, 1);
	return NULL;
}

static void a_server_being_freed_lets_calls_end_within_the_grace(void **state)
{
	struct fixture f;
	pthread_t caller, opener;
	void *err;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	assert_int_equal(pthread_create(&caller, NULL, hold, fixture_connect(&f)), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.entered, 1), 1);
	assert_int_equal(pthread_create(&opener, NULL, open_later, &f), 0);
	uint64_t begin = now_mono_usec();
	rpc_server_free(steal_ptr(f.server), PATIENCE_MS);
	assert_in_range(now_mono_usec() - begin, 0, PATIENCE_MS * 1000 / 2);
	pthread_join(opener, NULL);
	pthread_join(caller, &err);
	assert_null(err);
	assert_int_equal(f.ev.cancelled, 0);
	assert_int_equal(f.ev.closed, 1);
	fixture_stop(&f);
}

static void a_server_being_freed_cancels_what_outlasts_the_grace(void **state)
{
	struct rpc_limits limits = rpc_limits_guest;
	struct fixture f;
	pthread_t callers[6];

	(void)state;
	limits.calls = 2; /* so that some still wait for a thread */
	fixture_start(&f, limits);
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++)
		assert_int_equal(pthread_create(&callers[i], NULL, hold, fixture_connect(&f)), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.entered, 2), 2);
	rpc_server_free(steal_ptr(f.server), 100);
	assert_int_equal(f.ev.cancelled, 2);
	assert_int_equal(f.ev.entered, 2);
	assert_int_equal(f.ev.closed, (int)ARRAY_SIZE(callers));
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
		void *err;
		pthread_join(callers[i], &err);
		assert_non_null(err);
		assert_int_equal(((struct error *)err)->code, ERR_UNAVAILABLE);
		error_free(err);
	}
	fixture_stop(&f);
}

static void a_peer_being_freed_ends_its_calls(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *message;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_peer *peer = rpc_peer_new(fixture_dial(&f), "worker", &f.limits, NULL);
	struct rpc_call *call = rpc_open(peer, &worker_run, -1, NULL);
	assert_int_equal(send_input(call, "x", NULL), 0);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 1);
	rpc_message_free(message);
	rpc_peer_free(peer);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, &err), -1);
	expect_error(&err, ERR_UNAVAILABLE, "the connection was closed");
	rpc_close(call);
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1), 1);
	fixture_stop(&f);
}

static void what_is_no_connection_is_refused_and_closed(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	int fds[2];

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_null(rpc_peer_new(fds[0], "worker", &f.limits, &err));
	expect_error(&err, ERR_UNKNOWN, "worker: socket for RPC");
	assert_int_equal(rpc_server_add(f.server, fds[1], &f.ev, count_close, &err), -1);
	expect_error(&err, ERR_UNKNOWN, "socket for RPC");
	assert_int_equal(fcntl(fds[0], F_GETFD), -1);
	assert_int_equal(fcntl(fds[1], F_GETFD), -1);
	fixture_stop(&f);
	assert_int_equal(f.ev.closed, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_killed_server_is_no_proper_end),
		cmocka_unit_test(a_killed_caller_leaves_no_complete_upload),
		cmocka_unit_test(keepalive_finds_a_stopped_server),
		cmocka_unit_test(keepalive_finds_a_stopped_caller),
		cmocka_unit_test(a_truncated_upload_never_looks_complete),
		cmocka_unit_test(a_download_cut_off_is_an_error),
		cmocka_unit_test(on_close_comes_once_and_after_the_handlers),
		cmocka_unit_test(an_idle_connection_is_watched_after_its_first_call),
		cmocka_unit_test(a_server_being_freed_lets_calls_end_within_the_grace),
		cmocka_unit_test(a_server_being_freed_cancels_what_outlasts_the_grace),
		cmocka_unit_test(a_peer_being_freed_ends_its_calls),
		cmocka_unit_test(what_is_no_connection_is_refused_and_closed),
	};

	if (argc == 3)
		return play(argv[1], atoi(argv[2]));
	return cmocka_run_group_tests(tests, fixture_init, fixture_quit);
}
